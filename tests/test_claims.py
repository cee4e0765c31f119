"""The ledger of claims: every row has a verdict and a number, and its link leads to the cell that asserts it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt

from tests.conftest import ROOT

LEDGER = ROOT / "book" / "claims.md"
VERDICTS = {"Holds.", "Holds under conditions.", "Does not hold here."}
ROWS = [line for line in LEDGER.read_text().splitlines() if line.startswith("| ") and not line.startswith("| claim")]


def sections(notebook: Path) -> dict[str, str]:
    """The code under each heading, by the heading's anchor."""
    found: dict[str, str] = {}
    anchor = ""
    for cell in json.loads(notebook.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            found[anchor] = found.get(anchor, "") + source + "\n"
        else:
            for heading in re.findall(r"^#{1,3} (.+)$", source, re.MULTILINE):
                anchor = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
    return found


def test_there_are_claims_enough_and_all_verdicts_occur() -> None:
    assert len(ROWS) >= 25
    assert {re.split(r"\*\*", row)[1] for row in ROWS} == VERDICTS
    assert len({row.split(" | ")[0] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=[row[2:50] for row in ROWS])
def test_a_claim_leads_to_an_asserting_cell(row: str) -> None:
    cells = row.strip("| ").split(" | ")
    assert len(cells) == 3
    assert cells[1].partition("** ")[2], "a verdict without a number"
    (link,) = [token for token in MarkdownIt().parseInline(cells[2])[0].children or [] if token.type == "link_open"]
    path, _, anchor = unquote(str(link.attrs["href"])).partition("#")
    notebook = (LEDGER.parent / path).resolve()
    assert notebook.is_file()
    code = sections(notebook).get(anchor)
    assert code is not None, f"{notebook.name} has no section #{anchor} with code"
    asserted = " ".join(re.findall(r"^\s*assert (.+(?:\n(?: {4,}|\)).*)*)", code, re.MULTILINE))
    wanted = str(link.attrs["title"])
    assert re.sub(r"\s", "", wanted) in re.sub(r"\s", "", asserted), f"no cell of #{anchor} asserts: {wanted}"
