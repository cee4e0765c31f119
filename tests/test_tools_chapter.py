"""`make chapter`: what it writes is a chapter by the rules that the tests ask of every one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kdutils import check
from tests import test_notebooks_hygiene as rules
from tests.conftest import ROOT
from tools import chapter


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("notebooks", "kdutils/check", "tests/solutions", "tools"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("pyproject.toml", "tools/setup_cell.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_a_new_chapter_obeys_the_rules(root: Path) -> None:
    notebook, checks, solutions = chapter.begin(root, "18", "Distilling text, twice")
    assert notebook.name == "18_distilling_text_twice.ipynb"
    rules.test_the_setup_cell_is_the_same_in_every_chapter(notebook)
    rules.test_no_myst_directive_or_role_inside_a_notebook(notebook)
    rules.test_metadata_says_nothing_about_a_machine(notebook)
    rules.test_a_chapter_has_the_parts_that_every_chapter_has(notebook)
    rules.test_a_chapter_has_three_exercises(notebook)
    spaces: dict[str, dict] = {}
    for path in (checks, solutions):
        spaces[path.parent.name] = {}
        exec(compile(path.read_text(), str(path), "exec"), spaces[path.parent.name])
    for number in (1, 2, 3):
        name = f"exercise_{number}"
        assert spaces["check"][name](spaces["solutions"][name]) is None
        wrong = spaces["solutions"]["WRONG"][number]
        assert len(wrong) >= 3 and all(word in spaces["check"][name](answer) for answer, word in wrong)
    assert check.exercise("01.1", ...).status == "not attempted"


def test_nothing_is_overwritten(root: Path) -> None:
    chapter.begin(root, "18", "Text")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"18_text.ipynb is there already: take another number"):
        chapter.begin(root, "18", "Other")
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "number, title, sentence",
    [
        ("8", "Text", "NB must be two digits"),
        ("", "Text", "NB must be"),
        ("18", "?", "TITLE must be"),
        ("18", "", "TITLE"),
    ],
)
def test_bad_arguments_are_told(root: Path, number: str, title: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        chapter.begin(root, number, title)
    assert not list((root / "notebooks").iterdir())
