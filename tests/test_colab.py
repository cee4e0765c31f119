"""Chapters run as in Colab: its packages, an empty folder, and whatever the setup cell installs; nothing else of ours.

The environment is real. It has PyTorch and its friends at the locked versions, hard-linked from uv's cache, which
`make install` has just filled: seconds, and no disk. The setup cell, stamped with an address that git finds in
a copy of this tree, then clones, builds the wheel and installs it with what it depends on from the package index. A
chapter of each part runs here on every run of the tests, all of them by `make test-slow`.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from packaging.utils import canonicalize_name

from tests.conftest import EXAMPLE, ROOT, chapters, tracked
from tools import stamp

PREINSTALLED = ["torch", "torchvision", "numpy", "pandas", "matplotlib", "seaborn", "scikit-learn"]
HOST = ["ipykernel", "pip"]  # what runs a notebook there, and what installs
OURS = ["kdutils", "captum", "safetensors", "tqdm"]  # what the setup cell has to bring
QUICK = ("01", "07", "11", "17")  # one of each part; a part that is not named here runs its first chapter
CELL_TIMEOUT = 600  # seconds

KERNEL = '{{"argv": ["{python}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"], "display_name": "Colab"}}'


@dataclasses.dataclass
class Colab:
    """An environment like Colab's in a folder of its own."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "env" / "bin" / "python"

    @property
    def packages(self) -> Path:
        (found,) = (self.folder / "env" / "lib").glob("python*/site-packages")
        return found

    @property
    def log(self) -> str:
        """What pip wrote down, in all detail, whatever was asked to be printed."""
        path = self.folder / "pip.log"
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def state(self) -> dict[str, tuple[str, str, dict[str, tuple[int, int, int]]]]:
        """Of each installed package: version, installer, and each file's inode, size and time of change."""
        found = {}
        for package in importlib.metadata.distributions(path=[str(self.packages)]):
            files = {}
            for file in package.files or []:
                path = Path(str(package.locate_file(file)))
                if path.suffix != ".pyc" and path.is_file():
                    status = path.stat()
                    files[str(file)] = (status.st_ino, status.st_size, status.st_mtime_ns)
            installer = (package.read_text("INSTALLER") or "").strip()
            found[canonicalize_name(package.name)] = (package.version, installer, files)
        return found

    def serve(self, root: Path, address: str) -> None:
        """Let git find the tree under `root` where the setup cell looks for `address`."""
        git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=main"]
        for command in (["init", "-q"], ["add", "-A", "-f"], ["commit", "-q", "-m", "the tree"]):
            subprocess.run([*git, *command], cwd=root, check=True, capture_output=True)
        lines = f'[url "file://{root}"]\n\tinsteadOf = {stamp.HOST}{address}\n'
        (self.folder / "gitconfig").write_text(lines, encoding="utf-8")

    def environment(self) -> dict[str, str]:
        """The environment of a kernel: nothing that points at this project's own packages or settings."""
        dropped = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONSTARTUP", "VIRTUAL_ENV", "MPLBACKEND")
        environment = {k: v for k, v in os.environ.items() if k not in dropped and not k.startswith("KDUTILS_")}
        return environment | {
            "GIT_CONFIG_GLOBAL": str(self.folder / "gitconfig"),
            "IPYTHONDIR": str(self.folder / "ipython"),
            "KDUTILS_HOME": str(self.folder / "home"),
            "PIP_LOG": str(self.folder / "pip.log"),
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }

    def run(self, notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
        """Run a notebook from its first cell to its last in an empty folder; a cell that fails raises."""
        folder.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JUPYTER_PATH", str(self.folder / "jupyter"))
            resources = {"metadata": {"path": str(folder)}}
            client = NotebookClient(notebook, timeout=CELL_TIMEOUT, kernel_name="colab", resources=resources)
            return client.execute(env=self.environment())


def make(folder: Path) -> Colab:
    """Colab's packages, the module that says one is there, and a kernel."""
    folder.mkdir()
    colab, uv = Colab(folder), str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(folder / "env")], check=True)
    command = [uv, "pip", "install", "-q", "--python", str(colab.python), "-c", str(ROOT / "requirements.txt")]
    done = subprocess.run([*command, *PREINSTALLED, *HOST], capture_output=True, text=True)
    if "Failed to fetch" in done.stderr and "CI" not in os.environ:
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    (colab.packages / "google" / "colab").mkdir(parents=True)
    (colab.packages / "google" / "colab" / "__init__.py").write_text('"""Says that this is Colab."""\n')
    startup = folder / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "colab.py").write_text("import google.colab\n")  # Colab's kernel has imported it, too
    kernel = folder / "jupyter" / "kernels" / "colab"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(KERNEL.format(python=colab.python))
    return colab


def tree(target: Path) -> Path:
    """The files of the repository as they are now, weights and data included."""
    for name in tracked():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    return target


def setup(*more: str) -> nbformat.NotebookNode:
    """A notebook of the stamped setup cell and some cells after it."""
    cells = [nbformat.v4.new_code_cell(source) for source in (stamp.setup_cell(EXAMPLE), *more)]
    return nbformat.v4.new_notebook(cells=cells)


def stamped(path: Path) -> nbformat.NotebookNode:
    """A chapter as it is opened from a stamped repository."""
    return nbformat.reads(stamp.render_notebook(path.read_text(encoding="utf-8"), EXAMPLE, ROOT), as_version=4)


def printed(notebook: nbformat.NotebookNode, cell: int) -> str:
    """What a cell wrote to stdout (stderr may hold tqdm's wish for ipywidgets, which Colab fulfils)."""
    outputs = notebook.cells[cell].outputs
    return "".join(output.text for output in outputs if output.get("name") == "stdout")


def unchanged(colab: Colab, before: dict) -> None:
    """Fail unless each package that was there before is there still, file for file.

    pip's log must say the same, apart from the lines of the environments in which it builds a wheel: hatchling for
    ours, setuptools for that of lime.
    """
    now = colab.state()
    for name, was in before.items():
        assert now[name] == was, f"{name} {was[0]} was touched, and is {now[name][0]} of {now[name][1]} now"
    installed = re.findall(r"Installing collected packages: (.+)", colab.log)
    lines = [{canonicalize_name(name) for name in line.split(", ")} for line in installed]
    names = {name for line in lines if "hatchling" not in line and line != {"setuptools"} for name in line}
    assert not names & set(before), f"pip installed {sorted(names & set(before))} anew"
    assert "Attempting uninstall" not in colab.log and "Uninstalling" not in colab.log


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Colab, dict, nbformat.NotebookNode]]:
    """The environment after the setup cell has run in it, its state before, and what the cell printed."""
    folder = tmp_path_factory.mktemp("colab")
    colab = make(folder / "colab")
    before = colab.state()
    assert not set(before) & set(OURS), "something of ours is there before the setup cell has run"
    assert {canonicalize_name(name) for name in PREINSTALLED} <= set(before)
    colab.serve(tree(folder / "tree"), EXAMPLE)
    yield colab, before, colab.run(setup("print(kd.__file__)"), folder / "content")
    shutil.rmtree(colab.folder / "env")


def test_the_setup_cell_installs_what_is_missing_and_nothing_else(opened, capsys: pytest.CaptureFixture) -> None:
    colab, before, notebook = opened
    unchanged(colab, before)
    there = {name: before[name][0] for name in ("torch", "torchvision", "numpy")}
    for name, version in there.items():
        assert f"Requirement already satisfied: {name}=={version} in" in colab.log
    brought = re.findall(r"Installing collected packages: (.+)", colab.log)[-1]
    with capsys.disabled():  # the log of the tests shows it
        print(f"\n  in Colab: {there} stayed as they were, pip installed {brought}")
    now = colab.state()
    assert set(OURS) <= set(now) and now["torch"][1] == now["numpy"][1] == "uv" and now["kdutils"][1] == "pip"
    assert "Created wheel for kdutils" in colab.log
    assert Path(printed(notebook, 1).strip()).is_relative_to(colab.packages), "kdutils came from elsewhere"


def test_the_setup_cell_says_what_one_has_to_know(opened) -> None:
    """The device, the time, and without a GPU how to get one."""
    first, second = printed(opened[2], 0).splitlines()
    assert first.startswith("Installing kdutils")
    assert re.match(r"Running on \S+", second) and 'see "At a glance"' in second
    if "the CPU" in second:
        assert "two minutes" in second and "Runtime, Change runtime type" in second


def per_part() -> list[Path]:
    parts: dict[str, list[Path]] = {}
    for part, file, _ in stamp.chapters():
        parts.setdefault(part, []).append(ROOT / file)
    return [next((path for path in paths if path.name[:2] in QUICK), paths[0]) for paths in parts.values()]


@pytest.mark.parametrize(
    "chapter",
    [pytest.param(path, id=path.stem, marks=[] if path in per_part() else [pytest.mark.slow]) for path in chapters()],
)
def test_a_chapter_runs_from_the_top_to_the_bottom(opened, chapter: Path, tmp_path: Path) -> None:
    colab, before, _ = opened
    notebook = colab.run(stamped(chapter), tmp_path / "content")
    assert printed(notebook, next(i for i, cell in enumerate(notebook.cells) if stamp.is_setup_cell(cell))).startswith(
        "Running on "
    ), "kdutils was installed again"
    unchanged(colab, before)


def test_a_package_that_wants_another_numpy_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    """The fault that breaks a hosted session until it is restarted, planted: kdutils asks for an older numpy."""
    colab = make(tmp_path / "colab")
    before = colab.state()
    root = tree(tmp_path / "tree")
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    (root / "pyproject.toml").write_text(re.sub(r'"numpy>=[\d.]+"', '"numpy<2"', project), encoding="utf-8")
    colab.serve(root, EXAMPLE)
    with pytest.raises(CellExecutionError, match="CalledProcessError"):
        colab.run(setup(), tmp_path / "content")
    assert "conflicting dependencies" in colab.log and re.search(r"kdutils \S+ depends on numpy<2", colab.log)
    unchanged(colab, before)
    assert colab.state().keys() == before.keys()
    shutil.rmtree(colab.folder / "env")
