"""Checks of chapter 08."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kdutils import models
from kdutils._base import seeded


def exercise_1(answer: Callable[..., Any]) -> str | None:
    """How far the teachers are apart, per image: the constant of the identity."""
    generator = torch.Generator().manual_seed(0)
    teachers = [3 * torch.randn(6, 10, generator=generator) for _ in range(4)]
    temperature = 2.0
    got = answer([z.clone() for z in teachers], temperature)
    if not isinstance(got, Tensor):
        return "Return a tensor with one number per image."
    log_p = torch.stack([(z.double() / temperature).log_softmax(1) for z in teachers])  # (M, N, K)
    p, middle = log_p.exp(), log_p.exp().mean(0).log()
    each = (p * (log_p - middle)).sum(2)  # (M, N): KL of each teacher from the average
    right = each.mean(0)
    if got.shape == () and torch.isclose(got.double(), right.mean(), rtol=1e-4):
        return "That is the mean over the images: return one number per image, shape (N,)."
    if got.shape != right.shape:
        return f"Return one number per image, shape ({len(right)},): the mean is over teachers, the sum over classes."
    got = got.double()
    if torch.allclose(got, right, rtol=1e-3, atol=1e-5):
        return None
    hot = torch.stack([z.double().log_softmax(1) for z in teachers])
    hot_middle = hot.exp().mean(0).log()
    geometric = log_p.mean(0).log_softmax(1)

    entropy = -(middle.exp() * middle).sum(1)

    def mean_kl(a: Tensor, b: Tensor) -> Tensor:
        return (a.exp() * (a - b)).sum(-1).mean(0)

    hints = {
        "The temperature is missing: the soft labels are softmax(z/T).": mean_kl(hot, hot_middle),
        "That is the sum over the teachers; the identity has their mean.": each.sum(0),
        "The two sides are swapped: it is KL(teacher ‖ average), not KL(average ‖ teacher).": mean_kl(middle, log_p),
        "You averaged the logits: the middle of this identity is the mean of the probabilities.": mean_kl(
            log_p, geometric
        ),
        "That is the entropy of the average; take the mean entropy of the teachers away.": entropy,
        "The mean over the classes is ten times too small: a divergence is a sum over the classes.": right / 10,
    }
    for hint, wrong in hints.items():
        if torch.allclose(got, wrong, rtol=1e-3, atol=1e-5):
            return hint
    if bool((got < -1e-4).any()):
        return "A divergence is never negative: check the sign and the order of the two distributions."
    return "Not yet: the mean over the teachers of KL(p_i ‖ p̄), with p̄ the mean of the p_i at temperature T."


def exercise_2(answer: Callable[..., Any]) -> str | None:
    """The losses of several students that teach each other."""
    generator = torch.Generator().manual_seed(0)
    temperature = 2.0
    logits = [(2 * torch.randn(6, 10, generator=generator).double()).requires_grad_() for _ in range(3)]
    labels = torch.randint(10, (6,), generator=generator)
    got = answer(list(logits), labels, temperature)
    if not isinstance(got, list | tuple) or len(got) != len(logits):
        return f"Return a list with one loss per student: here {len(logits)}."
    if not all(isinstance(each, Tensor) and each.dim() == 0 for each in got):
        return "Each loss is one number, as a tensor: the mean over the batch."

    def kl(p: Tensor, q: Tensor) -> Tensor:
        p, q = (p / temperature).log_softmax(1), (q / temperature).log_softmax(1)
        return (p.exp() * (p - q)).sum(1).mean()

    others = [[j for j in range(len(logits)) if j != i] for i in range(len(logits))]
    with torch.no_grad():
        hard = [torch.nn.functional.cross_entropy(z, labels) for z in logits]
        soft = [sum(kl(logits[j], logits[i]) for j in others[i]) for i in range(len(logits))]
        back = [sum(kl(logits[i], logits[j]) for j in others[i]) for i in range(len(logits))]
    t2, m = temperature**2, len(logits) - 1

    def same(scale: float, parts: list[Any]) -> bool:
        return all(torch.isclose(g, h + scale * s, rtol=1e-6) for g, h, s in zip(got, hard, parts, strict=True))

    if same(t2, soft):
        return "That is the sum over the others: divide by their number, or more peers mean less weight for the labels."
    if same(t2 / (m + 1), soft):
        return "Divide by the number of the others, not by that of all students: nobody teaches oneself."
    if same(1 / m, soft):
        return "The factor T² is missing in the soft part."
    if same(t2 / m, back):
        return "The two sides are swapped: student i is to learn from student j, so it is KL(student j ‖ student i)."
    if not same(t2 / m, soft):
        return "Student i's loss: cross-entropy + T² · mean over the others of KL(student j ‖ student i) at T."
    for i, loss in enumerate(got):
        grads = torch.autograd.grad(loss, logits, retain_graph=True, allow_unused=True)
        if any(g is not None and bool(g.abs().max() > 0) for j, g in enumerate(grads) if j != i):
            return "The values are right, but a gradient reaches the peer that teaches: detach its logits."
        if grads[i] is None:
            return "No gradient reaches the student itself: detach the others' logits only."
        p = [(z.detach() / temperature).softmax(1) for z in logits]
        pull = sum((p[i] - p[j]) for j in others[i]) / m * temperature
        want = ((logits[i].detach().softmax(1) - torch.nn.functional.one_hot(labels, 10)) + pull) / len(labels)
        if not torch.allclose(grads[i], want, rtol=1e-6, atol=1e-9):
            return "The values are right, but the student's own gradient is not: detach the others' logits only."
    return None


def exercise_3(answer: Callable[..., Any]) -> str | None:
    """The weights of a shallower ResNet from chosen blocks of a deeper one."""
    with seeded(0):
        teacher, student = models.resnet(20, width=4), models.resnet(14, width=4)
    # Batch norm at its start has the same numbers in every block: give each tensor its own.
    with torch.no_grad():
        for i, (name, value) in enumerate(teacher.state_dict().items()):
            value.copy_(torch.full_like(value, i) if "num_batches" in name else value + 0.01 * i)
    state, wanted = teacher.state_dict(), student.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    got = answer(dict(state), [0, 2])
    if not isinstance(got, dict) or not all(isinstance(value, Tensor) for value in got.values()):
        return "Return a dict from names to tensors, as state_dict() gives it."
    if any(not torch.equal(value, before[name]) for name, value in state.items()):
        return "The teacher's own tensors were changed: make a new dict and leave them alone."
    missing, extra = [n for n in wanted if n not in got], [n for n in got if n not in wanted]
    if any(name.startswith("stage1.2") for name in extra):
        return "Block 2 of the teacher is to be block 1 of the student: rename it."
    outside = [name for name in missing if not name.startswith("stage")]
    if any("weight" in name for name in outside):
        return f"{outside[0]} is missing: the stem and the head are copied, too."
    if any("running" in name or "num_batches" in name for name in missing):
        return "The statistics of batch norm (running_mean, running_var, num_batches_tracked) are missing."
    if missing or extra:
        what = "missing" if missing else "too many"
        return f"The names are not those of a ResNet-14: {(missing or extra)[0]} is {what}."
    for name, value in got.items():
        stage, block, rest = (*name.split(".", 2), "", "")[:3]
        source = f"{stage}.{[0, 2][int(block)]}.{rest}" if name.startswith("stage") else name
        if value.shape != before[source].shape or not torch.equal(value, before[source]):
            if name.startswith("stage") and torch.equal(value, before[name]):
                return f"{name} comes from block {block} of the teacher; keep asks for the blocks 0 and 2."
            return f"{name} does not hold the numbers of the teacher's {source}."
    if any(value.data_ptr() == state[n].data_ptr() for value in got.values() for n in state):
        return "The tensors share their memory with the teacher's: clone them, or training the one changes the other."
    other = answer(dict(state), [0, 1])
    if any(n.startswith("stage2.1") and not torch.equal(v, before[n]) for n, v in other.items()):
        return "keep is not read: with [0, 1] the first two blocks of each stage are wanted."
    return None
