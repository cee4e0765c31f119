"""The losses against SciPy and NumPy in float64, and the properties that the book relies on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax, softmax
from scipy.stats import entropy
from torch import Tensor

from kdutils.losses import distillation_loss, kd_loss
from tests import common  # noqa: F401  (sets the Hypothesis profile)

temperatures = st.floats(0.25, 50)


@st.composite
def pairs(draw: st.DrawFn, largest: float = 20) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(st.tuples(st.integers(1, 5), st.integers(2, 7)))
    values = arrays(np.float64, shape, elements=st.floats(-largest, largest))
    return draw(values), draw(values)


def reference(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    """T² · mean over images of SciPy's relative entropy KL(teacher ‖ student)."""
    p, q = softmax(teacher / temperature, axis=1), softmax(student / temperature, axis=1)
    return float(temperature**2 * entropy(p, q, axis=1).mean())


def tensors(*parts: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(part) for part in parts]


@given(pairs(), temperatures)
def test_kd_loss_is_scipys_relative_entropy(pair: tuple[np.ndarray, np.ndarray], temperature: float) -> None:
    student, teacher = pair
    found = float(kd_loss(*tensors(student, teacher), temperature))
    assert found == pytest.approx(reference(student, teacher, temperature), rel=1e-9, abs=1e-10)


def test_kd_loss_of_a_case_done_by_hand() -> None:
    # Teacher (1/2, 1/2), student (1/4, 3/4) at T = 2: KL = ln 2 − ln(3)/2, and T² = 4.
    student = torch.tensor([[0.0, 2 * np.log(3)]], dtype=torch.float64)
    teacher = torch.zeros(1, 2, dtype=torch.float64)
    assert float(kd_loss(student, teacher, 2)) == pytest.approx(4 * (np.log(2) - np.log(3) / 2), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1, 2, 4, 20])
def test_kd_loss_carries_the_factor_T_squared(temperature: float) -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 6, 10)) * 3
    bare = entropy(softmax(teacher / temperature, axis=1), softmax(student / temperature, axis=1), axis=1).mean()
    assert float(kd_loss(*tensors(student, teacher), temperature)) / bare == pytest.approx(temperature**2, rel=1e-9)


@given(pairs(), temperatures)
def test_gradient_is_T_times_q_minus_p_over_N_so_it_carries_T_squared(
    pair: tuple[np.ndarray, np.ndarray], temperature: float
) -> None:
    student, teacher = tensors(*pair)
    kd_loss(student.requires_grad_(), teacher, temperature).backward()
    p, q = softmax(pair[1] / temperature, axis=1), softmax(pair[0] / temperature, axis=1)
    assert student.grad is not None
    np.testing.assert_allclose(student.grad.numpy(), temperature * (q - p) / len(p), atol=1e-12)


def test_large_temperature_matches_centred_logits() -> None:
    # Hinton et al. 2015, section 2.1: the limit is the mean square of centred differences, over 2K.
    rng = np.random.default_rng(1)
    student, teacher = rng.normal(size=(2, 8, 10))
    gap = (student - student.mean(1, keepdims=True)) - (teacher - teacher.mean(1, keepdims=True))
    limit = (gap**2).sum(1).mean() / (2 * 10)
    errors = [abs(float(kd_loss(*tensors(student, teacher), t)) - limit) / limit for t in (100.0, 200.0)]
    assert errors[0] < 0.02
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.05)  # the error falls like 1/T


@given(pairs(), temperatures)
def test_kd_loss_is_at_least_pinskers_bound_and_so_never_negative(
    pair: tuple[np.ndarray, np.ndarray], temperature: float
) -> None:
    p, q = softmax(pair[1] / temperature, axis=1), softmax(pair[0] / temperature, axis=1)
    pinsker = temperature**2 * (np.abs(p - q).sum(1) ** 2).mean() / 2  # zero only where p = q
    assert float(kd_loss(*tensors(*pair), temperature)) >= pinsker - 1e-10 * temperature**2
    in_float32 = [part.float() for part in tensors(*pair)]
    assert float(kd_loss(*in_float32, temperature)) >= -1e-6 * temperature**2


@given(pairs(), temperatures, st.floats(-1e3, 1e3))
def test_kd_loss_is_zero_for_the_same_distribution_and_blind_to_a_shift(
    pair: tuple[np.ndarray, np.ndarray], temperature: float, shift: float
) -> None:
    student, teacher = tensors(*pair)
    rows = shift * torch.arange(1, len(student) + 1, dtype=torch.float64)[:, None]
    assert float(kd_loss(student + rows, student, temperature)) == pytest.approx(0, abs=1e-9 * temperature**2)
    whole = float(kd_loss(student, teacher, temperature))
    assert float(kd_loss(student + rows, teacher - rows, temperature)) == pytest.approx(whole, rel=1e-7, abs=1e-7)


def test_kd_loss_points_from_teacher_to_student() -> None:
    rng = np.random.default_rng(2)
    student, teacher = rng.normal(size=(2, 4, 5)) * 3
    forward, backward = reference(student, teacher, 2), reference(teacher, student, 2)
    assert abs(forward - backward) > 0.1  # so that this test can tell the two apart
    assert float(kd_loss(*tensors(student, teacher), 2)) == pytest.approx(forward)


@given(pairs(), temperatures, st.floats(0, 2), st.floats(0.01, 2), st.integers(0, 2**31))
def test_distillation_loss_is_the_weighted_sum(
    pair: tuple[np.ndarray, np.ndarray], temperature: float, kd_weight: float, ce_weight: float, seed: int
) -> None:
    n, k = pair[0].shape
    labels = np.random.default_rng(seed).integers(0, k, n)
    found = distillation_loss(
        *tensors(*pair, labels), temperature=temperature, kd_weight=kd_weight, ce_weight=ce_weight
    )
    ce = -log_softmax(pair[0], axis=1)[np.arange(n), labels].mean()  # at T = 1, whatever the temperature is
    assert float(found) == pytest.approx(kd_weight * reference(*pair, temperature) + ce_weight * ce, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_and_returned_in_float32(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(3)
    student, teacher = (torch.from_numpy(part).to(dtype) for part in rng.normal(size=(2, 16, 10)) * 5)
    labels = torch.arange(16) % 10
    rounded = student.double().numpy(), teacher.double().numpy()
    found = kd_loss(student, teacher, 4)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(reference(*rounded, 4), rel=1e-4)  # half precision would miss by 1e-3
    both = distillation_loss(student, teacher, labels, temperature=4, kd_weight=0.5, ce_weight=0.5)
    ce = -log_softmax(rounded[0], axis=1)[np.arange(16), labels.numpy()].mean()
    assert both.dtype == torch.float32
    assert float(both) == pytest.approx((reference(*rounded, 4) + ce) / 2, rel=1e-4)


def test_float64_stays_float64() -> None:
    x = torch.zeros(2, 3, dtype=torch.float64)
    assert kd_loss(x, x, 1).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
def test_logits_of_ten_thousand_stay_finite(dtype: torch.dtype, temperature: float) -> None:
    student = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0], [1e4, -1e4, 1e4]], dtype=dtype)
    weights = {"temperature": temperature, "kd_weight": 1.0, "ce_weight": 1.0}
    loss = distillation_loss(student, teacher, torch.tensor([1, 0]), **weights)
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    # Both students are 20,000 logits away from the teacher's certain class: T² · 20,000/T, and 20,000 more.
    exact = student.detach().double().numpy(), teacher.double().numpy()
    p = softmax(exact[1] / temperature, axis=1)
    kl = (p * (log_softmax(exact[1] / temperature, axis=1) - log_softmax(exact[0] / temperature, axis=1))).sum(1)
    ce = -log_softmax(exact[0], axis=1)[[0, 1], [1, 0]].mean()
    assert float(loss.detach()) == pytest.approx(temperature**2 * kl.mean() + ce, rel=1e-5)


def test_gradients_pass_gradcheck_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(4, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher = torch.randn(4, 6, dtype=torch.float64, generator=generator)
    labels = torch.tensor([0, 5, 2, 2])
    assert torch.autograd.gradcheck(lambda s: kd_loss(s, teacher, 3.0), student)
    assert torch.autograd.gradcheck(
        lambda s: distillation_loss(s, teacher, labels, temperature=3.0, kd_weight=0.7, ce_weight=0.4), student
    )


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    distillation_loss(student, teacher, torch.tensor([0, 1]), temperature=2, kd_weight=0.5, ce_weight=0.5).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_the_mean_is_over_images_not_over_logits() -> None:
    rng = np.random.default_rng(4)
    student, teacher = tensors(*rng.normal(size=(2, 3, 10)))
    single = [float(kd_loss(student[i : i + 1], teacher[i : i + 1], 2)) for i in range(3)]
    assert float(kd_loss(student, teacher, 2)) == pytest.approx(np.mean(single))
    assert float(kd_loss(student.repeat(4, 1), teacher.repeat(4, 1), 2)) == pytest.approx(np.mean(single))
