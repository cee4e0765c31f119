"""The measures against slow loops, SciPy, simulation and hand counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import log_softmax, softmax
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import kdutils as kd
from kdutils import metrics
from tests.common import linear, modes, pixels, random_set, random_state, same_bits, shuffling_loader, weights


class Fixed(nn.Module):
    """Gives the logits of a table: image i is the number i."""

    def __init__(self, table: list[list[float]] | Tensor) -> None:
        super().__init__()
        self.table = torch.as_tensor(table, dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        return self.table[x.flatten().long()]


def numbered(labels: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Images 0, 1, 2, … in two batches."""
    x, y = torch.arange(len(labels)), torch.tensor(labels)
    return [(x[:4], y[:4]), (x[4:], y[4:])]


def test_evaluate_by_hand() -> None:
    # Softmax of (ln 3, 0) is (3/4, 1/4), of (0, ln 9) is (1/10, 9/10).
    a, b = [math.log(3), 0.0], [0.0, math.log(9)]
    found = kd.evaluate(Fixed([a, a, a, a, b, b]), numbered([0, 0, 1, 0, 1, 0]))
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["n"] == 6
    nll = -(3 * math.log(3 / 4) + math.log(1 / 4) + math.log(9 / 10) + math.log(1 / 10)) / 6
    assert found["nll"] == pytest.approx(nll, rel=1e-6)
    # Four images of confidence 3/4, three right: no gap. Two of confidence 9/10, one right: 0.4.
    assert found["ece"] == pytest.approx(2 / 6 * 0.4, abs=1e-6)


def test_compare_by_hand_on_six_images() -> None:
    def sure(k: int) -> list[float]:
        return [2.0 if j == k else 0.0 for j in range(3)]

    labels = [0, 1, 2, 0, 1, 2]
    teacher = [0, 1, 2, 0, 2, 0]  # four hits, two errors
    student = [0, 1, 0, 1, 2, 1]  # agrees on the hits 0 and 1 and on the error 4
    found = kd.compare(Fixed([sure(k) for k in student]), Fixed([sure(k) for k in teacher]), numbered(labels))
    assert found["teacher_accuracy"] == pytest.approx(4 / 6)
    assert found["student_accuracy"] == pytest.approx(2 / 6)
    assert found["agreement"] == pytest.approx(3 / 6)
    assert found["agreement_on_teacher_hits"] == pytest.approx(2 / 4)
    assert found["agreement_on_teacher_errors"] == pytest.approx(1 / 2)
    assert found["n"] == 6
    # Where they differ, two logits of 2 and 0 change places: KL = 2 (p − q), three times of six.
    p, q, _ = softmax([2.0, 0.0, 0.0])
    assert found["kl"] == pytest.approx(0.5 * 2 * (p - q), rel=1e-5)


def test_compare_says_nan_where_there_is_nothing_to_compare() -> None:
    right = Fixed(torch.eye(3) * 5)
    found = kd.compare(right, right, [(torch.arange(3), torch.arange(3))])
    assert math.isnan(found["agreement_on_teacher_errors"])
    assert found["agreement_on_teacher_hits"] == 1
    assert found["kl"] == pytest.approx(0, abs=1e-6)


def test_an_image_set_and_its_loader_give_the_same() -> None:
    data, model = random_set(2_100), linear()
    assert kd.evaluate(model, data) == pytest.approx(kd.evaluate(model, data.loader(64)), rel=1e-5)
    images, labels = data.tensors()
    by_hand = images.flatten(1).double() @ model[1].weight.detach().double().T + model[1].bias.detach().double()
    logits, found_labels = metrics.logits_and_labels(model, data)
    torch.testing.assert_close(logits, by_hand.float(), rtol=1e-4, atol=1e-4)
    assert torch.equal(found_labels, labels)


def test_compare_sees_the_same_images_with_both_models_even_if_the_loader_shuffles() -> None:
    data = random_set(64)
    found = kd.compare(linear(), linear(), shuffling_loader(data))
    assert found["agreement"] == 1
    seeded = kd.compare(linear(), linear(), data.loader(8, shuffle=True))
    assert seeded["agreement"] == 1


def test_measuring_changes_neither_the_model_nor_the_random_state() -> None:
    model, data = pixels().train(), random_set()
    model.drop.eval()
    before, mode, state = weights(model), modes(model), random_state()
    kd.evaluate(model, data)
    kd.evaluate(model, shuffling_loader(data))
    kd.compare(model, linear(), shuffling_loader(data))
    kd.predict(model, data.tensors()[0])
    metrics.cost(model, data.tensors()[0][:2], repeats=2)
    assert same_bits(before, weights(model))
    assert modes(model) == mode
    assert random_state() == state
    assert all(p.grad is None for p in model.parameters())


def test_predict_is_the_forward_pass_in_eval_mode_in_batches() -> None:
    model, images = pixels().train(), random_set(50).tensors()[0]
    found = kd.predict(model, images, batch_size=7)
    model.eval()
    torch.testing.assert_close(found, model(images).detach())
    assert not found.requires_grad


def slow_ece(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> float:
    total = 0.0
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins
        inside = [
            i for i, row in enumerate(probabilities) if low <= row.max() < high or (b == bins - 1 and row.max() == 1)
        ]
        if inside:
            accuracy = np.mean([probabilities[i].argmax() == labels[i] for i in inside])
            confidence = np.mean([probabilities[i].max() for i in inside])
            total += len(inside) / len(labels) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_ece_is_the_slow_loop(bins: int) -> None:
    rng = np.random.default_rng(0)
    probabilities = softmax(rng.normal(size=(500, 4)) * 2, axis=1)
    probabilities[0] = [1, 0, 0, 0]
    labels = rng.integers(0, 4, 500)
    found = metrics.ece(torch.from_numpy(probabilities), torch.from_numpy(labels), bins)
    assert found == pytest.approx(slow_ece(probabilities, labels, bins), abs=1e-12)
    table = metrics.reliability(torch.from_numpy(probabilities), torch.from_numpy(labels), bins)
    assert table["count"].sum() == 500
    filled = table["count"] > 0
    assert np.isfinite(table["accuracy"][filled]).all()
    assert np.isnan(table["accuracy"][~filled]).all()
    assert np.sum(table["accuracy"][filled] * table["count"][filled]) == pytest.approx(
        (probabilities.argmax(1) == labels).sum()
    )


def test_interval_is_scipys_t_test() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.9, 0.01, 9), rng.normal(0.89, 0.01, 9)
    alone = kd.interval(a)
    theirs = stats.ttest_1samp(a, 0).confidence_interval(0.95)
    assert alone == pytest.approx((a.mean(), theirs.low, theirs.high, 9))
    low, high = stats.t.interval(0.8, 8, a.mean(), stats.sem(a))
    assert kd.interval(list(a), confidence=0.8)[1:3] == pytest.approx((low, high))
    paired = kd.interval(a, minus=b)
    theirs = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert paired == pytest.approx((np.mean(a - b), theirs.low, theirs.high, 9))


def test_interval_covers_the_truth_in_95_of_100_studies() -> None:
    rng = np.random.default_rng(2)
    studies = rng.normal(0.7, 0.02, (2_000, 8))
    hits = [found.low <= 0.7 <= found.high for found in map(kd.interval, studies)]
    assert np.mean(hits) == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 2_000))


def test_interval_prints_itself() -> None:
    found = metrics.Interval(0.0123, 0.0101, 0.0146, 8)
    assert str(found) == "0.012 [0.010, 0.015], n = 8"
    assert found.format(scale=100, digits=1, sign=True) == "+1.2 [+1.0, +1.5], n = 8"


@pytest.mark.parametrize("truth", [0.4, 1.0, 2.5, 6.0])
def test_fit_temperature_recovers_the_temperature_that_drew_the_labels(truth: float) -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(20_000, 10)) * 3
    labels = (logits / truth + rng.gumbel(size=logits.shape)).argmax(1)  # a draw from softmax(logits/truth)
    found = metrics.fit_temperature(torch.from_numpy(logits), torch.from_numpy(labels))
    assert found == pytest.approx(truth, rel=0.05)
    nll = [
        -log_softmax(logits / t, axis=1)[np.arange(20_000), labels].mean() for t in (found, 0.98 * found, 1.02 * found)
    ]
    assert nll[0] < min(nll[1:])


def test_cost_counts_by_hand() -> None:
    # Multiply-adds of the tiny CNN on 28 × 28: output pixels × kernel × inputs × outputs; two operations each.
    tiny = 14 * 14 * 9 * 1 * 8 + 7 * 7 * 9 * 8 * 16 + 7 * 7 * 9 * 16 * 32 + 32 * 10
    found = metrics.cost(kd.models.tiny_cnn(), torch.randn(3, 1, 28, 28), repeats=2)
    assert found["mflops"] == pytest.approx(2 * tiny / 1e6)
    assert found["parameters"] == 6_274
    buffers = 2 * (8 + 16 + 32)  # float32 means and variances; and three int64 counters
    assert found["megabytes"] == pytest.approx((4 * (6_274 + buffers) + 3 * 8) / 1e6)
    assert found["milliseconds"] > 0

    width = 16
    pixels_of = {16: 28 * 28, 32: 14 * 14, 64: 7 * 7}
    total = 28 * 28 * 9 * width
    for inputs, outputs in ((16, 16), (16, 32), (32, 64)):
        total += pixels_of[outputs] * 9 * (inputs * outputs + outputs * outputs)
        if inputs != outputs:
            total += pixels_of[outputs] * inputs * outputs
    total += 64 * 10
    found = metrics.cost(kd.models.resnet(8), torch.randn(2, 1, 28, 28), repeats=1)
    assert found["mflops"] == pytest.approx(2 * total / 1e6)


def test_a_loader_of_odd_batches_counts_every_image_once() -> None:
    data = random_set(23)
    loader = DataLoader(TensorDataset(*data.tensors()), batch_size=5)
    logits, labels = metrics.logits_and_labels(linear(), loader)
    assert len(logits) == len(labels) == 23
    assert torch.equal(labels, data.labels)
