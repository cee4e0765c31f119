"""Checks for the exercises: "not attempted", "not yet" with a hint, or "correct"."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kdutils._base import nearest


class Verdict(NamedTuple):
    """The answer to an answer: `status` is "not attempted", "not yet" or "correct"; `hint` may be empty."""

    exercise: str
    status: str
    hint: str = ""

    def __repr__(self) -> str:
        return f"Exercise {self.exercise}: {self.status}." + (f" {self.hint}" if self.hint else "")


class _NotAttempted(Exception):
    pass


def exercise(name: str, answer: Any) -> Verdict:
    """Check an answer and say how it stands; it never raises because of the answer.

    Args:
        name: chapter and number, such as "01.2".
        answer: a value or a function, as the exercise asks. `None`, `...`, and a function that gives
            either of them or raises `NotImplementedError` count as not attempted.

    Raises:
        ValueError: for an unknown exercise.
    """
    checks = _checks()
    if name not in checks:
        raise ValueError(nearest("exercise", name, checks))
    try:
        if answer is None or answer is ...:
            raise _NotAttempted
        hint = checks[name](_attempt(answer) if callable(answer) and not isinstance(answer, type) else answer)
    except (_NotAttempted, NotImplementedError):
        return Verdict(name, "not attempted")
    except Exception as error:
        return Verdict(name, "not yet", f"It stopped with {type(error).__name__}: {error}")
    return Verdict(name, "correct") if hint is None else Verdict(name, "not yet", hint)


def _attempt(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        value = function(*args, **kwargs)
        if value is None or value is ...:
            raise _NotAttempted
        return value

    return wrapped


@functools.cache
def _checks() -> dict[str, Callable[[Any], str | None]]:
    """Every `exercise_N` of every module `chNN` here; each returns None if right, else a hint."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("ch[0-9][0-9].py")):
        module = importlib.import_module(f"kdutils.check.{path.stem}")
        for attribute in vars(module):
            if attribute.startswith("exercise_"):
                found[f"{path.stem[2:]}.{attribute.removeprefix('exercise_')}"] = getattr(module, attribute)
    return found
