"""How long each chapter takes to run: the record book/times.json, kept whenever a chapter is run from top to bottom.

`make notebook` keeps the time of the chapter that it stores; `make times` runs all chapters, stores nothing, and
keeps their times. An entry holds what it was measured on, and a fingerprint of the code, so that a page can say
when the code has changed since.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "book" / "times.json"
QUIET = 0.1  # a larger share of the processor taken by other programs: the time is an upper bound


def chapters() -> list[str]:
    """The names of the notebooks, in order."""
    return sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def notebook(name: str) -> Path:
    return ROOT / "notebooks" / f"{name}.ipynb"


def fingerprint(path: Path) -> str:
    """A hash of a notebook's code cells but for the setup cell, which differs by the repository's address only."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [
        "".join(c["source"]) for c in cells if c["cell_type"] == "code" and "setup" not in c["metadata"].get("tags", [])
    ]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()[:16]


def record() -> dict[str, dict[str, Any]]:
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}


def entry(name: str) -> dict[str, Any] | None:
    return record().get(name)


def seconds(page: str) -> float | None:
    """The seconds that the chapter of a page took; None where they are unknown, of other code or of a busy machine."""
    name = page.rpartition("/")[2]
    found = entry(name)
    valid = found is not None and found["code"] == fingerprint(notebook(name)) and busy(found) <= QUIET
    return found["seconds"] if found is not None and valid else None


def busy(found: dict[str, Any]) -> float:
    """The share of the processor that other programs took during a run."""
    return found["others_seconds"] / (found["cores"] * found["seconds"])


def keep(path: Path, seconds: float, processor_seconds: float, others_seconds: float) -> None:
    """Write the time of one run into the record.

    Args:
        path: the notebook.
        seconds: by the clock, from the start of its kernel to the end of its last cell.
        processor_seconds: of all its processes and threads together.
        others_seconds: what other programs used of the processor in the meantime.
    """
    from kdutils.studies._record import processor  # not above: pages read this record without PyTorch

    found = record()
    found[path.stem] = {
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor_seconds, 1),
        "others_seconds": round(others_seconds, 1),
        "date": datetime.date.today().isoformat(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "device": processor(),
        "torch": version("torch"),
        "code": fingerprint(path),
    }
    known = {name: found[name] for name in chapters() if name in found}
    RECORD.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
