"""What all tests share: the environment, the list of chapters, and one strict build of the site."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# Before anything imports torch or matplotlib.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("MKL_NUM_THREADS", "2")
os.environ["KDUTILS_PROGRESS"] = "0"
os.environ["MPLBACKEND"] = "Agg"

import pytest  # noqa: E402

from tools import build_book, loopback, stamp  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    loopback.bring_up()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On two workers: each chapter runs where there is room; all else stays on one, which builds the site once."""
    for item in items:
        group = item.name if item.path.name == "test_notebooks_run.py" else "all else"
        item.add_marker(pytest.mark.xdist_group(group))


def tracked(root: Path = ROOT) -> list[str]:
    """The files of the repository, also new ones that are not ignored; paths from its root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    return sorted({name for name in listed.split("\0") if name and (root / name).is_file()})


def chapters(root: Path = ROOT) -> list[Path]:
    """Every chapter that lies in notebooks/, whether or not the table of contents knows it."""
    return sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def copy_tree(target: Path) -> Path:
    """A copy of the repository's files, to change and to build in."""
    for name in tracked():
        if name.startswith("kdutils/") and name.endswith((".gz", ".safetensors")):
            continue  # large, and nothing that is done with a copy reads them
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    return target


class Site:
    """The built HTML."""

    def __init__(self, root: Path, html: Path, status: int, said: str) -> None:
        self.root, self.html, self.status, self.said = root, html, status, said

    @property
    def pages(self) -> list[Path]:
        return sorted(self.html.rglob("*.html"))


EXAMPLE = "example-owner/example-name"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The site as `make book` makes it, in a temporary copy."""
    root = copy_tree(tmp_path_factory.mktemp("site") / "book")
    status, said = build_book.build(root, root)
    html = root.parent / "html"  # set aside: the stamped site is built over it
    if (root / "_build" / "html").is_dir():
        shutil.copytree(root / "_build" / "html", html)
    return Site(root, html, status, said)


@pytest.fixture(scope="session")
def stamped_site(site: Site) -> Site:
    """The same with a repository address, and so with Colab buttons; built over the other, which saves time."""
    stamp.stamp(EXAMPLE, site.root)
    status, said = build_book.build(site.root, site.root, fresh=False)
    return Site(site.root, site.root / "_build" / "html", status, said)
