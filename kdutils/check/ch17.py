"""Checks of chapter 17."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def exercise_1(answer: Callable[[Tensor, Tensor, Tensor], float]) -> str | None:
    """`follows(said, tags, labels)`: of the images whose tag is not their class's, the share called what it says."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (400,), generator=generator)
    tags = torch.where(torch.rand(400, generator=generator) < 0.3, labels, (labels + 3) % 10)
    said = torch.where(torch.rand(400, generator=generator) < 0.4, tags, labels)
    said = torch.where(torch.rand(400, generator=generator) < 0.2, (labels + 7) % 10, said)
    conflict, obeys = tags != labels, said == tags
    right = float(obeys[conflict].double().mean())
    found = float(answer(said.clone(), tags.clone(), labels.clone()))
    if abs(found - right) < 1e-6:
        aligned = answer(labels[:50].clone(), labels[:50].clone(), labels[:50].clone())
        if np.isnan(float(aligned)) or float(aligned) == 0:
            return None
        return "Where no tag is in conflict there is nothing to count: give 0 or NaN, not a number from somewhere else."
    for wrong, hint in (
        (obeys.double().mean(), "You counted the aligned images too: there, a network that is right follows its tag."),
        ((obeys & conflict).double().mean(), "Divide by the number of images in conflict, not by that of all images."),
        (
            (obeys & conflict).sum() / (conflict & (said != labels)).sum(),
            "You divided by the errors: that is how many of them the tag explains. All images in conflict count.",
        ),
        (
            (said != labels)[conflict].double().mean(),
            "That is the error rate on conflict: an error may have another reason than the tag.",
        ),
        (
            (said == labels)[conflict].double().mean(),
            "That is the accuracy: compare with tags, not labels.",
        ),
        (conflict.double().mean(), "That is the share of images in conflict: what does the network say there?"),
    ):
        if abs(found - float(wrong)) < 1e-6:
            return hint
    return "Not yet: keep the images with tags != labels, and take the share of them with said == tags."


def exercise_2(answer: Callable[[float, np.ndarray], float]) -> str | None:
    """`p_value(real, placebos)`: the two-sided permutation p of a sensitivity among those of R placebos."""
    draw = np.random.default_rng(2)
    placebos = draw.normal(0, 0.03, 49)
    for real in (0.04, -0.05, 0.2, -0.2, 0.001):
        right = _p(real, placebos)
        found = float(answer(real, placebos.copy()))
        if abs(found - right) < 1e-9:
            continue
        size, sizes = abs(real), np.abs(placebos)
        one_sided = (1 + (placebos >= real).sum()) / 50
        for wrong, hint in (
            (
                (1 + (sizes >= real).sum()) / 50,
                "The sizes of the placebos against the real one with its sign: take the size of both.",
            ),
            (one_sided, "That is one-sided: a concept that speaks *against* the class counts as well. Compare sizes."),
            ((placebos >= real).mean(), "Compare sizes, for both signs count; and count the real one itself too."),
            (
                (sizes >= size).mean(),
                "A p of 0 can't be had: the real one is one of 50, so add 1 twice.",
            ),
            (
                (1 + (sizes >= size).sum()) / 49,
                "The real one is counted above the line, so count it below it as well.",
            ),
            (1 - right, "That is the share that is less extreme: p is the share that is at least as extreme."),
            ((1 + (sizes <= size).sum()) / 50, "Turn it round: count the placebos that are at least as *large*."),
            (min(1.0, 2 * one_sided), "Doubling one tail uses the side that you saw. Compare sizes with sizes."),
        ):
            if abs(found - float(wrong)) < 1e-9:
                return hint
        return "Not yet: (1 + number of placebos with |placebo| ≥ |real|) / (1 + number of placebos)."
    tied = np.array([0.1, -0.1, 0.0])
    if abs(float(answer(0.1, tied)) - 0.75) > 1e-9:
        return "A placebo of exactly the same size is as extreme as the real one: use ≥, not >."
    return None


def exercise_3(answer: Callable[[np.ndarray, np.ndarray, np.ndarray], float]) -> str | None:
    """`effect(treated, outcome, stratum)`: what the treatment does on average, with the confounder adjusted for."""
    treated, outcome, stratum = (_patients(seed=0)[key] for key in ("treated", "outcome", "stratum"))
    right = _adjusted(treated, outcome, stratum)
    found = float(answer(treated.copy(), outcome.copy(), stratum.copy()))
    if abs(found - right) > 1e-9:
        naive = outcome[treated == 1].mean() - outcome[treated == 0].mean()
        gaps = _gaps(treated, outcome, stratum)
        among = {t: np.array([(stratum[treated == t] == s).mean() for s in gaps]) for t in (0, 1)}
        each = np.array(list(gaps.values()))
        means = {
            t: np.array([outcome[(treated == t) & (stratum == s)].mean() for s in gaps]) @ among[t] for t in (0, 1)
        }
        for wrong, hint in (
            (naive, "That is the naive difference: the treated are other patients. Compare within strata."),
            (
                means[1] - means[0],
                "Weighing each group by its own strata gives the naive difference back: use one P(z).",
            ),
            (-right, "The sign: treated minus not treated."),
            (each.mean(), "The strata are not equally large: weigh each with its share of all patients."),
            (each @ among[1], "Weighed by the strata of the treated: that is the effect on them. All patients count."),
            (each @ among[0], "Weighed by the strata of the untreated. All patients count."),
            (
                _slope(treated, outcome, stratum),
                "A regression weighs strata by how mixed they are. Weigh with P(z).",
            ),
        ):
            if abs(found - float(wrong)) < 1e-6:
                return hint
        return "Not yet: Σ_z P(z) · (mean outcome of the treated in z − of the untreated in z)."
    other = _patients(seed=1)
    if abs(float(answer(other["treated"], other["outcome"], other["stratum"])) - _adjusted(**other)) > 1e-9:
        return "It holds for one set of patients and not for another: compute everything from the arguments."
    return None


def _p(real: float, placebos: np.ndarray) -> float:
    return float((1 + (np.abs(placebos) >= abs(real)).sum()) / (1 + len(placebos)))


def _patients(seed: int) -> dict[str, np.ndarray]:
    """Severe cases are treated more often and do worse; the treatment helps, most where it is most needed."""
    draw = np.random.default_rng(seed)
    stratum = draw.choice(3, 900, p=[0.5, 0.3, 0.2])
    treated = (draw.random(900) < np.array([0.2, 0.5, 0.85])[stratum]).astype(int)
    outcome = np.array([0.0, -2.0, -4.0])[stratum] + np.array([0.2, 0.5, 1.5])[stratum] * treated
    return {"treated": treated, "outcome": outcome + draw.normal(0, 0.5, 900), "stratum": stratum}


def _gaps(treated: np.ndarray, outcome: np.ndarray, stratum: np.ndarray) -> dict[int, float]:
    return {
        int(s): float(outcome[(stratum == s) & (treated == 1)].mean() - outcome[(stratum == s) & (treated == 0)].mean())
        for s in np.unique(stratum)
    }


def _adjusted(treated: np.ndarray, outcome: np.ndarray, stratum: np.ndarray) -> float:
    return sum(gap * float((stratum == s).mean()) for s, gap in _gaps(treated, outcome, stratum).items())


def _slope(treated: np.ndarray, outcome: np.ndarray, stratum: np.ndarray) -> float:
    columns = np.column_stack([treated, *[stratum == s for s in np.unique(stratum)]]).astype(float)
    return float(np.linalg.lstsq(columns, outcome, rcond=None)[0][0])
