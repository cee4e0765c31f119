"""The report of `kdutils.distill_folder`: one HTML file that needs nothing else, light or dark as the screen is."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from kdutils.data import ImageSet
from kdutils.plot import COLORS, HEAT_COLORS

NAMES = {"teacher": "teacher", "student": "student alone", "distilled": "distilled student"}
FINE = 36  # cells of a Grad-CAM; what has fewer hardly says where
MATRIX = 25  # classes; a larger confusion matrix cannot be read


def page(found: dict[str, Any], tiles: list[dict[str, Any]], data: ImageSet) -> str:
    """The whole report.

    Args:
        found: what :func:`kdutils.distill_folder.run` measured.
        tiles: the images to show: "picture" uint8 (3, H, W), "true", and for each network its answer in "answers" and
            its map (H, W) in "maps".
        data: for the statistics that the network's user needs.
    """
    settings = found["settings"]
    parts = [
        f"<h1>{escape(settings['student'])}, distilled on “{escape(settings['folder'])}”</h1>",
        _summary(found),
        _notes(found["notes"]),
        "<h2>How right, how close, how large</h2>",
        _networks(found),
        "<h2>Where the distilled student errs</h2>",
        _confusion(found),
        "<h2>Where the networks look</h2>",
        _maps(found["maps"], tiles),
        "<h2>Use the student</h2>",
        "<p>It needs torchvision and safetensors, not this package.</p>",
        f"<pre tabindex='0'><code>{escape(lines(settings, found['classes'], data))}</code></pre>",
        "<h2>Settings</h2>",
        _settings(found),
    ]
    return _PAGE.replace("@TITLE@", escape(f"Distilled: {settings['folder']}")).replace("@BODY@", "\n".join(parts))


def lines(settings: dict[str, Any], classes: list[str], data: ImageSet) -> str:
    """Python lines that load the student again and ask it about one photo."""
    size = settings["size"]
    mean, std = (", ".join(f"{v:g}" for v in values) for values in (data.mean, data.std))
    return f"""import torchvision
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torchvision.transforms.functional import normalize, to_tensor

classes = {classes!r}
student = torchvision.models.{settings["student"]}(num_classes={len(classes)})
student.load_state_dict(load_file("student.safetensors"))
student.eval()

photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
photo = ImageOps.fit(photo, ({size}, {size}), Image.Resampling.BICUBIC)
inputs = normalize(to_tensor(photo), [{mean}], [{std}])[None]
print(classes[int(student(inputs).argmax())])
"""


def _percent(value: float, sign: bool = False) -> str:
    return f"{100 * value:{'+' if sign else ''}.1f}".replace("-", "−")


def _summary(found: dict[str, Any]) -> str:
    rows, gain, n = found["networks"], found["gain"], found["networks"]["teacher"]["n"]
    largest = found["largest_class"]
    verdict = "that is more than chance over these images explains"
    if gain["low"] <= 0 <= gain["high"]:
        verdict = "these images cannot tell whether the teacher helped"
    elif gain["high"] < 0:
        verdict = "the teacher did harm"
    right = {name: _percent(row["accuracy"]) for name, row in rows.items()}
    added = " to ".join(_percent(gain[side], True) for side in ("low", "high"))
    added = f"What the teacher added: {_percent(gain['mean'], True)} points ({added}), n = {gain['n']}; {verdict}."
    if gain["same"]:  # an interval of width zero would look like a precise one
        shared = {"answers": "give the same answer to each", "hits": "are right for the same ones"}[gain["same"]]
        added = (
            f"What the teacher added cannot be told: both students {shared} of the {n} test images, so there is no "
            "difference between them to put an interval around."
        )
    if "distilled" in found["no_better"]:
        added += f" {found['no_better']['distilled']} What to do stands below."
    return (
        f"<p class='lead'>Of {n} test images the distilled student names <b>{right['distilled']} %</b> right, "
        f"the same network trained on the labels alone {right['student']} %, the teacher {right['teacher']} %. "
        f"Always saying “{escape(largest['name'])}” would be right for {_percent(largest['accuracy'])} %.</p>"
        f"<p>{escape(added)} Intervals are 95 % over the test images. This was one run: another seed gives other "
        "numbers. Nothing was chosen on the test images; if you choose settings by this report, they are no test any "
        "more.</p>"
    )


def _notes(notes: list[str]) -> str:
    if not notes:
        return "<p>Nothing odd was found in the folder.</p>"
    return "<h2>Worth knowing</h2><ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"


def _table(caption: str, head: Iterable[str], rows: Iterable[Iterable[str]], kind: str = "") -> str:
    """Cells are HTML; the first of a row is its heading."""
    top = "".join(f"<th scope='col'>{each}</th>" for each in head)
    body = ""
    for first, *rest in rows:
        cells = "".join(each if each.startswith("<td") else f"<td>{each}</td>" for each in rest)
        body += f"<tr><th scope='row'>{first}</th>{cells}</tr>"
    return (
        f"<div class='scroll' tabindex='0' role='region' aria-label='{escape(caption)}'><table class='{kind}'>"
        f"<caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _networks(found: dict[str, Any]) -> str:
    rows = []
    for name, row in found["networks"].items():
        low, high = row["interval"]
        agreement = "—" if name == "teacher" else f"{_percent(row['agreement'])} %"
        rows.append([
            f"<span class='dot' style='background:{COLORS[name]}'></span>{NAMES[name]}",
            f"{_percent(row['accuracy'])} % [{_percent(low)}, {_percent(high)}]",
            f"{_percent(row['balanced_accuracy'])} %", agreement, f"{row['ece']:.3f}",
            f"{row['parameters'] / 1e6:.2f} M", f"{row['megabytes']:.1f} MB", f"{row['milliseconds']:.0f} ms",
        ])  # fmt: skip
    n = found["networks"]["teacher"]["n"]
    return _table(
        f"The three networks on {n} test images",
        ["", "accuracy", "balanced", "agrees with teacher", "calibration error", "weights", "file", "one image"],
        rows,
    ) + (
        "<p class='small'>Balanced: the mean over the classes. Agreement: the same answer as the teacher, right or "
        "wrong. Calibration error: how far confidence is from accuracy, 0 is best. One image: the median of 10 "
        "passes on this machine, as busy as it was.</p>"
    )


def _confusion(found: dict[str, Any]) -> str:
    counts, classes = np.array(found["confusion"]), found["classes"]
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.dstack(np.unravel_index(np.argsort(-wrong, axis=None, kind="stable"), wrong.shape))[0][:5]
    worst = [
        f"<li>{escape(classes[i])}, taken for {escape(classes[j])}: {wrong[i, j]} of {counts[i].sum()}</li>"
        for i, j in order
        if wrong[i, j]
    ]
    said = f"<ul>{''.join(worst)}</ul>" if worst else "<p>No test image is named wrong.</p>"
    if len(classes) > MATRIX:
        return said + f"<p>With {len(classes)} classes the whole matrix stands in report.json only.</p>"
    rows = []
    for i, name in enumerate(classes):
        shares = 100 * counts[i] / max(1, counts[i].sum())
        cells = [
            f"<td class='{'hit' if i == j else ''}' style='--share:{shares[j]:.0f}%'>{n or ''}</td>"
            for j, n in enumerate(counts[i].tolist())
        ]
        rows.append([escape(name), *cells])
    head = ["true \\ answer", *(escape(name) for name in classes)]
    return said + _table("Confusion matrix of the distilled student", head, rows, "matrix")


def _maps(agreement: dict[str, Any] | None, tiles: list[dict[str, Any]]) -> str:
    if agreement is None:
        return "<p>This pair of networks has no maps to show; see above.</p>"
    if agreement:
        told = {
            name: f"{a['mean']:.2f} ({a['low']:.2f} to {a['high']:.2f})".replace("-", "−")
            for name, a in agreement.items()
            if name not in ("n", "cells")
        }
        said = (
            f"<p>Grad-CAM of the teacher's answer, {agreement['n']} test images; rank correlation with the teacher's "
            f"map: distilled student {told['distilled']}, student alone {told['student']}, and, as the floor, the "
            f"teacher's map of <em>another</em> image {told['other image']}. A student near the floor, or below "
            f"it, does not look where its teacher looks.{_coarse(agreement['cells'])} "
            "Bright is what speaks for that answer, each map stretched to its own maximum. "
            "A map shows where the last layers found their evidence, not why. Half of the images below, if there are "
            "as many, are some on which student and teacher disagree.</p>"
        )
    figures = []
    for tile in tiles:
        answers = tile["answers"]
        cells = [_figure(tile["picture"], None, f"A test image of the class {tile['true']}.", "image")]
        for name, title in NAMES.items():
            alt = f"Heat over the image: where the {title} finds evidence for {answers['teacher']}."
            cells.append(_figure(tile["picture"], tile["maps"][name], alt, f"{title}: {answers[name]}"))
        figures.append(
            f"<section class='tile'><h3>{escape(tile['true'])}</h3><div class='row'>{''.join(cells)}</div></section>"
        )
    return said + f"<div class='tiles'>{''.join(figures)}</div>"


def _coarse(cells: dict[str, list[int]]) -> str:
    """Few cells are soon alike, and say little about where."""
    sizes = list(cells.values())
    same = all(each == sizes[0] for each in sizes)
    told = [f"{h} × {w}" + ("" if same else f" ({NAMES[name]})") for name, (h, w) in cells.items()]
    said = f" Each map is enlarged from {told[0] if same else ', '.join(told)} cells"
    few = min(h * w for h, w in sizes) < FINE
    return said + (", which is coarse: a larger --size gives more of them." if few else ".")


def _figure(picture: Tensor, heat: Tensor | None, alt: str, caption: str) -> str:
    pixels = picture.permute(1, 2, 0).numpy().astype(float) / 255
    if heat is not None:
        strength = heat.clamp(min=0).numpy()
        strength = strength / (strength.max() if strength.max() > 0 else 1.0)
        pixels = 0.4 * pixels.mean(2, keepdims=True) + 0.6 * colormaps[HEAT_COLORS](strength)[..., :3]
    packed = io.BytesIO()
    Image.fromarray((255 * pixels).round().astype(np.uint8)).save(packed, "JPEG", quality=85)
    code = base64.b64encode(packed.getvalue()).decode()
    return (
        f"<figure><img src='data:image/jpeg;base64,{code}' alt='{escape(alt, quote=True)}'>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _settings(found: dict[str, Any]) -> str:
    rows = [[escape(name), escape(str(value))] for name, value in found["settings"].items()]
    rows += [[f"images, {part}", str(n)] for part, n in found["images"].items()]
    rows += [[f"seconds, {stage}", f"{seconds:.0f}"] for stage, seconds in found["seconds"].items()]
    return _table("What was done", ["", "value"], rows)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>@TITLE@</title>
<link rel="icon" href="data:,">
<style>
:root {--text: #1c1c1c; --page: #fff; --soft: #5a5a5a; --line: #d5d5d5; --box: #f4f5f7; --heat: #0072b2}
@media (prefers-color-scheme: dark) {
  :root {--text: #e8e8e8; --page: #16181c; --soft: #a9adb5; --line: #3b3f47; --box: #21242a; --heat: #2f9be0}
}
body {margin: 0 auto; padding: 1rem; max-width: 62rem; color: var(--text); background: var(--page);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word}
h1 {font-size: 1.5rem; line-height: 1.25} h2 {font-size: 1.15rem; margin-top: 2rem}
h3 {font-size: .95rem; margin: .3rem 0}
.lead {font-size: 1.1rem} .small, figcaption, caption {color: var(--soft); font-size: .85rem}
.scroll, pre {overflow-x: auto} pre {background: var(--box); padding: .8rem; font-size: .85rem}
table {border-collapse: collapse; font-variant-numeric: tabular-nums} caption {text-align: left; padding: .3rem 0}
th, td {padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; font-weight: normal;
  white-space: nowrap}
thead th {color: var(--soft); font-size: .85rem; vertical-align: bottom; white-space: normal}
.matrix td {text-align: right; background: color-mix(in srgb, var(--heat) calc(var(--share) * .55), transparent)}
.matrix td.hit {font-weight: bold} .matrix th, .matrix td {padding: .25rem .45rem; font-size: .85rem}
.matrix thead th {writing-mode: vertical-rl; transform: rotate(180deg); text-align: left}
.matrix thead th:first-child {writing-mode: initial; transform: none}
.dot {display: inline-block; width: .7rem; height: .7rem; border-radius: 50%; margin-right: .4rem}
.tiles {display: grid; grid-template-columns: repeat(auto-fill, minmax(min(27rem, 100%), 1fr)); gap: .8rem 1.2rem}
.row {display: grid; grid-template-columns: repeat(4, 1fr); gap: .4rem}
figure {margin: 0; min-width: 0} figure img {width: 100%; height: auto; display: block; border-radius: 4px}
figcaption {line-height: 1.25; margin-top: .2rem}
:focus-visible {outline: 2px solid var(--heat); outline-offset: 2px}
</style>
</head>
<body><main>
@BODY@
</main></body>
</html>
"""
