"""Build and grade the assignments of the course.

    make assignments                         student notebooks and autograder zips, in dist/assignments
    make assignments MASTERS=~/my-masters    the same from your own masters, with your own hidden tests
    make grade ZIP=... FROM=folder           grade every notebook of a folder; writes grades.csv

A master is an otter-grader notebook. Building it adds what it has in common with the chapters (the setup cell) and
what makes a student's copy whole without any file beside it (a cell that writes the public checks), lets Otter run
the solutions, which must get full marks, and gives the zip its guard (`kdutils.grading.Guard`) and the wheel of
kdutils, so that Gradescope installs exactly this version.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from kdutils.grading import CELL_SECONDS, fingerprint
from tools.execute import METADATA
from tools.stamp import ROOT, address, is_setup_cell, setup_cell

MASTERS = ROOT / "notebooks" / "assignments"
CHECKS = 'import otter\n\ngrader = otter.Notebook(tests_dir="tests")'
WRITE_CHECKS = """\
# @title Run this cell once: it brings the checks of this assignment.
import importlib.util
import json
import pathlib
import subprocess
import sys

if importlib.util.find_spec("otter") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "otter-grader"], check=True)
pathlib.Path("tests").mkdir(exist_ok=True)
for name, text in json.loads({text!r}).items():
    pathlib.Path("tests", name).write_text(text, encoding="utf-8")
"""
# What Gradescope needs: PyTorch for the CPU, which is a tenth of the other, and kdutils from the zip itself.
ENVIRONMENT = """\
channels: [conda-forge]
dependencies:
  - pytorch-cpu>=2.4
  - torchvision>=0.19
  - pip:
      - /autograder/source/files/{wheel}
"""


def masters(folder: Path = MASTERS) -> list[Path]:
    return sorted(folder.glob("a[0-9]_*.ipynb"))


def wheel(target: Path) -> Path:
    """The package as one file, in the folder `target`."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(target.glob("kdutils-*.whl"))


def build(master: Path, out: Path, package: Path | None) -> Path:
    """Make `out`/NAME/{student,autograder} of one master, without running it; gives the autograder zip."""
    from otter.assign import main as assign

    out = out.resolve() / master.stem
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        notebook = nbformat.read(master, as_version=4)
        setup = setup_cell(address())
        for cell in notebook.cells:
            if is_setup_cell(cell):
                cell.source = setup
            elif "checks" in cell.metadata.get("tags", []):
                cell.source = CHECKS
        nbformat.write(notebook, work / master.name)
        here = os.getcwd()
        os.chdir(work)
        try:
            assign(master.name, "dist", no_run_tests=True)
        finally:
            os.chdir(here)
        for part in ("student", "autograder"):
            shutil.copytree(work / "dist" / part, out / part)
    for config in out.glob("*/*.otter"):
        config.unlink()  # of use to another service only; two of them in one folder stop Otter
    found = next((out / "autograder").glob("*.zip"))
    final = out / "autograder" / f"{master.stem}.zip"
    config = {"cell_seconds": cell_seconds(notebook), "given": [fingerprint(setup), fingerprint(CHECKS)]}
    _finish_zip(found, final, config, package)
    found.unlink()
    _finish_student(out / "student" / master.name, out / "student" / "tests")
    return final


def cell_seconds(notebook: nbformat.NotebookNode) -> float:
    """What a master asks for in its metadata, as "cell_seconds"."""
    return float(notebook.metadata.get("cell_seconds", CELL_SECONDS))


def _finish_zip(made: Path, final: Path, guard: dict[str, Any], package: Path | None) -> None:
    with zipfile.ZipFile(made) as old, zipfile.ZipFile(final, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename == "otter_config.json":
                data = json.dumps({**json.loads(data), "plugins": [{"kdutils.grading.Guard": guard}]}).encode()
            if item.filename == "environment.yml":
                data = _environment(data.decode(), package).encode()
            new.writestr(item, data)
        if package:
            new.write(package, f"files/{package.name}", zipfile.ZIP_STORED)


def _environment(made: str, package: Path | None) -> str:
    """Otter's own environment and ours in one."""
    import yaml
    from otter.generate.utils import merge_conda_environments

    ours = yaml.safe_load(ENVIRONMENT.format(wheel=package.name if package else "kdutils.whl"))
    theirs = yaml.safe_load(made)
    return yaml.safe_dump(merge_conda_environments(ours, theirs, theirs["name"]), sort_keys=False)


def _finish_student(path: Path, tests: Path) -> None:
    """One file that is whole by itself: the public checks inside, no outputs, the chapters' metadata."""
    notebook = nbformat.read(path, as_version=4)
    texts = {test.name: test.read_text(encoding="utf-8") for test in sorted(tests.glob("*.py"))}
    at = next(i for i, cell in enumerate(notebook.cells) if "checks" in cell.metadata.get("tags", []))
    cell = nbformat.v4.new_code_cell(WRITE_CHECKS.format(text=json.dumps(texts)))
    cell.metadata.update(
        {"tags": ["otter_ignore"], "cellView": "form", "jupyter": {"source_hidden": True}, "editable": False}
    )
    notebook.cells.insert(at, cell)
    notebook.metadata = nbformat.from_dict({**METADATA, "otter": notebook.metadata.get("otter", {})})
    notebook.nbformat_minor = 5
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    nbformat.validate(notebook)
    nbformat.write(notebook, path)
    shutil.rmtree(tests)


def grade(submission: Path, autograder: Path, seconds: float = 180.0) -> dict[str, Any]:
    """The marks of one notebook by `otter run`, in a process of its own that is ended after `seconds`.

    Returns:
        "file", "score", "possible" (0 where nothing came out), "seconds", "status" ("graded", "too slow",
        "failed"), "held" (cells that were not run), and the score of each question.
    """
    row: dict[str, Any] = {"file": submission.name, "score": 0.0, "possible": 0.0, "held": ""}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder, "said.txt")
        command = [sys.executable, "-m", "otter", "run", "-a", str(autograder.resolve()), "-o", folder, "--no-logo"]
        with said.open("w") as stream:
            process = subprocess.Popen(
                [*command, str(submission.resolve())],
                cwd=folder,
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "KDUTILS_PROGRESS": "0", "JUPYTER_PREFER_ENV_PATH": "1", "TMPDIR": folder},
                start_new_session=True,
            )
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                row["status"] = "too slow"
            finally:
                _end(process)
        row["seconds"] = round(time.monotonic() - begin, 1)
        result = Path(folder, "results.json")
        if "status" not in row:
            row["status"] = "graded" if result.is_file() and process.returncode == 0 else "failed"
        if row["status"] == "graded":
            found = json.loads(result.read_text())
            questions = [test for test in found["tests"] if "max_score" in test]
            row |= {test["name"]: test["score"] for test in questions}
            row["score"] = round(sum(test["score"] for test in questions), 3)
            row["possible"] = round(sum(test["max_score"] for test in questions), 3)
            row["held"] = found.get("output", "").replace("\n", " ")
            row["messages"] = {test["name"]: test["output"] for test in questions}
            if not questions:
                row["status"] = "failed"
        if row["status"] == "failed":
            lines = said.read_text(errors="replace").strip().splitlines()
            row["held"] = re.sub(r"\x1b\[[0-9;]*m", "", lines[-1])[:200] if lines else ""
    return row


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and its kernel."""
    for pid in _family(process.pid) if process.poll() is None else []:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _family(root: int) -> list[int]:
    """The process and all that it has started, the last ones first: a kernel has a session of its own."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(pid): int(parent) for pid, parent in (line.split() for line in listed.splitlines())}
    family = [root]
    for member in family:
        family += [pid for pid, parent in parents.items() if parent == member]
    return family[::-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("build", help="student notebooks and autograder zips")
    make.add_argument("--masters", type=Path, default=MASTERS, help="folder of masters named a1_*.ipynb …")
    make.add_argument("--out", type=Path, default=ROOT / "dist" / "assignments")
    make.add_argument("--seconds", type=float, default=600.0, help="limit for the run of each solution")
    marks = commands.add_parser("grade", help="grade every notebook of a folder")
    marks.add_argument("zip", type=Path)
    marks.add_argument("folder", type=Path)
    marks.add_argument("--out", type=Path, default=Path("grades.csv"))
    marks.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2))
    marks.add_argument("--seconds", type=float, default=180.0, help="limit for one notebook")
    chosen = parser.parse_args()
    return _build_all(chosen) if chosen.command == "build" else _grade_all(chosen)


def _build_all(chosen: argparse.Namespace) -> int:
    found = masters(chosen.masters)
    if not found:
        print(f"No master a[0-9]_*.ipynb lies in {chosen.masters}.", file=sys.stderr)
        return 2
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        package = wheel(Path(folder))
        for master in found:
            made = build(master, chosen.out, package)
            row = grade(made.parent / master.name, made, chosen.seconds)
            full = row["status"] == "graded" and row["score"] == row["possible"]
            wrong += not full
            print(f"{master.stem}: {row['status']}, {row['score']:g} of {row['possible']:g} in {row['seconds']} s")
            if not full:
                print(json.dumps(row, indent=1), file=sys.stderr)
    print(f"Student notebooks and autograder zips lie in {chosen.out}.")
    return 1 if wrong else 0


def _grade_all(chosen: argparse.Namespace) -> int:
    submissions = sorted(chosen.folder.glob("*.ipynb"))
    if not submissions:
        print(f"No notebook lies in {chosen.folder}.", file=sys.stderr)
        return 2
    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(chosen.jobs) as pool:
        rows = []
        for row in pool.map(lambda path: grade(path, chosen.zip, chosen.seconds), submissions):
            rows.append(row)
            print(f"{row['file']}: {row['status']}, {row['score']:g} of {row['possible']:g}, {row['seconds']} s")
    questions = sorted({key for row in rows for key in row.get("messages", ())})
    columns = ["file", "status", "score", "possible", "seconds", *questions, "held"]
    with chosen.out.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    feedback = chosen.out.with_suffix(".json")
    feedback.write_text(json.dumps({row["file"]: row.get("messages", {}) for row in rows}, indent=1), encoding="utf-8")
    spent = time.monotonic() - begin
    print(f"{len(rows)} notebooks in {spent:.0f} s: {chosen.out}, and what each was told in {feedback}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
