"""The data: complete, split without a leak, read back as it was written."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import kdutils as kd
from kdutils import _base
from kdutils.data import ImageSet
from tests.common import fashion, random_set, random_state, served


def test_fashion_mnist_is_complete() -> None:
    for data, n in zip(fashion(), (60_000, 10_000), strict=True):
        assert data.images.shape == (n, 1, 28, 28)
        assert data.images.dtype == torch.uint8
        assert data.labels.dtype == torch.int64
        assert torch.bincount(data.labels).tolist() == [n // 10] * 10
    assert len(fashion()[0].classes) == 10
    # Known first labels of the official files: an ankle boot, then a T-shirt.
    assert [fashion()[0].classes[k] for k in fashion()[0].labels[:2].tolist()] == ["Ankle boot", "T-shirt/top"]


def test_fashion_statistics_are_those_of_the_training_pixels() -> None:
    train = fashion()[0]
    pixels = train.images.numpy().astype(np.float64) / 255
    assert pixels.mean() == pytest.approx(0.2860, abs=5e-5)
    assert pixels.std() == pytest.approx(0.3530, abs=5e-5)
    assert train.mean == (round(pixels.mean(), 4),)
    assert train.std == (round(pixels.std(), 4),)


def test_no_test_image_is_a_training_image_of_another_class() -> None:
    # The official files hold a few exact duplicates; a mix-up of the two files would make thousands.
    seen = {image.numpy().tobytes() for image in fashion()[0].images}
    assert sum(image.numpy().tobytes() in seen for image in fashion()[1].images) < 50


def test_train_size_draws_a_seeded_subset() -> None:
    few, test = kd.data.load("fashion_mnist", train_size=100, seed=3)
    assert (len(few), len(test)) == (100, 10_000)
    again = fashion()[0].subset(100, seed=3)
    assert torch.equal(few.images, again.images)
    assert not torch.equal(few.images, fashion()[0].subset(100, seed=4).images)


def numbered(n: int) -> ImageSet:
    """Image i holds the number i, so that it can be followed."""
    images = torch.stack([torch.arange(n) // 256, torch.arange(n) % 256]).T.reshape(n, 1, 1, 2).to(torch.uint8)
    return ImageSet(images, torch.arange(n) % 3, ("a", "b", "c"), (0.5,), (0.5,))


def numbers(data: ImageSet) -> list[int]:
    found = (data.images[:, 0, 0, 0].long() * 256 + data.images[:, 0, 0, 1].long()).tolist()
    assert data.labels.tolist() == [i % 3 for i in found]  # every image kept its label
    return found


@given(st.integers(2, 600), st.data(), st.integers(0, 2**40))
def test_split_is_disjoint_exhaustive_and_seeded(n: int, data: st.DataObject, seed: int) -> None:
    whole = numbered(n)
    k = data.draw(st.integers(1, n - 1))
    state = random_state()
    held_out, rest = whole.split(k, seed)
    assert random_state() == state
    assert len(held_out) == k
    assert sorted(numbers(held_out) + numbers(rest)) == list(range(n))
    assert numbers(whole.split(k, seed)[0]) == numbers(held_out)
    assert numbers(whole.subset(k, seed)) == numbers(held_out)


def test_another_seed_is_another_draw_and_a_bigger_subset_holds_the_smaller() -> None:
    whole = numbered(500)
    assert numbers(whole.subset(50, 0)) != numbers(whole.subset(50, 1))
    assert numbers(whole.subset(80, 0))[:50] == numbers(whole.subset(50, 0))


def test_every_way_to_index() -> None:
    whole = numbered(10)
    assert numbers(whole[2:8:3]) == [2, 5]
    assert numbers(whole[[7, 1]]) == [7, 1]
    assert numbers(whole[3]) == [3]
    assert numbers(whole[torch.tensor([9, 0])]) == [9, 0]
    assert numbers(whole[torch.arange(10) > 7]) == [8, 9]
    assert numbers(whole) == list(range(10))


def test_normalise_is_the_formula_and_denormalise_its_inverse() -> None:
    data = random_set(5, channels=3)
    data = ImageSet(data.images, data.labels, data.classes, (0.1, 0.5, 0.7), (0.2, 0.3, 0.4))
    found = data.normalise(data.images)
    pixels = data.images.numpy().astype(np.float64) / 255
    by_hand = (pixels - np.array(data.mean)[:, None, None]) / np.array(data.std)[:, None, None]
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), by_hand, atol=1e-5)
    np.testing.assert_allclose(data.denormalise(found).numpy(), pixels, atol=1e-6)
    assert data.denormalise(torch.full((1, 3, 1, 1), 99.0)).max() == 1  # clipped for showing


def test_tensors_have_mean_0_and_deviation_1_on_fashion_mnist() -> None:
    images, labels = fashion()[0].tensors()
    assert float(images.double().mean()) == pytest.approx(0, abs=1e-3)
    assert float(images.double().std()) == pytest.approx(1, abs=1e-3)
    assert torch.equal(labels, fashion()[0].labels)


def test_loader_order_depends_on_its_seed_alone() -> None:
    data = random_set(50)

    def order(seed: int) -> torch.Tensor:
        torch.rand(seed + 1)  # whatever was drawn before
        return torch.cat([inputs for inputs, _ in data.loader(8, shuffle=True, seed=seed)])

    assert torch.equal(order(1), order(1))
    assert not torch.equal(order(1), order(2))
    state = random_state()
    plain = torch.cat([inputs for inputs, _ in data.loader(8)])
    assert torch.equal(plain, data.tensors()[0])
    assert random_state() == state


def write(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


def test_from_folder_reads_what_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    written = {}
    for part in ("train", "test"):
        for name in ("dog", "cat"):
            for i in range(3):
                pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                write(tmp_path / part / name / f"{i}.png", pixels)
                written[part, name, i] = pixels
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "cat" / ".hidden.png").write_text("no image")
    (tmp_path / "train" / ".cache").mkdir()
    train, test = kd.data.from_folder(tmp_path, size=12)
    assert train.classes == test.classes == ("cat", "dog")
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    for data, part in ((train, "train"), (test, "test")):
        for row, (name, i) in enumerate((name, i) for name in ("cat", "dog") for i in range(3)):
            assert np.array_equal(data.images[row].permute(1, 2, 0).numpy(), written[part, name, i])
    assert train.mean == (0.485, 0.456, 0.406)


def test_from_folder_takes_the_teachers_statistics(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for i, name in enumerate(("cat", "dog")):
            write(tmp_path / part / name / "1.png", np.full((8, 8, 3), 255 * i, dtype=np.uint8))
    train, test = kd.data.from_folder(tmp_path, size=8, mean=(0.5, 0.25, 0), std=torch.tensor([0.5, 0.25, 1]))
    for data in (train, test):
        assert data.mean == (0.5, 0.25, 0) and data.std == (0.5, 0.25, 1)
        assert data.tensors()[0][:, :, 0, 0].tolist() == [[-1, -1, 0], [1, 3, 1]]


def test_from_folder_crops_the_centre_and_understands_grey_palette_alpha_and_turned_images(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, 20:40] = (0, 255, 0)  # only the middle third is green
    for part in ("train", "test"):
        write(tmp_path / part / "a" / "wide.png", wide)
        write(tmp_path / part / "b" / "1grey.png", np.full((9, 9), 77, dtype=np.uint8))
        write(tmp_path / part / "b" / "2palette.png", np.full((9, 9, 3), 102, dtype=np.uint8), "P")
        write(tmp_path / part / "b" / "3alpha.png", np.full((9, 9, 4), 200, dtype=np.uint8))
    turned = np.zeros((16, 16, 3), dtype=np.uint8)
    turned[:8], turned[8:] = (250, 0, 0), (0, 0, 250)
    exif = Image.Exif()
    exif[0x0112] = 3  # the camera was upside down
    Image.fromarray(turned).save(tmp_path / "train" / "b" / "4turned.png", exif=exif)
    train, _ = kd.data.from_folder(tmp_path, size=8)
    assert train.images.shape == (5, 3, 8, 8)
    assert train.images[0, 1].min() > 200  # the resampling mixes a little of its neighbours into the edge
    assert train.images[0, 1, :, 2:6].min() == 255
    assert train.images[1].unique().tolist() == [77]
    assert train.images[2].unique().tolist() == [102]
    assert train.images[3].unique().tolist() == [212]  # 200 at an opacity of 200/255, on white
    assert train.images[4, 2, 0, 0] > 200  # blue is at the top now
    assert train.images[4, 0, -1, 0] > 200


FAKE = {f"data_batch_{k}": 2 for k in range(1, 6)} | {"test_batch": 3}


def fake_cifar(folder: Path) -> dict[str, np.ndarray]:
    """A folder like CIFAR-10's with few images; gives them as (N, 3, 32, 32)."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = {}
    for name, n in FAKE.items():
        rows[name] = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        content = {"data": rows[name], "labels": [(i * 3 + n) % 10 for i in range(n)]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"thing {k}" for k in range(10)]}))
    return {name: row.reshape(-1, 3, 32, 32) for name, row in rows.items()}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def believe(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let torchvision take the files in `folder` for the official ones."""
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(
        CIFAR10, "train_list", [[f"data_batch_{k}", md5(folder / f"data_batch_{k}")] for k in range(1, 6)]
    )
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5(folder / "test_batch")]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5(folder / "batches.meta")}
    monkeypatch.setattr(CIFAR10, "meta", meta)


def test_cifar_files_that_are_there_are_read_without_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = fake_cifar(tmp_path / "cifar-10-batches-py")
    believe(monkeypatch, tmp_path / "cifar-10-batches-py")
    monkeypatch.setenv("KDUTILS_HOME", str(tmp_path))
    train, test = kd.data.load("cifar10")
    assert np.array_equal(train.images.numpy(), np.concatenate([images[f"data_batch_{k}"] for k in range(1, 6)]))
    assert np.array_equal(test.images.numpy(), images["test_batch"])
    assert train.classes[3] == "thing 3"
    assert test.labels.tolist() == [3, 6, 9]
    assert capsys.readouterr().out == ""


def test_cifar_is_downloaded_checked_and_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchvision.datasets import CIFAR10

    fake_cifar(tmp_path / "server" / "cifar-10-batches-py")
    believe(monkeypatch, tmp_path / "server" / "cifar-10-batches-py")
    archive = tmp_path / "server" / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(tmp_path / "server" / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
    with served(tmp_path / "server", monkeypatch) as address:
        monkeypatch.setattr(CIFAR10, "url", f"{address}/{CIFAR10.filename}")
        train, _ = kd.data.load("cifar10", root=tmp_path / "new" / "home")
    assert len(train) == 10
    assert "Downloading cifar10" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "server")
    assert len(kd.data.load("cifar10", root=tmp_path / "new" / "home")[0]) == 10


OFFICIAL = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "cifar10" / "rebuild.py"


@pytest.mark.slow
def test_official_cifar10(tmp_path: Path) -> None:
    if not OFFICIAL.exists():
        pytest.skip("The official CIFAR-10 files are not on this machine.")
    subprocess.run([sys.executable, str(OFFICIAL), str(tmp_path)], check=True, capture_output=True)
    train, test = kd.data.load("cifar10", root=tmp_path)
    assert torch.bincount(train.labels).tolist() == [5_000] * 10
    assert torch.bincount(test.labels).tolist() == [1_000] * 10
    assert train.classes[:3] == ("airplane", "automobile", "bird")
    for channel in range(3):
        pixels = train.images[:, channel].numpy() / 255.0
        assert pixels.mean() == pytest.approx(train.mean[channel], abs=1e-3)
        assert pixels.std() == pytest.approx(train.std[channel], abs=1e-3)


def test_the_cache_folder_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDUTILS_HOME", str(tmp_path / "here"))
    assert _base.cache_folder() == tmp_path / "here"
    monkeypatch.delenv("KDUTILS_HOME")
    assert _base.cache_folder() == Path.home() / ".cache" / "kdutils"


@pytest.mark.parametrize("channels_last", [False, True])
def test_moving_and_normalising_is_what_a_loop_over_the_pixels_does(channels_last: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (6, 3, 16, 24), dtype=torch.uint8, generator=generator)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    before = images.clone()
    flip = torch.tensor([True, False, True, False, True, False])
    shift = torch.tensor([[0, 0], [2, -3], [-2, 3], [1, 0], [0, 1], [-1, -1]])
    expected = torch.zeros_like(images)
    for i, (down, right) in enumerate(shift.tolist()):
        for row in range(16):
            for column in range(24):
                source = (row + down, (23 - column if flip[i] else column) + right)
                if 0 <= source[0] < 16 and 0 <= source[1] < 24:
                    expected[i, :, row, column] = images[i, :, source[0], source[1]]
    moved = kd.data.move(images, flip, shift)
    assert torch.equal(moved, expected) and torch.equal(images, before)
    assert torch.equal(kd.data.move(images, flip, None)[::2], images[::2].flip(-1))
    assert torch.equal(images, before), "the set's own images were changed"
    train = kd.data.ImageSet(images, torch.arange(6), tuple("abcdef"), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    by_hand = (moved.float() / 255 - torch.tensor(train.mean).view(-1, 1, 1)) / torch.tensor(train.std).view(-1, 1, 1)
    assert torch.equal(train.normalise(moved), by_hand), "to the bit, in every memory layout"
    floats = images.float()
    train.normalise(floats)
    assert torch.equal(floats, before.float()), "float images were changed in place"
