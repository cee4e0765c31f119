"""Write the data of the two playgrounds from the networks that ship: `.venv/bin/python tools/playgrounds.py`.

The browser gets logits and maps, never a network, and computes from them what the reader sees. The files are scripts
and no JSON, so that a page opened as a file, without a server, may load them too.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import kdutils as kd
from kdutils import explain
from kdutils.data import ImageSet

FOLDER = Path(__file__).resolve().parent.parent / "book" / "_static" / "playground"
NETWORKS = {
    "teacher": ("Teacher", "fashion_mnist/resnet14"),
    "twin": ("Teacher’s twin (another seed)", "fashion_mnist/resnet14_twin"),
    "student": ("Student alone", "fashion_mnist/tiny_cnn"),
    "distilled": ("Distilled student", "fashion_mnist/tiny_cnn_distilled"),
    "untrained": ("Untrained student", None),
}
DIGITS = 4  # of a logit, after the point
METHODS: dict[str, tuple[str, dict[str, Any]]] = {  # the options are those of kdutils.studies.agreement
    "grad_cam": ("Grad-CAM", {}),
    "occlusion": ("Occlusion", {"window": 4, "stride": 4}),
    "integrated_gradients": ("Integrated gradients", {"steps": 16}),
    "smoothgrad": ("SmoothGrad", {}),
    "saliency": ("Saliency", {}),
    "guided_backprop": ("Guided backpropagation", {}),
}
EDGES = ("edges", "Edge detector (knows no network)")
LEVELS = 32_767  # a map is stored as whole numbers from −LEVELS to LEVELS, its largest absolute value at an end


def network(key: str) -> nn.Module:
    """A network of the playgrounds, in eval mode."""
    name = NETWORKS[key][1]
    if name:
        return kd.zoo.load(name)
    with kd.seeded(0):
        return kd.models.tiny_cnn().eval()


def packed(numbers: Tensor) -> str:
    """Whole numbers as base64: bytes for uint8, two bytes each (the lower first) for int16."""
    return base64.b64encode(numbers.numpy().astype("<i2" if numbers.dtype == torch.int16 else "u1").tobytes()).decode()


def described(data: ImageSet, places: list[int]) -> list[dict[str, Any]]:
    """Of each image its place in the test set, its label, which one of that class it is here, and its pixels."""
    found: list[dict[str, Any]] = []
    for place in places:
        label = int(data.labels[place])
        count = 1 + sum(each["label"] == label for each in found)
        found.append(
            {"place": place, "label": label, "name": f"{data.classes[label]} {count}",
             "pixels": packed(data.images[place].flatten())}
        )  # fmt: skip
    return found


def temperature_data() -> dict[str, Any]:
    """Of each class the first two test images that the teacher gets right and the first two that it gets wrong."""
    _, test = kd.data.load("fashion_mnist")
    keys = ("teacher", "student", "distilled")
    teacher = kd.predict(network("teacher"), test.tensors()[0])
    right = teacher.argmax(1) == test.labels
    places = [
        int(place)
        for k in range(len(test.classes))
        for group in (right, ~right)
        for place in (group & (test.labels == k)).nonzero()[:2, 0]
    ]
    inputs = test[places].tensors()[0]
    logits = {key: [[round(float(z), DIGITS) for z in row] for row in kd.predict(network(key), inputs)] for key in keys}
    return {"classes": test.classes, "networks": {key: NETWORKS[key][0] for key in keys},
            "images": described(test, places), "logits": logits}  # fmt: skip


def map_images() -> tuple[ImageSet, list[int]]:
    """The test set, and the first two images of each class in it."""
    _, test = kd.data.load("fashion_mnist")
    return test, [int(place) for k in range(len(test.classes)) for place in (test.labels == k).nonzero()[:2, 0]]


def maps(method: str, keys: tuple[str, ...] = tuple(NETWORKS)) -> dict[str, Tensor]:
    """The maps (N, H, W) of each network for the class that the teacher names; of the edge detector one stack."""
    test, places = map_images()
    inputs = test[places].tensors()[0]
    if method == EDGES[0]:
        return {"any": explain.edges(inputs)}
    targets = kd.predict(network("teacher"), inputs).argmax(1)
    return {key: explain.attribute(network(key), inputs, targets, method, **METHODS[method][1]) for key in keys}


def rounded(found: Tensor) -> Tensor:
    """Maps (N, H, W) as int16; a map that is zero everywhere stays so."""
    largest = found.double().abs().amax((1, 2), keepdim=True).clamp(min=1e-300)
    return (found.double() / largest * LEVELS).round().to(torch.int16)


def maps_data() -> dict[str, Any]:
    """What the second playground knows before a method is chosen."""
    test, places = map_images()
    inputs = test[places].tensors()[0]
    return {
        "classes": test.classes,
        "networks": {key: name for key, (name, _) in NETWORKS.items()},
        "methods": {method: name for method, (name, _) in METHODS.items()} | dict([EDGES]),
        "images": described(test, places),
        "answers": {key: kd.predict(network(key), inputs).argmax(1).tolist() for key in NETWORKS},
        "size": list(test.images.shape[2:]),
    }


def script(name: str, data: object) -> str:
    """A script that hands `data` to the page, one entry a line."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    marks = ["networks", "images", "logits", "methods", "answers", *NETWORKS]
    for mark in (*(f'"{mark}":' for mark in marks), '{"place"'):
        text = text.replace(mark, "\n" + mark)
    return f'(window.playground ??= {{}})["{name}"] = {text};\n'


def files() -> dict[str, str]:
    """Each file's name and content."""
    found = {
        "temperature-data.js": script("temperature", temperature_data()),
        "maps-data.js": script("maps", maps_data()),
    }
    for method in (*METHODS, EDGES[0]):
        stored = {key: packed(rounded(each)) for key, each in maps(method).items()}
        found[f"maps-{method}.js"] = script(f"maps/{method}", stored)
    return found


def main() -> None:
    """Write the files into book/_static/playground/."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(f"{name}: {len(text.encode()):,} bytes")


if __name__ == "__main__":
    main()
