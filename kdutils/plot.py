"""Figures. Nothing is computed here: every function draws what it is given and returns the Figure.

Teacher, student alone and distilled student keep their colours through the whole book; the palette is
that of Okabe and Ito, which the colour-blind can tell apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kdutils.metrics import Interval

COLORS = {
    "teacher": "#0072B2",
    "student": "#E69F00",
    "distilled": "#009E73",
    "control": "#999999",
    "accent": "#D55E00",
    "other": "#CC79A7",
}
"""Teacher blue, student alone orange, distilled student green, controls grey; two more for the rest."""

MAP_COLORS = "RdBu_r"
"""Attribution maps: red speaks for the class, blue against it, white is zero."""


HEAT_COLORS = "inferno"
"""Heat laid over a picture, from dark (nothing) to bright (the map's largest value)."""


def use_style() -> None:
    """Set the look of every figure of the book: size, resolution, grid, fonts. `kd.setup` calls it."""
    sns.set_theme(style="whitegrid", palette=list(COLORS.values()), font_scale=0.95)
    plt.rcParams.update(
        {
            "figure.figsize": (6.4, 3.6),
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.linewidth": 0.5,
            "axes.titlesize": "medium",
            "figure.facecolor": "white",
        }
    )


def bars(rows: Mapping[str, Sequence[float] | Tensor], classes: Sequence[str], unit: str = "probability") -> Figure:
    """One panel of horizontal bars per row, such as the same image at several temperatures.

    Args:
        rows: title → K values.
        classes: K names.
        unit: label of the value axis.
    """
    figure, axes = plt.subplots(1, len(rows), sharey=True, figsize=(2.3 * len(rows) + 1.4, 3.2), squeeze=False)
    for axis, (title, values) in zip(axes[0], rows.items(), strict=True):
        axis.barh(range(len(classes)), np.asarray(values, dtype=float), color=COLORS["teacher"])
        axis.set_yticks(range(len(classes)), classes)
        axis.set(title=title, xlabel=unit, xlim=(0, None))
        axis.grid(False, axis="y")
    axes[0, 0].invert_yaxis()
    return figure


def images(pictures: Tensor, titles: Sequence[str] | None = None, columns: int = 8) -> Figure:
    """A grid of images (N, C, H, W) with values in [0, 1], as `ImageSet.denormalise` gives them."""
    rows = -(-len(pictures) // columns)
    columns = min(columns, len(pictures))
    figure, axes = plt.subplots(rows, columns, figsize=(1.15 * columns, 1.35 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for i, (axis, picture) in enumerate(zip(axes.flat, pictures, strict=False)):
        _picture(axis, picture)
        if titles is not None:
            axis.set_title(titles[i], fontsize=8)
    return figure


def maps(pictures: Tensor, rows: Mapping[str, Tensor], titles: Sequence[str] | None = None) -> Figure:
    """Images in the first row, then one row of attribution maps per entry, red for the class, blue against it.

    Args:
        pictures: (N, C, H, W) in [0, 1].
        rows: name → maps (N, H, W), signed. Each map is divided by its own 99th percentile of |value|,
            because the scale of a map says nothing across models; zero is white in all of them.
        titles: N titles of the columns.
    """
    n = len(pictures)
    figure, axes = plt.subplots(len(rows) + 1, n, figsize=(1.25 * n + 1.1, 1.25 * (len(rows) + 1)), squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
    for i in range(n):
        _picture(axes[0, i], pictures[i])
        if titles is not None:
            axes[0, i].set_title(titles[i], fontsize=8)
    for row, (name, found) in enumerate(rows.items(), start=1):
        axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        for i in range(n):
            _map(axes[row, i], found[i])
    return figure


def map_blocks(pictures: Tensor, found: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """One block of rows per image: a row per network, a column per method, the image itself on the left.

    Args:
        pictures: (N, C, H, W) in [0, 1].
        found: network → method → maps (N, H, W), signed, drawn as in :func:`maps`; a network with a name in
            :data:`COLORS` is labelled in its colour. Every network needs the same methods.
    """
    methods = list(next(iter(found.values())))
    rows, columns = len(found), len(methods) + 1
    size = (0.92 * columns + 0.6, 0.92 * rows * len(pictures) + 0.3)
    figure, axes = plt.subplots(rows * len(pictures), columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
    for i, picture in enumerate(pictures):
        for row, (network, by_method) in enumerate(found.items(), start=i * rows):
            if row == i * rows:
                _picture(axes[row, 0], picture)
            else:
                axes[row, 0].axis("off")
            axes[row, 1].set_ylabel(network, color=COLORS.get(network), fontsize=8)
            for axis, method in zip(axes[row, 1:], methods, strict=True):
                _map(axis, by_method[method][i])
    for axis, method in zip(axes[0, 1:], methods, strict=True):
        axis.set_title(
            method.replace("_", " ").replace(" x ", " × ").replace("integrated ", "integrated\n"), fontsize=8
        )
    return figure


def overlays(pictures: Tensor, rows: Mapping[str, Tensor], titles: Sequence[str] | None = None) -> Figure:
    """Images in the first row, then one row per entry of maps laid over them, as papers show them.

    Args:
        pictures: (N, C, H, W) in [0, 1]; they are shown in grey below the heat.
        rows: name → maps (N, h, w) of any size, smoothed over the picture. Negative values count as zero. Each map
            is divided by its own largest value: the brightest spot is equally bright in all, however small it is.
        titles: N titles of the columns.
    """
    n, (height, width) = len(pictures), pictures.shape[2:]
    figure, axes = plt.subplots(len(rows) + 1, n, figsize=(1.45 * n + 1.1, 1.45 * (len(rows) + 1)), squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
    for i, picture in enumerate(pictures):
        _picture(axes[0, i], picture)
        if titles is not None:
            axes[0, i].set_title(titles[i], fontsize=8)
        for axis, (name, found) in zip(axes[1:, i], rows.items(), strict=True):
            _picture(axis, picture.mean(0, keepdim=True))
            heat = np.asarray(found[i], dtype=float).clip(min=0)
            heat = heat / (heat.max() if heat.max() > 0 else 1.0)
            where = (-0.5, width - 0.5, height - 0.5, -0.5)
            colors = plt.get_cmap(HEAT_COLORS, 32)
            axis.imshow(heat, cmap=colors, vmin=0, vmax=1, alpha=0.6, extent=where, interpolation="bilinear")
            if i == 0:
                axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    return figure


def curves(
    lines: Mapping[str, Sequence[float]], ylabel: str, xlabel: str = "epoch", start: int = 1, axis: Axes | None = None
) -> Figure:
    """One labelled line per entry over 1, 2, 3, …; a name in :data:`COLORS` gets its colour."""
    if axis is None:
        _, axis = plt.subplots()
    for name, values in lines.items():
        steps = np.arange(start, start + len(values))
        (line,) = axis.plot(steps, values, color=COLORS.get(name), marker="o", markersize=3)
        axis.annotate(
            f" {name}", (steps[-1], values[-1]), color=line.get_color(), va="center", annotation_clip=False, fontsize=9
        )
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.margins(x=0.02)
    return _figure(axis)


def intervals(
    found: Mapping[str, Interval], xlabel: str, reference: float | None = None, axis: Axes | None = None
) -> Figure:
    """A dot with its confidence interval per entry, from top to bottom; `reference` draws a dashed line.

    An entry whose name, up to a comma, is in :data:`COLORS` gets that colour, the others are grey.
    """
    if axis is None:
        _, axis = plt.subplots(figsize=(6.4, 0.5 * len(found) + 1))
    for place, (name, value) in enumerate(found.items()):
        color = COLORS.get(name.split(",")[0], "0.45")
        axis.plot([value.low, value.high], [place, place], color=color, linewidth=2)
        axis.plot(value.mean, place, "o", color=color)
    if reference is not None:
        axis.axvline(reference, color="0.3", linestyle="--", linewidth=1)
    axis.set_yticks(range(len(found)), list(found))
    axis.set_ylim(len(found) - 0.5, -0.5)
    axis.set_xlabel(xlabel)
    axis.grid(False, axis="y")
    return _figure(axis)


def reliability(tables: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Reliability diagrams, one per entry, from `kd.metrics.reliability`; below each, how many images a bin holds."""
    figure, axes = plt.subplots(
        2, len(tables), figsize=(2.8 * len(tables), 3.4), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1)
    )
    for (upper, lower), (title, table) in zip(axes.T, tables.items(), strict=True):
        bins = len(table["count"])
        middle = (np.arange(bins) + 0.5) / bins
        upper.bar(middle, np.nan_to_num(table["accuracy"]), width=0.9 / bins, color=COLORS["teacher"])
        upper.plot([0, 1], [0, 1], color="0.3", linestyle="--", linewidth=1)
        upper.set(title=title, xlim=(0, 1), ylim=(0, 1))
        lower.bar(middle, table["count"], width=0.9 / bins, color=COLORS["control"])
        lower.set(xlabel="confidence", yscale="log", ylim=(0.5, None))
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("images")
    return figure


def confusion(counts: np.ndarray, classes: Sequence[str], title: str = "") -> Figure:
    """A confusion matrix (K, K): rows are true classes, columns predictions; the diagonal is left blank.

    The hits would drown the errors, and the errors are what one looks for.
    """
    errors = np.array(counts, dtype=float)
    np.fill_diagonal(errors, np.nan)
    figure, axis = plt.subplots(figsize=(5.0, 4.3))
    sns.heatmap(
        errors, annot=True, fmt=".0f", cmap="Blues", cbar=False, linewidths=0.5, ax=axis,
        xticklabels=list(classes), yticklabels=list(classes), annot_kws={"fontsize": 8},
    )  # fmt: skip
    axis.set(xlabel="predicted", ylabel="true", title=title)
    axis.set_xticks(axis.get_xticks(), list(classes), rotation=45, ha="right")
    return figure


def grid(values: np.ndarray, rows: Sequence[float], columns: Sequence[float], xlabel: str, ylabel: str) -> Figure:
    """A heat map with its numbers, such as accuracy over temperature and weight."""
    figure, axis = plt.subplots(figsize=(1.0 * len(columns) + 1.6, 0.55 * len(rows) + 1.2))
    sns.heatmap(
        np.asarray(values), annot=True, fmt=".1f", cmap="viridis", linewidths=0.5, ax=axis,
        xticklabels=[f"{c:g}" for c in columns], yticklabels=[f"{r:g}" for r in rows],
    )  # fmt: skip
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.tick_params(axis="y", rotation=0)
    return figure


class Player:
    """A frame-by-frame player of a distribution; show it as the last value of a cell. See :func:`player`."""

    def __init__(self, html: str, text: str) -> None:
        self._html, self._text = html, text

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return self._text


def player(frames: Mapping[str, Sequence[float] | Tensor], classes: Sequence[str], label: str) -> Player:
    """Bars that change from frame to frame, with a slider, play and step buttons. No library, no network.

    Args:
        frames: caption → K probabilities, in playing order; shown with three digits.
        classes: K names.
        label: what is seen, read out by screen readers.
    """
    data = [(caption, [round(float(v), 3) for v in values]) for caption, values in frames.items()]
    rows = "".join(
        f'<div class="kd-row"><span class="kd-name">{escape(name)}</span>'
        f'<span class="kd-track"><span class="kd-bar" style="width:{100 * value:.1f}%"></span></span>'
        f'<span class="kd-value">{value:.3f}</span></div>'
        for name, value in zip(classes, data[0][1], strict=True)
    )
    html = _PLAYER.replace("@ROWS@", rows).replace("@LABEL@", escape(label)).replace("@FIRST@", escape(data[0][0]))
    html = html.replace("@LAST@", str(len(data) - 1)).replace("@DATA@", json.dumps(data).replace("<", "\\u003c"))
    return Player(html, f"A player with {len(data)} frames, from {data[0][0]} to {data[-1][0]}.")


# Colours are mixed from the page's own text colour, so that the player fits a light and a dark page.
_PLAYER = """<div class="kd-player" role="group" aria-label="@LABEL@">
<style>
.kd-player {max-width: 34rem; font-size: .9rem; padding: .5rem 0}
.kd-row {display: flex; align-items: center; gap: .5rem; height: 1.35rem}
.kd-name {flex: 0 0 6.2rem; text-align: right}
.kd-track {flex: 1 1 auto; background: rgba(128, 128, 128, .18); height: .9rem}
.kd-bar {display: block; height: 100%; background: #0072B2}
.kd-value {flex: 0 0 3rem; font-variant-numeric: tabular-nums}
.kd-controls {display: flex; flex-wrap: wrap; align-items: center; gap: .5rem; margin-top: .5rem}
.kd-controls input {flex: 1 1 8rem; min-width: 6rem}
.kd-controls button {padding: .15rem .6rem}
</style>
@ROWS@
<div class="kd-controls">
<button type="button" data-step="-1" aria-label="one frame back">&#9664;</button>
<button type="button" data-play="1">Play</button>
<button type="button" data-step="1" aria-label="one frame on">&#9654;</button>
<input type="range" min="0" max="@LAST@" value="0" aria-label="frame">
<output aria-live="polite">@FIRST@</output>
</div>
<script>
(() => {
  const frames = @DATA@;
  const root = document.currentScript.closest(".kd-player");
  const slider = root.querySelector("input"), play = root.querySelector("[data-play]");
  const bars = root.querySelectorAll(".kd-bar"), values = root.querySelectorAll(".kd-value");
  let timer = null;
  const show = (frame) => {
    slider.value = frame;
    const [caption, numbers] = frames[Number(slider.value)];
    root.querySelector("output").textContent = caption;
    slider.setAttribute("aria-valuetext", caption);
    numbers.forEach((number, k) => {
      bars[k].style.width = 100 * number + "%";
      values[k].textContent = number.toFixed(3);
    });
  };
  const stop = () => { clearInterval(timer); timer = null; play.textContent = "Play"; };
  slider.addEventListener("input", () => { stop(); show(slider.value); });
  root.querySelectorAll("[data-step]").forEach((button) => button.addEventListener("click", () => {
    stop(); show(Number(slider.value) + Number(button.dataset.step));
  }));
  play.addEventListener("click", () => {
    if (timer) { stop(); return; }
    play.textContent = "Pause";
    if (Number(slider.value) === frames.length - 1) show(0);
    timer = setInterval(() => {
      if (Number(slider.value) === frames.length - 1) stop(); else show(Number(slider.value) + 1);
    }, 300);
  });
})();
</script>
</div>"""


def _picture(axis: Axes, picture: Tensor) -> None:
    shown = np.asarray(picture).transpose(1, 2, 0)
    grey = plt.get_cmap("gray", 64)
    axis.imshow(shown[..., 0] if shown.shape[2] == 1 else shown, cmap=grey, vmin=0, vmax=1, interpolation="nearest")


def _map(axis: Axes, values: Tensor) -> None:
    shown = np.asarray(values, dtype=float)
    top = np.quantile(np.abs(shown), 0.99)
    colors = plt.get_cmap(MAP_COLORS, 31)  # an odd number, so that zero is white; more steps only make larger files
    axis.imshow(shown / (top if top > 0 else 1.0), cmap=colors, vmin=-1, vmax=1, interpolation="nearest")


def _figure(axis: Axes) -> Figure:
    figure = axis.get_figure()
    assert isinstance(figure, Figure)
    return figure
