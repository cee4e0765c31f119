"""Tidy results on disk: one CSV row per finished run, and beside it a JSON file that says where it comes from."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

try:
    import fcntl
except ImportError:  # Windows has none: there only one process may work on a study
    fcntl = None  # type: ignore[assignment]

FOLDER = Path(__file__).parent.parent / "recorded"


class Record:
    """The results of one study: `recorded/NAME.csv` and `recorded/NAME.json`.

    A run that is already in the file is not repeated, so an interrupted study goes on where it stopped.

    Args:
        name: of the two files.
        keys: the columns that name a run, such as arm and seed.
        folder: where the files are.
    """

    def __init__(self, name: str, keys: tuple[str, ...], folder: Path = FOLDER) -> None:
        self.path = folder / f"{name}.csv"
        self.keys = keys
        folder.mkdir(parents=True, exist_ok=True)

    def has(self, **run: Any) -> bool:
        """Whether the run with these keys is recorded."""
        wanted = tuple(_text(run[key]) for key in self.keys)
        return any(tuple(row[key] for key in self.keys) == wanted for row in self.rows())

    def rows(self) -> list[dict[str, str]]:
        """Every recorded run, as text. A last line that was cut off is not a run."""
        return list(csv.DictReader(io.StringIO(self._whole_lines())))

    def add(self, **row: Any) -> None:
        """Append one finished run: it is there as a whole or not at all, also when processes share a study."""
        header = ",".join(row) + "\n"
        with self.path.open("a+") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file is closed
            kept = self._whole_lines()
            if kept and not kept.startswith(header):
                known = kept.splitlines()[0]
                raise ValueError(f"{self.path} has the columns {known}, but the new run has {header.strip()}.")
            file.truncate(len(kept.encode()))  # of a line that was cut off nothing stays
            line = io.StringIO()
            csv.writer(line, lineterminator="\n").writerow(map(_text, row.values()))
            file.write(("" if kept else header) + line.getvalue())
            file.flush()
            os.fsync(file.fileno())

    def _whole_lines(self) -> str:
        text = self.path.read_text() if self.path.exists() else ""
        return text[: text.rfind("\n") + 1]

    def sort(self, columns: tuple[str, ...]) -> None:
        """Put the rows into the order of `columns`, whatever order the runs ended in."""
        rows = sorted(self.rows(), key=lambda row: tuple(_number_or_text(row[c]) for c in columns))
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(self.path)

    def finish(self, columns: tuple[str, ...], **settings: Any) -> None:
        """A study is complete: sort it, and write where it comes from, with the seeds that it holds."""
        self.sort(columns)
        self.provenance(**settings, seeds=sorted({int(row["seed"]) for row in self.rows()}))

    def provenance(self, **settings: Any) -> None:
        """Write the JSON file: command, commit, date, machine, versions and the study's settings."""
        facts = {
            "command": " ".join(["python", "-m", _module(), *sys.argv[1:]]),
            "commit": _commit(),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor(),
            "threads": torch.get_num_threads(),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("torch", "torchvision", "numpy")},
            },
            "settings": settings,
        }
        self.path.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else Path(sys.argv[0]).stem


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _number_or_text(text: str) -> tuple[int, float, str]:
    try:
        return (0, float(text), "")
    except ValueError:
        return (1, 0.0, text)


def _commit() -> str:
    try:
        shown = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
        )
    except OSError:
        return "unknown"
    return shown.stdout.strip() or "unknown"


def processor() -> str:
    """The processor's name, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
