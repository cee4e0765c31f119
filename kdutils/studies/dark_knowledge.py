"""What does a soft label hold that a hard one lacks? Two studies of the book's student.

    python -m kdutils.studies.dark_knowledge

Every run trains `tiny_cnn()` for about 400 steps of 128 flipped images, drawn as 10,000 of the training
images; the teacher's logits are computed once. Measured after the last step.

- *left out* (Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 3): every image of one class is
  taken out of the transfer set. "hard" learns the labels of what is left, "soft" only the teacher's soft
  labels of the same images. Measured as it is, and with a constant added to the logit of the class that
  was left out. The constant is the one with the best accuracy on the 5,000 *validation* images, for both
  arms alike.
- *same entropy*: "hard", "soft", "smoothed" (the label, smoothed image by image until it is exactly as
  uncertain as the teacher's soft label of that image), "class mean" (the mean soft label of the class:
  what is known of the class alone) and "permuted" (the soft label of another image of the class: the same
  knowledge of the class, and the wrong knowledge of the image).

Settings are those that `kdutils.studies.students` chose on validation images, the temperature 4. A seed
stands for the draw of the training images, the start and the order, the same in every arm. Writes
`recorded/dark_knowledge_left_out.csv` and `recorded/dark_knowledge_same_entropy.csv`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

import kdutils as kd
from kdutils.data import ImageSet
from kdutils.metrics import compare_logits, evaluate_logits, fit_temperature, logits_and_labels
from kdutils.studies import _jobs
from kdutils.studies._record import FOLDER, Record
from kdutils.studies.students import Lab, shuffle_within_classes

STEPS, BATCH, IMAGES = 400, 128, 10_000
TEMPERATURE, LEARNING_RATE = 4.0, 0.2
LEFT_OUT_SEEDS, ENTROPY_SEEDS = range(4), range(8)
LEFT_OUT_ARMS = ("hard", "soft")
ENTROPY_ARMS = ("hard", "smoothed", "class mean", "permuted", "soft")
BIASES = torch.arange(-80, 241) / 8  # -10 to 30 in steps of an eighth; what is added to one logit


def transfer_set(lab: Lab, seed: int, left_out: int | None) -> tuple[ImageSet, Tensor]:
    """The images that a seed draws, and their stored logits (V, N, K), without those of class `left_out`."""
    rows = torch.randperm(len(lab.train), generator=torch.Generator().manual_seed(seed))[:IMAGES]
    if left_out is not None:
        rows = rows[lab.train.labels[rows] != left_out]
    return lab.train[rows], lab.soft[:, rows]


def smooth_to_entropy(labels: Tensor, entropy: Tensor, classes: int) -> Tensor:
    """Smoothed labels (..., N, K): share 1 − ε on the label, ε spread over all K, each with the entropy asked for.

    Args:
        labels: int64, (N,).
        entropy: (..., N), nats, 0 to log K.
        classes: K.
    """
    low, high = torch.zeros_like(entropy).double(), torch.ones_like(entropy).double()
    for _ in range(60):  # entropy rises with ε, so halve the interval until it is as short as doubles can tell
        middle = (low + high) / 2
        rest = middle / classes
        top = 1 - middle + rest
        found = -(torch.xlogy(top, top) + (classes - 1) * torch.xlogy(rest, rest))
        low, high = torch.where(found < entropy, middle, low), torch.where(found < entropy, high, middle)
    share = ((low + high) / 2)[..., None]
    return (1 - share) * F.one_hot(labels, classes) + share / classes


def smoothed_logits(soft: Tensor, labels: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Stored logits (V, N, K) whose softmax(·/T) is the label, smoothed to the entropy of softmax(soft/T)."""
    log_p = (soft.double() / temperature).log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return (temperature * smooth_to_entropy(labels, entropy, soft.shape[-1]).log()).float()


def class_mean_logits(soft: Tensor, labels: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Stored logits (V, N, K) whose softmax(·/T) is the mean of softmax(soft/T) over the image's class."""
    p = (soft.double() / temperature).softmax(-1)
    means = torch.stack([p[:, labels == label].mean((0, 1)) for label in range(soft.shape[-1])])
    return (temperature * means.log())[labels].float().expand_as(soft)


def student(lab: Lab, arm: str, seed: int, left_out: int | None = None) -> nn.Module:
    """Train one student of one arm; `left_out` is the class that its transfer set lacks."""
    train, soft = transfer_set(lab, seed, left_out)
    with kd.seeded(seed):
        model = kd.models.tiny_cnn()
    epochs = max(1, round(STEPS / math.ceil(len(train) / BATCH)))
    shared: dict[str, Any] = {"epochs": epochs, "augment": "flip", "seed": seed, "lr": LEARNING_RATE}
    if arm == "hard":
        kd.fit(model, train, batch_size=BATCH, **shared)
        return model
    if arm == "permuted":
        soft = soft[:, shuffle_within_classes(train.labels, seed)]
    elif arm == "class mean":
        soft = class_mean_logits(soft, train.labels)
    elif arm == "smoothed":
        soft = smoothed_logits(soft, train.labels)
    kd.distill(model, soft, train, batch_size=BATCH, temperature=TEMPERATURE, kd_weight=1, ce_weight=0, **shared)
    return model


def choose_bias(logits: Tensor, labels: Tensor, left_out: int, biases: Tensor = BIASES) -> float:
    """What to add to the logit of class `left_out` for the best accuracy; the smallest change among equals.

    Call it with *validation* logits (N, K) and labels (N,).
    """
    accuracy = torch.stack([(add_bias(logits, left_out, float(b)).argmax(1) == labels).double().mean() for b in biases])
    best = biases[accuracy == accuracy.max()]
    return float(best[best.abs().argmin()])


def add_bias(logits: Tensor, left_out: int, bias: float) -> Tensor:
    """`logits` (N, K) with `bias` added to column `left_out`."""
    return logits + bias * F.one_hot(torch.tensor(left_out), logits.shape[1])


def recall(logits: Tensor, labels: Tensor, label: int) -> float:
    """The share of the images of class `label` that are recognised."""
    return float((logits[labels == label].argmax(1) == label).double().mean())


def auc(logits: Tensor, labels: Tensor, label: int) -> float:
    """How often an image of class `label` has a larger margin for it than another image; 0.5 is chance.

    The margin is the logit of `label` minus the largest other one. No bias can change this number.
    """
    others = logits.clone()
    others[:, label] = -torch.inf
    margin, of_class = (logits[:, label] - others.max(1).values).numpy(), (labels == label).numpy()
    n, m = of_class.sum(), (~of_class).sum()
    return float(stats.mannwhitneyu(margin[of_class], margin[~of_class]).statistic / (n * m))


def measure_left_out(lab: Lab, arm: str, left_out: int, seed: int) -> dict[str, float]:
    """One run of the first study."""
    model = student(lab, arm, seed, left_out)
    bias = choose_bias(*logits_and_labels(model, lab.validation), left_out)
    logits, labels = logits_and_labels(model, lab.test)
    corrected = add_bias(logits, left_out, bias)
    return {
        "accuracy": float((logits.argmax(1) == labels).double().mean()),
        "recall": recall(logits, labels, left_out),
        "bias": bias,
        "corrected_accuracy": float((corrected.argmax(1) == labels).double().mean()),
        "corrected_recall": recall(corrected, labels, left_out),
        "auc": auc(logits, labels, left_out),
        "n": len(labels),
    }


def measure_entropy(lab: Lab, arm: str, seed: int) -> dict[str, float]:
    """One run of the second study."""
    model = student(lab, arm, seed)
    fitted = fit_temperature(*logits_and_labels(model, lab.validation))
    logits, labels = logits_and_labels(model, lab.test)
    near = compare_logits(logits, lab.teacher_test, labels)
    return {
        **evaluate_logits(logits, labels),
        "fitted_temperature": fitted,
        "fitted_nll": evaluate_logits(logits / fitted, labels)["nll"],
        **{key: near[key] for key in ("agreement", "agreement_on_teacher_errors", "kl")},
    }


STUDIES: dict[str, tuple[Callable[..., dict[str, float]], tuple[str, ...]]] = {
    "dark_knowledge_left_out": (measure_left_out, ("left_out", "arm", "seed")),
    "dark_knowledge_same_entropy": (measure_entropy, ("arm", "seed")),
}
Run = tuple[str, dict[str, Any]]  # name of the study, and what the run is called there


def runs() -> list[Run]:
    """Every run of both studies; they are independent of one another."""
    left_out, entropy = STUDIES
    return [
        (left_out, {"left_out": k, "arm": arm, "seed": seed})
        for seed in LEFT_OUT_SEEDS
        for k in range(10)
        for arm in LEFT_OUT_ARMS
    ] + [(entropy, {"arm": arm, "seed": seed}) for seed in ENTROPY_SEEDS for arm in ENTROPY_ARMS]


def do(lab: Lab, run: Run, folder: Path = FOLDER) -> None:
    """Make one run and record it, unless it is recorded."""
    name, settings = run
    measure, keys = STUDIES[name]
    record = Record(name, keys, folder)
    if not record.has(**settings):
        record.add(**settings, **measure(lab, **settings))


def main() -> None:
    """Run what is not recorded yet."""
    jobs = _jobs.jobs(__doc__)
    waiting = [(name, run) for name, run in runs() if not Record(name, STUDIES[name][1]).has(**run)]
    if waiting:
        _jobs.spread(partial(do, Lab()), waiting, jobs)
    facts = {
        "student": "tiny_cnn()",
        "teacher": kd.zoo.card("fashion_mnist/resnet14")["sha256"],
        "images": IMAGES,
        "steps": STEPS,
        "batch": BATCH,
        "temperature": TEMPERATURE,
        "lr": LEARNING_RATE,
    }
    for name, (_, keys) in STUDIES.items():
        Record(name, keys).finish(keys, **facts)


if __name__ == "__main__":
    main()
