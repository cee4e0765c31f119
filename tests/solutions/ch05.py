"""Chapter 05: distilling the student."""

import numpy as np
import torch
from scipy import stats
from torch.nn import functional as F


# The runs of a seed share their data and their start, so the difference is taken seed by seed first.
def exercise_1(distilled, alone):
    d = distilled - alone
    half = stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))
    return d.mean(), d.mean() - half, d.mean() + half


# KLDivLoss wants the student's log-probabilities first; "batchmean" divides by the images only. The teacher is a
# constant, so it is detached.
def exercise_2(student_logits, teacher_logits, labels, temperature, kd_weight, ce_weight):
    log_p = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    log_q = F.log_softmax(student_logits / temperature, dim=1)
    soft = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2
    return kd_weight * soft + ce_weight * F.cross_entropy(student_logits, labels)


# One random cycle through each class: image a gets b's soft label, b gets c's, and the last gets a's.
def exercise_3(labels, seed):
    generator = torch.Generator().manual_seed(seed)
    order = torch.arange(len(labels))
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        cycle = rows[torch.randperm(len(rows), generator=generator)]
        order[cycle] = cycle.roll(1)
    return order


# Plausible wrong answers, each with a word of the hint that it gets; the tests use them.
def _normal(distilled, alone):
    d = distilled - alone
    half = 1.96 * d.std(ddof=1) / np.sqrt(len(d))
    return d.mean(), d.mean() - half, d.mean() + half


def _unpaired(distilled, alone):
    half = 2.14 * np.sqrt((distilled.var(ddof=1) + alone.var(ddof=1)) / len(alone))
    mean = distilled.mean() - alone.mean()
    return mean, mean - half, mean + half


def _population(distilled, alone):
    d = distilled - alone
    half = stats.t.ppf(0.975, len(d) - 1) * d.std() / np.sqrt(len(d))
    return d.mean(), d.mean() - half, d.mean() + half


def _loss(scale, swap=False, hot=1.0):
    def loss(student_logits, teacher_logits, labels, temperature, kd_weight, ce_weight):
        pair = (teacher_logits, student_logits) if swap else (student_logits, teacher_logits)
        log_q, log_p = (F.log_softmax(z / temperature, dim=1) for z in pair)
        soft = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * scale(temperature)
        return kd_weight * soft + ce_weight * F.cross_entropy(student_logits / hot, labels)

    return loss


def _with(soft):
    """The combined loss with another soft part, a function of (student's logits, teacher's logits, temperature)."""

    def loss(student_logits, teacher_logits, labels, temperature, kd_weight, ce_weight):
        given = soft(student_logits, teacher_logits.detach(), temperature)
        return kd_weight * given + ce_weight * F.cross_entropy(student_logits, labels)

    return loss


def _kl(zs, zt, T):
    return T**2 * F.kl_div((zs / T).log_softmax(1), (zt / T).softmax(1), reduction="batchmean")


def _written_out(zs, zt, T, tiny=0.0):
    p, q = (zt / T).softmax(1), (zs / T).softmax(1)
    return T**2 * (p * ((p + tiny) / (q + tiny)).log()).sum(1).mean()


def _half_detached(zs, zt, T):
    z = zs / T
    log_q = z - z.detach().logsumexp(1, keepdim=True)
    return T**2 * F.kl_div(log_q, (zt / T).softmax(1), reduction="batchmean")


def _given_away(zs, zt, labels, T, kd_weight, ce_weight):
    return exercise_2(zs, zt, labels, T, 1 - ce_weight - 0.1, ce_weight)


def _hard_detached(zs, zt, labels, T, kd_weight, ce_weight):
    return kd_weight * _kl(zs, zt.detach(), T) + ce_weight * F.cross_entropy(zs.detach(), labels)


WRONG = {
    1: [
        (_normal, "Student's t"),
        (_unpaired, "paired"),
        (_population, "ddof=1"),
        (lambda distilled, alone: exercise_1(alone, distilled), "sign"),
    ],
    2: [
        (_loss(lambda T: 1), "T²"),
        (_loss(lambda T: T**2 / 10), "batchmean"),
        (_loss(lambda T: T**2, swap=True), "swapped"),
        (_loss(lambda T: T**2, hot=4.0), "no temperature"),
        (_loss(lambda T: 1 / 10), "too: use batchmean"),
        (_loss(lambda T: T**2), "flows to the teacher"),
        (lambda zs, zt, y, T, a, b: exercise_2(zs, zt, y, T, b, a), "weights are swapped"),
        (lambda zs, zt, y, T, a, b: exercise_2(zs, zt, y, 4.0, a, b), "at T = 4 but not"),
        (_given_away, "0.7 and 0.2"),
        (_with(lambda zs, zt, T: _kl(zs.detach(), zt, T)), "of the soft part reaches"),
        (_hard_detached, "of the hard part reaches"),
        (_with(_half_detached), "wrong gradient"),
        (_with(_written_out), "±1000"),
        (_with(lambda zs, zt, T: _written_out(zs, zt, T, 1e-12)), "±1000"),
        (
            _with(lambda zs, zt, T: T**2 * F.kl_div((zs / T).softmax(1), (zt / T).softmax(1), reduction="batchmean")),
            "log-prob",
        ),
        (_with(lambda zs, zt, T: T**2 * F.cross_entropy(zs / T, (zt / T).softmax(1))), "cross-entropy"),
    ],
    3: [
        (lambda labels, seed: torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)), "class"),
        (lambda labels, seed: torch.arange(len(labels)), "keeps its own"),
        (lambda labels, seed: exercise_3(labels, 0), "seed"),
        (lambda labels, seed: torch.zeros(len(labels), dtype=torch.long), "permutation"),
    ],
}
