"""Losses as pure functions of tensors, averaged over the batch; on logits in nats, on features without a unit.

Whatever comes in, the mathematics is done in float32 at least, and the result has that type. No gradient
reaches the teacher. Each loss is zero when student equals teacher, except :func:`crd_loss` and the constant
rows and columns of :func:`dist_loss`.

Features can coincide or vanish, and a vector of length zero has no direction. By rule a vector (an image's
features, or the difference of two) no longer than 1e-6 counts as zero: its cosine with anything is 0, and no
gradient goes through it. Published code divides by the length plus next to nothing: gradients of 1e9 and more.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

_TINY = 1e-6


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """The distillation loss T² · KL(softmax(teacher/T) ‖ softmax(student/T)).

    Hinton, Vinyals and Dean 2015 (arXiv:1503.02531), section 2. The factor T² keeps the size of the
    gradient comparable as T changes.

    Args:
        student_logits: (N, K), any float type.
        teacher_logits: (N, K).
        temperature: T > 0, no unit.

    Returns:
        A scalar in nats, the mean over the batch; zero when both give the same distribution.

    Raises:
        ValueError: for shapes that differ or are not (N, K), an empty batch, or a temperature that is
            not a positive finite number.
    """
    student, teacher = _logits(student_logits, teacher_logits)
    check_temperature(temperature)
    return _soft_kl(student, teacher, temperature)


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    kd_weight: float,
    ce_weight: float,
) -> Tensor:
    """The combined loss `kd_weight` · :func:`kd_loss` + `ce_weight` · cross-entropy with the labels.

    Hinton, Vinyals and Dean 2015 (arXiv:1503.02531), section 2. The two weights are free: they need
    not add up to 1.

    Args:
        student_logits: (N, K), any float type.
        teacher_logits: (N, K).
        labels: int64, (N,), values 0 to K − 1.
        temperature: T > 0 of the first term; the second always has T = 1.
        kd_weight: weight of the first term, ≥ 0.
        ce_weight: weight of the second term, ≥ 0.

    Returns:
        A scalar in nats, the mean over the batch.

    Raises:
        ValueError: as :func:`kd_loss`, and for labels of a wrong shape, type or range, a negative
            weight, or two weights of zero.
    """
    student, teacher = _logits(student_logits, teacher_logits)
    check_temperature(temperature)
    check_weights(kd_weight=kd_weight, ce_weight=ce_weight)
    check_labels(labels, student)
    return kd_weight * _soft_kl(student, teacher, temperature) + ce_weight * F.cross_entropy(student, labels)


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    target_weight: float,
    nontarget_weight: float,
) -> Tensor:
    """Decoupled distillation: T² · (`target_weight` · TCKD + `nontarget_weight` · NCKD).

    Zhao et al. 2022 (arXiv:2203.08679), section 3. TCKD is the KL divergence of the two-way choice "the labelled
    class or another", NCKD that of the distribution among the K − 1 others. With p the teacher's probability of
    the label, :func:`kd_loss` of an image is T² · (TCKD + (1 − p) · NCKD): the surer the teacher, the less the
    others count. Here their weight is free. log(1 − p) is a logsumexp over the other classes; the published
    code takes the logarithm of a softmax, which is log 0 for confident logits.

    Args:
        student_logits: (N, K) with K at least 3, any float type.
        teacher_logits: (N, K).
        labels: int64, (N,), values 0 to K − 1.
        temperature: T > 0, no unit.
        target_weight: weight of TCKD, ≥ 0 (α in the paper).
        nontarget_weight: weight of NCKD, ≥ 0 (β in the paper).

    Returns:
        A scalar in nats, the mean over the batch.

    Raises:
        ValueError: as :func:`distillation_loss`, and for fewer than three classes.
    """
    student, teacher = _logits(student_logits, teacher_logits)
    if student.shape[1] < 3:
        raise ValueError(
            "student_logits must have at least 3 classes, so that there are other classes to tell apart, "
            f"got {student.shape[1]}."
        )
    check_temperature(temperature)
    check_weights(target_weight=target_weight, nontarget_weight=nontarget_weight)
    check_labels(labels, student)
    others = torch.arange(student.shape[1] - 1, device=labels.device)
    others = others + (others >= labels[:, None])  # (N, K − 1): every class but the labelled one

    def two_way(logits: Tensor) -> Tensor:
        log_p = F.log_softmax(logits / temperature, dim=1)
        parts = log_p.gather(1, labels[:, None]), log_p.gather(1, others).logsumexp(dim=1, keepdim=True)
        return temperature * torch.cat(parts, dim=1)  # logits whose softmax at T is (p, 1 − p)

    target = _soft_kl(two_way(student), two_way(teacher), temperature)
    nontarget = _soft_kl(student.gather(1, others), teacher.gather(1, others), temperature)
    return target_weight * target + nontarget_weight * nontarget


def dist_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """DIST: T² · (mean over images of 1 − r + mean over classes of 1 − r), r Pearson's correlation.

    Huang et al. 2022 (arXiv:2205.10536). Correlated are the rows and the columns of the two matrices
    softmax(logits/T): per image over the classes (inter-class), per class over the images of the batch
    (intra-class). A constant row or column (its spread at most a millionth of its length, or 1e-15) has r = 0 by
    rule and no gradient, so even an equal student gets 1 for it; in a batch of one image all columns are constant.

    Args:
        student_logits: (N, K), any float type.
        teacher_logits: (N, K).
        temperature: T > 0, no unit.

    Returns:
        A scalar without a unit, from 0 to 4 T².

    Raises:
        ValueError: as :func:`kd_loss`.
    """
    student, teacher = _logits(student_logits, teacher_logits)
    check_temperature(temperature)
    q, p = F.softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1)
    return temperature**2 * ((1 - _pearson(q, p, dim=1)).mean() + (1 - _pearson(q, p, dim=0)).mean())


def average_teachers(
    teacher_logits: Sequence[Tensor],
    *,
    temperature: float,
    average: Literal["probabilities", "logits"] = "probabilities",
) -> Tensor:
    """One teacher out of several: logits whose softmax(·/T) is the average of the teachers.

    `"probabilities"` is the arithmetic mean of softmax(z/T): a class is likely if one teacher holds it likely.
    `"logits"` is the mean of the logits z, whose softmax is the normalised geometric mean of the same
    probabilities: a class is unlikely if one teacher holds it unlikely, and the largest logits weigh most.

    Args:
        teacher_logits: a list of (N, K), one per teacher, any float type.
        temperature: T > 0 at which the average will be used.
        average: `"probabilities"` or `"logits"`.

    Returns:
        (N, K) logits, without gradient; with `"probabilities"`, T times the logarithm of the mean.

    Raises:
        ValueError: for an empty list, shapes that differ or are not (N, K), or an unknown average or temperature.
    """
    if not isinstance(teacher_logits, list | tuple) or not teacher_logits:
        got = "an empty list" if isinstance(teacher_logits, list | tuple) else type(teacher_logits).__name__
        raise ValueError(f"teacher_logits must be a list of at least one (N, K) tensor, got {got}.")
    check_temperature(temperature)
    if average not in ("probabilities", "logits"):
        raise ValueError(f"average must be 'probabilities' or 'logits', got {average!r:.60}.")
    teachers = _alike("(N, K)", None, **{f"teacher_logits[{i}]": each for i, each in enumerate(teacher_logits)})
    for i, each in enumerate(teachers):
        warn_if_probabilities(f"teacher_logits[{i}]", each)
    stacked = torch.stack(teachers).detach()
    if average == "logits":
        return stacked.mean(dim=0)
    log_p = F.log_softmax(stacked / temperature, dim=2)
    return temperature * (log_p.logsumexp(dim=0) - math.log(len(teachers)))


def hint_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """The mean squared difference of two feature maps.

    FitNets: Romero et al. 2015 (arXiv:1412.6550), equation 3; there half the sum, here the mean over all
    entries. A student of another width needs a projector.

    Args:
        student_features: (N, ...), any float type.
        teacher_features: the same shape.

    Returns:
        A scalar in the squared unit of the features.

    Raises:
        ValueError: for shapes that differ, or an empty batch.
    """
    student, teacher = _alike("(N, ...)", None, student_features=student_features, teacher_features=teacher_features)
    return F.mse_loss(student, teacher.detach())


def attention_transfer_loss(student_features: Tensor, teacher_features: Tensor, p: float = 2) -> Tensor:
    """The mean squared difference of where the two networks are active.

    Zagoruyko and Komodakis 2017 (arXiv:1612.03928), section 3.1, in the form of their code. The attention map of
    an image is the sum over channels of |A|^p, flattened and divided by its Euclidean norm; the mean is over
    N · H · W. An image whose activations are all at most 1e-6 has the map zero.

    Args:
        student_features: (N, C, H, W), any float type.
        teacher_features: (N, C', H, W).
        p: the power, ≥ 1; the larger, the more the strongest activation counts.

    Returns:
        A scalar without a unit.

    Raises:
        ValueError: for shapes that are not (N, C, H, W) or differ in more than the channels, or a p below 1.
    """
    pair = _alike("(N, C, H, W)", "NHW", student_features=student_features, teacher_features=teacher_features)
    if not _is_number(p) or p < 1:
        raise ValueError(f"p must be a finite number of at least 1, got {p!r:.60}.")

    def attention(features: Tensor) -> Tensor:
        # The map does not depend on the scale; with the largest activation at 1 no power overflows.
        peak = features.detach().abs().amax(dim=(1, 2, 3), keepdim=True)
        return _unit(_divide(features, peak).abs().pow(p).sum(dim=1).flatten(1), dim=1)

    return F.mse_loss(attention(pair[0]), attention(pair[1].detach()))


def similarity_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Similarity preserving (SP): which images of the batch resemble each other, in both networks.

    Tung and Mori 2019 (arXiv:1907.09682), section 3: G = F Fᵀ of the flattened features, each row divided by its
    Euclidean norm; the loss is the squared Frobenius norm of the difference, divided by N². An image whose
    features are no longer than 1e-6 has a row of zeros.

    Args:
        student_features: (N, ...), any float type.
        teacher_features: (N, ...), the same images; the other axes may differ.

    Returns:
        A scalar without a unit.

    Raises:
        ValueError: for another number of images, fewer than two axes, or an empty batch.
    """
    pair = _alike("(N, ...)", "N", student_features=student_features, teacher_features=teacher_features)

    def similarities(features: Tensor) -> Tensor:
        flat = features.flatten(1)
        return _unit(_products(_unit(flat, dim=1), flat), dim=1)  # the length of the left factor cancels in the row

    return F.mse_loss(similarities(pair[0]), similarities(pair[1].detach()))


def rkd_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Relational distillation (RKD) by distance: how far apart the images lie, in units of the mean distance.

    Park et al. 2019 (arXiv:1904.05068), section 3.2, in the form of their code: the N × N Euclidean distances,
    divided by the mean of the positive ones; smooth-L1 (beta 1), the mean over all N² entries. Coincident images
    have distance 0 without gradient; if the mean is at most 1e-6, all distances count as zero.

    Args:
        student: (N, ...), any float type; flattened to (N, D).
        teacher: (N, ...), the same images; D may differ.

    Returns:
        A scalar without a unit.

    Raises:
        ValueError: for another number of images, fewer than two axes, or an empty batch.
    """
    pair = _alike("(N, ...)", "N", student=student, teacher=teacher)

    def distances(features: Tensor) -> Tensor:
        flat = features.flatten(1)
        d = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")  # exact for close pairs too
        return _divide(d, d.sum() / (d > 0).sum().clamp(min=1))

    return F.smooth_l1_loss(distances(pair[0]), distances(pair[1].detach()))


def rkd_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Relational distillation (RKD) by angle: the triangles that the images of the batch form.

    Park et al. 2019 (arXiv:1904.05068), section 3.2, in the form of their code: for every triple the cosine of
    the angle at i between the unit vectors to j and to k; smooth-L1 (beta 1), the mean over all N³. Two images no
    farther apart than 1e-6 have no direction from one to the other: cosine 0.

    Args:
        student: (N, ...), any float type; flattened to (N, D).
        teacher: (N, ...), the same images; D may differ.

    Returns:
        A scalar without a unit.

    Raises:
        ValueError: as :func:`rkd_distance_loss`, and for more than 512 images, since the memory grows with N³.
    """
    pair = _alike("(N, ...)", "N", student=student, teacher=teacher)
    if len(student) > 512:
        raise ValueError(f"student must have at most 512 images, since the memory grows with N³, got {len(student)}.")

    def cosines(features: Tensor) -> Tensor:
        flat = features.flatten(1)
        directions = _unit(flat[None, :] - flat[:, None], dim=2)  # [i, j] points from i to j
        return _products(directions, directions)

    return F.smooth_l1_loss(cosines(pair[0]), cosines(pair[1].detach()))


def crd_loss(student: Tensor, teacher: Tensor, temperature: float = 0.07) -> Tensor:
    """Contrastive distillation, in-batch form: find the teacher's view of the same image among those of the batch.

    InfoNCE with the student as the anchor: both sides divided by their Euclidean norms, logits = s tᵀ / T,
    cross-entropy with the diagonal. One positive and N − 1 negatives, so it depends on the batch size, is not zero
    for an equal student, and is 0 for a batch of one. This is *not* the loss of Tian et al. 2020
    (arXiv:1910.10699): that one draws 16,384 negatives from a memory bank.

    Args:
        student: (N, ...), any float type; flattened to (N, D).
        teacher: (N, ...), the same images and the same D; a projector sees to it.
        temperature: T > 0, no unit.

    Returns:
        A scalar in nats, the mean over the batch.

    Raises:
        ValueError: for another N or D, fewer than two axes, an empty batch, or a temperature that is not positive.
    """
    pair = _alike("(N, ...)", "N", student=student, teacher=teacher)
    s, t = _alike("(N, D)", None, student=pair[0].flatten(1), teacher=pair[1].flatten(1))
    check_temperature(temperature)
    logits = _products(_unit(s, dim=1), _unit(t.detach(), dim=1)) / temperature
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def map_loss(student_maps: Tensor, teacher_maps: Tensor) -> Tensor:
    """1 − cosine of the two maps of an image, the mean over the images.

    The loss of e²KD (Parchami-Araghi et al. 2024, arXiv:2402.03119); half the squared distance of the maps
    brought to length 1, which is the loss of Jacobian matching (Srinivas & Fleuret 2018,
    arXiv:1803.00443). An image whose
    teacher's map is zero (no longer than 1e-6) teaches nothing and is not counted; a student's zero map has the cosine
    0 and no gradient.

    Args:
        student_maps: (N, ...), any float type.
        teacher_maps: the same shape; no gradient reaches it.

    Returns:
        A scalar without a unit, 0 to 2; zero when both are equal.

    Raises:
        ValueError: for shapes that differ, or an empty batch.
    """
    pair = _alike("(N, ...)", None, student_maps=student_maps, teacher_maps=teacher_maps)
    ours, theirs = pair[0].flatten(1), pair[1].detach().flatten(1)
    lengths = [torch.linalg.vector_norm(each, dim=1, keepdim=True) for each in (ours, theirs)]
    cosines = (_divide(ours, lengths[0]) * _divide(theirs, lengths[1])).sum(1)
    counted = lengths[1][:, 0] > _TINY
    return torch.where(counted, 1 - cosines, 0.0).sum() / counted.sum().clamp(min=1)


def class_map_loss(student_maps: Tensor, teacher_maps: Tensor, size: int = 2) -> Tensor:
    """Class-attention transfer: the mean squared difference of all classes' maps (CAT-KD, Guo et al. 2023).

    arXiv:2304.12777, in the form of their code: pooled to `size` × `size`, each class's map brought to length 1,
    the mean over N · K · size². A class's map no longer than 1e-6 counts as zero.

    Args:
        student_maps: (N, K, H, W) from :func:`kdutils.guided.class_maps`, any float type.
        teacher_maps: (N, K, H', W').
        size: of the pooled map.

    Returns:
        A scalar without a unit.

    Raises:
        ValueError: for another number of images or classes, or a size that is not a positive integer.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"size must be an integer of at least 1, got {size!r:.60}.")
    pair = _alike("(N, K, H, W)", "NK", student_maps=student_maps, teacher_maps=teacher_maps)

    def pooled(maps: Tensor) -> Tensor:
        flat = F.adaptive_avg_pool2d(maps, size).flatten(2)
        return _divide(flat, torch.linalg.vector_norm(flat, dim=2, keepdim=True))

    return F.mse_loss(pooled(pair[0]), pooled(pair[1].detach()))


def outside_share(maps: Tensor, masks: Tensor) -> Tensor:
    """The share of a map's squared length that lies where it must not, the mean over the images.

    Right for the right reasons (Ross et al. 2017, arXiv:1703.03717) without a unit: their penalty, which is
    :func:`kdutils.guided.outside_loss`, also falls when a network becomes less steep everywhere; this one does not.

    Args:
        maps: (N, ..., H, W), any float type, such as the input gradient.
        masks: bool, (N, H, W) or (H, W) for all: True where the map must be zero.

    Returns:
        A scalar, 0 to 1. A map no longer than 1e-6 has the share 0 and no gradient.

    Raises:
        ValueError: for masks that are not bool or do not fit.
    """
    (values,) = _alike("(N, H, ...)", None, maps=maps)
    check_masks(masks, values)
    inside = masks.reshape(-1, *[1] * (values.dim() - 3), *values.shape[-2:])
    length = torch.linalg.vector_norm(values.flatten(1), dim=1)
    unit = _divide(values, length.view(-1, *[1] * (values.dim() - 1)))
    return (unit * inside).square().flatten(1).sum(1).mean()


def check_temperature(temperature: float) -> None:
    """Raise unless `temperature` is a positive finite number."""
    if not _is_number(temperature) or temperature <= 0:
        raise ValueError(f"temperature must be a positive finite number, got {temperature!r:.60}.")


def check_weights(**weights: float) -> None:
    """Raise unless every weight is a finite number ≥ 0 and at least one is above 0."""
    for name, weight in weights.items():
        if not _is_number(weight) or weight < 0:
            raise ValueError(f"{name} must be a finite number of at least 0, got {weight!r:.60}.")
    if not any(weights.values()):
        raise ValueError(
            f"{' and '.join(weights)} are {'both' if len(weights) == 2 else 'all'} 0: nothing would be learned."
        )


def check_labels(labels: Tensor, logits: Tensor) -> None:
    """Raise unless `labels` is int64 of shape (N,) with values 0 to K − 1, for logits (N, K), N at least 1."""
    n, k = logits.shape
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels must be an int64 tensor of shape ({n},), got {type(labels).__name__}.")
    if n == 0:
        raise ValueError("labels is empty: at least one is wanted.")
    if labels.dtype != torch.int64 or labels.shape != (n,):
        raise ValueError(f"labels must be int64 of shape ({n},), got {labels.dtype} {tuple(labels.shape)}.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= k:
        raise ValueError(f"labels must lie in 0 to {k - 1} ({k} classes), got values from {low} to {high}.")


def check_masks(masks: Tensor, maps: Tensor) -> None:
    """Raise unless `masks` is bool of shape (H, W) or (N, H, W), for maps or inputs (N, ..., H, W)."""
    shapes = (len(maps), *maps.shape[-2:]), tuple(maps.shape[-2:])
    if not isinstance(masks, Tensor) or masks.dtype != torch.bool or tuple(masks.shape) not in shapes:
        got = f"{masks.dtype} {tuple(masks.shape)}" if isinstance(masks, Tensor) else f"a {type(masks).__name__}"
        raise ValueError(f"masks must be bool of shape {shapes[0]} or {shapes[1]}, got {got}.")


def warn_if_probabilities(name: str, logits: Tensor) -> None:
    """Warn if all rows of `logits` (N, K) are non-negative and sum to 1: a softmax too many.

    The sum may be off by 2e-3, as bfloat16 rounds. One row alone does that by chance, so there must be two. On a
    GPU nothing is asked: it would have to wait.
    """
    if logits.device.type != "cpu" or len(logits) < 2:
        return
    rows = logits.detach()
    if bool((rows >= 0).all()) and bool(((rows.sum(dim=1, dtype=torch.float64) - 1).abs() < 2e-3).all()):
        warnings.warn(
            f"{name} look like probabilities (every row is non-negative and sums to 1), but logits are wanted: "
            "leave the softmax out.",
            UserWarning,
            stacklevel=4,
        )


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32 if it is of a shorter float type, else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _alike(shape: str, same: str | None, **tensors: Tensor) -> list[Tensor]:
    """The tensors in one type, at least float32, if of that shape and equal in the axes `same` (None: in all)."""
    axes = shape[1:-1].split(", ")
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise ValueError(f"{name} must be a float tensor of shape {shape}, got {type(x).__name__}.")
        rank = x.dim() >= len(axes) if axes[-1] == "..." else x.dim() == len(axes)
        if not rank or not x.is_floating_point() or x.numel() == 0:
            raise ValueError(
                f"{name} must be a float tensor of shape {shape} with N at least 1 and no empty axis, "
                f"got {x.dtype} {tuple(x.shape)}."
            )
    (first, one), *rest = tensors.items()
    for name, x in rest:
        if x.shape != one.shape if same is None else any(x.shape[i] != one.shape[i] for i in map(axes.index, same)):
            wanted = f"the same shape {shape}" if same is None else f"the same {' and '.join(same)} in {shape}"
            raise ValueError(f"{first} and {name} must have {wanted}, got {tuple(one.shape)} and {tuple(x.shape)}.")
    dtype = torch.float64 if any(x.dtype == torch.float64 for x in tensors.values()) else torch.float32
    return [x.to(dtype) for x in tensors.values()]


def _logits(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    student, teacher = _alike("(N, K)", None, student_logits=student_logits, teacher_logits=teacher_logits)
    warn_if_probabilities("student_logits", student)
    warn_if_probabilities("teacher_logits", teacher)
    return student, teacher.detach()


def _soft_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_p, log_q = F.log_softmax(teacher / temperature, dim=1), F.log_softmax(student / temperature, dim=1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2


def _divide(x: Tensor, size: Tensor, floor: Tensor | float = _TINY) -> Tensor:
    """x / size; where the size is at most `floor`, zero with zero gradient."""
    usable = size > floor
    return torch.where(usable, x, 0) / torch.where(usable, size, 1)


def _unit(x: Tensor, dim: int) -> Tensor:
    return _divide(x, torch.linalg.vector_norm(x, dim=dim, keepdim=True))


def _pearson(x: Tensor, y: Tensor, dim: int) -> Tensor:
    def standard(x: Tensor) -> Tensor:
        centred = x - x.mean(dim=dim, keepdim=True)
        size, length = (torch.linalg.vector_norm(each, dim=dim, keepdim=True) for each in (centred, x.detach()))
        return _divide(centred, size, floor=(_TINY * length).clamp(min=1e-15))

    return (standard(x) * standard(y)).sum(dim=dim)


def _products(a: Tensor, b: Tensor) -> Tensor:
    """a bᵀ, also under autocast in the type that came in."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.transpose(-1, -2)
