"""The exercise machinery, and every chapter's checks against its solutions and its plausible wrong answers."""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import kdutils as kd
from kdutils import check
from tests.common import random_state

FOLDER = Path(__file__).parent / "solutions"
CHAPTERS = sorted(path.stem for path in FOLDER.glob("ch[0-9][0-9].py"))


@functools.cache
def solutions(chapter: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"solutions_{chapter}", FOLDER / f"{chapter}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EXERCISES = [(chapter, n) for chapter in CHAPTERS for n in (1, 2, 3)]


def name_of(chapter: str, n: int) -> str:
    return f"{chapter[2:]}.{n}"


def test_every_check_has_its_solutions_and_every_solution_its_check() -> None:
    known = {name_of(*each) for each in EXERCISES}
    assert known == set(check._checks())
    assert known, "no chapter has exercises"


@pytest.mark.parametrize(("chapter", "n"), EXERCISES)
def test_the_solution_is_correct(chapter: str, n: int) -> None:
    state = random_state()
    verdict = check.exercise(name_of(chapter, n), getattr(solutions(chapter), f"exercise_{n}"))
    assert verdict.status == "correct", verdict
    assert repr(verdict) == f"Exercise {name_of(chapter, n)}: correct."
    assert random_state() == state


@pytest.mark.parametrize(("chapter", "n"), EXERCISES)
def test_a_wrong_answer_gets_a_hint_that_fits(chapter: str, n: int) -> None:
    wrong = solutions(chapter).WRONG[n]
    assert len(wrong) >= 3, "at least three plausible wrong answers are wanted"
    hints = set()
    for answer, word in wrong:
        verdict = check.exercise(name_of(chapter, n), answer)
        assert verdict.status == "not yet", f"{word}: {verdict}"
        assert word.lower() in verdict.hint.lower(), f"{word!r} is not in the hint: {verdict.hint}"
        assert not verdict.hint.startswith("It stopped with"), verdict.hint
        assert "\n" not in verdict.hint
        assert verdict.hint.endswith((".", "?", "!")), verdict.hint
        hints.add(re.sub(r"[-+]?\d[\d.]*", "0", verdict.hint))
    assert len(hints) >= 3, "at least three different hints are wanted"


@pytest.mark.parametrize(("chapter", "n"), EXERCISES)
def test_an_empty_stub_is_not_attempted(chapter: str, n: int) -> None:
    solution = getattr(solutions(chapter), f"exercise_{n}")

    def ellipsis_stub(*args: Any, **options: Any) -> Any:
        return ...

    def open_stub(*args: Any, **options: Any) -> Any:
        raise NotImplementedError

    stubs: list[Any] = [None, ...]
    if callable(solution):
        stubs += [lambda *args, **options: None, ellipsis_stub, open_stub]
    for stub in stubs:
        verdict = check.exercise(name_of(chapter, n), stub)
        assert repr(verdict) == f"Exercise {name_of(chapter, n)}: not attempted."


@pytest.mark.parametrize(("chapter", "n"), EXERCISES)
@pytest.mark.parametrize("answer", ["a word", -1.5e30, [], {}], ids=repr)
def test_a_check_never_raises_and_takes_no_nonsense(chapter: str, n: int, answer: Any) -> None:
    assert check.exercise(name_of(chapter, n), answer).status == "not yet"


def test_an_answer_that_stops_is_told_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_checks", lambda: {"00.1": lambda answer: None if answer(2) == 4 else "Double it."})

    def stops(x: float) -> float:
        return x / 0

    assert check.exercise("00.1", lambda x: 2 * x).status == "correct"
    assert check.exercise("00.1", lambda x: x) == ("00.1", "not yet", "Double it.")
    assert "ZeroDivisionError" in check.exercise("00.1", stops).hint
    assert repr(kd.check.exercise("00.1", lambda x: x)) == "Exercise 00.1: not yet. Double it."
