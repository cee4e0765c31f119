"""Draw the README's picture from the recorded study of chapter 5: `.venv/bin/python tools/result_picture.py`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt

import kdutils as kd

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Write book/_static/result.png."""
    kd.setup()
    study = pd.read_csv(ROOT / "kdutils" / "recorded" / "students.csv")
    accuracy = 100 * study.pivot(index=["images", "seed"], columns="arm", values="accuracy")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.0), width_ratios=(1.25, 1))

    arms = ["distilled", "label smoothing", "permuted teacher"]
    names = {"label smoothing": "label smoothing\n(softness alone)", "permuted teacher": "another image's\nsoft label"}
    at = accuracy.loc[10_000]
    gains = {names.get(arm, arm): kd.interval(at[arm], minus=at["labels"]) for arm in arms}
    kd.plot.intervals(gains, "test accuracy, points above the student alone", reference=0, axis=left)
    left.set_title("10,000 images: does it help, and what of it?")

    sizes = sorted(study.images.unique())
    by_size = [kd.interval(accuracy.loc[n, "distilled"], minus=accuracy.loc[n, "labels"]) for n in sizes]
    half = [gain.high - gain.mean for gain in by_size]
    right.errorbar(sizes, [gain.mean for gain in by_size], half, color=kd.plot.COLORS["distilled"], marker="o")
    right.axhline(0, color="0.3", linestyle="--", linewidth=1)
    right.set(xscale="log", xlabel="training images", ylabel="gain, points", title="The fewer images, the more")
    figure.savefig(ROOT / "book" / "_static" / "result.png", dpi=120)


if __name__ == "__main__":
    main()
