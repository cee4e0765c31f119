"""The instructors' page beside the assignments and the chapters: the same marks, and nothing that is not there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "book" / "instructors.md").read_text(encoding="utf-8")
MASTERS = sorted((ROOT / "notebooks" / "assignments").glob("a[0-9]_*.ipynb"))


def sources(notebook: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]]


def section(title: str) -> str:
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,3}} |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"the page has no section {title!r}"
    return found[2]


def rows(text: str) -> list[list[str]]:
    """The rows of the section's table that begin with a number."""
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [row for row in found if row[0].isdigit()]


def points(cells: Iterable[str]) -> float:
    """The sum of what the cells are worth; each says it once."""
    total = 0.0
    for cell in cells:
        (worth,) = re.findall(r"^points: ([\d.]+)$", cell, re.MULTILINE)
        total += float(worth)
    return total


@pytest.mark.parametrize("master", MASTERS, ids=[path.stem[:2] for path in MASTERS])
def test_checks_header_and_table_give_the_same_marks(master: Path) -> None:
    cells = sources(master)
    checks = points(cell for cell in cells if cell.startswith('""" # BEGIN TEST CONFIG'))
    person = points(cell for cell in cells if cell.startswith("# BEGIN QUESTION") and "manual: true" in cell)
    assert checks > 0
    (header,) = re.findall(r"^- \*\*Marks\*\*: (.+)", "\n".join(cells), re.MULTILINE)
    numbers = [float(number) for number in re.findall(r"\b\d+\b", header.partition(". ")[0])]
    all_by_checks = "all of them by checks" in header
    assert numbers == ([checks] if all_by_checks else [checks + person, checks, person]), header
    assert all_by_checks == (person == 0)
    (row,) = [row for row in rows(section("The assignments")) if row[0] == master.stem[1]]
    assert [float(row[3]), float(row[4])] == [checks, person], row


def test_the_weights_add_up() -> None:
    table = rows(section("The assignments"))
    assert len(table) == len(MASTERS)
    assert sum(float(row[5].rstrip(" %")) for row in table) == 100


def read_until() -> dict[int, list[Path]]:
    """Week -> the chapters that stand in its row or above it."""
    found: dict[int, list[Path]] = {}
    chapters: list[Path] = []
    for row in rows(section("Twelve weeks")):
        chapters += [ROOT / "notebooks" / name for name in re.findall(r"notebooks/([^)]+\.ipynb)", row[1])]
        found[int(row[0])] = list(chapters)
    return found


def test_an_assignment_comes_after_its_chapters_and_is_due_after_it_is_out() -> None:
    table, read = rows(section("Twelve weeks")), read_until()
    for master in MASTERS:
        name = f"A{master.stem[1]}"
        out = [int(row[0]) for row in table if name in row[2]]
        due = [int(row[0]) for row in table if name in row[3]]
        assert len(out) == 1
        if name == "A5":  # its report is due after the last class
            continue
        assert len(due) == 1 and due[0] - out[0] == 2
        (needs,) = re.findall(r"^- \*\*You need\*\*: (.+)", "\n".join(sources(master)), re.MULTILINE)
        groups = re.findall(r"chapters? (\d+(?:(?:, | and )\d+)*)", needs)
        wanted = {int(number) for group in groups for number in re.findall(r"\d+", group)}
        assert wanted, needs
        known = {int(path.name[:2]) for path in read[due[0]]}
        assert wanted <= known, (name, wanted - known)


def test_what_is_shown_in_class_is_in_a_chapter_that_has_been_read() -> None:
    weeks = re.findall(r"^- \*\*Week (\d+)\*\*\n((?: +- .*\n?)+)", section("In class"), re.MULTILINE)
    read = read_until()
    assert [int(week) for week, _ in weeks] == list(read) == list(range(1, 13))
    for week, text in weeks:
        headings: set[str] = set()
        for chapter in read[int(week)]:
            headings |= set(re.findall(r"^#{2,3} (.+?)\s*$", "\n".join(sources(chapter)), re.MULTILINE))
        for quoted in re.findall(r"“([^”]+)”", text):
            assert quoted in headings, f"week {week}: no chapter read by then has a section {quoted!r}"
        for exercise in re.findall(r"\b\d\d\.\d\b", text):
            assert any(heading.startswith(f"Exercise {exercise} ") for heading in headings), (week, exercise)
        minutes = [int(number) for number in re.findall(r"\((\d+)\)", text)]
        assert week == "12" or sum(minutes) == 120, (week, minutes)
