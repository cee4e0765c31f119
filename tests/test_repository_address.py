"""The repository's address stands in pyproject.toml, and whatever repeats it repeats that one."""

from __future__ import annotations

import ast
import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from tests.conftest import EXAMPLE, ROOT, copy_tree, tracked
from tools import stamp


def contents(root: Path) -> dict[str, str]:
    names = ["pyproject.toml", "_config.yml", "README.md", "CITATION.cff"]
    names += [f"notebooks/{path.name}" for path in sorted((root / "notebooks").glob("*.ipynb"))]
    return {name: (root / name).read_text(encoding="utf-8") for name in names}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return copy_tree(tmp_path / "copy")


def test_every_place_holds_the_address_of_pyproject(copy: Path) -> None:
    """Writing the present address anew changes nothing."""
    assert stamp.stamp(stamp.address(copy), copy) == [], "run: make stamp"


def test_stamping_twice_is_stamping_once_and_can_be_undone(copy: Path) -> None:
    stamp.stamp("", copy)
    bare = contents(copy)
    assert stamp.stamp(EXAMPLE, copy)
    stamped = contents(copy)
    assert stamp.stamp(EXAMPLE, copy) == [] and contents(copy) == stamped
    assert all(EXAMPLE in text for text in stamped.values()), "the address did not arrive everywhere"
    stamp.stamp("other-owner/other-name", copy)
    assert not any(EXAMPLE in text for text in contents(copy).values()), "an old address stays behind"
    stamp.stamp("", copy)
    assert contents(copy) == bare


def test_the_stamped_files_say_what_they_should(copy: Path) -> None:
    stamp.stamp(EXAMPLE, copy)
    config = yaml.safe_load((copy / "_config.yml").read_text(encoding="utf-8"))
    assert config["repository"] == {"url": stamp.HOST + EXAMPLE, "branch": "main"}
    assert config["launch_buttons"] == {"colab_url": stamp.COLAB}
    citation = yaml.safe_load((copy / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["repository-code"] == stamp.HOST + EXAMPLE
    assert stamp.address(copy) == EXAMPLE


def test_an_unstamped_copy_names_no_repository(copy: Path) -> None:
    stamp.stamp("", copy)
    config = yaml.safe_load((copy / "_config.yml").read_text(encoding="utf-8"))
    assert "repository" not in config and "launch_buttons" not in config
    assert not re.search(
        r"colab\.research|img\.shields|actions/workflows", (copy / "README.md").read_text(encoding="utf-8")
    )
    assert 'REPOSITORY = ""\n' in stamp.setup_cell("", copy)


@pytest.mark.parametrize("wrong", ["owner", "owner/name/more", "owner name", 'a/b"c', "https://x.y/owner/name"])
def test_an_address_that_is_none_is_refused_and_nothing_is_written(copy: Path, wrong: str) -> None:
    before = contents(copy)
    with pytest.raises(ValueError, match="owner/name"):
        stamp.stamp(wrong, copy)
    assert contents(copy) == before


def test_the_setup_cell_is_short_and_python(copy: Path) -> None:
    for repo in ("", EXAMPLE):
        cell = stamp.setup_cell(repo, copy)
        ast.parse(cell)
        assert len(cell.splitlines()) <= 20 and cell.endswith("print(kd.setup())")


def run_setup(repo: str, monkeypatch: pytest.MonkeyPatch, *, installed: bool) -> list[list[str]]:
    """Run the setup cell where kdutils is or is not there; return what it would have started."""
    import importlib.util
    import subprocess

    started: list[list[str]] = []
    there = [installed]
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: real(n, *a) if n != "kdutils" or there[0] else None)
    monkeypatch.setattr(subprocess, "run", lambda command, **options: started.append(command) or options["check"])
    exec(compile(stamp.setup_cell(repo), "setup", "exec"), {})
    return started


def test_the_setup_cell_installs_nothing_where_kdutils_is_there(monkeypatch, capsys) -> None:
    assert run_setup(EXAMPLE, monkeypatch, installed=True) == []
    assert "Running on" in capsys.readouterr().out


def test_the_setup_cell_installs_kdutils_alone_where_it_is_missing(monkeypatch) -> None:
    """torch and numpy are named at the versions that are there: so they count as satisfied and are never replaced."""
    (command,) = run_setup(EXAMPLE, monkeypatch, installed=False)
    kept = [f"{name}=={version(name)}" for name in ("torch", "torchvision", "numpy")]
    assert command[1:] == ["-m", "pip", "install", "-q", f"kdutils @ git+https://github.com/{EXAMPLE}", *kept]


def test_an_unstamped_setup_cell_says_so_and_stops(monkeypatch) -> None:
    with pytest.raises(SystemExit, match=r"has no repository address yet.*make lab"):
        run_setup("", monkeypatch, installed=False)


def test_no_other_file_spells_the_address_out() -> None:
    if not stamp.address():
        pytest.skip("this copy is not stamped")
    allowed = set(contents(ROOT))
    for name in tracked():
        if name.endswith((".md", ".py", ".yml", ".toml", ".cff", ".ipynb")) and name not in allowed:
            assert stamp.address() not in (ROOT / name).read_text(encoding="utf-8"), name


def test_notebooks_differ_from_their_unstamped_form_in_the_setup_cell_only(copy: Path) -> None:
    def rest(root: Path) -> dict[str, list]:
        return {
            path.name: [
                cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if not stamp.is_setup_cell(cell)
            ]
            for path in (root / "notebooks").glob("*.ipynb")
        }

    before = rest(copy)
    stamp.stamp(EXAMPLE, copy)
    assert rest(copy) == before
