"""The losses beyond kd_loss: against plain float64 NumPy, by hand, and where they could break (zeros, ties, size)."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp, rel_entr, softmax
from scipy.stats import ortho_group, pearsonr
from torch import Tensor
from torch.nn import functional as F

from kdutils import losses
from tests import common  # noqa: F401  (sets the Hypothesis profile)

Array = NDArray[np.float64]
SQRT_HALF = math.sqrt(0.5)


# The references: loops over images, pairs and triples, written from the papers.


def huber(x: float) -> float:
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def hint_reference(s: Array, t: Array) -> float:
    return sum((a - b) ** 2 for a, b in zip(s.flat, t.flat, strict=True)) / s.size


def attention_reference(s: Array, t: Array, p: float = 2) -> float:
    total = 0.0
    for one, other in zip(s, t, strict=True):
        maps = [sum(abs(channel) ** p for channel in image) for image in (one, other)]
        unit = [each / math.sqrt((each**2).sum()) for each in maps]
        total += ((unit[0] - unit[1]) ** 2).sum()
    return total / (len(s) * s.shape[2] * s.shape[3])


def similarity_reference(s: Array, t: Array) -> float:
    def rows(x: Array) -> list[Array]:
        gram = [np.array([(a * b).sum() for b in x]) for a in x]
        return [row / math.sqrt((row**2).sum()) for row in gram]

    return sum(((a - b) ** 2).sum() for a, b in zip(rows(s), rows(t), strict=True)) / len(s) ** 2


def distance_reference(s: Array, t: Array) -> float:
    def distances(x: Array) -> Array:
        d = np.array([math.sqrt(((a - b) ** 2).sum()) for a, b in itertools.product(x, x)])
        return d / d[d > 0].mean()

    return sum(map(huber, distances(s) - distances(t))) / len(s) ** 2


def angle_reference(s: Array, t: Array) -> float:
    def cosine(x: Array, i: int, j: int, k: int) -> float:
        to_j, to_k = x[j] - x[i], x[k] - x[i]
        length = math.sqrt((to_j**2).sum() * (to_k**2).sum())
        return (to_j * to_k).sum() / length if length else 0.0

    triples = itertools.product(range(len(s)), repeat=3)
    return sum(huber(cosine(s, *each) - cosine(t, *each)) for each in triples) / len(s) ** 3


def crd_reference(s: Array, t: Array, temperature: float = 0.07) -> float:
    total = 0.0
    for i, anchor in enumerate(s):
        scores = [(anchor * v).sum() / math.sqrt((anchor**2).sum() * (v**2).sum()) / temperature for v in t]
        total += logsumexp(scores) - scores[i]
    return total / len(s)


def decoupled(s: Array, t: Array, labels: Array, temperature: float) -> tuple[Array, Array, Array]:
    """TCKD, NCKD and the teacher's probability of the label, per image, without T²."""
    rows = []
    for one, other, y in zip(s / temperature, t / temperature, labels, strict=True):
        q, p = softmax(one), softmax(other)
        binary = rel_entr(p[y], q[y]) + rel_entr(np.delete(p, y).sum(), np.delete(q, y).sum())
        among = rel_entr(softmax(np.delete(other, y)), softmax(np.delete(one, y))).sum()
        rows.append((binary, among, p[y]))
    return tuple(np.array(rows).T)  # type: ignore[return-value]


def dist_reference(s: Array, t: Array, temperature: float = 1.0) -> float:
    q, p = softmax(s / temperature, axis=1), softmax(t / temperature, axis=1)
    inter = np.mean([1 - pearsonr(a, b).statistic for a, b in zip(q, p, strict=True)])
    intra = np.mean([1 - pearsonr(a, b).statistic for a, b in zip(q.T, p.T, strict=True)])
    return temperature**2 * (inter + intra)


def labels_for(logits: Array | Tensor) -> Tensor:
    n, k = logits.shape
    return (torch.arange(n) * 2 + 1) % k


def dkd(s: Tensor, t: Tensor, temperature: float = 3.0, target: float = 1.0, nontarget: float = 6.0) -> Tensor:
    weights = {"temperature": temperature, "target_weight": target, "nontarget_weight": nontarget}
    return losses.dkd_loss(s, t, labels_for(s), **weights)


def dkd_reference(s: Array, t: Array) -> float:
    binary, among, _ = decoupled(s, t, labels_for(s).numpy(), 3.0)
    return float(9 * (binary + 6 * among).mean())


@dataclass
class Case:
    loss: Callable[..., Tensor]
    reference: Callable[..., float]
    student: tuple[int, ...]  # the shape behind N
    teacher: tuple[int, ...]
    zero: bool = True  # for an equal student

    def draw(self, n: int, seed: int) -> tuple[Array, Array]:
        rng = np.random.default_rng(seed)
        return rng.normal(size=(n, *self.student)) ** 3, rng.normal(size=(n, *self.teacher)) ** 3


MAPS, NARROW = (3, 2, 4), (5, 2, 4)
FEATURES = {
    "hint": Case(losses.hint_loss, hint_reference, MAPS, MAPS),
    "attention": Case(losses.attention_transfer_loss, attention_reference, MAPS, NARROW),
    "attention, p = 3.5": Case(
        lambda s, t: losses.attention_transfer_loss(s, t, 3.5),
        lambda s, t: attention_reference(s, t, 3.5),
        MAPS,
        NARROW,
    ),
    "similarity": Case(losses.similarity_loss, similarity_reference, MAPS, (6,)),
    "distance": Case(losses.rkd_distance_loss, distance_reference, (7,), MAPS),
    "angle": Case(losses.rkd_angle_loss, angle_reference, MAPS, (6,)),
    "crd": Case(losses.crd_loss, crd_reference, (6,), (6,), zero=False),
    "crd, maps": Case(
        lambda s, t: losses.crd_loss(s, t, 0.5), lambda s, t: crd_reference(s, t, 0.5), MAPS, MAPS, zero=False
    ),
}
LOGITS = {
    "dkd": Case(dkd, dkd_reference, (6,), (6,)),
    "dist": Case(losses.dist_loss, dist_reference, (6,), (6,)),
    "dist, T = 3": Case(lambda s, t: losses.dist_loss(s, t, 3.0), lambda s, t: dist_reference(s, t, 3.0), (6,), (6,)),
}
ALL = FEATURES | LOGITS
every = pytest.mark.parametrize("name", ALL)
every_feature_loss = pytest.mark.parametrize("name", FEATURES)


def tensor(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gradient(loss: Callable[..., Tensor], student: Tensor, teacher: Tensor) -> tuple[float, Tensor]:
    student = student.detach().clone().requires_grad_()
    value = loss(student, teacher)
    (found,) = torch.autograd.grad(value, student)
    return float(value.detach()), found


# Against the references


@every
@given(n=st.integers(3, 6), seed=st.integers(0, 2**31))  # of two images, all distances are alike
def test_a_loss_equals_its_float64_reference(name: str, n: int, seed: int) -> None:
    case = ALL[name]
    student, teacher = case.draw(n, seed)
    reference = case.reference(student, teacher)
    found = float(case.loss(torch.from_numpy(student), torch.from_numpy(teacher)))
    assert abs(found - reference) <= 1e-10 * max(1, abs(reference))
    assert reference > 1e-6  # so that a loss of nothing but zeros would be found out


def test_the_hint_loss_by_hand() -> None:
    assert float(losses.hint_loss(tensor([1, 2], [3, 4]), tensor([0, 0], [0, 4]))) == (1 + 4 + 9) / 4


def test_the_attention_loss_by_hand() -> None:
    # Student: one channel (3, 3), so (1, 1)/√2. Teacher: channels (1, 0) and (−1, 0), squares (2, 0), so (1, 0).
    student, teacher = tensor([[[3, 3]]]), tensor([[[1, 0]], [[-1, 0]]])
    found = float(losses.attention_transfer_loss(student, teacher))
    assert found == pytest.approx(((1 - SQRT_HALF) ** 2 + 0.5) / 2, rel=1e-14)


def test_the_similarity_loss_by_hand() -> None:
    # Student: G = [[1, 2], [2, 4]], both rows (1, 2)/√5. Teacher: orthogonal images, rows (1, 0) and (0, 1).
    found = float(losses.similarity_loss(tensor([1, 0, 0], [2, 0, 0]), tensor([5, 0], [0, 3])))
    assert found == pytest.approx(((2 - 2 / math.sqrt(5)) + (2 - 4 / math.sqrt(5))) / 4, rel=1e-14)


def test_the_distance_loss_by_hand() -> None:
    # Points 0, 1, 3: distances 1, 3, 2 over their mean 2. Points 0, 1, 2: 1, 2, 1 over 4/3. Two differ, by 1/4, twice.
    found = float(losses.rkd_distance_loss(tensor([0], [1], [3]), tensor([0, 7], [1, 7], [2, 7])))
    assert found == pytest.approx(4 * (0.25**2 / 2) / 9, rel=1e-14)


def test_the_angle_loss_by_hand() -> None:
    # Cosines at the three corners: 0, √½, √½ (a right angle), and 1, −1, 1 (on a line); each occurs twice in 27.
    found = float(losses.rkd_angle_loss(tensor([0, 0], [1, 0], [0, 1]), tensor([0, 0], [1, 0], [2, 0])))
    corners = 0.5 + (1 + SQRT_HALF - 0.5) + (1 - SQRT_HALF) ** 2 / 2
    assert found == pytest.approx(2 * corners / 27, rel=1e-14)


def test_the_contrastive_loss_by_hand() -> None:
    student, teacher = tensor([2, 0], [0, 3]), tensor([5, 0], [0, 7])  # cosines: the identity
    assert float(losses.crd_loss(student, teacher, 0.5)) == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-14)
    assert float(losses.crd_loss(student, teacher)) == pytest.approx(math.log(1 + math.exp(-1 / 0.07)), rel=1e-9)


def test_the_decoupled_loss_by_hand() -> None:
    # Label 0. Two-way: (1/2, 1/2) against (1/4, 3/4). Among the others: (1/2, 1/2) against (1/3, 2/3). T = 2.
    student, teacher = 2 * tensor([1 / 4, 1 / 4, 1 / 2]).log(), 2 * tensor([1 / 2, 1 / 4, 1 / 4]).log()
    weights = {"temperature": 2, "target_weight": 0.5, "nontarget_weight": 8}
    found = float(losses.dkd_loss(student, teacher, torch.tensor([0]), **weights))
    binary, among = (math.log(2) + math.log(2 / 3)) / 2, (math.log(3 / 2) + math.log(3 / 4)) / 2
    assert found == pytest.approx(4 * (0.5 * binary + 8 * among), rel=1e-13)


def test_the_dist_loss_by_hand() -> None:
    # Less the mean, times 30: (5, −1, −4) and (−4, −1, 5), so r = −39/42. One image: every column is constant, r = 0.
    student, teacher = 3 * tensor([0.2, 0.3, 0.5]).log(), 3 * tensor([0.5, 0.3, 0.2]).log()
    assert float(losses.dist_loss(student, teacher, 3.0)) == pytest.approx(9 * (1 + 13 / 14 + 1), rel=1e-13)


def test_the_average_of_two_teachers_by_hand() -> None:
    # (1/2, 1/2) and (9/10, 1/10): arithmetic (0.7, 0.3); geometric √0.45 to √0.05, that is, 3 to 1.
    for temperature in (1.0, 4.0):
        pair = [temperature * tensor([0.5, 0.5]).log(), temperature * tensor([0.9, 0.1]).log()]
        for average, wanted in (("probabilities", (0.7, 0.3)), ("logits", (0.75, 0.25))):
            found = losses.average_teachers(pair, temperature=temperature, average=average)  # type: ignore[arg-type]
            np.testing.assert_allclose((found / temperature).softmax(1)[0], wanted, rtol=1e-14)


# Types and large numbers


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_in_float32_out(name: str, dtype: torch.dtype) -> None:
    case = ALL[name]
    student, teacher = (torch.from_numpy(part).to(dtype) for part in case.draw(6, 0))
    found = case.loss(student, teacher)
    reference = case.reference(student.double().numpy(), teacher.double().numpy())
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(reference, rel=1e-5)
    _, grad = gradient(case.loss, student, teacher)
    assert grad.dtype == dtype
    assert torch.isfinite(grad).all()


@every
def test_float64_stays_and_wins(name: str) -> None:
    case = ALL[name]
    student, teacher = map(torch.from_numpy, case.draw(4, 1))
    assert case.loss(student, teacher).dtype == torch.float64
    assert case.loss(student.float(), teacher).dtype == torch.float64
    assert case.loss(student.float(), teacher.half()).dtype == torch.float32


@every
def test_autocast_changes_nothing(name: str) -> None:
    case = ALL[name]
    student, teacher = (torch.from_numpy(part).float() for part in case.draw(6, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = case.loss(student, teacher)
    assert inside.dtype == torch.float32
    assert float(inside) == pytest.approx(float(case.loss(student, teacher)), rel=1e-6)


@every_feature_loss
def test_the_largest_half_values_do_not_overflow(name: str) -> None:
    case = FEATURES[name]
    student, teacher = (torch.from_numpy(part).clamp(-1, 1).mul(6e4).half() for part in case.draw(5, 3))
    value, grad = gradient(case.loss, student, teacher)
    assert value == pytest.approx(case.reference(student.double().numpy(), teacher.double().numpy()), rel=1e-4)
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("factor", [1e-4, 6e4])
def test_no_power_of_an_activation_overflows_or_vanishes(factor: float) -> None:
    student, teacher = (torch.from_numpy(part).clamp(-1, 1) for part in FEATURES["attention"].draw(5, 3))
    value, grad = gradient(
        lambda s, t: losses.attention_transfer_loss(s, t, 8), student.float() * factor, teacher.float()
    )
    assert value == pytest.approx(attention_reference(student.numpy(), teacher.numpy(), 8), rel=1e-4)
    assert torch.isfinite(grad).all()
    assert grad.abs().max() > 0


EXTREME = (
    tensor([1e4, -1e4, 0, 3], [-1e4, 1e4, 1e4, -1e4], [0, 0, 0, 1e4]),
    tensor([-1e4, 1e4, 0, 2], [1e4, -1e4, 1e4, 1], [1e4, 1, 2, -1e4]),
)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
def test_logits_of_ten_thousand_give_finite_losses(dtype: torch.dtype, temperature: float) -> None:
    student, teacher = (part.to(dtype) for part in EXTREME)
    exact = [part.double().numpy() / temperature for part in (student, teacher)]
    wanted = 0.0
    for s, t, y in zip(*exact, labels_for(student).numpy(), strict=True):
        log_q, log_p = (np.array([x[y], logsumexp(np.delete(x, y))]) - logsumexp(x) for x in (s, t))
        among_q, among_p = (log_softmax(np.delete(x, y)) for x in (s, t))
        wanted += (np.exp(log_p) * (log_p - log_q)).sum() + 6 * (np.exp(among_p) * (among_p - among_q)).sum()
    value, grad = gradient(lambda s, t: dkd(s, t, temperature), student, teacher)
    assert value == pytest.approx(temperature**2 * wanted / 3, rel=1e-5)
    assert torch.isfinite(grad).all()
    value, grad = gradient(lambda s, t: losses.dist_loss(s, t, temperature), student, teacher)
    assert 0 <= value <= 4 * temperature**2
    assert torch.isfinite(grad).all()
    for average in ("probabilities", "logits"):
        both = losses.average_teachers([student, teacher], temperature=temperature, average=average)  # type: ignore[arg-type]
        assert torch.isfinite(both).all()
        assert torch.isfinite((both / temperature).softmax(1)).all()


def published_dkd(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """At T = 1 and weights 1 and 6: the two-way probabilities are summed and their logarithm taken."""
    hit = F.one_hot(labels, s.shape[1]).to(s.dtype)

    def two_way(p: Tensor) -> Tensor:
        return torch.stack([(p * hit).sum(1), (p * (1 - hit)).sum(1)], 1)

    binary = F.kl_div(two_way(s.softmax(1)).log(), two_way(t.softmax(1)), reduction="batchmean")
    others = F.kl_div((s - 1000 * hit).log_softmax(1), (t - 1000 * hit).softmax(1), reduction="batchmean")
    return binary + 6 * others


def test_the_published_form_of_dkd_breaks_where_ours_does_not() -> None:
    student, teacher = map(torch.from_numpy, LOGITS["dkd"].draw(5, 4))
    assert float(published_dkd(student, teacher, labels_for(student))) == pytest.approx(float(dkd(student, teacher, 1)))
    for dtype, size in ((torch.float32, 200.0), (torch.float64, 1e4)):
        sure = torch.eye(4, dtype=dtype) * size
        wrong = sure.roll(1, 0)
        value, grad = gradient(lambda s, t: published_dkd(s, t, labels_for(s)), sure, wrong)
        assert not math.isfinite(value) or not torch.isfinite(grad).all()
        value, grad = gradient(lambda s, t: dkd(s, t, 1), sure, wrong)
        assert math.isfinite(value)
        assert torch.isfinite(grad).all()


# Gradients


@every
def test_a_loss_passes_gradcheck(name: str) -> None:
    case = ALL[name]
    student, teacher = map(torch.from_numpy, case.draw(4, 5))
    assert torch.autograd.gradcheck(lambda s: case.loss(s, teacher), student.requires_grad_())


@every
def test_no_gradient_reaches_the_teacher(name: str) -> None:
    case = ALL[name]
    student, teacher = (torch.from_numpy(part).requires_grad_() for part in case.draw(4, 6))
    case.loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().max() > 0


def twins(x: Tensor) -> Tensor:
    return x[[0, 0, 2, 3, 3]]


def one_dead(x: Tensor) -> Tensor:
    return x * (torch.arange(5) != 2).view(-1, *[1] * (x.dim() - 1))


DEGENERATE = {
    "all zero": torch.zeros_like,
    "all alike": lambda x: x[:1].expand_as(x).clone(),
    "all one": torch.ones_like,
    "two pairs of twins": twins,
    "one image zero": one_dead,
    "one entry per image": lambda x: torch.zeros_like(x).flatten(1).index_fill(1, torch.tensor(0), 1.0).view_as(x),
    "next to nothing": lambda x: x * 1e-12,
}


@every_feature_loss
@pytest.mark.parametrize("how", DEGENERATE)
def test_at_coincident_and_vanishing_features_value_and_gradient_stay_small(name: str, how: str) -> None:
    case = FEATURES[name]
    whole = [torch.from_numpy(part) for part in case.draw(5, 7)]
    student, teacher = map(DEGENERATE[how], whole)
    for dtype in (torch.float16, torch.float32, torch.float64):
        for s, t in ((student, whole[1]), (whole[0], teacher), (student, teacher)):
            value, grad = gradient(case.loss, s.to(dtype), t.to(dtype))
            assert math.isfinite(value)
            assert grad.abs().max() < 1e3  # false for NaN


def test_the_rule_for_a_vanishing_image() -> None:
    """It counts as zero, wherever a direction would be needed, and its own gradient is zero."""
    zero, teacher = (
        torch.zeros(3, 2, 1, 2).double(),
        torch.from_numpy(np.random.default_rng(8).normal(size=(3, 2, 1, 2))),
    )
    value, grad = gradient(losses.attention_transfer_loss, zero, teacher)
    assert value == pytest.approx(1 / 2)  # each unit map against nothing: 1, over H · W = 2
    assert grad.abs().max() == 0
    flat = teacher.flatten(1)
    gram = flat @ flat.T
    value, grad = gradient(losses.similarity_loss, zero, teacher)
    assert value == pytest.approx(float((gram / gram.norm(dim=1, keepdim=True)).square().sum()) / 9)
    assert grad.abs().max() == 0
    value, grad = gradient(losses.crd_loss, zero, teacher)
    assert value == pytest.approx(math.log(3))  # every cosine is 0
    assert grad.abs().max() == 0
    for loss in (losses.rkd_distance_loss, losses.rkd_angle_loss):
        value, grad = gradient(loss, torch.ones(4, 3).double(), tensor([0, 0], [1, 0], [0, 1], [1, 1]))
        assert value > 0
        assert grad.abs().max() == 0


def published_attention(s: Tensor, t: Tensor) -> Tensor:
    def attention(x: Tensor) -> Tensor:
        return F.normalize(x.pow(2).mean(1).flatten(1))

    return (attention(s) - attention(t)).pow(2).mean()


def published_similarity(s: Tensor, t: Tensor) -> Tensor:
    gram = [F.normalize(x.flatten(1) @ x.flatten(1).T) for x in (s, t)]
    return (gram[0] - gram[1]).pow(2).sum() / len(s) ** 2


def smooth_l1(a: Tensor, b: Tensor) -> Tensor:
    """Written out, because older versions of torch have no such kernel for half precision on the CPU."""
    apart = (a - b).abs()
    return torch.where(apart < 1, apart.square() / 2, apart - 0.5).mean()


def published_angle(s: Tensor, t: Tensor) -> Tensor:
    unit = [F.normalize(x[None] - x[:, None], dim=2) for x in (s.flatten(1), t.flatten(1))]
    return smooth_l1(*[x @ x.transpose(1, 2) for x in unit])


def published_distance(s: Tensor, t: Tensor) -> Tensor:
    def distances(x: Tensor) -> Tensor:
        x = x.flatten(1)
        d = (x.square().sum(1)[:, None] + x.square().sum(1) - 2 * x @ x.T).clamp(min=1e-12).sqrt()
        d = d * (1 - torch.eye(len(x), dtype=x.dtype))
        return d / d[d > 0].mean()

    return smooth_l1(distances(s), distances(t))


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("attention", published_attention),
        ("similarity", published_similarity),
        ("angle", published_angle),
        ("distance", published_distance),
    ],
)
def test_the_published_forms_agree_with_ours_and_break_where_ours_do_not(
    name: str, published: Callable[..., Tensor]
) -> None:
    case = FEATURES[name]
    student, teacher = map(torch.from_numpy, case.draw(5, 9))
    assert float(published(student, teacher)) == pytest.approx(float(case.loss(student, teacher)), rel=1e-6)
    theirs, ours = [], []
    for dtype, how in itertools.product((torch.float16, torch.float32), DEGENERATE.values()):
        pair = how(student).to(dtype), teacher.to(dtype)
        for form, found in ((published, theirs), (case.loss, ours)):
            value, grad = gradient(form, *pair)
            found.append(float(grad.float().nan_to_num(torch.inf).abs().max()) if math.isfinite(value) else math.inf)
    assert max(theirs) > 1e9
    assert max(ours) < 1e3


# Properties


@pytest.mark.parametrize("name", [name for name, case in ALL.items() if case.zero])
@given(n=st.integers(2, 6), seed=st.integers(0, 2**31))
def test_an_equal_student_has_loss_zero(name: str, n: int, seed: int) -> None:
    case = ALL[name]
    student = torch.from_numpy(case.draw(n, seed)[0])
    assert float(case.loss(student, student)) == pytest.approx(0, abs=1e-12)


@every
@given(seed=st.integers(0, 2**31))
def test_the_order_of_the_batch_does_not_matter(name: str, seed: int) -> None:
    case = ALL[name]
    student, teacher = map(torch.from_numpy, case.draw(5, seed))
    order = torch.from_numpy(np.random.default_rng(seed).permutation(5))
    if name == "dkd":
        labels = labels_for(student)
        weights = {"temperature": 2.0, "target_weight": 1.0, "nontarget_weight": 6.0}
        whole = losses.dkd_loss(student, teacher, labels, **weights)
        mixed = losses.dkd_loss(student[order], teacher[order], labels[order], **weights)
    else:
        whole, mixed = case.loss(student, teacher), case.loss(student[order], teacher[order])
    assert float(mixed) == pytest.approx(float(whole), rel=1e-10)
    if name not in ("dkd", "hint"):  # mixed on one side only, it is another loss
        assert float(case.loss(student[[1, 2, 3, 4, 0]], teacher)) != pytest.approx(float(whole), rel=1e-6)


@pytest.mark.parametrize("name", ["attention", "similarity", "distance", "angle", "crd"])
@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e6])
def test_the_scale_of_the_features_does_not_matter(name: str, factor: float) -> None:
    case = FEATURES[name]
    student, teacher = map(torch.from_numpy, case.draw(5, 10))
    whole = float(case.loss(student, teacher))
    assert float(case.loss(student * factor, teacher)) == pytest.approx(whole, rel=1e-9)
    assert float(case.loss(student, teacher * factor)) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("name", ["similarity", "distance", "angle"])
def test_a_rotation_of_the_student_does_not_matter(name: str) -> None:
    case = FEATURES[name]
    student, teacher = map(torch.from_numpy, case.draw(5, 11))
    student = student.flatten(1)
    turned = student @ torch.from_numpy(ortho_group.rvs(student.shape[1], random_state=0))
    whole = float(case.loss(student, teacher))
    assert float(case.loss(turned, teacher)) == pytest.approx(whole, rel=1e-9)
    moved = float(case.loss(turned + 3, teacher))
    assert (moved == pytest.approx(whole, rel=1e-9)) == (name != "similarity")  # which sees the origin


def test_attention_does_not_count_channels() -> None:
    student, teacher = map(torch.from_numpy, FEATURES["attention"].draw(5, 12))
    whole = float(losses.attention_transfer_loss(student, teacher))
    doubled = losses.attention_transfer_loss(student.repeat(1, 2, 1, 1), -teacher.repeat(1, 3, 1, 1))
    assert float(doubled) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_the_target_part_and_one_minus_p_times_the_rest(temperature: float) -> None:
    """Zhao et al. 2022, section 3.1, image by image."""
    student, teacher = LOGITS["dkd"].draw(6, 13)
    labels = labels_for(student)
    for i in range(6):
        s, t, y = (torch.as_tensor(x)[i : i + 1] for x in (student, teacher, labels))
        p = float((t / temperature).softmax(1)[0, y])
        target, rest = (
            float(losses.dkd_loss(s, t, y, temperature=temperature, target_weight=a, nontarget_weight=b))
            for a, b in ((1, 0), (0, 1))
        )
        assert float(losses.kd_loss(s, t, temperature)) == pytest.approx(target + (1 - p) * rest, rel=1e-11)
        assert 0.01 < rest < 100 * temperature**2


def test_the_decoupled_loss_carries_T_squared_and_its_own_weights() -> None:
    student, teacher = LOGITS["dkd"].draw(6, 14)
    for temperature, a, b in ((1.0, 1.0, 8.0), (4.0, 0.0, 2.0), (4.0, 3.0, 0.0), (20.0, 1.0, 1.0)):
        binary, among, _ = decoupled(student, teacher, labels_for(student).numpy(), temperature)
        found = float(dkd(torch.from_numpy(student), torch.from_numpy(teacher), temperature, a, b))
        assert found == pytest.approx(temperature**2 * (a * binary + b * among).mean(), rel=1e-10)


def test_dist_forgives_a_teacher_mixed_with_uniform_and_kd_does_not() -> None:
    _, teacher = map(torch.from_numpy, LOGITS["dist"].draw(6, 15))
    mixed = (0.3 * teacher.softmax(1) + 0.7 / 6).log()  # a positive affine map of every row and column
    assert float(losses.dist_loss(mixed, teacher)) == pytest.approx(0, abs=1e-12)
    assert float(losses.kd_loss(mixed, teacher, 1)) > 0.1
    assert float(losses.dist_loss(-mixed, teacher)) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 7, 4096])
def test_constant_rows_and_columns_of_dist_have_correlation_zero(dtype: torch.dtype, n: int) -> None:
    generator = torch.Generator().manual_seed(16)
    row = torch.randn(1, 5, generator=generator, dtype=dtype)
    value, grad = gradient(losses.dist_loss, row.repeat(n, 1), row.repeat(n, 1))  # the same image n times
    assert value == pytest.approx(1, abs=1e-5)  # rows 0, columns 1
    assert grad.abs().max() < 1e-3
    value, grad = gradient(losses.dist_loss, torch.full((n, 5), 3.0, dtype=dtype), torch.randn(n, 5, dtype=dtype))
    assert value == 2  # rows and columns
    assert grad.abs().max() == 0


def test_dist_knows_very_unlikely_classes() -> None:
    """A column of probabilities near 1e-9 has a correlation like any other, and a gradient that is no larger."""
    student, teacher = map(torch.from_numpy, LOGITS["dist"].draw(6, 17))
    for part in (student, teacher):
        part[:, 2] -= 20
    value, grad = gradient(losses.dist_loss, student.float(), teacher.float())
    assert value == pytest.approx(dist_reference(student.numpy(), teacher.numpy()), rel=1e-4)
    assert grad.abs().max() < 10
    student[:, 2] -= 80  # nothing but denormal numbers: by rule constant
    value, grad = gradient(losses.dist_loss, student.float(), student.float())
    assert value == pytest.approx(1 / 6, abs=1e-5)
    assert grad.abs().max() < 1e-3


def test_crd_is_not_zero_for_an_equal_student_and_the_student_is_the_anchor() -> None:
    student, teacher = map(torch.from_numpy, FEATURES["crd"].draw(5, 18))
    assert float(losses.crd_loss(teacher, teacher, 0.5)) > 0.1
    assert float(losses.crd_loss(student, teacher, 1e6)) == pytest.approx(math.log(5), rel=1e-5)  # all the same
    assert float(losses.crd_loss(student[:1], teacher[:1])) == 0
    there, back = float(losses.crd_loss(student, teacher)), float(losses.crd_loss(teacher, student))
    assert abs(there - back) > 0.01
    assert there == pytest.approx(crd_reference(student.numpy(), teacher.numpy()))


@pytest.mark.parametrize("name", [name for name in FEATURES if name != "hint"])
def test_a_batch_of_one_is_finite(name: str) -> None:
    case = FEATURES[name]
    value, grad = gradient(case.loss, *map(torch.from_numpy, case.draw(1, 19)))
    assert math.isfinite(value)
    assert torch.isfinite(grad).all()


# Several teachers


@given(m=st.integers(1, 4), n=st.integers(1, 4), temperature=st.floats(0.25, 20), seed=st.integers(0, 2**31))
def test_the_softmax_of_the_average_is_the_average(m: int, n: int, temperature: float, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=(m, n, 5)) * 4
    parts = [torch.from_numpy(each) for each in logits]
    p = softmax(logits / temperature, axis=2)
    arithmetic = losses.average_teachers(parts, temperature=temperature)
    np.testing.assert_allclose(np.exp(arithmetic.numpy() / temperature), p.mean(0), rtol=1e-10)
    geometric = losses.average_teachers(parts, temperature=temperature, average="logits")
    np.testing.assert_allclose(geometric, logits.mean(0), rtol=1e-12, atol=1e-12)
    product = np.prod(p ** (1 / m), axis=0)
    np.testing.assert_allclose(
        softmax(geometric.numpy() / temperature, axis=1), product / product.sum(1, keepdims=True), rtol=1e-10
    )


def test_the_average_of_teachers_keeps_types_and_gradients_apart() -> None:
    half = [torch.randn(3, 4).half() for _ in range(2)]
    assert losses.average_teachers(half, temperature=2).dtype == torch.float32
    live = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    found = losses.average_teachers(live, temperature=2)
    assert found.dtype == torch.float64
    assert not found.requires_grad
    alone = losses.average_teachers(live[:1], temperature=3)
    np.testing.assert_allclose((alone / 3).softmax(1), (live[0].detach() / 3).softmax(1), rtol=1e-12)


# Probabilities where logits are due


def logit_losses(student: Tensor, teacher: Tensor) -> list[Callable[[], object]]:
    weights = {"temperature": 2.0, "kd_weight": 0.5, "ce_weight": 0.5}
    return [
        lambda: losses.kd_loss(student, teacher, 2),
        lambda: losses.distillation_loss(student, teacher, labels_for(student), **weights),
        lambda: dkd(student, teacher),
        lambda: losses.dist_loss(student, teacher),
        lambda: losses.average_teachers([student, teacher], temperature=1),
    ]


@pytest.mark.parametrize("which", range(5))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_probabilities_instead_of_logits_give_one_warning_that_says_so(which: int, dtype: torch.dtype) -> None:
    logits = torch.from_numpy(np.random.default_rng(20).normal(size=(8, 10))).to(dtype)
    wrong = logits.softmax(1)
    names = ("teacher_logits[0]", "teacher_logits[1]") if which == 4 else ("student_logits", "teacher_logits")
    for pair, name in (((wrong, logits), names[0]), ((logits, wrong), names[1])):
        with pytest.warns(UserWarning, match="probabilities") as caught:
            logit_losses(*pair)[which]()
        (said,) = [str(each.message) for each in caught]
        assert said.startswith(f"{name} look")
        assert said.endswith("leave the softmax out.")
        if which < 4:
            assert caught[0].filename == __file__


@pytest.mark.parametrize("which", range(5))
@given(n=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_logits_give_no_warning(which: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    some: list[Array] = [
        rng.normal(size=(n, 3)) * 5,
        rng.random((n, 3)),  # non-negative, as behind a ReLU
        np.zeros((n, 3)),
        softmax(rng.normal(size=(1, 3)), axis=1),  # one row alone proves nothing
        log_softmax(rng.normal(size=(n, 3)), axis=1),
        np.vstack([softmax(rng.normal(size=(n, 3)), axis=1), [[-0.5, 0.5, 1]]]),  # sum 1, but one is negative
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for logits in map(torch.from_numpy, some):
            logit_losses(logits, logits)[which]()
