"""The graded assignments: solutions get full marks, stubs none, and wrong or dishonest answers what they deserve."""

from __future__ import annotations

import ast
import json
import re
import time
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pytest

from kdutils import grading
from tests import submissions as corpus
from tools import assignments

pytest.importorskip("otter")

NAMES = [path.stem for path in assignments.masters()]
each = pytest.mark.parametrize("name", NAMES)
SECONDS = 600.0  # of the clock: a shared machine may be ten times slower than a quiet one


class Built(NamedTuple):
    """What `make assignments` makes of one master."""

    master: nbformat.NotebookNode
    student: Path
    solution: Path
    zip: Path
    tests: Path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    out, found = tmp_path_factory.mktemp("assignments"), {}
    for path in assignments.masters():
        made = assignments.build(path, out, package=None)
        with zipfile.ZipFile(made) as archive:
            archive.extractall(out / path.stem / "zip")
        folder = out / path.stem
        master = nbformat.read(path, as_version=4)
        tests = folder / "zip" / "tests"
        found[path.stem] = Built(master, folder / "student" / path.name, made.parent / path.name, made, tests)
    return found


def code(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def environment(path: Path) -> dict[str, Any]:
    """What a notebook leaves behind, but for its data and what is computed from them."""
    env: dict[str, Any] = {}
    exec("import kdutils as kd", env)
    for source in code(path):
        if "otter" in source or "grader" in source or "REPOSITORY" in source:
            continue
        if source.startswith("def ") or not re.search(r"^\w+ = \.\.\.|kd\.(selection|zoo)|MODEL", source):
            exec(source, env)
    return env


def mark(test: Path, env: dict[str, Any]) -> tuple[float, float, str]:
    """(score, possible, what the student is told) of one question, by Otter's own code."""
    from otter.nbmeta_config import NBMetadataConfig
    from otter.test_files import create_test_file

    file = create_test_file(str(test), NBMetadataConfig())
    file.run(env)
    return file.score, file.possible, "\n".join(result.message for result in file.test_case_results)


def test_there_are_five() -> None:
    assert [name[:3] for name in NAMES] == ["a1_", "a2_", "a3_", "a4_", "a5_"]


@each
def test_a_master_is_stored_without_outputs(name: str, built: dict[str, Built]) -> None:
    for cell in built[name].master.cells:
        assert cell.cell_type != "code" or (not cell.outputs and cell.execution_count is None)


@each
def test_the_students_copy_is_one_file_without_solutions_and_hidden_checks(name: str, built: dict[str, Built]) -> None:
    paths = [path for path in built[name].student.parent.rglob("*") if path.is_file()]
    assert paths == [built[name].student]
    text = built[name].student.read_text(encoding="utf-8")
    assert "SOLUTION" not in text
    hidden = public = 0
    for cell in built[name].master.cells:
        found = re.search(r"hidden: (true|false)[\s\S]*?^def (test_\w+)", cell.source, re.MULTILINE)
        if found and found[1] == "true":
            hidden += 1
            assert found[2] not in text
        elif found:
            public += 1
            assert found[2] in text
    assert hidden and public


@each
def test_the_students_copy_brings_its_checks_to_an_empty_folder(
    name: str, built: dict[str, Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = nbformat.read(built[name].student, as_version=4).cells
    brings = [cell for cell in cells if "otter_ignore" in cell.metadata.get("tags", [])]
    assert len(brings) == 1  # not run when the notebook is graded: it would put the public checks in the place of all
    env: dict[str, Any] = {}
    exec(brings[0].source, env)
    exec(assignments.CHECKS, env)
    questions = sorted(path.stem for path in built[name].tests.glob("*.py"))
    assert sorted(path.stem for path in Path("tests").glob("*.py")) == questions
    assert "not attempted" in repr(env["grader"].check(questions[0], global_env={"plan": None}))


@each
def test_the_zip_names_its_guard_and_installs_this_package(name: str, built: dict[str, Built], tmp_path: Path) -> None:
    config = json.loads((built[name].zip.parent.parent / "zip" / "otter_config.json").read_text())
    ((plugin, options),) = config["plugins"][0].items()
    assert plugin == "kdutils.grading.Guard" and grading.fingerprint(assignments.CHECKS) in options["given"]
    wheel = tmp_path / "kdutils-0-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    final = tmp_path / "with.zip"
    assignments._finish_zip(built[name].zip, final, options, wheel)
    with zipfile.ZipFile(final) as archive:
        assert archive.read(f"files/{wheel.name}") == b"wheel"
        needed = archive.read("environment.yml").decode()
    assert f"/autograder/source/files/{wheel.name}" in needed and "pytorch-cpu" in needed and "otter-grader" in needed


@each
def test_stubs_get_nothing_and_are_told_so(name: str, built: dict[str, Built]) -> None:
    env = environment(built[name].student)
    for source in code(built[name].student):
        if re.match(r"\w+ = \.\.\.", source):
            exec(source, env)
    for test in sorted(built[name].tests.glob("*.py")):
        score, possible, said = mark(test, env)
        assert score == 0 and possible > 0 and said.count("not attempted") >= 2, (test.stem, said)


def test_the_solutions_of_the_first_assignment_get_full_marks(built: dict[str, Built]) -> None:
    env = environment(built["a1_softmax_kl_kd"].solution)
    for test in sorted(built["a1_softmax_kl_kd"].tests.glob("*.py")):
        score, possible, said = mark(test, env)
        assert score == possible, said


@pytest.mark.parametrize(
    "question",
    [pytest.param(name, marks=pytest.mark.slow) if name == "a2_q1" else name for name in corpus.WRONG],  # it trains
)
def test_a_wrong_answer_gets_its_hint(question: str, built: dict[str, Built]) -> None:
    name = next(name for name in NAMES if name.startswith(question[:2]))
    test = built[name].tests / f"{question}.py"
    right = environment(built[name].solution)
    if question in corpus.TABLES:
        given, begins = corpus.TABLES[question]
        exec(given, right)
        exec(next(source for source in code(built[name].solution) if source.startswith(begins)), right)
    score, possible, said = mark(test, dict(right))
    assert score == possible, f"the solution: {said}"
    assert len(corpus.WRONG[question]) >= 3
    for source, word in corpus.WRONG[question]:
        env = dict(right)
        function = re.search(r"^def (\w+)", source, re.MULTILINE)
        env["right"] = env.get(function[1]) if function else None
        exec(source, env)
        score, _, said = mark(test, env)
        assert score < possible and word in said, f"{source}\n{said}"


def test_an_endless_loop_is_stopped_and_an_exit_is_an_error() -> None:
    def endless() -> None:
        while True:
            try:
                while True:
                    pass
            except Exception:
                pass

    def leave() -> None:
        raise SystemExit

    begin = time.monotonic()
    with pytest.raises(AssertionError, match=r"stopped after 0\.5 seconds"):
        grading.call(endless, seconds=0.5)
    assert time.monotonic() - begin < 60  # it ended at all
    with pytest.raises(AssertionError, match="leave stopped with SystemExit"):
        grading.call(leave)


def test_a_time_limit_inside_another_leaves_the_outer_one_running() -> None:
    with pytest.raises(AssertionError, match=r"stopped after 0\.6 seconds"), grading.time_limit(0.6):
        grading.call(lambda: 1, seconds=30.0)
        while True:
            pass


@pytest.mark.parametrize("source", corpus.CHEATS)
def test_a_cell_that_reaches_for_its_judge_is_held(source: str) -> None:
    assert grading.forbidden(source, ["torch", "kd", "np", "nn", "subprocess"])


@pytest.mark.parametrize("source", corpus.HONEST)
def test_an_honest_cell_is_run(source: str) -> None:
    assert grading.forbidden(source, ["torch", "kd", "np", "plt", "nn", "os", "sys"]) is None


@each
def test_no_cell_of_ours_is_held(name: str, built: dict[str, Built]) -> None:
    names: set[str] = set()
    for source in code(built[name].solution):
        if "REPOSITORY" not in source and source != assignments.CHECKS:
            assert grading.forbidden(source, names) is None, source
        names = grading.imported_names(source, names)


@each
def test_the_guard_holds_no_cell_of_an_untouched_copy_and_draws_the_first_seed(
    name: str, built: dict[str, Built]
) -> None:
    options = {
        "given": [
            grading.fingerprint(assignments.setup_cell(assignments.address())),
            grading.fingerprint(assignments.CHECKS),
        ]
    }
    guard = grading.Guard("", {}, options)
    guarded = guard.before_execution(nbformat.read(built[name].student, as_version=4))
    assert guard.held == []
    assert guarded.cells[0].source.startswith("import kdutils.grading")
    sources = "\n".join(cell.source for cell in guarded.cells)
    assert "FIRST_SEED = 0" not in sources.splitlines()


def submission(original: Path, answers: dict[str, str], folder: Path) -> Path:
    """A copy in which the cell that begins with a key is replaced by its value."""
    notebook, left = nbformat.read(original, as_version=4), dict(answers)
    for cell in notebook.cells:
        for begin in [key for key in left if cell.cell_type == "code" and cell.source.startswith(key)]:
            cell.source = left.pop(begin)
    assert not left, f"no cell begins with {list(left)}"
    path = folder / "submission.ipynb"
    nbformat.write(notebook, path)
    return path


def test_one_bad_answer_does_not_take_the_other_marks_with_it(built: dict[str, Built], tmp_path: Path) -> None:
    """By `otter run`: endless, replaced judge, overwritten checks, typed-in numbers, a crash; and one right answer."""
    first = built["a1_softmax_kl_kd"]
    row = assignments.grade(submission(first.solution, corpus.MIXED, tmp_path), first.zip, SECONDS)
    assert row["status"] == "graded", row
    got = {key: value for key, value in row.items() if key.startswith("a1_q")}
    assert got == {"a1_q1": 3, "a1_q2": 0, "a1_q3": 0, "a1_q4": 0, "a1_q5": 0, "a1_q6": 0}, row
    assert "stopped after 10 seconds" in row["messages"]["a1_q2"]
    assert row["held"].count("was not run") == 2 and "assigns to torch.allclose" in row["held"]


@pytest.mark.slow
@each
def test_the_solution_gets_full_marks_by_otter(name: str, built: dict[str, Built]) -> None:
    row = assignments.grade(built[name].solution, built[name].zip, SECONDS)
    assert (row["status"], row["held"]) == ("graded", ""), row
    assert row["score"] == row["possible"] > 0, row


@pytest.mark.slow
@each
def test_the_stub_gets_nothing_by_otter(name: str, built: dict[str, Built]) -> None:
    row = assignments.grade(built[name].student, built[name].zip, SECONDS)
    assert (row["status"], row["score"]) == ("graded", 0), row


@pytest.mark.slow
@pytest.mark.parametrize("which", corpus.SUBMISSIONS)
def test_a_dishonest_or_broken_submission_gets_what_it_deserves(
    which: str, built: dict[str, Built], tmp_path: Path
) -> None:
    start, name, answers, wanted, seconds = corpus.SUBMISSIONS[which]
    chosen = built[name]
    path = submission(chosen.solution if start == "solution" else chosen.student, answers, tmp_path)
    begin = time.monotonic()
    row = assignments.grade(path, chosen.zip, seconds)
    assert time.monotonic() - begin < seconds + 60
    assert {key: row.get(key) for key in wanted} == wanted, row


def test_the_corpus_is_python() -> None:
    for answers in [corpus.MIXED, *(entry[2] for entry in corpus.SUBMISSIONS.values())]:
        for source in answers.values():
            ast.parse(source)
