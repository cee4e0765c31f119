"""Execute chapters and store their outputs: `make notebook NB=05`, `make notebooks`; `make times` measures only.

The only way in which a stored output changes. A notebook is run once, from its first cell to its last, in a
fresh kernel; it is stored only if no cell failed and none wrote to stderr. The setup cell (tagged `setup`)
is refreshed from tools/setup_cell.py, and metadata that differs from machine to machine is dropped. How long it
took is kept in book/times.json.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import resource
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools import loopback, times
from tools.stamp import ROOT, address, is_setup_cell, setup_cell

METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
KEPT = {"tags", "mystnb"}  # of a cell's metadata
TIMEOUT = 600  # seconds a cell


def kernel_environment() -> dict[str, str]:
    """The environment in which chapters are executed and compared: same threads, no bars, no user settings."""
    environment = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}  # the kernel chooses its inline one
    environment |= {
        "KDUTILS_PROGRESS": "0",
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "COLUMNS": "80",
    }
    environment.pop("PYTHONSTARTUP", None)
    return environment


def prepare(notebook: nbformat.NotebookNode) -> None:
    """Refresh the setup cell and drop what a former run or an editor left."""
    if sum(map(is_setup_cell, notebook.cells)) != 1:
        sys.exit("A chapter needs exactly one code cell with the tag `setup`.")
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    taken: set[str] = set()
    for cell in notebook.cells:
        if is_setup_cell(cell):
            cell.source = setup_cell(address())
            cell.metadata["tags"] = ["setup", "hide-input"]
        cell.source = cell.source.rstrip()
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in KEPT})
        cell.pop("attachments", None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        # An id that follows from the content, so that storing twice gives the same file.
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()
        cell["id"] = next(digest[i : i + 8] for i in range(56) if digest[i : i + 8] not in taken)
        taken.add(cell["id"])


def finish(notebook: nbformat.NotebookNode) -> list[str]:
    """Drop timestamps, join split streams, and list what forbids storing."""
    faults = []
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
        cell.metadata.pop("execution", None)
        joined: list[nbformat.NotebookNode] = []
        for output in cell.outputs:
            if output.output_type == "error":
                faults.append(f"code cell {number} failed: {output.ename}: {output.evalue}")
            if output.output_type == "stream" and output.name == "stderr":
                faults.append(f"code cell {number} wrote to stderr: {output.text.strip()[:500]}")
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = smaller_png(output.data["image/png"])
            if joined and output.output_type == "stream" == joined[-1].output_type and joined[-1].name == output.name:
                joined[-1].text += output.text
            else:
                joined.append(output)
        cell.outputs = joined
        if cell.execution_count != number:
            faults.append(f"code cell {number} has the execution count {cell.execution_count}")
    notebook.metadata = nbformat.from_dict(METADATA)
    return faults


def smaller_png(encoded: str) -> str:
    """The same picture with a palette of 256 colours, if that is smaller; it looks the same."""
    packed = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
        opaque = Image.new("RGB", picture.size, "white")
        opaque.paste(picture, mask=picture.getchannel("A") if picture.mode == "RGBA" else None)
    opaque.quantize(256, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
    return min(encoded.strip(), base64.b64encode(packed.getvalue()).decode(), key=len)


def store(notebook: nbformat.NotebookNode, path: Path) -> None:
    nbformat.validate(notebook)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False, encoding="utf-8") as part:
        part.write(nbformat.writes(notebook) + "\n")
    os.chmod(part.name, 0o644)
    os.replace(part.name, path)


def processor_seconds() -> tuple[float, float]:
    """What finished child processes, such as a kernel, have used of the processor; and what all programs have."""
    ours, everybody = resource.getrusage(resource.RUSAGE_CHILDREN), psutil.cpu_times()
    return ours.ru_utime + ours.ru_stime, everybody.user + everybody.system


def execute(path: Path, keep_outputs: bool = True) -> bool:
    """Run a notebook and store it, or only how long it took; say what went wrong, if something did."""
    notebook = nbformat.read(path, as_version=4)
    prepare(notebook)
    seconds: list[tuple[float, int]] = []
    started: dict[int, float] = {}

    def before(cell, cell_index):
        started[cell_index] = time.perf_counter()

    def after(cell, cell_index, execute_reply):
        seconds.append((time.perf_counter() - started[cell_index], cell_index))

    with tempfile.TemporaryDirectory() as home:
        client = NotebookClient(
            notebook,
            timeout=TIMEOUT,
            kernel_name="python3",
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_execute=before,
            on_cell_executed=after,
        )
        before_all, begin = processor_seconds(), time.perf_counter()
        try:
            client.execute(env=kernel_environment() | {"IPYTHONDIR": home})
        except CellExecutionError as error:
            print(f"{path.name}: NOT stored.\n{error}", file=sys.stderr)
            return False
    total = time.perf_counter() - begin
    used, everybody = (after - before for after, before in zip(processor_seconds(), before_all, strict=True))
    faults = finish(notebook)
    if faults:
        print(f"{path.name}: NOT stored.\n" + "\n".join(faults), file=sys.stderr)
        return False
    if keep_outputs:
        store(notebook, path)
    times.keep(path, total, used, max(0.0, everybody - used))
    print(f"{path.name}: {'stored' if keep_outputs else 'measured'} after {total:.1f} s; the slowest cells:")
    for taken, index in sorted(seconds, reverse=True)[:3]:
        line = re.sub(r"\s+", " ", notebook.cells[index].source)[:70]
        print(f"  {taken:6.1f} s  cell {index + 1}: {line}")
    return True


def main() -> int:
    arguments = sys.argv[1:]
    keep_outputs = "--only-time" not in arguments
    which = next((each for each in arguments if not each.startswith("-")), "all")
    pattern = "[0-9][0-9]_*.ipynb" if which == "all" else f"{which.zfill(2)}_*.ipynb"
    paths = sorted((ROOT / "notebooks").glob(pattern))
    if not paths:
        print(f"No chapter matches notebooks/{pattern}.", file=sys.stderr)
        return 2
    loopback.bring_up()
    stored = [execute(path, keep_outputs) for path in paths]
    return 0 if all(stored) else 1


if __name__ == "__main__":
    sys.exit(main())
