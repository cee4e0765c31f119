"""Are the explanations right? Every method of `kd.explain` for convolutional networks, on three networks.

    python -m kdutils.studies.scorecard

The teacher, the student alone and the distilled student of the book, each explained for the class that it
names itself, on test images that are drawn once. Beside the methods stand maps that know no network: an edge
detector, a blob in the middle of the image, and random numbers. Measured with the functions of
:mod:`kdutils.explain.faithfulness` and their defaults, apart from `STEPS` and `SAMPLES`:

- `recorded/scorecard.csv`, one row per network, map and image: areas under deletion and insertion curves with two
  fills; ROAD, the mean probability when the most or the least important pixels go; infidelity to noise and to
  squares, each as a share of what a zero map leaves unexplained; the completeness gap, and the rise of the
  logit that it has to be compared with.
- `recorded/scorecard_steadiness.csv`, the same for the first `FEW` images: max-sensitivity, and the rank
  correlation of the map (its absolute values, and with its sign) with the map of the same network whose weights are all
  drawn anew.

Nothing is trained and nothing is chosen. One network of a kind is one network: an interval over the images of this
table says nothing about other networks.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import kdutils as kd
from kdutils import explain
from kdutils.selection import split
from kdutils.studies import _jobs
from kdutils.studies._record import Record

MODELS = {"teacher": "resnet14", "student": "tiny_cnn", "distilled": "tiny_cnn_distilled"}
METHODS = tuple(method for method in explain.METHODS if not method.startswith("attention"))
COMPETITORS = ("edges", "centre_blob", "random")
IMAGES, FEW, STEPS, SAMPLES, DRAWS = 100, 16, 14, 16, 3
KEYS = ("model", "map", "image")
SCORES, STEADINESS = "scorecard", "scorecard_steadiness"
Run = tuple[str, str]  # the network and the map


@cache
def network(name: str) -> tuple[nn.Module, nn.Module]:
    """The network, and the same with all its weights drawn anew."""
    model = kd.zoo.load(f"fashion_mnist/{MODELS[name]}")
    *_, (_, fresh) = explain.cascade(model, seed=0)
    return model, fresh


@cache
def sample() -> Tensor:
    """The images, normalised: (N, 1, 28, 28)."""
    return split().test.subset(IMAGES, seed=0).tensors()[0]


def competitor(images: Tensor, name: str) -> Tensor:
    """A map that knows no network: (N, H, W)."""
    if name == "random":
        return torch.rand(images[:, 0].shape, generator=torch.Generator().manual_seed(0))
    return explain.edges(images) if name == "edges" else explain.centre_blob(images)


def faithfulness(model: nn.Module, images: Tensor, maps: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Every measure of `recorded/scorecard.csv`, (N,) each."""
    found: dict[str, Tensor] = {}
    for fill in ("mean", "blur"):
        found[f"deletion_{fill}"] = explain.area(explain.deletion_curve(model, images, maps, targets, fill, STEPS))
        found[f"insertion_{fill}"] = explain.area(explain.insertion_curve(model, images, maps, targets, fill, STEPS))
    for order in ("most", "least"):
        found[f"road_{order}"] = explain.road(model, images, maps, targets, order=order).mean(1)
    nothing = torch.zeros_like(maps)
    for perturb in ("noise", "squares"):
        left, all_of_it = (
            explain.infidelity(model, images, each, targets, samples=SAMPLES, perturb=perturb)
            for each in (maps, nothing)
        )
        found[f"unexplained_{perturb}"] = left / all_of_it
    found["gap"] = explain.completeness(model, images, maps, targets)
    found["rise"] = -explain.completeness(model, images, nothing, targets)
    return found


def steadiness(model: nn.Module, fresh: nn.Module, images: Tensor, targets: Tensor, name: str) -> dict[str, Tensor]:
    """Every measure of `recorded/scorecard_steadiness.csv`, (N,) each."""
    if name in COMPETITORS:
        here = there = competitor(images, name)
        generator, moved = torch.Generator().manual_seed(0), torch.zeros(len(images))
        for _ in range(DRAWS):  # as max_sensitivity does it
            shift = 0.02 * (2 * torch.rand(images.shape, generator=generator) - 1)
            step = (competitor(images + shift, name) - here).flatten(1).norm(dim=1) / here.flatten(1).norm(dim=1)
            moved = torch.maximum(moved, step)
    else:
        here, there = (explain.attribute(each, images, targets, name) for each in (model, fresh))
        moved = explain.max_sensitivity(model, images, targets, name, samples=DRAWS)
    return {
        "sensitivity": moved,
        "untrained_size": explain.map_agreement(here.abs(), there.abs(), "spearman"),
        "untrained_sign": explain.map_agreement(here, there, "spearman"),
    }


def do(run: Run) -> None:
    """Measure one map on one network and record it, unless it is recorded."""
    (name, kind), scores, steady = run, Record(SCORES, KEYS), Record(STEADINESS, KEYS)
    model, fresh = network(name)
    images = sample()
    targets = kd.predict(model, images).argmax(1)
    if not scores.has(model=name, map=kind, image=IMAGES - 1):
        known = kind in COMPETITORS
        maps = competitor(images, kind) if known else explain.attribute(model, images, targets, kind)
        _add(scores, run, faithfulness(model, images, maps, targets))
    if not steady.has(model=name, map=kind, image=FEW - 1):
        _add(steady, run, steadiness(model, fresh, images[:FEW], targets[:FEW], kind))


def _add(record: Record, run: Run, found: dict[str, Tensor]) -> None:
    """One row per image; what an interrupted run left is not written twice."""
    begun = record.has(model=run[0], map=run[1], image=0)
    for image in range(len(next(iter(found.values())))):
        keys: dict[str, Any] = {"model": run[0], "map": run[1], "image": image}
        if not (begun and record.has(**keys)):
            record.add(**keys, **{measure: round(float(values[image]), 5) for measure, values in found.items()})


def runs() -> list[Run]:
    """Every run; they are independent of one another."""
    return [(model, kind) for model in MODELS for kind in (*METHODS, *COMPETITORS)]


def main() -> None:
    """Run what is not recorded yet."""
    jobs = _jobs.jobs(__doc__)
    _jobs.spread(do, runs(), jobs)
    facts = {
        "networks": {name: kd.zoo.card(f"fashion_mnist/{path}")["sha256"] for name, path in MODELS.items()},
        "images": IMAGES,
        "images_for_steadiness": FEW,
        "steps": STEPS,
        "samples": SAMPLES,
        "draws": DRAWS,
    }
    Record(STEADINESS, KEYS).sort(KEYS)
    record = Record(SCORES, KEYS)
    record.sort(KEYS)
    record.provenance(**facts)


if __name__ == "__main__":
    main()
