"""Draw the pictures of the landing page, the README and the preview card: `.venv/bin/python tools/pictures.py`.

They show the recorded study of chapter 5. The preview card, which other sites show beside a link, also has the
logo, read from its file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, PathPatch
from matplotlib.path import Path as Curve

import kdutils as kd

ROOT = Path(__file__).resolve().parent.parent
STATIC = ROOT / "book" / "_static"
CARD = (1200, 630)  # pixels, as the sites that show such cards want it
DARK = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), "0.85") | {
    "axes.edgecolor": "0.5",
    "grid.color": "0.3",
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}


def accuracy() -> pd.DataFrame:
    """Test accuracy in percent: one row per size of the training set and seed, one column per arm."""
    study = pd.read_csv(ROOT / "kdutils" / "recorded" / "students.csv")
    return 100 * study.pivot(index=["images", "seed"], columns="arm", values="accuracy")


def draw_arms(axis: Axes) -> None:
    names = {"label smoothing": "label smoothing\n(softness alone)", "permuted teacher": "another image's\nsoft label"}
    at = accuracy().loc[10_000]
    arms = ["distilled", "label smoothing", "permuted teacher"]
    gains = {names.get(arm, arm): kd.interval(at[arm], minus=at["labels"]) for arm in arms}
    kd.plot.intervals(gains, "points above the student alone", reference=0, axis=axis)


def draw_sizes(axis: Axes) -> None:
    table = accuracy()
    sizes = sorted(table.index.unique("images"))
    by_size = [kd.interval(table.loc[n, "distilled"], minus=table.loc[n, "labels"]) for n in sizes]
    half = [gain.high - gain.mean for gain in by_size]
    axis.errorbar(sizes, [gain.mean for gain in by_size], half, color=kd.plot.COLORS["distilled"], marker="o")
    axis.axhline(0, color="0.3", linestyle="--", linewidth=1)
    axis.set(xscale="log", xlabel="training images", ylabel="gain, points of accuracy")
    axis.set_xticks(sizes, [f"{n:,}" for n in sizes])
    axis.minorticks_off()


def result(draw: Callable[[Axes], None], title: str) -> Figure:
    """One of the landing page's pictures: small enough to be read on a phone, where they stand below each other."""
    figure, axis = plt.subplots(figsize=(4.6, 3.0))
    draw(axis)
    axis.set_title(title)
    return figure


def brighten(figure: Figure) -> Figure:
    """Greys that are meant for white paper, made to be seen on black."""
    for line in (line for axis in figure.axes for line in axis.lines):
        if line.get_color() in ("0.3", "0.45"):
            line.set_color("0.75")
    return figure


def draw_logo(axis: Axes) -> None:
    """The circles and the one curve of logo.svg."""
    image = ElementTree.parse(STATIC / "logo.svg").getroot()
    x, y, width, height = map(float, image.attrib["viewBox"].split())
    axis.set(xlim=(x, x + width), ylim=(y + height, y), aspect="equal")
    axis.axis("off")
    dots = axis.get_figure().dpi / 72
    for part in image:
        kind, look = part.tag.rpartition("}")[2], part.attrib
        if kind == "path":
            points = [tuple(map(float, pair)) for pair in re.findall(r"([\d.]+) ([\d.]+)", look["d"])]
            scale = axis.get_window_extent().width / width / dots
            curve = Curve(points, [Curve.MOVETO, *[Curve.CURVE4] * 3])
            line = float(look["stroke-width"]) * scale
            axis.add_patch(PathPatch(curve, fill=False, edgecolor=look["stroke"], linewidth=line, capstyle="round"))
        else:
            axis.add_patch(Circle((float(look["cx"]), float(look["cy"])), float(look["r"]), color=look["fill"]))


def card() -> Figure:
    """What other sites show beside a link to the book."""
    figure = plt.figure(figsize=(CARD[0] / 100, CARD[1] / 100), dpi=100, layout="none")
    draw_logo(figure.add_axes((0.05, 0.63, 0.147, 0.28)))
    figure.text(0.23, 0.79, "Distill and Explain", fontsize=44, weight="bold", va="center")
    question = "Does a small network that learned from a big one\nalso explain itself like the big one?"
    figure.text(0.23, 0.65, question, fontsize=21, va="center", color="0.25")
    with plt.rc_context({"font.size": 16, "axes.labelsize": 16, "xtick.labelsize": 14, "ytick.labelsize": 16}):
        axis = figure.add_axes((0.2, 0.15, 0.73, 0.36))
        draw_arms(axis)
        axis.set_xlabel(f"test accuracy, {axis.get_xlabel()} (8 seeds, 95 % intervals)")
    return figure


def main() -> None:
    """Write the pictures into book/_static."""
    kd.setup()
    card().savefig(STATIC / "card.png", dpi=100)
    results = {
        "arms": (draw_arms, "Does it help, and what of it?"),
        "sizes": (draw_sizes, "The fewer images, the more"),
    }
    for name, drawn in results.items():
        result(*drawn).savefig(STATIC / f"result_{name}.png", dpi=140)
        with plt.rc_context(DARK):
            brighten(result(*drawn)).savefig(STATIC / f"result_{name}_dark.png", dpi=140)


if __name__ == "__main__":
    main()
