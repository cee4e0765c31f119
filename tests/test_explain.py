"""`kdutils.explain` against closed forms, slow loops and SciPy; every bad input has its sentence."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from torch import Tensor, nn

import kdutils as kd
from kdutils import explain
from kdutils.explain import attribute, map_agreement

CHANNELS, SIZE, CLASSES, FEATURES = 2, 8, 3, 5
ATTENTION_METHODS = ("attention_rollout", "attention_gradient")
TABLE_METHODS = sorted(set(explain.METHODS) - {"grad_cam", "guided_grad_cam", "occlusion", *ATTENTION_METHODS})
DETERMINISTIC = sorted(set(explain.METHODS) - {"smoothgrad", "gradient_shap", "lime", "kernel_shap"})


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def linear(seed: int = 0) -> nn.Sequential:
    with kd.seeded(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * SIZE * SIZE, CLASSES)).eval()


def network(activation: type[nn.Module] = nn.ReLU, seed: int = 0, dropout: float = 0.0) -> nn.Sequential:
    """A small convolutional network with batch norm that has seen some data."""
    with kd.seeded(seed):
        model = nn.Sequential(
            nn.Conv2d(CHANNELS, 6, 3, padding=1), nn.BatchNorm2d(6), activation(),
            nn.Conv2d(6, 6, 3, stride=2, padding=1), activation(), nn.Dropout(dropout),
            nn.Flatten(), nn.Linear(6 * 16, CLASSES),
        )  # fmt: skip
        model(torch.randn(64, CHANNELS, SIZE, SIZE))
    return model.eval()


def transformer(seed: int = 0) -> nn.Module:
    with kd.seeded(seed):
        return kd.models.vit(SIZE, patch=2, dim=8, depth=2, heads=2, in_channels=CHANNELS, classes=CLASSES).eval()


def suits(method: str, dropout: float = 0.0) -> nn.Module:
    """A network that the method can explain."""
    return transformer() if method in ATTENTION_METHODS else network(dropout=dropout)


def table_network(seed: int = 0, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    with kd.seeded(seed):
        return nn.Sequential(nn.Linear(FEATURES, 8), activation(), nn.Linear(8, CLASSES)).eval()


@pytest.fixture
def images() -> Tensor:
    return draw(7, CHANNELS, SIZE, SIZE, seed=1)


@pytest.fixture
def targets() -> Tensor:
    return torch.arange(7) % CLASSES


def weights_of(model: nn.Sequential, targets: Tensor) -> Tensor:
    """∂ logit / ∂ input of a linear model, read off its matrix."""
    return model[-1].weight.detach()[targets].view(-1, CHANNELS, SIZE, SIZE)


# ---------------------------------------------------------------- closed forms on a linear model


def test_saliency_of_a_linear_model_is_its_weights(images: Tensor, targets: Tensor) -> None:
    model = linear()
    torch.testing.assert_close(attribute(model, images, targets, "saliency"), weights_of(model, targets).sum(1))


def test_smoothgrad_of_a_linear_model_is_its_weights(images: Tensor, targets: Tensor) -> None:
    model = linear()
    found = attribute(model, images, targets, "smoothgrad", samples=3, noise=0.5)
    torch.testing.assert_close(found, weights_of(model, targets).sum(1))


def test_input_x_gradient_of_a_linear_model(images: Tensor, targets: Tensor) -> None:
    model = linear()
    found = attribute(model, images, targets, "input_x_gradient")
    torch.testing.assert_close(found, (weights_of(model, targets) * images).sum(1))


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("baseline", ["mean", "black", 0.7, "tensor"])
def test_integrated_gradients_of_a_linear_model(images: Tensor, targets: Tensor, baseline: object, steps: int) -> None:
    model = linear()
    if baseline == "tensor":
        baseline = draw(CHANNELS, 1, SIZE, seed=5)
    darkest = torch.stack([images[:, c].min() for c in range(CHANNELS)]).view(1, CHANNELS, 1, 1)
    start = {"mean": torch.tensor(0.0), "black": darkest}.get(baseline) if isinstance(baseline, str) else baseline
    found = attribute(model, images, targets, "integrated_gradients", steps=steps, baseline=baseline)
    torch.testing.assert_close(found, (weights_of(model, targets) * (images - start)).sum(1))


def test_single_pixel_occlusion_of_a_linear_model_is_input_x_gradient(images: Tensor, targets: Tensor) -> None:
    """The fall of a window is counted once, however many channels it spans."""
    model = linear()
    found = attribute(model, images, targets, "occlusion", window=1, stride=1)
    torch.testing.assert_close(found, (weights_of(model, targets) * images).sum(1), atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("method", sorted(set(explain.METHODS) - {"attention_rollout"}))
def test_a_constant_model_has_zero_maps(images: Tensor, targets: Tensor, method: str) -> None:
    """All but the rollout, which does not look at the logits."""
    model = suits(method)
    nn.init.zeros_((model.head if method in ATTENTION_METHODS else model[-1]).weight)
    assert not attribute(model, images, targets, method).any()


def test_the_other_classes_and_the_bias_do_not_matter(images: Tensor) -> None:
    model, target = linear(), torch.zeros(len(images), dtype=torch.int64)
    before = attribute(model, images, target, "integrated_gradients")
    with torch.no_grad():
        model[-1].weight[1:] += 3.0
        model[-1].bias += 5.0
    torch.testing.assert_close(attribute(model, images, target, "integrated_gradients"), before)


# ---------------------------------------------------------------- slow references


def slow_gradient(model: nn.Module, image: Tensor, target: int, step: float = 1e-5) -> Tensor:
    """Central differences, each pixel moved on its own, in float64."""
    moves = step * torch.eye(image.numel(), dtype=torch.float64).view(-1, *image.shape)
    with torch.no_grad():
        up, down = model(image + moves)[:, target], model(image - moves)[:, target]
    return ((up - down) / (2 * step)).view_as(image)


def test_saliency_is_the_slope_that_finite_differences_measure() -> None:
    model = network(nn.Softplus).double()
    image = draw(CHANNELS, SIZE, SIZE, seed=3, dtype=torch.float64)
    wanted = slow_gradient(model, image, 2).sum(0)
    found = attribute(model, image[None], torch.tensor([2]), "saliency")[0]
    torch.testing.assert_close(found, wanted.float(), atol=1e-6, rtol=1e-5)


def test_integrated_gradients_against_a_slow_riemann_sum() -> None:
    """A sum over 2,000 slices, with gradients from plain autograd."""
    model = network(nn.Softplus).double()
    image, start = draw(1, CHANNELS, SIZE, SIZE, dtype=torch.float64), 0.3
    slices, total = 2000, torch.zeros(CHANNELS, SIZE, SIZE, dtype=torch.float64)
    for part in torch.arange(slices).add(0.5).div(slices).split(500):
        points = (start + part.view(-1, 1, 1, 1).double() * (image - start)).requires_grad_()
        model(points)[:, 1].sum().backward()
        total += points.grad.sum(0)
    wanted = ((image[0] - start) * total / slices).sum(0)
    found = attribute(model, image, torch.tensor([1]), "integrated_gradients", steps=32, baseline=start)[0]
    torch.testing.assert_close(found, wanted.float(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["linear", "softplus"])
@pytest.mark.parametrize("baseline", ["mean", "black", -1.5])
def test_integrated_gradients_are_complete_to_1e_6(name: str, baseline: object) -> None:
    model = (linear() if name == "linear" else network(nn.Softplus)).double()
    x, target = draw(6, CHANNELS, SIZE, SIZE, dtype=torch.float64), torch.arange(6) % CLASSES
    if baseline == "black":
        start = torch.stack([x[:, c].min() for c in range(CHANNELS)]).view(1, CHANNELS, 1, 1).expand_as(x)
    else:
        start = torch.full_like(x, 0.0 if baseline == "mean" else baseline)
    with torch.no_grad():
        rise = (model(x) - model(start)).gather(1, target[:, None])[:, 0]
    exact = explain.integrated_gradients(model, x, target, steps=64, baseline=baseline)
    assert exact.dtype == torch.float64
    assert (exact.sum((1, 2, 3)) - rise).abs().max() < 1e-6
    rounded = attribute(model, x, target, "integrated_gradients", steps=64, baseline=baseline)
    assert (rounded.double().sum((1, 2)) - rise).abs().max() < 1e-5  # float32 maps


def test_integrated_gradients_are_nearly_complete_on_a_relu_network(images: Tensor, targets: Tensor) -> None:
    model = network()
    with torch.no_grad():
        rise = (model(images) - model(torch.zeros_like(images))).gather(1, targets[:, None])[:, 0]
    gap = attribute(model, images, targets, "integrated_gradients", steps=256).sum((1, 2)) - rise
    assert gap.abs().median() < 0.01 * rise.abs().median()


def slow_occlusion(model: nn.Module, image: Tensor, target: int, window: int, stride: int, fill: Tensor) -> Tensor:
    _, height, width = image.shape
    total, covered = torch.zeros(height, width), torch.zeros(height, width)

    def starts(size: int) -> Iterator[int]:
        place = 0
        while True:
            yield place
            if place + window >= size:
                return
            place += stride

    with torch.no_grad():
        full = model(image[None])[0, target]
        for top in starts(height):
            for left in starts(width):
                hidden = image.clone()
                patch = (slice(None), slice(top, top + window), slice(left, left + window))
                hidden[patch] = fill.expand_as(image)[patch]
                total[patch[1:]] += full - model(hidden[None])[0, target]
                covered[patch[1:]] += 1
    return total / covered


@pytest.mark.parametrize(
    "window, stride, baseline",
    [(1, 1, "mean"), (4, 2, "mean"), (4, 2, "black"), (3, 2, "black"), (4, 3, "mean"), (5, 5, "black"), (8, 1, "mean")],
)
def test_occlusion_against_a_slow_loop(
    images: Tensor, targets: Tensor, window: int, stride: int, baseline: str
) -> None:
    model = network()
    darkest = torch.stack([images[:, c].min() for c in range(CHANNELS)]).view(CHANNELS, 1, 1)
    fill = torch.zeros(1, 1, 1) if baseline == "mean" else darkest
    found = attribute(model, images, targets, "occlusion", window=window, stride=stride, baseline=baseline)
    wanted = slow_occlusion(model, images[4], int(targets[4]), window, stride, fill)
    torch.testing.assert_close(found[4], wanted, atol=1e-5, rtol=1e-4)


def test_smoothgrad_against_the_mean_of_hand_made_gradients(images: Tensor, targets: Tensor) -> None:
    """Many samples come near the expectation, which other random numbers estimate too; the scale is each image's."""
    model = network(nn.Softplus)
    scaled = images[:2] * torch.tensor([1.0, 10.0]).view(2, 1, 1, 1)
    found = attribute(model, scaled, targets[:2], "smoothgrad", samples=80, noise=0.2)
    for i in range(2):
        spread = 0.2 * (scaled[i].max() - scaled[i].min())
        points = (scaled[i] + spread * draw(2000, CHANNELS, SIZE, SIZE, seed=99)).requires_grad_()
        model(points)[:, targets[i]].sum().backward()
        wanted = points.grad.mean(0).sum(0)
        assert map_agreement(found[i : i + 1], wanted[None], "cosine") > 0.96
        assert 0.92 < found[i].norm() / wanted.norm() < 1.08


def test_smoothgrad_with_vanishing_noise_is_saliency(images: Tensor, targets: Tensor) -> None:
    model = network(nn.Softplus)
    found = attribute(model, images, targets, "smoothgrad", samples=2, noise=1e-6)
    torch.testing.assert_close(found, attribute(model, images, targets, "saliency"), atol=1e-4, rtol=1e-3)


# ---------------------------------------------------------------- shape, seed, chunks, what is left behind


@pytest.mark.parametrize("method", sorted(explain.METHODS))
def test_maps_are_float32_one_per_image_and_on_the_cpu(images: Tensor, targets: Tensor, method: str) -> None:
    found = attribute(suits(method), images, targets, method)
    assert found.shape == (len(images), SIZE, SIZE) and found.dtype == torch.float32
    assert found.device.type == "cpu" and not found.requires_grad and torch.isfinite(found).all()


@pytest.mark.parametrize("method", TABLE_METHODS)
def test_tables_keep_their_shape(method: str) -> None:
    table, target = draw(9, FEATURES), torch.arange(9) % CLASSES
    model = table_network(activation=nn.ReLU if method == "guided_backprop" else nn.Tanh)
    found = attribute(model, table, target, method)
    assert found.shape == (9, FEATURES) and found.dtype == torch.float32
    if method == "saliency":
        rows = [
            torch.autograd.functional.jacobian(model, row[None])[0, t, 0] for row, t in zip(table, target, strict=True)
        ]
        torch.testing.assert_close(found, torch.stack(rows))


@pytest.mark.parametrize("method", DETERMINISTIC)
@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_maps_do_not_depend_on_the_chunks(
    images: Tensor, targets: Tensor, method: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, options = suits(method), {}
    if method in ("integrated_gradients", "occlusion"):
        options = {"baseline": "black"} | ({"steps": 6} if method == "integrated_gradients" else {})
    whole = attribute(model, images, targets, method, **options)
    monkeypatch.setattr(explain, "CHUNK", chunk)
    torch.testing.assert_close(attribute(model, images, targets, method, **options), whole, atol=1e-5, rtol=1e-4)


def test_more_inputs_than_a_chunk_and_not_a_multiple_of_it() -> None:
    n = explain.CHUNK + 5
    table, model = draw(n, FEATURES), table_network()
    target = torch.arange(n) % CLASSES
    found = attribute(model, table, target, "integrated_gradients", steps=8)
    single = [attribute(model, table[i : i + 1], target[i : i + 1], "integrated_gradients", steps=8) for i in (0, 130)]
    assert found.shape == (n, FEATURES)
    torch.testing.assert_close(found[[0, 130]], torch.cat(single))
    assert attribute(model, table, target, "smoothgrad").shape == (n, FEATURES)


def test_an_image_in_a_batch_gets_the_map_that_it_gets_alone(images: Tensor, targets: Tensor) -> None:
    for method in DETERMINISTIC:
        model = suits(method)
        batch = attribute(model, images, targets, method)
        alone = torch.cat([attribute(model, images[i : i + 1], targets[i : i + 1], method) for i in (0, 6)])
        torch.testing.assert_close(batch[[0, 6]], alone, atol=1e-5, rtol=1e-4)


def test_smoothgrad_follows_its_seed_and_leaves_the_global_state(images: Tensor, targets: Tensor) -> None:
    model = network()
    torch.manual_seed(123)
    state = torch.get_rng_state()
    first = attribute(model, images, targets, "smoothgrad", seed=4, samples=2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(10)
    assert torch.equal(attribute(model, images, targets, "smoothgrad", seed=4, samples=2), first)
    assert not torch.equal(attribute(model, images, targets, "smoothgrad", seed=5, samples=2), first)


def left_behind(model: nn.Module) -> dict[str, object]:
    return {
        "modes": [m.training for m in model.modules()],
        "tensors": {k: v.clone() for k, v in model.state_dict().items()},
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires": [p.requires_grad for p in model.parameters()],
        "hooks": [len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()],
        "random": torch.get_rng_state(),
    }


def assert_same(a: dict[str, object], b: dict[str, object]) -> None:
    assert a["modes"] == b["modes"] and a["requires"] == b["requires"] and a["hooks"] == b["hooks"]
    assert torch.equal(a["random"], b["random"])
    assert all(torch.equal(v, b["tensors"][k]) for k, v in a["tensors"].items())
    for x, y in zip(a["grads"], b["grads"], strict=True):
        assert (x is None) == (y is None) and (x is None or torch.equal(x, y))


@pytest.mark.parametrize("method", sorted(explain.METHODS))
@pytest.mark.parametrize("with_grads", [False, True])
def test_the_model_and_the_inputs_are_left_as_found(
    images: Tensor, targets: Tensor, method: str, with_grads: bool
) -> None:
    model, kept = suits(method, dropout=0.5), images.clone()
    if with_grads:
        model(images).sum().backward()
    before = left_behind(model)
    attribute(model, images, targets, method)
    assert_same(before, left_behind(model))
    assert torch.equal(images, kept) and images.grad is None and not images.requires_grad


def test_it_works_without_gradients_around_it_and_on_frozen_models(images: Tensor, targets: Tensor) -> None:
    model = network()
    wanted = attribute(model, images, targets, "saliency")
    frozen = copy.deepcopy(model).requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(attribute(frozen, images, targets, "saliency"), wanted)
        assert attribute(frozen, images, targets, "smoothgrad").any()
    assert torch.equal(attribute(model, images.clone().requires_grad_(), targets, "saliency"), wanted)


def test_nothing_is_said_on_the_way(images: Tensor, targets: Tensor, recwarn: pytest.WarningsRecorder) -> None:
    for method in explain.METHODS:
        attribute(suits(method), images, targets, method)
    assert [str(w.message) for w in recwarn] == []


def test_the_shipped_networks_can_be_explained() -> None:
    _, test = kd.data.load("fashion_mnist")
    x, _ = test[:3].tensors()
    for name in kd.zoo.names():
        if name.startswith("fashion_mnist/"):
            model = kd.zoo.load(name)
            found = attribute(model, x, kd.predict(model, x).argmax(1), "saliency")
            assert found.shape == (3, 28, 28) and (found != 0).flatten(1).any(1).all()


# ---------------------------------------------------------------- agreement of maps

MAPS = (draw(6, 12, 15, seed=1), draw(6, 12, 15, seed=1) + draw(6, 12, 15, seed=2))


def slow_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.dot(a.ravel(), b.ravel()) / np.linalg.norm(a) / np.linalg.norm(b))


def slow_spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(stats.spearmanr(a.ravel(), b.ravel()).statistic)


def slow_iou(a: np.ndarray, b: np.ndarray) -> float:
    k = max(1, round(a.size / 10))
    top_a, top_b = (set(np.argsort(-m.ravel(), kind="stable")[:k].tolist()) for m in (a, b))
    return len(top_a & top_b) / len(top_a | top_b)


def slow_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004 with uniform windows, the sample covariance and the border left out."""
    a, b = (m.astype(np.float64) / np.abs(m).max() for m in (a, b))

    def mean(values: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(values, size=7)

    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    ratio = 49 / 48
    var_a, var_b = ratio * (mean(a * a) - mean(a) ** 2), ratio * (mean(b * b) - mean(b) ** 2)
    cov = ratio * (mean(a * b) - mean(a) * mean(b))
    full = (2 * mean(a) * mean(b) + c1) * (2 * cov + c2) / ((mean(a) ** 2 + mean(b) ** 2 + c1) * (var_a + var_b + c2))
    return float(full[3:-3, 3:-3].mean())


REFERENCES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "cosine": slow_cosine, "spearman": slow_spearman, "iou": slow_iou, "ssim": slow_ssim,
}  # fmt: skip


def test_every_measure_has_a_reference_here() -> None:
    assert set(REFERENCES) == set(explain.MEASURES)


@pytest.mark.parametrize("measure", explain.MEASURES)
def test_agreement_against_an_independent_reference(measure: str) -> None:
    a, b = MAPS
    wanted = [REFERENCES[measure](x, y) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    found = map_agreement(a, b, measure)
    assert found.dtype == torch.float32 and found.shape == (6,)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("measure", ["cosine", "spearman", "iou"])
def test_agreement_of_tables(measure: str) -> None:
    a, b = draw(6, 30, seed=3), draw(6, 30, seed=4)
    wanted = [REFERENCES[measure](x, y) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    np.testing.assert_allclose(map_agreement(a, b, measure).numpy(), wanted, atol=1e-6)


def test_spearman_gives_ties_their_mean_rank() -> None:
    a = torch.tensor([[0.0, 0, 1, 2, 2, 5]])
    b = torch.tensor([[3.0, 1, 1, 1, 4, 4]])
    assert float(map_agreement(a, b, "spearman")) == pytest.approx(slow_spearman(a.numpy(), b.numpy()), abs=1e-7)


scales = st.floats(1e-30, 1e30)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), scale_a=scales, scale_b=scales, measure=st.sampled_from(explain.MEASURES))
def test_agreement_is_symmetric_bounded_and_blind_to_scale(
    seed: int, scale_a: float, scale_b: float, measure: str
) -> None:
    a, b = draw(2, 9, 8, seed=seed).double(), draw(2, 9, 8, seed=seed + 1).double()
    found = map_agreement(a, b, measure)
    torch.testing.assert_close(map_agreement(b, a, measure), found, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(map_agreement(scale_a * a, scale_b * b, measure), found, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(map_agreement(a, a, measure), torch.ones(2))
    assert (found <= 1.000001).all() and (found >= (0.0 if measure == "iou" else -1.000001)).all()


@pytest.mark.parametrize("measure", ["cosine", "spearman"])
def test_an_inverted_map_agrees_to_minus_one(measure: str) -> None:
    torch.testing.assert_close(map_agreement(MAPS[0], -3 * MAPS[0], measure), -torch.ones(6))


@pytest.mark.parametrize("measure", explain.MEASURES)
def test_a_zero_map_agrees_with_nothing(measure: str) -> None:
    zero, other = torch.zeros(1, 8, 8), draw(1, 8, 8)
    for a, b in ((zero, other), (other, zero), (zero, zero)):
        assert map_agreement(a, b, measure).tolist() == [0.0]


@pytest.mark.parametrize("measure", ["spearman", "iou"])
def test_a_constant_map_ranks_nothing(measure: str) -> None:
    constant, other = torch.full((1, 8, 8), 0.3), draw(1, 8, 8)
    for a, b in ((constant, other), (other, constant), (constant, constant)):
        assert map_agreement(a, b, measure).tolist() == [0.0]


def test_constant_maps_give_numbers_in_every_measure() -> None:
    constant = torch.full((1, 8, 8), -2.0)
    for measure in explain.MEASURES:
        assert torch.isfinite(map_agreement(constant, draw(1, 8, 8), measure)).all()


def test_iou_of_maps_that_are_mostly_zero_counts_only_what_stands_out() -> None:
    """As after a ReLU: the top tenth would be filled up with zeros, always the same ones."""
    a, b = torch.zeros(1, 10, 10), torch.zeros(1, 10, 10)
    a[0, 0, :3], b[0, 9, :3] = 1 + draw(3).abs(), 1 + draw(3).abs()
    assert map_agreement(a, b, "iou").tolist() == [0.0]
    b[0, 0, :3] = 1 + draw(3).abs()
    assert map_agreement(a, b, "iou").tolist() == [0.5]


def test_iou_counts_a_plateau_at_the_top_whole() -> None:
    box, other = torch.zeros(1, 10, 10), torch.zeros(1, 10, 10)
    box[0, :5, :5], other[0, :5, 3:8] = 1, 1
    assert map_agreement(box, box, "iou").tolist() == [1.0]
    assert float(map_agreement(box, other, "iou")) == pytest.approx(10 / 40)


def test_one_feature_ranks_nothing() -> None:
    assert map_agreement(draw(4, 1), draw(4, 1), "iou").tolist() == [0.0] * 4


# ---------------------------------------------------------------- bad input

GOOD = (draw(2, CHANNELS, SIZE, SIZE), torch.tensor([0, 1]))
NAN = GOOD[0].clone()
NAN[1, 0, 3, 3] = float("nan")
IG, SG, OC = {"method": "integrated_gradients"}, {"method": "smoothgrad"}, {"method": "occlusion"}
BAD: dict[str, tuple[dict[str, object], str]] = {
    "unknown method": ({"method": "salience"}, "method 'salience' is unknown: the nearest is 'saliency'"),
    "unknown option": (IG | {"step": 3}, "option of integrated_gradients 'step' is unknown: the nearest is 'steps'"),
    "option where there is none": ({"steps": 3}, "option 'steps' is unknown: saliency has none."),
    "unknown baseline": (IG | {"baseline": "blak"}, "baseline 'blak' is unknown: the nearest is 'black'"),
    "baseline of another shape": (IG | {"baseline": torch.zeros(3, 3)}, "baseline of shape (3, 3) does not fit"),
    "a baseline per image": (IG | {"baseline": torch.zeros_like(GOOD[0])}, "does not fit one input of shape (2, 8, 8)"),
    "NaN in the baseline": (OC | {"baseline": float("nan")}, "baseline holds NaN or infinity"),
    "no steps": (IG | {"steps": 0}, "steps must be an integer of at least 1, got 0."),
    "half a step": (IG | {"steps": 2.5}, "steps must be an integer of at least 1, got 2.5."),
    "no samples": (SG | {"samples": 0}, "samples must be an integer of at least 1, got 0."),
    "no noise": (SG | {"noise": 0}, "noise must be a positive finite share of each image's range, got 0."),
    "infinite noise": (SG | {"noise": float("inf")}, "noise must be a positive finite share"),
    "noise as text": (SG | {"noise": "much"}, "share of each image's range, got 'much'."),
    "window too large": (OC | {"window": 9}, "window must be at most 8, the images' shorter side, got 9."),
    "stride too large": (OC | {"window": 2, "stride": 3}, "stride must be at most window (2)"),
    "no stride": (OC | {"stride": 0}, "stride must be an integer of at least 1, got 0."),
    "negative seed": ({"seed": -1}, "seed must be a non-negative integer, got -1."),
    "no batch dimension": ({"images": GOOD[0][0]}, "a single image needs its batch dimension: image[None]."),
    "bytes": ({"images": (GOOD[0] * 9).to(torch.uint8)}, "images must be normalised floats"),
    "an array": ({"images": GOOD[0].numpy()}, "got a ndarray"),
    "no images": ({"images": GOOD[0][:0], "targets": GOOD[1][:0]}, "images is empty, of shape (0, 2, 8, 8)"),
    "NaN": ({"images": NAN}, "images hold NaN or infinity: every value must be finite."),
    "targets as floats": ({"targets": torch.tensor([0.0, 1.0])}, "must be int64 of shape (2,), got torch.float32"),
    "one target": ({"targets": 1}, "targets must be int64 of shape (2,), got a int."),
    "too few targets": ({"targets": torch.tensor([0])}, "targets must be int64 of shape (2,), got torch.int64 (1,)."),
    "target too high": ({"targets": torch.tensor([0, 3])}, "targets must lie in 0 to 2 (3 classes), got 0 to 3."),
    "negative target": ({"targets": torch.tensor([-1, 1])}, "targets must lie in 0 to 2 (3 classes), got -1 to 1."),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_sentence(case: str) -> None:
    changed, sentence = BAD[case]
    model = network(dropout=0.5)
    before = left_behind(model)
    arguments = {"images": GOOD[0], "targets": GOOD[1], "method": "saliency"} | changed
    with pytest.raises(ValueError) as caught:
        attribute(model, **arguments)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    assert_same(before, left_behind(model))


def test_a_model_in_training_mode_is_refused_also_in_part() -> None:
    for part in (lambda m: m, lambda m: m[1]):
        model = network()
        part(model).train()
        before = left_behind(model)
        with pytest.raises(ValueError, match=r"the model is in training mode: call model\.eval\(\) first"):
            attribute(model, *GOOD, "saliency")
        assert_same(before, left_behind(model))


def test_a_model_that_gives_no_logits_is_told() -> None:
    with pytest.raises(
        ValueError, match=r"logits of shape \(N, K\); for one input it gave torch.float32 \(1, 2, 8, 8\)"
    ):
        attribute(nn.Identity().eval(), *GOOD, "saliency")


def test_a_broken_model_is_told() -> None:
    model = linear()
    with torch.no_grad():
        model[-1].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="the maps hold NaN or infinity"):
        attribute(model, *GOOD, "saliency")


def test_occlusion_wants_images() -> None:
    with pytest.raises(ValueError, match=r"occlusion needs images \(N, C, H, W\), got inputs of shape \(2, 5\)"):
        attribute(table_network(), draw(2, FEATURES), GOOD[1], "occlusion")


@pytest.mark.parametrize(
    "a, b, measure, sentence",
    [
        (MAPS[0], MAPS[1], "cosin", "measure 'cosin' is unknown: the nearest is 'cosine'"),
        (MAPS[0], MAPS[1][:5], "cosine", "the same shape (N, H, W) or (N, F), got (6, 12, 15) and (5, 12, 15)."),
        (MAPS[0][0, 0], MAPS[1][0, 0], "cosine", "got (15,) and (15,)."),
        (MAPS[0][:0], MAPS[1][:0], "cosine", "got (0, 12, 15) and (0, 12, 15)."),
        (MAPS[0] * float("nan"), MAPS[1], "ssim", "maps_a and maps_b must be finite, got NaN or infinity."),
        (MAPS[0], MAPS[1] / 0, "spearman", "maps_a and maps_b must be finite, got NaN or infinity."),
        (MAPS[0].flatten(1), MAPS[1].flatten(1), "ssim", 'measure "ssim" needs maps (N, H, W) of at least 7 × 7'),
        (MAPS[0][:, :6], MAPS[1][:, :6], "ssim", "got (6, 6, 15)."),
    ],
)
def test_bad_maps_are_told_in_one_sentence(a: Tensor, b: Tensor, measure: str, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        map_agreement(a, b, measure)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
