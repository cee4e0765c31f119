"""Every chapter is executed again from its first cell, and what it prints is compared with what is stored."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import nbformat
import pytest

from tests.conftest import ROOT, chapters
from tools.execute import kernel_environment

CELL_TIMEOUT = 300  # seconds
CHAPTER_TIMEOUT = 900
SANITIZE = ROOT / "tests" / "nbval_sanitize.cfg"
COLOUR = re.compile(r"\x1b\[[0-9;]*m|#x1B\[[0-9;]*m")


def rerun(notebook: Path, folder: Path) -> tuple[int, int, list[str]]:
    """Run nbval over one notebook in a process of its own: exit status, cells compared, what went wrong."""
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", str(notebook), "--nbval", "--nbval-current-env"]
    command += ["--nbval-sanitize-with", str(SANITIZE), "--nbval-cell-timeout", str(CELL_TIMEOUT)]
    command += ["-p", "no:cacheprovider", "-p", "no:xdist", "-q", f"--junitxml={report}", f"--rootdir={ROOT}"]
    command += ["-o", "addopts=", f"--confcutdir={notebook.parent}"]
    environment = kernel_environment() | {"IPYTHONDIR": str(folder / "ipython")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=CHAPTER_TIMEOUT)
    if not report.is_file():
        return done.returncode, 0, [done.stdout[-3000:] + done.stderr[-3000:]]
    cases = list(ElementTree.parse(report).iter("testcase"))
    faults = [
        f"{notebook.name}, {case.get('name')}:\n{COLOUR.sub('', problem.text or problem.get('message') or '')[:3000]}"
        for case in cases
        for problem in [*case.findall("failure"), *case.findall("error")]
    ]
    return done.returncode, len(cases), faults


@pytest.mark.parametrize("notebook", chapters(), ids=lambda path: path.stem)
def test_running_a_chapter_again_gives_its_stored_outputs(notebook: Path, tmp_path: Path) -> None:
    status, cells, faults = rerun(notebook, tmp_path)
    if faults:
        pytest.fail(
            f"{len(faults)} of {cells} cells of {notebook.name} do not give what is stored. If the new output is "
            f"right, store it: make notebook NB={notebook.name[:2]}\n\n" + "\n\n".join(faults[:5]),
            pytrace=False,
        )
    assert status == 0 and cells > 0, f"nbval ended with status {status} after {cells} cells of {notebook.name}"


def test_the_comparison_sees_a_changed_number(tmp_path: Path) -> None:
    stored = {"print(6 * 7)": "42\n", "print(6 * 8)": "49\n"}
    cells = [
        nbformat.v4.new_code_cell(source, outputs=[nbformat.v4.new_output("stream", text=text)], execution_count=count)
        for count, (source, text) in enumerate(stored.items(), 1)
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "example.ipynb")
    status, seen, faults = rerun(tmp_path / "example.ipynb", tmp_path)
    assert status == 1 and seen == 2 and len(faults) == 1, "the true number passes, the changed one does not"
    assert "49" in faults[0] and "48" in faults[0]


def test_each_sanitizing_rule_is_complete() -> None:
    """nbval drops a rule without a word where the replacement is empty or not on the next line."""
    lines = SANITIZE.read_text(encoding="utf-8").splitlines()
    rules = [i for i, line in enumerate(lines) if line.startswith("regex:")]
    assert rules, "the file holds no rule"
    for i in rules:
        pattern = lines[i].removeprefix("regex:").strip()
        assert re.compile(pattern) and not re.fullmatch(pattern, ""), f"rule {pattern!r} matches nothing at all"
        assert lines[i + 1].startswith("replace: ") and lines[i + 1].removeprefix("replace:").strip()
