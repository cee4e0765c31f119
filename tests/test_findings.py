"""The landing page's findings: each number is computed here from the record that it comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache

import nbformat
import numpy as np
import pandas as pd
import pytest

import kdutils as kd
from kdutils.metrics import Interval
from kdutils.studies import agreement, beyond_logits, guided, shortcut
from kdutils.studies._record import FOLDER
from tests.conftest import ROOT

RIVALS = ("edges", "centre_blob", "random")


@cache
def read(name: str) -> pd.DataFrame:
    return pd.read_csv(FOLDER / f"{name}.csv")


def cards() -> list[str]:
    """The text of each finding, as it stands on the page."""
    page = (ROOT / "book" / "intro.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^:::\{container\} findings\n(.*?)^:::$", page, flags=re.M | re.S)
    return [re.sub(r"\s+", " ", card) for card in re.split(r"^- ", block, flags=re.M)[1:]]


def excludes_zero(gain: Interval) -> bool:
    return gain.low > 0 or gain.high < 0


def points(value: float, digits: int = 1, sign: bool = True) -> str:
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def it_depends_on_the_explanation() -> set[str]:
    arms = ("distilled, matched", "labels")
    models = read("agreement_models")
    maps = read("agreement").assign(
        specific=lambda m: m.cosine - m.cosine_other,
        own_order=lambda m: (m.own_by_chance - m.own_by_teacher) / (m.own_by_chance - m.own_by_own),
    )

    def pair(measure: str, teacher: str) -> list[np.ndarray]:
        """The two arms of a declared comparison, one number per seed."""
        if measure == "top1_agreement":
            rows, column = models, "agreement"
        else:
            explainer = "integrated_gradients" if measure == "own_order" else measure
            rows, column = maps[maps.explainer == explainer], "own_order" if measure == "own_order" else "specific"
        rows = rows[rows.teacher == teacher]
        return [rows[rows.arm == arm].sort_values("seed")[column].to_numpy() for arm in arms]

    holds = set()
    for teacher in agreement.TEACHERS:
        pairs = {measure: pair(measure, teacher) for measure in agreement.PRIMARY}
        p = kd.significance.holm(kd.significance.sign_flip(np.stack([a - b for a, b in pairs.values()], axis=1)))
        holds |= {(measure, teacher) for measure, each in zip(pairs, p, strict=True) if each < 0.05}
    both = {measure for measure, _ in holds if all((measure, teacher) in holds for teacher in agreement.TEACHERS)}
    assert both == {"occlusion"} and not {"integrated_gradients", "grad_cam"} & {measure for measure, _ in holds}
    found = [kd.interval(own, minus=control) for own, control in (pair("occlusion", t) for t in agreement.TEACHERS)]
    return {f"{points(g.mean, 3)} [{points(g.low, 3, False)}, {points(g.high, 3, False)}]" for g in found}


def distillation_helps() -> set[str]:
    accuracy = 100 * read("students").pivot(index=["images", "seed"], columns="arm", values="accuracy")

    def gain(arm: str, images: int) -> Interval:
        return kd.interval(accuracy.loc[images, arm], minus=accuracy.loc[images, "labels"])

    own, smooth, few = gain("distilled", 10_000), gain("label smoothing", 10_000), gain("distilled", 1_000)
    assert own.low > 0 and few.low > 0 and not excludes_zero(smooth)
    return {
        f"**{points(own.mean)} points**",
        f"[{points(own.low, 1, False)}, {points(own.high, 1, False)}]",
        f"{points(smooth.mean, 2)} [{points(smooth.low, 2, False)}, {points(smooth.high, 2, False)}]",
        f"With 1,000 images: {points(few.mean)}.",
    }


def nothing_beyond_logits() -> set[str]:
    study = read("beyond_logits")
    rows = study[study.family == "with KD"]
    gains = kd.selection.report(rows, control="none", arm="method")
    assert gains.keys() == set(beyond_logits.WEIGHTS["with KD"])
    return {f"**{sum(gain.low > 0 for gain in gains.values())} of {len(gains)}**"}


def a_bias_is_handed_on() -> set[str]:
    students = read("shortcut").query("network == 'tiny_cnn' and images == 'random'")
    follows = students.pivot(index="seed", columns="teacher", values="follows") * 100
    gains = [kd.interval(follows[f"biased {i}"], minus=follows[f"right {i}"], confidence=0.995) for i in (0, 1)]
    assert all(gain.low > 0 for gain in gains)
    (both,) = {points(gain.mean, 0) for gain in gains}
    return {f"**{both} points**"}


def some_maps_gain_some_lose() -> set[str]:
    scores = read("scorecard").assign(
        mean=lambda s: s.insertion_mean - s.deletion_mean,
        blur=lambda s: s.insertion_blur - s.deletion_blur,
        road=lambda s: s.road_least - s.road_most,
    )

    def value(model: str, name: str, measure: str) -> np.ndarray:
        return scores.query("model == @model and map == @name").sort_values("image")[measure].to_numpy()

    passed = [
        name
        for name in sorted(set(scores["map"]) - set(RIVALS))
        if all(
            kd.interval(value(model, name, measure), minus=value(model, rival, measure)).low > 0
            for model in scores.model.unique()
            for measure in ("mean", "blur")
            for rival in RIVALS
        )
    ]
    change = {
        name: [
            kd.interval(value("distilled", name, m), minus=value("student", name, m)) for m in ("mean", "blur", "road")
        ]
        for name in passed
    }
    up = [name for name, each in change.items() if all(gain.low > 0 for gain in each)]
    down = [name for name, each in change.items() if all(gain.high < 0 for gain in each)]
    assert (up, down) == (["lime"], ["grad_cam"])
    return {f"**{len(up)} up, {len(down)} down** of {len(passed)} methods", "LIME maps are more", "Grad-CAM maps less"}


def a_habit_is_taught() -> set[str]:
    nearer = kd.selection.report(read("guided"), control=guided.PLAIN, score="grad_cam_cosine")
    own, others = nearer["e2KD"], nearer["e2KD, shuffled"]
    assert own.low > 0 and others.low > 0
    return {f"**{own.mean:.3f} or {others.mean:.3f}**"}


def a_map_misses_the_shortcut() -> set[str]:
    maps = read("shortcut_maps").query("network == 'tiny_cnn' and teacher == 'none' and images == 'biased'")
    found = maps[maps.share == shortcut.SHARE].groupby("method").found.agg(lambda each: (each > 0).sum())
    seeds = read("shortcut").query("network == 'tiny_cnn'").seed.nunique()
    return {
        f"**{found['grad_cam']} of {seeds}**",
        f"{seeds} of {seeds} by that of {(found == seeds).sum()} other methods",
    }


FINDINGS: list[Callable[[], set[str]]] = [
    it_depends_on_the_explanation,
    distillation_helps,
    nothing_beyond_logits,
    a_bias_is_handed_on,
    some_maps_gain_some_lose,
    a_habit_is_taught,
    a_map_misses_the_shortcut,
]


def test_every_finding_is_held_to_a_record() -> None:
    assert len(cards()) == len(FINDINGS)


@pytest.mark.parametrize("place", range(len(FINDINGS)), ids=[each.__name__ for each in FINDINGS])
def test_a_finding_says_what_its_record_says(place: int) -> None:
    card, wanted = cards()[place], FINDINGS[place]()
    assert wanted
    for text in wanted:
        assert text in card, f"the record says {text!r}; the page: {card}"
    rest = re.sub(r"\[Chapter \d+\]\([^)]*\)", "", card)
    for text in wanted:
        rest = rest.replace(text, "")
    assert not re.search(r"\d", rest), f"a number that no record holds: {rest}"


@pytest.mark.parametrize("card", cards(), ids=lambda card: card[:16])
def test_a_finding_leads_to_its_chapter(card: str) -> None:
    (named, path, number), *more = re.findall(r"\[Chapter (\d+)\]\((\.\./notebooks/(\d+)_\w+\.ipynb)\)", card)
    assert not more and int(named) == int(number) and (ROOT / "book" / path).is_file()


def test_the_pictures_number_is_the_findings() -> None:
    """What stands in prose below the picture is the finding on accuracy again."""
    page = re.sub(r"\s+", " ", (ROOT / "book" / "intro.md").read_text(encoding="utf-8"))
    (first,) = re.findall(r"\*\*\+([\d.]+) points\*\*", cards()[1])
    assert page.count(f"gains {first} points") >= 2


def test_the_readmes_reckoning_is_that_of_chapter_6() -> None:
    book = nbformat.read(ROOT / "notebooks" / "06_distillation_on_the_gpu.ipynb", as_version=4)
    printed = "".join(out.get("text", "") for cell in book.cells for out in cell.get("outputs", []))
    text = re.sub(r"\s+", " ", (ROOT / "README.md").read_text(encoding="utf-8"))
    sizes = {
        name: row.split()
        for name, row in re.findall(r"^(images, GB|store, GB per view|the same, top 20) +(.*)$", printed, re.M)
    }
    cifar, imagenet = (float(value) for value in sizes["images, GB"][:2])
    (one, eight), (whole, top) = (
        re.findall(r"hours with a live teacher: [\d.]+, ([\d.]+), ([\d.]+)", printed)[0],
        (float(sizes[name][1]) for name in ("store, GB per view", "the same, top 20")),
    )
    for said in (
        f"All of CIFAR-10 is {cifar:.1f} GB",
        f"ImageNet is {imagenet:.0f} GB",
        f"of it takes {whole:.1f} GB, or {top:.1f} GB",
        f"(not measured) at {float(one):.1f} hours on one H100",
        f"and {float(eight):.1f} on eight",
    ):
        assert said in text, said


def test_chapter_6_says_what_the_benchmark_measured() -> None:
    found = json.loads((ROOT / "benchmarks" / "distill.json").read_text())
    book = nbformat.read(ROOT / "notebooks" / "06_distillation_on_the_gpu.ipynb", as_version=4)
    text = re.sub(r"\s+", " ", "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown"))
    live, store, others = found["floor, live teacher"], found["floor, store"], found["others"]
    for said in (
        f"a step with a live teacher takes {live['median']:.2f} times the bare passes",
        f"a step from stored answers {store['median']:.2f} times",
        f"(medians of {live['pairs']} and {store['pairs']} pairs)",
        f"{others['tutorial / kdutils']:.1f} times as long in the tutorial's loop",
        f"and {others['torchdistill / kdutils']:.1f} times with torchdistill",
        f"(medians of {len(others['seconds']['kdutils'])} runs)",
    ):
        assert said in text, said
    losses = others["first_20_losses"].values()
    assert max(losses) - min(losses) < 1e-7 and "The losses agree to 1e-7" in text
    assert others["images"] == 5_000 and others["epochs"] == 10 and found["threads"] == 2
