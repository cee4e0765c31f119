"""Is attention an explanation? Those of chapter 11's four tests that have to train.

    python -m kdutils.studies.attention --jobs 2

Every run takes 10,000 of the training images, drawn by the seed, flipped at random. The trained network is
`fashion_mnist/vit` (`kdutils.studies.vit`), everything else has its size and its settings. Measured on the test
images, the maps on the first 2,000 of them.

- *other seed*: two networks that differ in nothing but the start and the order of the images, four epochs: how
  far do their answers differ, and how far their attention?
- *probe* (Wiegreffe and Pinter 2019, arXiv:1908.04626, section 3.4): a new network is trained whose attention
  weights are not its own but given: "own image", those that the trained network has for the very image; "mean",
  the same for every image, the trained network's average over 2,000 training images; "uniform", 1/T. Beside
  them "learned", the usual training. Four epochs.
- *adversary* (the same, section 4; Jain and Wallace 2019, arXiv:1902.10186): a copy of the trained network whose
  queries and keys are drawn anew learns to give the answers of the original with other attention weights, by
  KL(original ‖ copy) + λ Σ_blocks (ln 2 − JSD), where JSD is the divergence of the weights, averaged over the
  heads first (heads have no fixed order, so they are not compared one by one). λ = 0 is the control. Two epochs.

Nothing is chosen: every arm is reported. Writes `recorded/attention_probe.csv` and
`recorded/attention_beside.csv` (other seed, adversary).
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import kdutils as kd
from kdutils.data import ImageSet
from kdutils.explain.attention import attention_weights
from kdutils.selection import Split, split
from kdutils.studies import _jobs
from kdutils.studies._record import Record
from kdutils.studies.vit import BATCH, LEARNING_RATE, NAME, SIZE

IMAGES, EPOCHS, ADVERSARY_EPOCHS, MAPS = 10_000, 4, 2, 2_000
SEEDS = range(5)
PROBE_ARMS = ("learned", "own image", "mean", "uniform")
LAMBDAS = {"lambda 0": 0.0, "lambda 1": 1.0}
SHARED: dict[str, Any] = {"batch_size": BATCH, "augment": "flip", "optimizer": "adamw", "lr": LEARNING_RATE}


@contextlib.contextmanager
def given_attention(model: nn.Module, weights: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside the block, the blocks of the transformer `model` use given attention weights instead of their own.

    Args:
        model: as :func:`kdutils.models.vit` builds it.
        weights: gives, for images (N, C, H, W), weights that expand to (depth, N, heads, tokens, tokens).
    """
    given: Tensor

    def start(_model: nn.Module, inputs: tuple[Tensor]) -> None:
        nonlocal given
        given = weights(inputs[0])

    def replace(block: int, _layer: nn.Module, _inputs: Any, own: Tensor) -> Tensor:
        return given[block].expand_as(own)

    with contextlib.ExitStack() as hooks:
        hooks.callback(model.register_forward_pre_hook(start).remove)
        for i, block in enumerate(model.blocks):  # type: ignore[arg-type]
            hooks.callback(block.softmax.register_forward_hook(partial(replace, i)).remove)
        yield


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Jensen–Shannon divergence of the last dimension, in nats: 0 for equal rows, ln 2 for rows that share nothing."""
    middle = ((p + q) / 2).clamp(min=1e-12)
    return (torch.xlogy(p, p / middle) + torch.xlogy(q, q / middle)).sum(-1) / 2


def closeness(weights: Tensor, others: Tensor) -> Tensor:
    """What the adversary lowers: ln 2 − JSD of attention weights (N, heads, tokens, tokens), heads averaged first."""
    return math.log(2) - divergence(weights.mean(1), others.mean(1)).mean()


def disturbed(model: nn.Module, seed: int) -> nn.Module:
    """A copy of `model` whose queries and keys are drawn anew in every block; the values stay."""
    other = copy.deepcopy(model)
    with kd.seeded(seed), torch.no_grad():
        for block in other.blocks:  # type: ignore[union-attr]
            fresh = nn.Linear(block.qkv.in_features, block.qkv.out_features)
            rows = 2 * block.qkv.in_features
            block.qkv.weight[:rows], block.qkv.bias[:rows] = fresh.weight[:rows], fresh.bias[:rows]
    return other


def adversary(base: nn.Module, train: ImageSet, weight: float, seed: int, epochs: int = ADVERSARY_EPOCHS) -> nn.Module:
    """Train a copy of `base` to give its answers with other attention weights; `weight` is λ."""
    other = disturbed(base, seed)
    terms = [
        kd.Term(f"block{i}", closeness, weight, f"blocks.{i}.softmax", f"blocks.{i}.softmax")
        for i in range(len(base.blocks))  # type: ignore[arg-type]
    ]
    kd.distill(
        other, base, train, epochs=epochs, temperature=1, kd_weight=1, ce_weight=0, terms=terms, seed=seed, **SHARED
    )
    return other


def probe(
    base: nn.Module, train: ImageSet, arm: str, seed: int, epochs: int = EPOCHS
) -> tuple[nn.Module, contextlib.AbstractContextManager[None]]:
    """Train a network on the attention weights of one arm; it comes with the context that gives it these weights."""
    with kd.seeded(seed):
        model = kd.models.vit(**SIZE)
    tokens = model.position.shape[1]
    pattern = torch.full((SIZE["depth"], 1, 1, tokens, tokens), 1 / tokens)
    if arm == "mean":
        pattern = attention_weights(base, train[:MAPS].tensors()[0]).mean(1, keepdim=True)

    def weights(images: Tensor) -> Tensor:
        return attention_weights(base, images) if arm == "own image" else pattern

    def given() -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if arm == "learned" else given_attention(model, weights)

    with given():
        kd.fit(model, train, epochs=epochs, seed=seed, **SHARED)
    return model, given()


def beside(base: nn.Module, other: nn.Module, test: ImageSet, maps: int = MAPS) -> dict[str, float]:
    """How far two networks differ, in their answers and in their attention; the floor is the map of another image."""
    images, labels = test[:maps].tensors()
    weights, others = (attention_weights(model, images).mean(2) for model in (base, other))
    ours, theirs = (kd.explain.attribute(model, images, labels, "attention_rollout") for model in (base, other))
    answers = kd.compare(other, base, test)
    return {
        "accuracy": answers["student_accuracy"],
        "base_accuracy": answers["teacher_accuracy"],
        "agreement": answers["agreement"],
        "kl": answers["kl"],
        "divergence": float(divergence(weights, others).mean()),
        "floor_divergence": float(divergence(weights, others.roll(1, 1)).mean()),
        "rollout": float(kd.explain.map_agreement(ours, theirs, "spearman").mean()),
        "floor_rollout": float(kd.explain.map_agreement(ours, theirs.roll(1, 0), "spearman").mean()),
    }


def run(parts: Split, probes: Record, pairs: Record, job: tuple[str, int]) -> None:
    """One arm of one seed, unless it is recorded; "learned" trains a second network too, for "other seed"."""
    arm, seed = job
    if (pairs if arm in LAMBDAS else probes).has(arm=arm, seed=seed):
        return
    base, train = kd.zoo.load(NAME), parts.train.subset(IMAGES, seed=seed)
    if arm in LAMBDAS:
        pairs.add(arm=arm, seed=seed, **beside(base, adversary(base, train, LAMBDAS[arm], seed + 100), parts.test))
        return
    model, given = probe(base, train, arm, seed + 100)  # not the seed that the shipped network started from
    if arm == "learned":
        other, _ = probe(base, train, arm, seed + 200)
        pairs.add(arm="other seed", seed=seed, **beside(model, other, parts.test))
    with given:
        found = kd.evaluate(model, parts.test)
    probes.add(arm=arm, seed=seed, **found)


def main() -> None:
    """Make every run that is not recorded yet."""
    jobs = _jobs.jobs(__doc__)
    probes = Record("attention_probe", keys=("arm", "seed"))
    pairs = Record("attention_beside", keys=("arm", "seed"))
    todo = [(arm, seed) for seed in SEEDS for arm in (*PROBE_ARMS, *LAMBDAS)]
    _jobs.spread(partial(run, split(), probes, pairs), todo, jobs)
    settings: dict[str, Any] = {"model": "vit", **SIZE, "images": IMAGES}
    probes.finish(probes.keys, **settings, epochs=EPOCHS)
    pairs.finish(pairs.keys, **settings, epochs=EPOCHS, adversary_epochs=ADVERSARY_EPOCHS, maps=MAPS)


if __name__ == "__main__":
    main()
