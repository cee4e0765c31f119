"""A download that is cut off, killed or damaged: nothing half-written is ever taken for whole."""

from __future__ import annotations

import functools
import hashlib
import http.server
import pickle
import shutil
import signal
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

import kdutils as kd
from tests import kills

ROWS = 400
BATCHES = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
PIECES, PAUSE = 30, 0.01  # of an archive, and the seconds between two of them
Official = dict[str, Any]


class Slow(http.server.SimpleHTTPRequestHandler):
    """Sends a file piece by piece, or only the first of them."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        content = source.read()
        size = -(-len(content) // PIECES)
        for i in range(3 if self.server.cut else PIECES):  # type: ignore[attr-defined]
            outputfile.write(content[i * size : (i + 1) * size])
            time.sleep(PAUSE)

    def log_message(self, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    cut = False  # whether it hangs up in the middle

    def handle_error(self, *args: object) -> None:
        pass  # whoever asked was killed


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Official:
    """Files like those of CIFAR-10, packed as its host packs them; what torchvision is to believe of them."""
    folder = tmp_path_factory.mktemp("host")
    inner = folder / "cifar-10-batches-py"
    inner.mkdir()
    rng = np.random.default_rng(0)
    for name in BATCHES:
        rows = {"data": rng.integers(0, 256, (ROWS, 3072), dtype=np.uint8), "labels": [i % 10 for i in range(ROWS)]}
        (inner / name).write_bytes(pickle.dumps(rows))
    (inner / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"thing {k}" for k in range(10)]}))
    with tarfile.open(folder / CIFAR10.filename, "w:gz") as packed:
        for name in [*BATCHES, "batches.meta"]:  # that one last, as in the archive of CIFAR-100
            packed.add(inner / name, f"cifar-10-batches-py/{name}")

    def md5(path: Path) -> str:
        return hashlib.md5(path.read_bytes()).hexdigest()

    listed = [[name, md5(inner / name)] for name in BATCHES]
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5(inner / "batches.meta")}
    believed = {"train_list": listed[:5], "test_list": listed[5:], "meta": meta}
    return {"folder": folder, "believed": {**believed, "tgz_md5": md5(folder / CIFAR10.filename)}}


@pytest.fixture
def server(official: Official) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), functools.partial(Slow, directory=str(official["folder"]))) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


@pytest.fixture(autouse=True)
def believe(official: Official, server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Let torchvision take these files for the official ones; gives what another process has to believe."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    url = f"http://127.0.0.1:{server.server_address[1]}/{CIFAR10.filename}"
    believed = {**official["believed"], "url": url}
    for name, value in believed.items():
        monkeypatch.setattr(CIFAR10, name, value)
    return believed


def download(root: Path, believed: dict[str, Any]) -> None:
    for name, value in believed.items():
        setattr(CIFAR10, name, value)
    kd.data.load("cifar10", root=root)


def is_whole(root: Path) -> bool:
    """Whether a copy of what lies there is taken for the data set, without a network; if so it must be it to a byte."""
    copy = root.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    if root.exists():
        shutil.copytree(root, copy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CIFAR10, "url", "http://127.0.0.1:9/none")
        try:
            train, test = kd.data.load("cifar10", root=copy)
        except ValueError as error:
            assert "could not be downloaded" in str(error)
            return False
    rng = np.random.default_rng(0)
    wanted = [rng.integers(0, 256, (ROWS, 3072), dtype=np.uint8).reshape(-1, 3, 32, 32) for _ in BATCHES]
    assert np.array_equal(train.images.numpy(), np.concatenate(wanted[:5]))
    assert np.array_equal(test.images.numpy(), wanted[5])
    assert train.labels.tolist() == [i % 10 for i in range(ROWS)] * 5
    return True


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path: Path, believe: dict[str, Any], count: int) -> None:
    whole = kills.undisturbed(download, tmp_path / "undisturbed", believe)
    root, states, ends = tmp_path / "root", [], []

    def end() -> None:
        assert is_whole(root)
        ends.append(root)
        shutil.rmtree(root)

    kills.killed(download, (root, believe), count, whole, end=end, dead=lambda: states.append(is_whole(root)))
    assert len(ends) >= count == len(states) and not all(states)


def dies_after(root: Path, believed: dict[str, Any], files: int) -> None:
    """Killed while it unpacks, when the first half of the next file is there."""
    left, real = [files], tarfile.TarFile.makefile

    def makefile(self: Any, member: tarfile.TarInfo, path: str) -> None:
        real(self, member, path)
        left[0] -= 1
        if left[0] < 0:
            Path(path).write_bytes(Path(path).read_bytes()[: member.size // 2])
            kills.die()

    tarfile.TarFile.makefile = makefile  # type: ignore[method-assign]
    download(root, believed)


@pytest.mark.parametrize("files", [0, 5, 6])
def test_killed_while_it_is_unpacked(tmp_path: Path, believe: dict[str, Any], files: int) -> None:
    root = tmp_path / "root"
    process = kills.start(dies_after, root, believe, files)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list((root / "cifar-10-batches-py").iterdir())) == files + 1
    kd.data.load("cifar10", root=root)
    assert is_whole(root)


def test_a_host_that_hangs_up_leaves_nothing_behind(tmp_path: Path, server: Server) -> None:
    server.cut = True
    with pytest.raises(ValueError, match=r"^cifar10 could not be downloaded to .*: nothing was kept, so try again"):
        kd.data.load("cifar10", root=tmp_path / "root")
    assert not (tmp_path / "root").exists()
    server.cut = False
    kd.data.load("cifar10", root=tmp_path / "root")
    assert is_whole(tmp_path / "root")


def test_an_archive_of_another_hash_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR10, "tgz_md5", "0" * 32)
    with pytest.raises(ValueError, match="could not be downloaded"):
        kd.data.load("cifar10", root=tmp_path / "root")
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_file_that_was_changed_is_noticed_and_mended(tmp_path: Path, name: str) -> None:
    kd.data.load("cifar10", root=tmp_path)
    file = tmp_path / "cifar-10-batches-py" / name
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    (tmp_path / CIFAR10.filename).unlink()
    kd.data.load("cifar10", root=tmp_path)
    assert is_whole(tmp_path)
