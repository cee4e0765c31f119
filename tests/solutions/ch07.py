"""Chapter 07: beyond logits."""

import numpy as np
import torch
from scipy import stats
from torch.nn import functional as F


# The map is pooled, not the features (signs would cancel), and the length comes last (pooling changes it).
def exercise_1(student_features, teacher_features):
    def attention(features):
        energy = features.square().sum(dim=1)
        return F.normalize(F.adaptive_avg_pool2d(energy, teacher_features.shape[2:]).flatten(1), dim=1)

    return (attention(student_features) - attention(teacher_features)).square().mean()


# Centring makes the two layers' offsets drop out, the denominator their scales; no channels need to correspond.
def exercise_2(x, y):
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    norm = torch.linalg.matrix_norm
    return norm(x.T @ y) ** 2 / (norm(x.T @ x) * norm(y.T @ y))


# In sorted order: times m, m − 1, …, 1, never falling, never above 1; then back into the order of the rows.
def exercise_3(differences):
    p = stats.ttest_1samp(differences, 0, axis=1).pvalue
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted


# Plausible wrong answers, each with a word of the hint that it gets; the tests use them.
def _attention(features, size, power=2, first=False, last=True):
    if first:
        features = F.adaptive_avg_pool2d(features, size)
    energy = features.abs().pow(power).sum(dim=1)
    return F.normalize(F.adaptive_avg_pool2d(energy, size).flatten(1), dim=1) if last else energy


def _pool_features(s, t):
    size = t.shape[2:]
    return (_attention(s, size, first=True) - _attention(t, size)).square().mean()


def _length_first(s, t):
    energy = F.normalize(s.square().sum(dim=1).flatten(1), dim=1).view(len(s), *s.shape[2:])
    return (F.adaptive_avg_pool2d(energy, t.shape[2:]).flatten(1) - _attention(t, t.shape[2:])).square().mean()


def _no_length(s, t):
    return (F.adaptive_avg_pool2d(s.square().sum(dim=1), t.shape[2:]) - t.square().sum(dim=1)).square().mean()


def _absolute(s, t):
    return (_attention(s, t.shape[2:], power=1) - _attention(t, t.shape[2:], power=1)).square().mean()


def _not_centred(x, y):
    norm = torch.linalg.matrix_norm
    return norm(x.T @ y) ** 2 / (norm(x.T @ x) * norm(y.T @ y))


def _no_maximum(differences):
    p = stats.ttest_1samp(differences, 0, axis=1).pvalue
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = (p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted


WRONG = {
    1: [
        (_pool_features, "not the features"),
        (_length_first, "after pooling"),
        (_no_length, "how strong"),
        (_absolute, "p = 1"),
        (lambda s, t: exercise_1(s, t).detach(), "no gradient"),
    ],
    2: [
        (_not_centred, "Nothing is centred"),
        (lambda x, y: _not_centred(x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)), "dim 0"),
        (lambda x, y: exercise_2(x, y).sqrt(), "square root"),
        (lambda x, y: 1 - exercise_2(x, y), "likeness"),
        (lambda x, y: exercise_2(x, y).detach(), "no gradient"),
    ],
    3: [
        (lambda d: stats.ttest_1samp(d, 0, axis=1).pvalue, "luck"),
        (lambda d: (len(d) * stats.ttest_1samp(d, 0, axis=1).pvalue).clip(max=1), "Bonferroni"),
        (_no_maximum, "running maximum"),
        (lambda d: np.sort(exercise_3(d)), "order of the rows"),
    ],
}
