"""The methods of `kdutils.explain` against closed forms, full enumeration, Captum, shap and scikit-learn."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from captum import attr
from sklearn.linear_model import Ridge
from torch import Tensor, nn
from torch.nn import functional as F

import kdutils as kd
from kdutils import explain
from kdutils.explain import attribute

from .test_explain import CHANNELS, CLASSES, FEATURES, SIZE, draw, linear, network, table_network, transformer

SHAPE = (CHANNELS, SIZE, SIZE)
X, T = draw(5, *SHAPE, seed=1, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])
START = draw(*SHAPE, seed=2, dtype=torch.float64)  # a baseline that is constant nowhere
QUARTERS = torch.arange(4).view(2, 2).repeat_interleave(4, 0).repeat_interleave(4, 1)


def rise(model: nn.Module, x: Tensor, t: Tensor, start: Tensor) -> Tensor:
    with torch.no_grad():
        return (model(x) - model(start.expand_as(x))).gather(1, t[:, None])[:, 0]


# ---------------------------------------------------------------- closed forms

EVERY_PIXEL = torch.arange(SIZE * SIZE).view(SIZE, SIZE)
PROMISES = {
    "input_x_gradient": {},
    "integrated_gradients": {"baseline": START},
    "deep_lift": {"baseline": START},
    "gradient_shap": {"baseline": START, "samples": 3},
    "occlusion": {"baseline": START, "window": 1, "stride": 1},
    "kernel_shap": {"baseline": START, "segments": EVERY_PIXEL},
}


@pytest.mark.parametrize("method", PROMISES)
def test_a_linear_model_gets_its_closed_form(method: str) -> None:
    model, start = linear().double(), PROMISES[method].get("baseline", torch.zeros(SHAPE, dtype=torch.float64))
    wanted = (model[-1].weight[T].view_as(X) * (X - start)).detach()
    found = explain.METHODS[method](model, X.clone().requires_grad_(), T, **PROMISES[method]).detach()
    if method in ("kernel_shap", "occlusion"):  # a pixel goes with all its channels, which share its value
        found, wanted = found.sum(1).double(), wanted.sum(1)
    tolerance = 1e-6 if method in ("integrated_gradients", "occlusion") else 1e-9  # Captum works in float32 there
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("method", ["saliency", "smoothgrad", "guided_backprop"])
def test_a_linear_model_gets_its_weights(method: str) -> None:
    model = linear().double()
    found = explain.METHODS[method](model, X.clone().requires_grad_(), T)
    torch.testing.assert_close(found.detach(), model[-1].weight[T].view_as(X).detach())


@pytest.mark.parametrize("method", ["deep_lift", "kernel_shap", "gradient_shap"])
def test_a_linear_table_gets_its_closed_form(method: str) -> None:
    model = nn.Linear(FEATURES, CLASSES).double().eval()
    x, start = draw(4, FEATURES, dtype=torch.float64), 0.3
    found = explain.METHODS[method](model, x.clone().requires_grad_(), T[:4], baseline=start).detach()
    torch.testing.assert_close(found, model.weight[T[:4]].detach() * (x - start), atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("method, options", [("deep_lift", {}), ("kernel_shap", {"samples": 100})])
def test_maps_are_complete(method: str, options: dict[str, object]) -> None:
    model = network().double()
    found = explain.METHODS[method](model, X.clone().requires_grad_(), T, baseline=START, **options).detach()
    torch.testing.assert_close(found.sum((1, 2, 3)), rise(model, X, T, START), atol=1e-9, rtol=1e-9)


# ---------------------------------------------------------------- gradients


def test_gradient_shap_against_a_slow_expectation_over_the_background() -> None:
    model, background = network(nn.Softplus).double(), draw(3, *SHAPE, seed=9, dtype=torch.float64)
    found = explain.gradient_shap(model, X[:2].clone(), T[:2], samples=600, background=background)
    wanted = sum(explain.integrated_gradients(model, X[:2], T[:2], steps=64, baseline=b) for b in background) / 3
    assert (found - wanted).norm() < 0.02 * wanted.norm()
    mean = sum(rise(model, X[:2], T[:2], b) for b in background) / 3
    torch.testing.assert_close(found.sum((1, 2, 3)), mean, atol=0.01, rtol=0.01)


def test_gradient_shap_meets_every_background_equally_often() -> None:
    """So a linear model has no noise at all."""
    model, background = linear().double(), draw(4, *SHAPE, seed=9, dtype=torch.float64)
    found = explain.gradient_shap(model, X, T, samples=8, background=background)
    wanted = model[-1].weight[T].view_as(X) * (X - background.mean(0))
    torch.testing.assert_close(found, wanted.detach())


def guided_reference(model: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return attr.GuidedBackprop(model).attribute(x.clone().requires_grad_(), target=t).detach()


def test_guided_backprop_is_captums_and_differs_from_saliency() -> None:
    for model in (network().double(), kd.models.resnet(8, 4, CHANNELS, CLASSES).double().eval()):
        found = explain.guided_backprop(model, X, T)
        torch.testing.assert_close(found, guided_reference(model, X, T))
        assert (found - explain.saliency(model, X.clone().requires_grad_(), T)).abs().max() > 0.01 * found.abs().max()


class Net(nn.Module):
    """One convolution, something that is under test, a linear layer."""

    def __init__(self, body: object, *layers: nn.Module) -> None:
        super().__init__()
        self.first, self.body = nn.Conv2d(CHANNELS, 4, 3, padding=1), body
        self.layers, self.relu = nn.ModuleList(layers), nn.ReLU()
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.LazyLinear(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.body(self, x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.flatten(1))


def net(body: object, *layers: nn.Module) -> nn.Module:
    with kd.seeded(3):
        model = Net(body, *layers).double()
        model(X)
    return model.eval()


def same(_model: nn.Module, x: Tensor) -> Tensor:
    return x


CONV = nn.Conv2d(4, 4, 3, padding=1)
FAULTS = {
    "F.relu": (net(lambda m, x: F.relu(x)), "(Net) calls the function relu: make it a layer of its own"),
    "torch.relu": (net(lambda m, x: torch.relu(x)), "calls the function relu"),
    "Tensor.relu": (net(lambda m, x: x.relu()), "calls the function relu"),
    "clamp": (net(lambda m, x: x.clamp(min=0)), "calls the function clamp"),
    "one ReLU twice": (net(lambda m, x: m.relu(m.second(m.relu(x)))), "layer 'relu' (ReLU) is called twice"),
    "MaxPool after ReLU": (
        net(same, nn.ReLU(), nn.MaxPool2d(2)), "layer 'layers.0' (ReLU) and layer 'layers.1' (MaxPool2d) meet"),
    "ReLU after MaxPool": (
        net(same, nn.MaxPool2d(2), nn.ReLU()), "layer 'layers.0' (MaxPool2d) and layer 'layers.1' (ReLU) meet"),
    "with dropout between": (net(same, nn.ReLU(), nn.Dropout(), nn.MaxPool2d(2)), "'layers.2' (MaxPool2d) meet"),
    "overlapping windows": (net(same, nn.MaxPool2d(3, 2)), "the windows of layer 'layers.0' (MaxPool2d) overlap"),
    "GELU": (net(same, nn.GELU()), "layer 'layers.0' (GELU) has no rule"),
    "SiLU": (net(same, nn.SiLU()), "layer 'layers.0' (SiLU) has no rule"),
    "LayerNorm": (net(same, nn.LayerNorm(8)), "layer 'layers.0' (LayerNorm) has no rule"),
    "a product": (net(lambda m, x: x * x), "its maps miss logit(input) − logit(baseline) by"),
    "a shortcut around": (net(lambda m, x: x + m.relu(x)), "its maps miss logit(input) − logit(baseline) by"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_what_deep_lift_cannot_explain_is_named(case: str) -> None:
    model, sentence = FAULTS[case]
    with pytest.raises(ValueError, match=r"^deep_lift cannot explain this model exactly: ") as caught:
        explain.deep_lift(model, X.clone().requires_grad_(), T, baseline=START)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    assert bool(explain.rescale_obstacles(model, X)) == ("miss" not in sentence)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())


@pytest.mark.parametrize(
    "layers",
    [[nn.ReLU()], [nn.ReLU(inplace=True)], [nn.MaxPool2d(2)], [nn.Tanh(), nn.AvgPool2d(2)], [nn.Softplus()]],
)
def test_what_deep_lift_can_explain_is_not_refused(layers: list[nn.Module]) -> None:
    model = net(same, *layers)
    assert explain.rescale_obstacles(model, X) == []
    found = explain.deep_lift(model, X.clone().requires_grad_(), T, baseline=START)
    torch.testing.assert_close(found.detach().sum((1, 2, 3)), rise(model, X, T, START))


@pytest.mark.parametrize(
    "case, wrong", [("F.relu", True), ("one ReLU twice", True), ("overlapping windows", True), ("SiLU", True),
                    ("MaxPool after ReLU", False), ("ReLU after MaxPool", False), ("GELU", False)],
)  # fmt: skip
def test_the_obstacles_of_shap_are_those_that_its_own_check_finds(case: str, wrong: bool) -> None:
    shap = pytest.importorskip("shap")
    model = FAULTS[case][0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = shap.DeepExplainer(model, START[None]).shap_values(X, check_additivity=False)
    total = torch.as_tensor(values).flatten(1, -2).sum(1).gather(1, T[:, None])[:, 0]
    wanted = rise(model, X, T, START)
    assert (float((total - wanted).abs().sum() / wanted.abs().sum()) > 0.01) == wrong
    assert bool(explain.rescale_obstacles(model, X, "shap")) == wrong


def test_shap_refuses_what_works_in_place() -> None:
    model = net(same, nn.ReLU(inplace=True))
    assert "works in place" in explain.rescale_obstacles(model, X, "shap")[0]
    assert explain.rescale_obstacles(model, X) == []


def test_guided_backprop_refuses_what_would_be_plain_saliency() -> None:
    for case in ("F.relu", "torch.relu", "Tensor.relu", "clamp"):
        with pytest.raises(ValueError, match=r"guided_backprop changes layers only: .* calls the function"):
            explain.guided_backprop(FAULTS[case][0], X, T)
    for model, name in ((FAULTS["GELU"][0], "GELU"), (network(nn.Softplus).double(), "Softplus")):
        with pytest.raises(ValueError, match=rf"the model has none \({name} is called instead\)"):
            explain.guided_backprop(model, X, T)


# ---------------------------------------------------------------- class activation


@pytest.mark.parametrize("relu", [True, False])
def test_grad_cam_is_captums(relu: bool) -> None:
    model = kd.models.resnet(8, 4, CHANNELS, CLASSES).double().eval()
    found = explain.grad_cam(model, X, T, relu=relu)
    coarse = attr.LayerGradCam(model, model.stage3).attribute(X, target=T, relu_attributions=relu).detach()
    torch.testing.assert_close(found, F.interpolate(coarse, (SIZE, SIZE), mode="bilinear"))
    assert (found < 0).any() != relu
    guided = explain.guided_grad_cam(model, X, T)
    torch.testing.assert_close(guided, explain.grad_cam(model, X, T) * guided_reference(model, X, T))


def test_the_default_layer_is_the_last_with_more_than_one_position() -> None:
    x = draw(2, 1, 28, 28)
    for model, path in ((kd.models.tiny_cnn(), "8"), (kd.models.resnet(8), "stage3")):
        wanted = attribute(model.eval(), x, T[:2], "grad_cam", layer=path)
        assert explain.grad_cam_layer(model, x) == path
        assert torch.equal(attribute(model, x, T[:2], "grad_cam"), wanted) and wanted.any()
        assert not torch.equal(attribute(model, x, T[:2], "grad_cam", layer="0" if path == "8" else "stage1"), wanted)


def test_an_all_negative_grad_cam_is_zero_and_no_nan() -> None:
    model = nn.Sequential(nn.Conv2d(CHANNELS, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(SIZE * SIZE, CLASSES)).eval()
    nn.init.constant_(model[-1].weight, -1.0)
    found = attribute(model, X.float(), T, "grad_cam")
    assert found.shape == (5, SIZE, SIZE) and not found.any()
    assert (attribute(model, X.float(), T, "grad_cam", relu=False) <= 0).all()
    for measure in explain.MEASURES:
        assert explain.map_agreement(found, found, measure).tolist() == [0.0] * 5


# ---------------------------------------------------------------- coalitions


def shapley(values: dict[frozenset[int], Tensor], players: int) -> Tensor:
    """The definition: every player's mean rise over all orders of joining."""
    found = []
    for player in range(players):
        others, total = [i for i in range(players) if i != player], 0
        for size in range(players):
            weight = math.factorial(size) * math.factorial(players - size - 1) / math.factorial(players)
            for group in itertools.combinations(others, size):
                total += weight * (values[frozenset((*group, player))] - values[frozenset(group)])
        found.append(total)
    return torch.stack(found, dim=-1)


def all_values(model: nn.Module, x: Tensor, t: Tensor, start: Tensor, ids: Tensor) -> dict[frozenset[int], Tensor]:
    players, found = int(ids.max()) + 1, {}
    for bits in itertools.product([False, True], repeat=players):
        mask = torch.tensor(bits)[ids]
        with torch.no_grad():
            logits = model(torch.where(mask, x, start.expand_as(x)))
        found[frozenset(i for i in range(players) if bits[i])] = logits.gather(1, t[:, None])[:, 0]
    return found


@pytest.mark.parametrize("samples", [14, 15, 1000])
def test_kernel_shap_of_four_segments_is_the_shapley_value(samples: int) -> None:
    model = network(nn.Tanh).double()
    wanted = shapley(all_values(model, X, T, START, QUARTERS), 4)
    found = explain.kernel_shap(model, X, T, samples=samples, segments=2, baseline=START)
    shared = wanted[:, QUARTERS] / 16
    torch.testing.assert_close(found.sum(1), shared, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found[:, 0], found[:, 1])


@pytest.mark.parametrize("columns", [1, 2, 3, 6, 9])
def test_kernel_shap_of_a_table_is_the_shapley_value(columns: int) -> None:
    with kd.seeded(columns):
        model = nn.Sequential(nn.Linear(columns, 16), nn.Tanh(), nn.Linear(16, CLASSES)).double().eval()
    x, start = draw(5, columns, dtype=torch.float64), draw(columns, seed=8, dtype=torch.float64)
    wanted = shapley(all_values(model, x, T, start, torch.arange(columns)), columns)
    found = explain.kernel_shap(model, x, T, samples=2**columns, baseline=start)
    assert (found - wanted).abs().max() < 1e-9


def test_kernel_shap_is_shaps_where_all_coalitions_are_asked() -> None:
    shap = pytest.importorskip("shap")
    columns = 10
    with kd.seeded(0):
        model = nn.Sequential(nn.Linear(columns, 16), nn.Tanh(), nn.Linear(16, CLASSES)).double().eval()
    x, start = draw(2, columns, dtype=torch.float64), draw(1, columns, seed=8, dtype=torch.float64)

    def predict(table: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(table)).numpy()

    reference = shap.KernelExplainer(predict, start.numpy())
    values = torch.from_numpy(reference.shap_values(x.numpy(), nsamples=2**columns, l1_reg=False, silent=True))
    found = explain.kernel_shap(model, x, T[:2], samples=2**columns - 2, baseline=start)
    wanted = torch.stack([values[i, :, T[i]] for i in range(2)])
    assert (found - wanted).abs().max() < 1e-6


def test_sampled_coalitions_come_near_the_shapley_value_and_nearer_with_more() -> None:
    model = network(nn.Tanh).double()
    ids = torch.arange(9).view(3, 3)[torch.arange(8) * 3 // 8][:, torch.arange(8) * 3 // 8]
    wanted = shapley(all_values(model, X, T, START, ids), 9)
    sizes = torch.bincount(ids.flatten())
    wanted = (wanted / sizes)[:, ids]
    errors = []
    for samples in (40, 200):
        found = [
            attribute(model, X, T, "kernel_shap", s, samples=samples, segments=3, baseline=START) for s in range(4)
        ]
        errors.append(float((torch.stack(found).double() - wanted).norm() / wanted.norm() / 2))
    assert errors[1] < 0.5 * errors[0] < 0.2


def test_coalitions_are_paired_distinct_and_weighted_by_the_kernel() -> None:
    from kdutils.explain.perturbation import _shapley_coalitions

    for players, samples in ((49, 200), (49, 201), (12, 300), (7, 60), (8, 100), (5, 30)):
        masks, weights = _shapley_coalitions(players, samples)
        assert len(masks) == min(2 * (samples // 2), 2**players - 2) == len(masks.unique(dim=0))
        assert torch.equal(masks[0::2] + masks[1::2], torch.ones_like(masks[0::2]))
        assert torch.equal(weights[0::2], weights[1::2]) and (weights > 0).all()
        kernel = [(players - 1) / (s * (players - s)) for s in range(1, players)]
        mass = [float(weights[masks.sum(1) == s].sum()) for s in (1, players - 1)]
        full = 2 * (masks.sum(1) == 1).sum() == 2 * players
        if full:  # all single players are in: they have exactly their mass
            assert mass == pytest.approx([kernel[0] / sum(kernel) * float(weights.sum())] * 2)


def test_segments_may_be_any_numbers_and_differ_between_images() -> None:
    model = network(nn.Tanh).double()
    same_ids = attribute(model, X, T, "kernel_shap", segments=QUARTERS * 10 - 7, samples=14)
    assert torch.equal(same_ids, attribute(model, X, T, "kernel_shap", segments=2, samples=14))
    halves = (torch.arange(8) >= 4).long()[:, None].expand(8, 8)
    each = torch.stack([QUARTERS, halves, QUARTERS + 3, halves.T, QUARTERS])
    found = attribute(model, X, T, "kernel_shap", segments=each, samples=14)
    for i in range(5):
        alone = attribute(model, X[i : i + 1], T[i : i + 1], "kernel_shap", segments=each[i], samples=14)
        torch.testing.assert_close(found[i : i + 1], alone)
    torch.testing.assert_close(found[0], same_ids[0])


def test_columns_of_a_table_may_be_grouped() -> None:
    model, x = table_network().double(), draw(5, FEATURES, dtype=torch.float64)
    groups = torch.tensor([0, 1, 0, 2, 2])
    wanted = shapley(all_values(model, x, T, torch.zeros(1, FEATURES, dtype=torch.float64), groups), 3)
    found = explain.kernel_shap(model, x, T, segments=groups)
    torch.testing.assert_close(found, (wanted / torch.bincount(groups))[:, groups])


@pytest.mark.parametrize("method", ["kernel_shap", "lime"])
def test_all_chunks_share_their_coalitions(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(nn.Tanh)
    whole = attribute(model, X.float(), T, method, 7, samples=100)
    monkeypatch.setattr(explain, "CHUNK", 2)
    torch.testing.assert_close(attribute(model, X.float(), T, method, 7, samples=100), whole, atol=1e-5, rtol=1e-4)
    assert not torch.equal(attribute(model, X.float(), T, method, 8, samples=100), whole)


def test_lime_is_a_weighted_ridge_regression() -> None:
    """What the model was asked is recorded; the masks are read off it and scikit-learn makes the fit."""
    model, asked = network(nn.Tanh).double(), []
    hook = model.register_forward_pre_hook(lambda _model, inputs: asked.append(inputs[0].clone()))
    options = {"samples": 60, "segments": 2, "width": 0.4, "ridge": 0.7}
    found = explain.lime(model, X[:1], T[:1], baseline=START, **options)[0].sum(0)
    hook.remove()
    points = next(each for each in asked if len(each) == 60)
    with torch.no_grad():
        values = model(points)[:, 0].numpy()
    masks = (points[:, 0, ::4, ::4] == X[0, 0, ::4, ::4]).flatten(1).double().numpy()
    assert masks[0].all() and 0.4 < masks.mean() < 0.6 and len(np.unique(masks, axis=0)) > 8
    cosine = masks.sum(1) / np.sqrt(np.maximum(masks.sum(1), 1e-12) * 4)
    fit = Ridge(alpha=0.7).fit(masks, values, sample_weight=np.sqrt(np.exp(-((1 - cosine) ** 2) / 0.4**2)))
    torch.testing.assert_close(found, torch.from_numpy(fit.coef_)[QUARTERS] / 16)


def test_kernel_shap_is_steadier_than_captums_at_equal_samples() -> None:
    """Two seeds, 200 samples over 49 patches, the shipped student."""
    student, (x, _) = kd.zoo.load("fashion_mnist/tiny_cnn_distilled"), kd.data.load("fashion_mnist")[1][:4].tensors()
    target = kd.predict(student, x).argmax(1)
    ids = explain.segment_ids(x, 7)

    def ours(seed: int) -> Tensor:
        return attribute(student, x, target, "kernel_shap", seed)

    def captums(seed: int) -> Tensor:
        with kd.seeded(seed):
            return torch.cat([
                attr.KernelShap(student).attribute(
                    x[i : i + 1], target=target[i : i + 1], feature_mask=ids[:, None], n_samples=200,
                    perturbations_per_eval=200)
                for i in range(len(x))
            ])[:, 0] / 16  # fmt: skip

    def correlation(maps: list[Tensor]) -> float:
        a, b = (each[:, 2::4, 2::4].flatten(1) for each in maps)
        return float(np.mean([np.corrcoef(p, q)[0, 1] for p, q in zip(a, b, strict=True)]))

    own, theirs = correlation([ours(0), ours(1)]), correlation([captums(0), captums(1)])
    assert own > 0.45 and own > theirs + 0.15, (own, theirs)


# ---------------------------------------------------------------- attention


class Attends(nn.Module):
    """Two blocks whose attention is given, for calculations by hand: tokens = class token and two patches."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor([
            [[[0.0, 1.0, 2.0], [0.5, 0.0, 1.0], [1.0, 0.0, 0.0]], [[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]],
            [[[2.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 3.0, 0.0]], [[0.0, 0.0, 3.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]],
        ]))  # fmt: skip
        self.first, self.second = nn.Softmax(-1), nn.Softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        values = F.pad(x.flatten(1), (1, 0))[:, None, :, None]  # (N, 1, 3, 1): the class token starts at 0
        for scores, softmax in zip(self.scores, (self.first, self.second), strict=True):
            weights = softmax(scores.expand(len(x), 2, 3, 3))
            values = values + (weights @ values * torch.tensor([1.0, -0.5]).view(1, 2, 1, 1)).sum(1, keepdim=True)
        return values[:, 0, 0] * torch.tensor([1.0, -1.0])


def test_attention_weights_are_those_of_the_layers() -> None:
    model, x = Attends().eval(), torch.tensor([[[[2.0, 3.0]]], [[[-1.0, 1.0]]]])
    found = explain.attention_weights(model, x)
    assert found.shape == (2, 2, 2, 3, 3) and not found.requires_grad
    torch.testing.assert_close(found[:, 1], model.scores.softmax(-1).detach())
    vit = transformer()
    torch.testing.assert_close(explain.attention_weights(vit, X.float()).sum(-1), torch.ones(2, 5, 2, 17))


def test_attention_rollout_by_hand() -> None:
    model, x = Attends().eval(), torch.tensor([[[[2.0, 3.0]]]])
    blocks = model.scores.detach().softmax(-1).numpy().mean(1)
    first, second = ((block + np.eye(3)) / 2 for block in blocks)
    wanted = torch.from_numpy((second @ first)[0, 1:])
    found = attribute(model, x, torch.tensor([0]), "attention_rollout")
    torch.testing.assert_close(found[0, 0], wanted.float())
    assert torch.equal(found, attribute(model, x, torch.tensor([1]), "attention_rollout"))


def test_attention_gradient_by_hand() -> None:
    """∂ logit / ∂ A of the last block is v · sign of the head; of the first by the chain rule, by hand."""
    model, x = Attends().eval(), torch.tensor([[[[2.0, 3.0]]]])
    a = model.scores.detach().softmax(-1).double()
    heads = torch.tensor([1.0, -0.5], dtype=torch.float64)
    v0 = torch.tensor([0.0, 2.0, 3.0], dtype=torch.float64)
    mix = [torch.eye(3, dtype=torch.float64) + (heads.view(2, 1, 1) * block).sum(0) for block in a]
    v1 = mix[0] @ v0
    slope2 = torch.zeros(2, 3, 3, dtype=torch.float64)
    slope2[:, 0] = heads[:, None] * v1  # only the class token's row counts
    slope1 = heads.view(2, 1, 1) * mix[1][0].view(1, 3, 1) * v0.view(1, 1, 3)
    for target, sign in ((0, 1.0), (1, -1.0)):
        total = torch.eye(3, dtype=torch.float64)
        for block, slope in ((a[0], slope1), (a[1], slope2)):
            total = total + (sign * slope * block).clamp(min=0).mean(0) @ total
        found = attribute(model, x, torch.tensor([target]), "attention_gradient")
        torch.testing.assert_close(found[0, 0], total[0, 1:].float())


def test_a_patch_gives_all_its_pixels_one_value() -> None:
    for method in ("attention_rollout", "attention_gradient"):
        found = attribute(transformer(), X.float(), T, method)
        blocks = found.view(5, 4, 2, 4, 2)
        assert torch.equal(blocks, blocks[:, :, :1, :, :1].expand_as(blocks))
        assert len(found[0].unique()) == 16 and (found >= 0).all()


# ---------------------------------------------------------------- seeds and bad input


@pytest.mark.parametrize("method", ["gradient_shap", "kernel_shap", "lime"])
def test_the_seed_settles_the_map_and_the_global_state_stays(method: str) -> None:
    model = network(nn.Tanh)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = attribute(model, X.float(), T, method, seed=4, samples=100)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(10)
    assert torch.equal(attribute(model, X.float(), T, method, seed=4, samples=100), first)
    assert not torch.equal(attribute(model, X.float(), T, method, seed=5, samples=100), first)


KS, GS = "kernel_shap", "gradient_shap"
BAD = {
    "too few samples": (KS, {"samples": 20}, "samples must be at least 98 for 49 segments or columns, got 20."),
    "too few for four": (KS, {"samples": 7, "segments": 2}, "samples must be at least 8 for 4 segments"),
    "no samples": ("lime", {"samples": 0}, "samples must be an integer of at least 1, got 0."),
    "too many patches": (KS, {"segments": 9}, "segments must be at most 8, the images' shorter side, got 9."),
    "no patches": ("lime", {"segments": 0}, "segments must be an integer of at least 1, got 0."),
    "segments of another size": (KS, {"segments": QUARTERS[:4]},
        "int64 of shape (8, 8) or (5, 8, 8), got torch.int64 (4, 8)"),
    "segments as floats": (KS, {"segments": QUARTERS.float()}, "got torch.float32 (8, 8)"),
    "segments of other images": (KS, {"segments": QUARTERS.expand(4, 8, 8)}, "got torch.int64 (4, 8, 8)"),
    "no width": ("lime", {"width": 0}, "width must be a positive finite number, got 0."),
    "no ridge": ("lime", {"ridge": -1.0}, "ridge must be a positive finite number, got -1.0."),
    "unknown baseline": (KS, {"baseline": "blak"}, "baseline 'blak' is unknown: the nearest is 'black'"),
    "background of another shape": (GS, {"background": torch.zeros(3, 8)},
        "must be a tensor of shape (M, 2, 8, 8), got"),
    "no background": (GS, {"background": torch.zeros(0, *SHAPE)},
        "background must be a tensor of shape (M, 2, 8, 8)"),
    "NaN in the background": (GS, {"background": torch.full((1, *SHAPE), math.nan)},
        "background holds NaN or infinity"),
    "both": (GS, {"background": torch.zeros(1, *SHAPE), "baseline": "black"},
        "background and baseline exclude each other"),
    "unknown layer": ("grad_cam", {"layer": "33"}, "layer '33' is unknown: the nearest is '3'"),
    "a layer without maps": ("grad_cam", {"layer": "7"},
        "layer '7' must give maps (N, C, H, W) of more than one position"),
    "no attention": ("attention_rollout", {}, "the model has no attention weights to read"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_sentence(case: str) -> None:
    method, options, sentence = BAD[case]
    with pytest.raises(ValueError) as caught:
        attribute(network(), X.float(), T, method, **options)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "method", ["grad_cam", "guided_grad_cam", "occlusion", "attention_rollout", "attention_gradient"]
)
def test_methods_for_images_refuse_tables(method: str) -> None:
    with pytest.raises(ValueError, match=r"needs images \(N, C, H, W\), got inputs of shape \(5, 5\)"):
        attribute(table_network(), draw(5, FEATURES), T, method)


def test_grad_cam_sends_transformers_to_the_rollout() -> None:
    with pytest.raises(ValueError, match=r"'norm', gives .* or explain a transformer by attention_rollout\.$"):
        attribute(transformer(), X.float(), T, "grad_cam")


def test_fused_attention_is_named() -> None:
    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(SIZE, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x[:, 0], x[:, 0], x[:, 0])[0][:, 0, :CLASSES]

    for method in ("attention_rollout", "attention_gradient"):
        with pytest.raises(ValueError, match=r"layer 'attention' cannot be read: nn\.MultiheadAttention"):
            attribute(Fused().eval(), X.float(), T, method)


def test_tokens_that_are_no_grid_are_told() -> None:
    from kdutils.explain.attention import _as_maps

    with pytest.raises(ValueError, match="12 tokens are not a class token and a grid of patches of images of 8 × 8"):
        _as_maps(torch.rand(1, 12, 12), X)
