"""What a re-run does not see: stored notebooks are complete, clean and built as the book promises."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

from kdutils import check
from tests.conftest import ROOT, chapters
from tools.stamp import address, is_setup_cell, setup_cell

each_chapter = pytest.mark.parametrize("notebook", chapters(), ids=lambda path: path.stem)
MAX_BYTES = 600_000
MIN_ALT = 40
IGNORING_TAGS = {"nbval-ignore-output", "nbval-skip", "nbval-raises-exception"}
IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
ALLOWED_TYPES = {"text/plain", "text/html", "text/markdown", "text/latex", *IMAGES}
GENERIC_ALT = re.compile(
    r"^\W*(an? |the )?(image|figure|plot|picture|graph|chart|output|png|alt text)\W*(\d+)?\W*$", re.I
)
MACHINE_PATH = re.compile(
    r"(?<![\w./~-])/(?:home|root|Users|work|tmp|opt|usr|mnt|content|private|var)/[\w.-]+|[A-Z]:\\\\?Users"
)
ADDRESS_IN_MEMORY = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")
PROGRESS_BAR = re.compile(r"\d+%\|[ █▏▎▍▌▋▊▉#]*\||\r|\x1b\[[0-9;]*[A-Z]|[█▏▎▍▌▋▊▉]{3,}")
MYST = re.compile(
    r"^\s*(`{3,}|~{3,}|:{3,})\{[\w:.-]+\}|(?<![`\w])\{[a-z][\w:.+-]*\}`[^`]|^\s*%%\{|^\([\w-]+\)=\s*$", re.M
)


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def source(cell: dict) -> str:
    return "".join(cell["source"])


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def markdown(notebook: dict) -> str:
    return "\n\n".join(source(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown")


def prose(text: str) -> str:
    """Markdown without its code blocks."""
    return re.sub(r"^(`{3,}|~{3,})[^\n{]*\n.*?^\1\s*$", "", text, flags=re.M | re.S)


def headings(text: str) -> list[tuple[int, str]]:
    return [(len(m[1]), m[2].strip()) for m in re.finditer(r"^(#{1,6}) +(.+)$", prose(text), flags=re.M)]


def texts(output: dict) -> list[tuple[str, str]]:
    """(mime type, text) of whatever an output shows as text."""
    if output["output_type"] == "stream":
        return [("text/plain", "".join(output["text"]))]
    data = output.get("data", {})
    return [(kind, "".join(value)) for kind, value in data.items() if kind.startswith("text/")]


def test_there_are_chapters() -> None:
    assert chapters(), "no notebook lies in notebooks/"


@each_chapter
def test_every_code_cell_was_executed_once_and_in_order(notebook: Path) -> None:
    counts = [cell["execution_count"] for cell in code_cells(read(notebook))]
    assert counts == list(range(1, len(counts) + 1)), (
        f"{notebook.name}: execution counts are {counts}. A stripped cell is never compared: "
        f"make notebook NB={notebook.name[:2]}"
    )


@each_chapter
def test_no_stored_error_and_nothing_on_stderr(notebook: Path) -> None:
    for number, cell in enumerate(code_cells(read(notebook)), 1):
        for output in cell["outputs"]:
            assert output["output_type"] != "error", f"code cell {number} stores an error: {output.get('evalue')}"
            assert output.get("name") != "stderr", f"code cell {number} stores stderr: {''.join(output['text'])[:300]}"


@each_chapter
def test_outputs_hold_no_path_of_one_machine_and_no_memory_address(notebook: Path) -> None:
    for number, cell in enumerate(code_cells(read(notebook)), 1):
        for output in cell["outputs"]:
            for _, text in texts(output):
                for pattern in (MACHINE_PATH, ADDRESS_IN_MEMORY):
                    found = pattern.search(text)
                    assert not found, f"code cell {number} shows {found[0]!r}"


@each_chapter
def test_outputs_hold_no_progress_bar_widget_or_svg(notebook: Path) -> None:
    stored = read(notebook)
    assert "widgets" not in stored["metadata"], "the notebook stores the state of a widget"
    for number, cell in enumerate(code_cells(stored), 1):
        for output in cell["outputs"]:
            kinds = set(output.get("data", {}))
            assert kinds <= ALLOWED_TYPES, f"code cell {number} stores {sorted(kinds - ALLOWED_TYPES)}"
            for kind, text in texts(output):
                assert not PROGRESS_BAR.search(text) or kind == "text/html", (
                    f"code cell {number}: a progress bar's trace"
                )
                assert "<svg" not in text, f"code cell {number} stores an SVG, which differs at every run"


@each_chapter
def test_every_figure_has_alt_text_that_says_something(notebook: Path) -> None:
    stored, seen = read(notebook), {}
    for number, cell in enumerate(code_cells(stored), 1):
        if any(kind in output.get("data", {}) for output in cell["outputs"] for kind in IMAGES):
            alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
            check_alt(alt, f"the figure of code cell {number}")
            assert alt not in seen, f"code cells {seen[alt]} and {number} have the same alt text"
            seen[alt] = number
        for output in cell["outputs"]:
            for kind, text in texts(output):
                if kind == "text/html":
                    for tag in re.findall(r"<img\b[^>]*>", text):
                        found = re.search(r'\balt="([^"]*)"', tag)
                        check_alt(found[1] if found else "", f"an <img> in the output of code cell {number}")
    for alt in re.findall(r"!\[([^\]]*)\]\(", prose(markdown(stored))):
        check_alt(alt, "an image in the text")


def check_alt(alt: str, what: str) -> None:
    assert alt.strip(), f"{what} has no alt text"
    assert not GENERIC_ALT.match(alt), f"{what} has the alt text {alt!r}, which says nothing"
    assert len(alt.strip()) >= MIN_ALT, f"{what} has an alt text of {len(alt)} characters: say what is to be seen"


@each_chapter
def test_the_setup_cell_is_the_same_in_every_chapter(notebook: Path) -> None:
    cells = read(notebook)["cells"]
    found = [cell for cell in cells if is_setup_cell(cell)]
    assert len(found) == 1, f"{notebook.name} has {len(found)} cells with the tag setup; it needs one"
    assert source(found[0]) == setup_cell(address()), (
        f"the setup cell of {notebook.name} differs from tools/setup_cell.py: make notebook NB={notebook.name[:2]}"
    )
    assert next(cell for cell in cells if cell["cell_type"] == "code") is found[0], "setup must be the first code cell"
    assert "hide-input" in found[0]["metadata"]["tags"]


@each_chapter
def test_no_myst_directive_or_role_inside_a_notebook(notebook: Path) -> None:
    """Colab shows them raw."""
    for cell in read(notebook)["cells"]:
        if cell["cell_type"] == "markdown":
            found = MYST.search(source(cell))
            assert not found, f"{notebook.name}: {found[0]!r} is MyST; write plain Markdown"


@each_chapter
def test_a_notebook_stays_small(notebook: Path) -> None:
    assert notebook.stat().st_size <= MAX_BYTES, f"{notebook.name} has {notebook.stat().st_size:,} bytes"


@each_chapter
def test_metadata_says_nothing_about_a_machine(notebook: Path) -> None:
    stored = read(notebook)
    assert set(stored["metadata"]) == {"kernelspec", "language_info"}, sorted(stored["metadata"])
    assert stored["metadata"]["kernelspec"]["name"] == "python3"
    assert stored["metadata"]["language_info"] == {"name": "python"}
    for cell in stored["cells"]:
        assert set(cell["metadata"]) <= {"tags", "mystnb"}, sorted(cell["metadata"])
    ids = [cell["id"] for cell in stored["cells"]]
    assert len(ids) == len(set(ids)), "two cells have the same id"


@each_chapter
def test_a_chapter_has_the_parts_that_every_chapter_has(notebook: Path) -> None:
    stored = read(notebook)
    found = headings(markdown(stored))
    assert stored["cells"][0]["cell_type"] == "markdown" and found[0][0] == 1, "a chapter opens with its title"
    opening = source(stored["cells"][0]).split("\n", 1)[-1].strip().split("\n\n")[0]
    assert "?" in opening, f"{notebook.name} does not ask its question in the first lines: {opening[:100]!r}"
    assert [level for level, _ in found].count(1) == 1, "a chapter has one title"
    assert all(b - a <= 1 for (a, _), (b, _) in itertools.pairwise(found)), "a heading level is skipped"
    names = [name for _, name in found]
    for wanted in ("At a glance", "Take-aways", "Further reading"):
        assert wanted in names, f"the heading {wanted!r} is missing"
    assert names.index("Take-aways") < names.index("Further reading") == len(names) - 1
    glance = next(source(cell) for cell in stored["cells"] if "At a glance" in source(cell))
    for wanted in ("learn", "need", "time", "data"):
        assert wanted in glance.lower(), f'"At a glance" does not say {wanted!r}'
    reading = markdown(stored).split("Further reading")[-1]
    assert "](http" in reading, '"Further reading" has no link'


@each_chapter
def test_a_chapter_has_three_exercises(notebook: Path) -> None:
    names = [name.lower() for _, name in headings(markdown(read(notebook)))]
    for number, kind in enumerate(("warm-up", "core", "stretch"), 1):
        title = f"exercise {notebook.name[:2]}.{number}"
        found = [name for name in names if name.startswith(title)]
        assert len(found) == 1, f"{notebook.name} has {len(found)} headings that start with {title!r}"
        assert kind in found[0], f"{found[0]!r} does not say that it is the {kind} one"


@each_chapter
def test_each_exercise_has_a_stub_that_was_run_and_is_not_attempted(notebook: Path) -> None:
    """And a check that knows it; so the three checks of `kdutils.check` are those of the chapter."""
    cells = [cell for cell in code_cells(read(notebook)) if "check.exercise(" in source(cell)]
    named = [re.findall(r'check\.exercise\("([\d.]+)"', source(cell)) for cell in cells]
    wanted = [f"{notebook.name[:2]}.{number}" for number in (1, 2, 3)]
    assert named == [[name] for name in wanted], f"{notebook.name} checks {named}"
    assert set(wanted) <= set(check._checks()), f"kdutils/check/ch{notebook.name[:2]}.py lacks a check"
    for name, cell in zip(wanted, cells, strict=True):
        said = "".join(text for output in cell["outputs"] for _, text in texts(output))
        assert said.strip() == f"Exercise {name}: not attempted."
        assert not IGNORING_TAGS & set(cell["metadata"].get("tags", []))


def test_the_budget_of_cells_that_are_not_compared_is_kept() -> None:
    """Equality, so that an allowance that is no longer used is told too. It may only shrink."""
    used = {}
    for notebook in chapters():
        tags = [set(cell["metadata"].get("tags", [])) for cell in code_cells(read(notebook))]
        if count := sum(bool(IGNORING_TAGS & each) for each in tags):
            used[notebook.stem] = count
        assert not any(each & {"nbval-skip", "nbval-raises-exception"} for each in tags), (
            f"{notebook.name} skips a cell"
        )
    budget = json.loads((ROOT / "tests" / "nbval_budget.json").read_text(encoding="utf-8"))
    assert used == budget, "tests/nbval_budget.json must hold the number of ignored cells of each chapter, no more"


@pytest.mark.parametrize("text", ["```{note}\nx\n```", "see {doc}`x`", ":::{tip}\nx\n:::", "(label)=\n"])
def test_the_search_for_myst_finds_it(text: str) -> None:
    assert MYST.search(text)


@pytest.mark.parametrize("text", ["```python\nx\n```", "the set $\\{a\\}$ `b`", "`{cite}`", "f`{x}`", "(a) = b"])
def test_the_search_for_myst_leaves_markdown_alone(text: str) -> None:
    assert not MYST.search(text)
