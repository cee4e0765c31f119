"""What the graded assignments stand on: answers called under a time limit, and no submission that marks itself.

Otter-Grader runs a submission and its tests in one process. A submission can therefore reach its own judge: it can
replace `torch.allclose`, the test files, or Otter itself; and one endless loop takes every other mark with it.
:class:`Guard`, an Otter plugin, answers both. Cells that reach for the judge are not run, what a cell has replaced
is put back before the next one, and every cell and every call has a time limit. It makes cheating laborious, it is
no prison: what is graded should still run where it can do no harm.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import re
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType, ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CELL_SECONDS = 60.0
SEED_LINE = re.compile(r"^FIRST_SEED = \d+", re.MULTILINE)


class _TooSlow(BaseException):
    """Not an Exception, so that an answer's own `except Exception` does not swallow it."""


def fresh() -> torch.Generator:
    """A generator with a seed from the operating system: no two checks see the same numbers."""
    return torch.Generator().manual_seed(secrets.randbelow(2**31))


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Stop what runs inside after `seconds`; without effect on Windows and outside the main thread.

    Args:
        seconds: of the clock on the wall.

    Raises:
        AssertionError: when the time is over.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    outer, handler, start = signal.getitimer(signal.ITIMER_REAL), signal.signal(signal.SIGALRM, _ring), time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again each second, should the first one be swallowed
    try:
        yield
    except _TooSlow:
        raise AssertionError(f"It was stopped after {seconds:g} seconds.") from None
    finally:
        left = max(outer[0] - (time.monotonic() - start), 0.01) if outer[0] else 0.0
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, left, outer[1])


def _ring(number: int, frame: FrameType | None) -> None:
    raise _TooSlow


def attempted(answer: Any, name: str) -> Any:
    """Give `answer` back, unless it is still the stub.

    Raises:
        AssertionError: if it is None or `...`.
    """
    assert answer is not None and answer is not ..., f"{name}: not attempted."
    return answer


def call(function: Callable[..., Any], *args: Any, seconds: float = 10.0, **kwargs: Any) -> Any:
    """Call an answer as a check should: with copies of the tensors, a time limit, and every failure told.

    Args:
        function: the answer.
        args: its arguments.
        seconds: how long it may take.
        kwargs: its named arguments.

    Raises:
        AssertionError: if it is no function, gives nothing back, raises (also SystemExit), or takes too long.
    """
    assert callable(attempted(function, "the function")), f"A function is wanted, got {type(function).__name__}."
    name = getattr(function, "__name__", "the function")
    args = tuple(_copy(value) for value in args)
    kwargs = {key: _copy(value) for key, value in kwargs.items()}
    try:
        with time_limit(seconds):
            value = function(*args, **kwargs)
    except AssertionError:
        raise
    except (Exception, SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        raise AssertionError(f"{name} stopped with {type(error).__name__}: {error}") from None
    return attempted(value, name)


def _copy(value: Any) -> Any:
    return value.detach().clone().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


def close(
    got: Any, want: Any, hints: Sequence[tuple[Any, str]] = (), *, tolerance: float = 1e-4, what: str = "Your answer"
) -> None:
    """Compare numbers, and answer a usual mistake with its hint.

    Args:
        got: a number, tensor, array or list.
        want: the right one.
        hints: (what a mistake gives, the sentence that helps).
        tolerance: allowed difference, times 1 + |want|.
        what: the subject of the message.

    Raises:
        AssertionError: with the hint that fits, else with what differs.
    """
    got, want = _numbers(got, what), _numbers(want, "The reference")
    if _same(got, want, tolerance):
        return
    for wrong, hint in hints:
        if _same(got, _numbers(wrong, "A usual mistake"), tolerance):
            raise AssertionError(hint)
    assert got.shape == want.shape, f"{what} has the shape {got.shape}; wanted is {want.shape}."
    assert np.isfinite(got).all() or not np.isfinite(want).all(), f"{what} holds NaN or infinity."
    worst = np.unravel_index(np.argmax(np.nan_to_num(np.abs(got - want), nan=np.inf)), want.shape)
    at = f" at {tuple(map(int, worst))}" if want.shape else ""
    raise AssertionError(f"{what} is {got[worst]:.6g}{at}; wanted is {want[worst]:.6g}.")


def _numbers(value: Any, what: str) -> NDArray[np.float64]:
    try:
        return np.array(value.detach().cpu().tolist() if isinstance(value, Tensor) else value, dtype=np.float64)
    except Exception:
        raise AssertionError(f"{what} should be a number or a tensor of numbers, got {type(value).__name__}.") from None


def _same(got: NDArray[np.float64], want: NDArray[np.float64], tolerance: float) -> bool:
    if got.shape != want.shape:
        return False
    with np.errstate(invalid="ignore"):
        return bool(((got == want) | (np.abs(got - want) <= tolerance * (1 + np.abs(want)))).all())


# What a cell of a submission may not do. Names and attributes that lead to the judge, to its files, or out of Python.
_MODULES = {
    "builtins", "ctypes", "dill", "gc", "importlib", "inspect", "kdutils.grading", "marshal", "mock", "multiprocessing",
    "otter", "pickle", "pytest", "runpy", "shutil", "signal", "socket", "subprocess", "unittest",
}  # fmt: skip
_NAMES = {
    "__builtins__", "__import__", "compile", "delattr", "eval", "exec", "globals", "grader", "otter", "setattr", "vars",
}  # fmt: skip
_ATTRIBUTES = {
    "__bases__", "__builtins__", "__class__", "__closure__", "__code__", "__dict__", "__globals__", "__mro__",
    "__setattr__", "__subclasses__", "_exit", "_getframe", "f_back", "f_builtins", "f_globals", "f_locals", "getoutput",
    "grading", "meta_path", "modules_by_name", "popen", "rmtree", "run_code", "setprofile", "settrace", "system",
    "tb_frame", "unlink", "write_bytes", "write_text",
}  # fmt: skip
_MAGICS = {"matplotlib", "time", "timeit", "capture", "config"}
_TEXTS = ("tests/", "/tests", "results.json", "results.pkl", "otter_config", "/autograder", "/proc/")
_MAY_BE_SET = {"backends", "rcParams"}


def forbidden(source: str, imported: Iterable[str] = ()) -> str | None:
    """Why a cell is not run, in a few words, or None if it may run. It errs on the strict side.

    Args:
        source: of the cell, with or without IPython's magics.
        imported: names that earlier cells have imported: their attributes may not be assigned to.
    """
    from IPython.core import inputtransformer2

    manager: Any = inputtransformer2.TransformerManager
    if source.startswith("%%"):
        first, _, source = source.partition("\n")
        if first[2:].split()[0] not in _MAGICS:
            return f"it begins with {first.split()[0]}"
    try:
        tree = ast.parse(manager().transform_cell(source))
    except SyntaxError:
        return None  # it stops by itself
    modules = imported_names(source, imported)
    for node in ast.walk(tree):
        reason = _reason(node, modules)
        if reason:
            return f"line {getattr(node, 'lineno', 1)} {reason}"
    return None


def imported_names(source: str, known: Iterable[str] = ()) -> set[str]:
    """The names `known` before, those that a cell imports, and other names that it gives to any of them."""
    names = set(known)
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return names
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and _root(node.value) in names and not isinstance(node.value, ast.Call):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def _root(node: ast.AST) -> str | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _reason(node: ast.AST, modules: set[str]) -> str | None:
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        names += [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            if name in _MODULES or name.split(".")[0] in _MODULES:
                return f"imports {name}"
    if isinstance(node, ast.Name) and node.id in _MODULES & modules:
        return f"uses {node.id}"
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return None if node.id == "grader" and isinstance(node.ctx, ast.Load) else f"uses {node.id}"
    if isinstance(node, ast.Attribute):
        if node.attr in _ATTRIBUTES or (node.attr == "modules" and _root(node) == "sys"):
            return f"uses .{node.attr}"
        stored = not isinstance(node.ctx, ast.Load)
        if stored and _root(node) in modules | {"grader"} and not _MAY_BE_SET & set(ast.unparse(node).split(".")):
            return f"assigns to {ast.unparse(node)}"
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "get_ipython().run_line_magic":
        magic = node.args[0]
        if not (isinstance(magic, ast.Constant) and magic.value in _MAGICS):
            return f"runs %{getattr(magic, 'value', '?')}"
    elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("get_ipython()"):
        return f"calls {ast.unparse(node.func)}"
    if isinstance(node, ast.Call) and _root(node.func) == "os" and not ast.unparse(node.func).startswith("os.path"):
        return f"calls {ast.unparse(node.func)}"
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        for text in _TEXTS:
            if text in node.value and "\n" not in node.value:
                return f"names {node.value!r}"
    return None


def start(cell_seconds: float = CELL_SECONDS) -> None:
    """Begin to guard the running notebook: the first cell of every submission, put there by :class:`Guard`.

    From here on each cell has `cell_seconds`, and before each cell what an earlier one has replaced (in torch, NumPy,
    kdutils, Otter and the built-in functions) is put back.
    """
    from IPython.core.getipython import get_ipython

    names = [
        "builtins", "math", "secrets", "numpy", "torch", "torch.nn", "torch.nn.functional", "scipy.stats",
        "otter.execute.checker", "otter.test_files", "otter.test_files.abstract_test",
        "otter.test_files.exception_test",
    ]  # fmt: skip
    found = [importlib.import_module(name) for name in names]
    found += [module for name, module in sys.modules.items() if name.startswith("kdutils")]
    owners: list[ModuleType | type] = [*found, Tensor, torch.nn.Module]
    owners += [
        value
        for module in found
        if module.__name__.startswith("otter")
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__.startswith("otter")
    ]
    kept = [(owner, {k: v for k, v in vars(owner).items() if _code(v)}) for owner in owners]
    shell: Any = get_ipython()

    def before(*_: object) -> None:
        for owner, was in kept:
            now = vars(owner)
            for name, value in was.items():
                if now.get(name) is not value:
                    setattr(owner, name, value)
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, _ring)
            signal.setitimer(signal.ITIMER_REAL, cell_seconds, 1.0)

    def after(*_: object) -> None:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)

    shell.events.register("pre_run_cell", before)
    shell.events.register("post_run_cell", after)


def _code(value: Any) -> bool:
    return callable(value) or isinstance(value, classmethod | staticmethod | property)


class Guard:
    """The Otter plugin of the assignments. In `otter_config.json`: `{"kdutils.grading.Guard": {…}}`.

    Args:
        submission_path: where the submission lies.
        submission_metadata: what Gradescope says about it; not used.
        plugin_config: "cell_seconds", and "given": the SHA-256 of cells that are ours and need no look.
    """

    def __init__(
        self, submission_path: str, submission_metadata: dict[str, Any], plugin_config: dict[str, Any]
    ) -> None:
        self.seconds = float(plugin_config.get("cell_seconds", CELL_SECONDS))
        self.given = set(plugin_config.get("given", ()))
        self.first_seed = 1000 + secrets.randbelow(9000)
        self.held: list[str] = []

    def before_execution(self, submission: Any) -> Any:
        """Put the guard's cell first, stop the cells that reach for the judge, and draw FIRST_SEED anew.

        Stored results of an experiment are then those of other seeds: only what the submission computes counts.
        """
        imported: set[str] = set()
        for number, cell in enumerate(submission.cells, 1):
            if cell.cell_type != "code" or "otter_ignore" in cell.metadata.get("tags", []):
                continue  # Otter leaves out what is tagged so
            cell.source = SEED_LINE.sub(f"FIRST_SEED = {self.first_seed}", cell.source)
            reason = None if fingerprint(cell.source) in self.given else forbidden(cell.source, imported)
            imported = imported_names(cell.source, imported)
            if reason:
                self.held.append(f"Cell {number} was not run: {reason}.")
                cell.source = f"raise RuntimeError({self.held[-1]!r})"
        first: dict[str, Any] = {
            "cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None,
            "source": f"import kdutils.grading\nkdutils.grading.start({self.seconds})",
        }  # fmt: skip
        if submission.nbformat_minor >= 5:
            first["id"] = "guard"
        submission.cells.insert(0, type(submission)(first))
        return submission

    def after_grading(self, results: Any) -> None:
        """Tell the student, on Gradescope, which cells were not run."""
        if self.held:
            results.output = "\n".join(self.held)

    def generate_report(self) -> str:
        """The same for whoever grades."""
        return "\n".join(self.held) or "Every cell was run."


def fingerprint(source: str) -> str:
    """SHA-256 of a cell's source, without what an editor may change: blanks at the ends of lines."""
    return hashlib.sha256("\n".join(line.rstrip() for line in source.strip().splitlines()).encode()).hexdigest()
