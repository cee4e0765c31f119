"""The measures of `kdutils.explain` against slow loops, Captum and planted truths; none ever gives NaN."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from captum import metrics
from scipy import ndimage
from scipy.integrate import trapezoid
from torch import Tensor, nn

import kdutils as kd
from kdutils import explain
from kdutils.explain import attribute, faithfulness

COUNT, CHANNELS, HEIGHT, WIDTH, CLASSES, FEATURES = 5, 2, 8, 10, 3, 6
PIXELS = HEIGHT * WIDTH


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def network(activation: type[nn.Module] = nn.ReLU, seed: int = 0) -> nn.Sequential:
    with kd.seeded(seed):
        model = nn.Sequential(
            nn.Conv2d(CHANNELS, 6, 3, padding=1), nn.BatchNorm2d(6), activation(),
            nn.Conv2d(6, 6, 3, stride=2, padding=1), activation(), nn.Flatten(), nn.Linear(6 * 20, CLASSES),
        )  # fmt: skip
        model(torch.randn(64, CHANNELS, HEIGHT, WIDTH))
    return model.eval()


def linear(seed: int = 0) -> nn.Sequential:
    with kd.seeded(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * PIXELS, CLASSES)).eval()


def table_network() -> nn.Sequential:
    with kd.seeded(0):
        return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, CLASSES)).eval()


@pytest.fixture
def images() -> Tensor:
    return draw(COUNT, CHANNELS, HEIGHT, WIDTH, seed=1)


@pytest.fixture
def targets() -> Tensor:
    return torch.arange(COUNT) % CLASSES


@pytest.fixture
def maps() -> Tensor:
    return draw(COUNT, HEIGHT, WIDTH, seed=2)


@pytest.fixture(params=["one chunk", "chunks of 2"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "one chunk":
        monkeypatch.setattr(faithfulness, "CHUNK", 2)


def probability(model: nn.Module, image: np.ndarray, target: int) -> float:
    with torch.no_grad():
        logits = model(torch.from_numpy(image)[None].float())[0].double().numpy()
    exps = np.exp(logits - logits.max())
    return float(exps[target] / exps.sum())


# ---------------------------------------------------------------- deletion and insertion


def slow_curve(model: nn.Module, image: Tensor, ranking: Tensor, target: int, fill: str, steps: int, insert: bool):
    """One image, one step and one pixel at a time."""
    image = image.double().numpy()
    if fill == "mean":
        filled = np.zeros_like(image)
    else:
        sigma = (HEIGHT / 7, WIDTH / 7)
        filled = np.stack([ndimage.gaussian_filter(channel, sigma, truncate=3) for channel in image])
    order = sorted(np.ndindex(HEIGHT, WIDTH), key=lambda pixel: -float(ranking[pixel]))
    curve = []
    for step in range(steps + 1):
        now = (filled if insert else image).copy()
        for row, column in order[: int(step * PIXELS / steps)]:
            now[:, row, column] = (image if insert else filled)[:, row, column]
        curve.append(probability(model, now, target))
    return curve


@pytest.mark.parametrize("insert", [False, True])
@pytest.mark.parametrize("fill", ["mean", "blur"])
@pytest.mark.parametrize("steps", [1, 28, PIXELS])
@pytest.mark.usefixtures("chunk")
def test_curves_equal_a_slow_loop(images, targets, maps, fill, steps, insert) -> None:
    model = network()
    wanted = [
        slow_curve(model, x, m, int(t), fill, steps, insert) for x, m, t in zip(images, maps, targets, strict=True)
    ]
    function = explain.insertion_curve if insert else explain.deletion_curve
    found = function(model, images, maps, targets, fill, steps)
    assert found.shape == (COUNT, steps + 1) and found.dtype == torch.float32 and found.device.type == "cpu"
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float32), atol=1e-6, rtol=0)


@pytest.mark.parametrize("fill", ["mean", "blur"])
def test_deletion_by_the_map_is_insertion_by_its_opposite_read_backwards(images, targets, maps, fill) -> None:
    model = network()
    deleted = explain.deletion_curve(model, images, maps, targets, fill, steps=8)
    inserted = explain.insertion_curve(model, images, -maps, targets, fill, steps=8)
    torch.testing.assert_close(deleted, inserted.flip(1))


def test_curves_of_a_table_in_float64() -> None:
    model, table, target = table_network().double(), draw(4, FEATURES, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    maps = draw(4, FEATURES, seed=3)
    model.requires_grad_(False)
    found = explain.deletion_curve(model, table, maps, target, steps=FEATURES)
    for i in range(4):
        row, wanted = table[i].clone(), [float(model(table[i])[None].softmax(1)[0, target[i]])]
        for feature in maps[i].argsort(descending=True):
            row[feature] = 0
            wanted.append(float(model(row).softmax(0)[target[i]]))
        torch.testing.assert_close(found[i], torch.tensor(wanted, dtype=torch.float32))


def test_equal_values_go_in_a_random_order_that_favours_no_corner() -> None:
    """Whether 400 constant maps send their pixels away evenly: the mean place of each is that of a fair lot."""
    ranks = faithfulness._ranks(torch.zeros(400, HEIGHT, WIDTH), torch.Generator().manual_seed(0))
    assert (ranks.sort(1).values == torch.arange(PIXELS)).all()
    spread = np.sqrt((PIXELS**2 - 1) / 12 / 400)  # of the mean of 400 uniform places
    off = (ranks.double().mean(0) - (PIXELS - 1) / 2) / spread
    assert off.abs().max() < 4.5 and 0.7 < off.std() < 1.3


def test_only_equal_values_are_drawn_by_lot(images, targets, maps) -> None:
    model, sparse = network(), maps.clamp(min=0)
    a, b = (explain.deletion_curve(model, images, sparse, targets, steps=PIXELS, seed=s) for s in (0, 1))
    again = explain.deletion_curve(model, images, sparse, targets, steps=PIXELS, seed=0)
    assert torch.equal(a, again) and not torch.equal(a, b)
    fewest = int((sparse > 0).flatten(1).sum(1).min())
    torch.testing.assert_close(a[:, : fewest + 1], b[:, : fewest + 1])
    assert torch.equal(*(explain.deletion_curve(model, images, maps, targets, seed=s) for s in (0, 1)))


def test_area_is_the_mean_height() -> None:
    curves = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.0]])
    assert explain.area(curves).tolist() == [1.0, 0.5, 0.5]
    curves = draw(3, 29).double()
    np.testing.assert_allclose(explain.area(curves), trapezoid(curves, np.linspace(0, 1, 29)), atol=1e-12)


# ---------------------------------------------------------------- completeness


@pytest.mark.parametrize("make", [lambda: linear(), lambda: network(nn.Softplus)])
@pytest.mark.parametrize("baseline", ["mean", "black", -1.5])
@pytest.mark.usefixtures("chunk")
def test_integrated_gradients_are_complete(images, targets, make, baseline) -> None:
    model, exact = make().double(), images.double()
    maps = attribute(model, exact, targets, "integrated_gradients", steps=64, baseline=baseline)
    gaps = explain.completeness(model, exact, maps, targets, baseline)
    assert gaps.shape == (COUNT,) and gaps.dtype == torch.float32
    assert gaps.abs().max() < 1e-6


def test_completeness_is_the_gap_and_has_its_sign(images, targets) -> None:
    model = linear()
    weights = model[-1].weight.detach()[targets].view_as(images)
    maps = (weights * images).sum(1)
    maps[:, 3, 4] += torch.arange(COUNT)
    torch.testing.assert_close(
        explain.completeness(model, images, maps, targets), torch.arange(COUNT).float(), atol=2e-6, rtol=0
    )
    model, table = table_network(), draw(2, FEATURES)
    gap = explain.completeness(model, table, torch.zeros(2, FEATURES), torch.tensor([0, 1]), 0.5)
    with torch.no_grad():
        wanted = model(torch.full((FEATURES,), 0.5))[:2] - model(table).diagonal()
    torch.testing.assert_close(gap, wanted)


# ---------------------------------------------------------------- infidelity


def noises(shape: tuple[int, ...], samples: int, noise: float, seed: int) -> Tensor:
    """The perturbations of `infidelity`, (samples, N, ...)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([noise * torch.randn(shape, generator=generator) for _ in range(samples)])


def captum_infidelity(model, images, attributions, targets, moved: Tensor, removed: Tensor) -> Tensor:
    samples = len(moved)

    def perturb(_inputs: Tensor) -> tuple[Tensor, Tensor]:
        return moved.transpose(0, 1).flatten(0, 1), removed.transpose(0, 1).flatten(0, 1)

    return metrics.infidelity(
        model, perturb, images, attributions, target=targets, n_perturb_samples=samples, normalize=True
    )


def test_infidelity_equals_captum_on_the_same_noise(images, targets, maps) -> None:
    model, noise, samples = network(), 0.3, 12
    moved = noises(maps.shape, samples, noise, 4)[:, :, None].expand(-1, -1, CHANNELS, -1, -1)
    attributions = draw(*images.shape, seed=5)  # however the map is shared among the channels
    attributions += ((maps - attributions.sum(1)) / CHANNELS)[:, None]
    wanted = captum_infidelity(model, images, attributions, targets, moved, images - moved)
    found = explain.infidelity(model, images, maps, targets, samples, noise, seed=4)
    assert found.shape == (COUNT,) and found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_infidelity_of_a_table_equals_captum() -> None:
    model, table, maps, target = table_network(), draw(3, FEATURES), draw(3, FEATURES, seed=1), torch.tensor([0, 2, 1])
    moved = noises(maps.shape, 20, 0.5, 0)
    wanted = captum_infidelity(model, table, maps, target, moved, table - moved)
    torch.testing.assert_close(explain.infidelity(model, table, maps, target, 20, 0.5), wanted, atol=1e-5, rtol=1e-4)


def test_infidelity_of_squares_equals_captum(images, targets, maps) -> None:
    model, samples = network(), 12
    generator = torch.Generator().manual_seed(0)
    squares = torch.stack([faithfulness._squares(maps.shape, generator) for _ in range(samples)])[:, :, None]
    attributions = (maps / CHANNELS)[:, None].expand_as(images)
    moved = squares.float().expand(-1, -1, CHANNELS, -1, -1)
    wanted = captum_infidelity(model, images, attributions, targets, moved, images * ~squares)
    found = explain.infidelity(model, images, maps, targets, samples, perturb="squares")
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_squares_are_squares_of_every_size_everywhere() -> None:
    masks = faithfulness._squares(torch.Size((3000, HEIGHT, WIDTH)), torch.Generator().manual_seed(0))
    tall, wide = masks.any(2).sum(1), masks.any(1).sum(1)
    assert torch.equal(tall, wide) and torch.equal(masks.flatten(1).sum(1), tall**2)
    assert tall.unique().tolist() == [1, 2, 3, 4] and masks.any(0).all()


@pytest.mark.parametrize("perturb", ["noise", "squares"])
@pytest.mark.usefixtures("chunk")
def test_infidelity_does_not_depend_on_the_maps_scale_or_sign(images, targets, maps, perturb) -> None:
    model = network()
    found = [explain.infidelity(model, images, maps * k, targets, 8, 0.1, 0, perturb) for k in (1, 100, 1e-3, -1)]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-7)


def test_infidelity_of_the_right_map_of_a_linear_model_is_zero_and_of_a_zero_map_the_worst(images, targets) -> None:
    model = linear()
    weights = model[-1].weight.detach()[targets].view_as(images)
    zero = torch.zeros(COUNT, HEIGHT, WIDTH)
    for right, perturb in ((weights.sum(1), "noise"), ((weights * images).sum(1), "squares")):
        lowest, other, worst = (
            explain.infidelity(model, images, m, targets, perturb=perturb) for m in (right, explain.edges(images), zero)
        )
        assert (lowest < 1e-9 * worst.clamp(min=1)).all() and (other <= worst).all() and (lowest < other).all()


# ---------------------------------------------------------------- max-sensitivity


@pytest.mark.parametrize("method", ["saliency", "input_x_gradient"])
def test_max_sensitivity_equals_captum_on_the_same_draws(images, targets, method) -> None:
    model, samples, radius = network(nn.Softplus), 6, 0.1
    generator = torch.Generator().manual_seed(3)
    moved = torch.stack([(2 * torch.rand(images.shape, generator=generator) - 1) * radius for _ in range(samples)])

    def explanation(inputs: tuple[Tensor, ...], target: Tensor) -> tuple[Tensor, ...]:
        return (attribute(model, inputs[0], target, method),)

    wanted = metrics.sensitivity_max(
        explanation,
        images,
        perturb_func=lambda inputs: (inputs + moved.transpose(0, 1).flatten(0, 1),),
        n_perturb_samples=samples,
        target=targets,
    )
    found = explain.max_sensitivity(model, images, targets, method, radius, samples, seed=3)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_the_slope_of_a_linear_model_is_not_sensitive(images, targets) -> None:
    assert explain.max_sensitivity(linear(), images, targets, "saliency").tolist() == [0.0] * COUNT
    noisy = explain.max_sensitivity(linear(), images, targets, "smoothgrad", samples=2, noise=0.2)
    assert noisy.max() < 1e-6  # the method's own noise is not mistaken for it


def test_max_sensitivity_keeps_the_baseline_and_grows_with_the_radius(images, targets) -> None:
    model = network(nn.Softplus)
    small, large = (
        explain.max_sensitivity(model, images, targets, "integrated_gradients", r, 3, steps=4, baseline="black")
        for r in (0.01, 0.1)
    )
    assert (small > 0).all() and (small < large).all() and large.max() < 1


def test_zero_maps_that_stay_zero_are_not_sensitive(images, targets) -> None:
    model = linear()
    nn.init.zeros_(model[-1].weight)
    assert explain.max_sensitivity(model, images, targets, "saliency").tolist() == [0.0] * COUNT


# ---------------------------------------------------------------- ROAD


def slow_imputation(image: np.ndarray, gone: list[tuple[int, int]]) -> np.ndarray:
    """A dense system, written down pixel by pixel."""
    height, width = image.shape[1:]
    system, right = np.zeros((len(gone), len(gone))), np.zeros((len(gone), len(image)))
    place = {pixel: i for i, pixel in enumerate(gone)}
    for i, (row, column) in enumerate(gone):
        for down in (-1, 0, 1):
            for across in (-1, 0, 1):
                other = (row + down, column + across)
                if (down, across) == (0, 0) or not (0 <= other[0] < height and 0 <= other[1] < width):
                    continue
                weight = 1 / 12 if down and across else 1 / 6
                system[i, i] += weight
                if other in place:
                    system[i, place[other]] -= weight
                else:
                    right[i] += weight * image[:, other[0], other[1]]
    filled = image.copy()
    for pixel, values in zip(gone, np.linalg.solve(system, right), strict=True):
        filled[:, pixel[0], pixel[1]] = values
    return filled


@pytest.mark.parametrize("order", ["most", "least"])
@pytest.mark.usefixtures("chunk")
def test_road_equals_a_slow_loop(images, targets, maps, order) -> None:
    model, shares = network(), (0.01, 0.25, 0.5, 0.95)
    found = explain.road(model, images, maps, targets, shares, order, noise=0.0)
    wanted = torch.zeros(COUNT, len(shares))
    for i in range(COUNT):
        sign = -1 if order == "most" else 1
        pixels = sorted(np.ndindex(HEIGHT, WIDTH), key=lambda pixel, i=i, sign=sign: sign * float(maps[i][pixel]))
        for s, share in enumerate(shares):
            filled = slow_imputation(images[i].double().numpy(), pixels[: max(1, round(share * PIXELS))])
            wanted[i, s] = probability(model, filled, int(targets[i]))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_large_images_are_solved_one_by_one_to_the_same_values() -> None:
    images, gone = draw(2, 1, 150, 180, dtype=torch.float64), draw(2, 150, 180, seed=1) < 0
    together = torch.cat([faithfulness._imputed(images[i : i + 1], gone[i : i + 1]) for i in range(2)])
    filled = faithfulness._imputed(images, gone)
    assert torch.equal(filled, together) and torch.equal(filled[:, 0][~gone], images[:, 0][~gone])
    weights = torch.tensor([[1.0, 2, 1], [2, 0, 2], [1, 2, 1]], dtype=torch.float64) / 12
    mean = torch.nn.functional.conv2d(filled, weights[None, None])[:, 0]
    inside = gone[:, 1:-1, 1:-1]
    torch.testing.assert_close(filled[:, 0, 1:-1, 1:-1][inside], mean[inside])


def test_imputation_keeps_a_plane_and_a_constant() -> None:
    """A linear slope solves the equations, where no removed pixel lies on the frame."""
    row, column = torch.meshgrid(torch.arange(9.0), torch.arange(12.0), indexing="ij")
    plane = (2 * row - column)[None, None].double()
    gone = torch.zeros(1, 9, 12, dtype=torch.bool)
    gone[0, 1:-1, 1:-1] = torch.rand(7, 10, generator=torch.Generator().manual_seed(0)) < 0.8
    torch.testing.assert_close(faithfulness._imputed(plane, gone), plane)
    gone[:] = True
    gone[0, 4, 4] = False
    constant = torch.full_like(plane, 3.0)
    torch.testing.assert_close(faithfulness._imputed(constant, gone), constant)


def test_road_without_a_pixel_left_is_the_mean_image(images, targets, maps) -> None:
    model = network()
    found = explain.road(model, images, maps, targets, [1], noise=0.0)
    wanted = explain.deletion_curve(model, images, maps, targets)[:, -1:]
    torch.testing.assert_close(found, wanted)


def test_road_noise_is_seeded_and_small_and_the_same_for_every_map(images, targets, maps) -> None:
    model = network()
    a, again, b = (explain.road(model, images, maps, targets, seed=s) for s in (0, 0, 1))
    assert torch.equal(a, again) and not torch.equal(a, b)
    torch.testing.assert_close(a, explain.road(model, images, maps, targets, noise=0.0), atol=0.02, rtol=0)
    assert torch.equal(a, explain.road(model, images, 3 * maps + 1, targets))


# ---------------------------------------------------------------- cascade


def test_cascade_draws_from_the_head_down_and_leaves_the_rest() -> None:
    model = kd.models.resnet(8, width=4).eval()
    with torch.no_grad():
        for buffer in model.buffers():
            buffer.add_(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained, new = [path for path, m in model.named_modules() if list(m.parameters(recurse=False))], set()
    seen = dict(explain.cascade(model, seed=3))
    assert list(seen) == trained[::-1] and next(iter(seen)) == "head"
    for path, drawn in seen.items():
        new.add(path)
        assert not drawn.training
        for name, value in drawn.state_dict().items():
            layer, leaf = name.rpartition(".")[::2]
            if layer not in new:
                assert torch.equal(value, before[name])
            elif leaf == "weight" and value.dim() > 1:
                assert not torch.equal(value, before[name])
            elif leaf.startswith("running"):
                assert value.unique().tolist() == [float(leaf == "running_var")]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_cascade_is_lazy_seeded_and_leaves_the_random_state() -> None:
    model = network()
    state = torch.get_rng_state()
    first, second = explain.cascade(model, 0), explain.cascade(model, 0)
    copies = []
    for (name, a), (_, b) in zip(first, second, strict=True):
        torch.rand(3)  # what the caller draws in between changes nothing
        copies.append(a)
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True)), name
    torch.set_rng_state(state)
    next(explain.cascade(model, 0))
    assert torch.equal(state, torch.get_rng_state())
    with torch.no_grad():
        copies[0][0].weight.zero_()  # each copy is the caller's own
    assert copies[1][0].weight.any()
    assert not torch.equal(next(explain.cascade(model, 1))[1][-1].weight, copies[0][-1].weight)


def test_cascade_shuffles_what_has_no_reset() -> None:
    model = kd.models.vit(image_size=8, dim=8, depth=1, heads=2).eval()
    name, last = list(explain.cascade(model))[-1]
    assert name == "cls, position"
    assert not torch.equal(last.position, model.position)
    assert torch.equal(last.position.flatten().sort().values, model.position.flatten().sort().values)


def test_every_step_of_the_cascade_has_maps_that_are_not_flat() -> None:
    model, images = kd.zoo.load("fashion_mnist/tiny_cnn"), draw(4, 1, 28, 28)
    for name, drawn in explain.cascade(model, 0):
        maps = attribute(drawn, images, torch.zeros(4, dtype=torch.int64), "saliency")
        assert not explain.is_flat(maps).any(), name
        assert 1e-6 < maps.abs().amax() < 10, name


# ---------------------------------------------------------------- known regions, edges, blob


def test_mass_and_pointing_by_hand() -> None:
    maps = torch.tensor([[[3.0, 1.0], [-4.0, 0.0]], [[0.0, 2.0], [2.0, 2.0]]])
    masks = torch.tensor([[[True, False], [True, False]], [[False, False], [True, True]]])
    assert explain.mass_inside(maps, masks).tolist() == pytest.approx([0.75, 2 / 3])
    assert explain.pointing_game(maps, masks).tolist() == pytest.approx([1.0, 2 / 3])
    assert explain.pointing_game(maps, masks[0]).tolist() == pytest.approx([1.0, 1 / 3])
    assert explain.mass_inside(maps, ~masks[0]).tolist() == pytest.approx([0.25, 2 / 3])


@pytest.mark.parametrize("value", [0.0, 2.0, -2.0])
def test_flat_maps_get_the_share_of_the_area(value) -> None:
    flat, mask = torch.full((2, 4, 5), value), torch.zeros(4, 5, dtype=torch.bool)
    for columns in (0, 2, 5):
        mask[:, :columns] = True
        for function in (explain.mass_inside, explain.pointing_game):
            assert function(flat, mask).tolist() == pytest.approx([columns / 5] * 2)
    assert explain.is_flat(flat).all() and not explain.is_flat(draw(2, 4, 5)).any()


def test_edges_of_a_slope_and_a_step() -> None:
    slope = torch.arange(6.0).expand(1, 2, 5, 6) * 3  # two channels, 3 per pixel
    torch.testing.assert_close(explain.edges(slope)[0, :, 1:-1], torch.full((5, 4), 6.0))
    assert not explain.edges(torch.ones(2, 1, 4, 4)).any()
    step = torch.zeros(1, 1, 6, 6)
    step[..., 3:] = 1
    assert (explain.edges(step)[0] > 0).nonzero()[:, 1].unique().tolist() == [2, 3]
    turned = draw(2, 3, 7, 7)
    torch.testing.assert_close(explain.edges(turned.mT), explain.edges(turned).mT)
    alone = torch.stack([explain.edges(turned[i : i + 1, c : c + 1])[0] for i in range(2) for c in range(3)])
    torch.testing.assert_close(explain.edges(turned), alone.view(2, 3, 7, 7).sum(1))


def test_the_blob_is_in_the_middle() -> None:
    blob = explain.centre_blob(torch.zeros(3, 2, 28, 14))
    assert blob.shape == (3, 28, 14) and blob.dtype == torch.float32
    torch.testing.assert_close(blob, blob.flip(1, 2))
    assert float(blob[0].amax() / blob[0, 0].amax()) == pytest.approx(np.exp((13.5**2 - 0.5**2) / (2 * 7**2)), rel=1e-4)


# ---------------------------------------------------------------- planted truth


class Planted(nn.Module):
    """Class 1 if one corner is bright on average; the rest is not looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 12, 12))
        with torch.no_grad():
            self.weight[0, :4, :4] = 0.25

    def forward(self, x: Tensor) -> Tensor:
        score = (x * self.weight).sum((1, 2, 3))
        return torch.stack([torch.full_like(score, 2), score], 1)


@pytest.fixture(scope="module")
def planted() -> tuple[nn.Module, Tensor, Tensor, Tensor, Tensor]:
    """A model, images with a smooth distractor in the middle, targets, the region and the right map."""
    model = Planted().eval()
    images = 0.5 * draw(40, 1, 12, 12)
    images[:, :, 5:9, 5:9] += 2
    images[:, :, :4, :4] = 1 + 0.2 * draw(40, 1, 4, 4, seed=1)
    region = model.weight[0] > 0
    targets = torch.ones(40, dtype=torch.int64)
    return model, images, targets, region, attribute(model, images, targets, "integrated_gradients")


COMPETITORS: dict[str, Callable[[Tensor], Tensor]] = {"edges": explain.edges, "blob": explain.centre_blob}


@pytest.mark.parametrize("fill", ["mean", "blur"])
@pytest.mark.parametrize("name", COMPETITORS)
def test_the_right_map_beats_edges_and_blob_where_the_truth_is_planted(planted, name, fill) -> None:
    model, images, targets, region, right = planted
    other = COMPETITORS[name](images)

    def mean(measure: Callable[..., Tensor], maps: Tensor, *rest: object) -> float:
        return float(measure(model, images, maps, targets, *rest).mean())

    def deletion(*given: object) -> Tensor:
        return explain.area(explain.deletion_curve(*given))

    def insertion(*given: object) -> Tensor:
        return explain.area(explain.insertion_curve(*given))

    assert mean(deletion, right, fill) < mean(deletion, other, fill) - 0.05
    assert mean(insertion, right, fill) > mean(insertion, other, fill) + 0.05
    assert mean(explain.road, right, [0.11]) < mean(explain.road, other, [0.11]) - 0.05
    assert mean(explain.road, right, [0.7], "least") > mean(explain.road, other, [0.7], "least") + 0.05
    assert explain.mass_inside(right, region).min() > 0.999 > 0.5 > explain.mass_inside(other, region).max()
    assert explain.pointing_game(right, region).min() == 1 > explain.pointing_game(other, region).mean() + 0.3
    slope = attribute(model, images, targets, "saliency")
    assert mean(explain.infidelity, slope) < 1e-6 < mean(explain.infidelity, other)
    squares = (64, 0.1, 0, "squares")
    assert mean(explain.infidelity, right, *squares) < 1e-6 < mean(explain.infidelity, other, *squares)


FLAT = {
    "zero": torch.zeros(COUNT, HEIGHT, WIDTH),
    "constant": torch.full((COUNT, HEIGHT, WIDTH), 0.3),
    "negative": -1 - draw(COUNT, HEIGHT, WIDTH).abs(),
    "tiny": 1e-38 * draw(COUNT, HEIGHT, WIDTH),
    "huge": 1e37 * draw(COUNT, HEIGHT, WIDTH),
}


@pytest.mark.parametrize("name", FLAT)
def test_no_measure_ever_gives_nan(images, targets, name) -> None:
    model, maps, mask = network(), FLAT[name], torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    given = (model, images, maps, targets)
    found = [
        *(explain.deletion_curve(*given, fill) for fill in ("mean", "blur")),
        *(explain.insertion_curve(*given, fill) for fill in ("mean", "blur")),
        *(explain.road(*given, [0.01, 0.5, 1.0], order) for order in ("most", "least")),
        *(explain.infidelity(*given, 4, 0.1, 0, perturb) for perturb in ("noise", "squares")),
        explain.mass_inside(maps, mask),
        explain.pointing_game(maps, mask),
        explain.completeness(*given),
    ]
    assert all(torch.isfinite(each).all() for each in found)


def test_nothing_is_left_changed(images, targets, maps) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept, state = (images.clone(), maps.clone()), torch.get_rng_state()
    for measure in (explain.deletion_curve, explain.insertion_curve, explain.road, explain.infidelity):
        measure(model, images, maps, targets)
    explain.max_sensitivity(model, images, targets, "smoothgrad", samples=2)
    assert torch.equal(images, kept[0]) and torch.equal(maps, kept[1]) and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


# ---------------------------------------------------------------- bad input

GIVEN = {
    "model": network(),
    "images": draw(2, CHANNELS, HEIGHT, WIDTH),
    "maps": draw(2, HEIGHT, WIDTH),
    "targets": torch.tensor([0, 1]),
}
TABLE = {"model": table_network(), "images": draw(2, FEATURES), "maps": draw(2, FEATURES)}
NAN = torch.full((2, HEIGHT, WIDTH), float("nan"))
MASK = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
D, R, I, S = explain.deletion_curve, explain.road, explain.infidelity, explain.max_sensitivity  # noqa: E741
SHAPE = "maps must be floats of shape (2, 8, 10), one value per pixel, got "
BAD: list[tuple[Callable[..., Tensor], dict[str, object], str]] = [
    (D, {"maps": GIVEN["maps"][:1]}, SHAPE + "torch.float32 (1, 8, 10)."),
    (D, {"maps": GIVEN["images"]}, SHAPE + "torch.float32 (2, 2, 8, 10)."),
    (D, {"maps": MASK}, SHAPE + "torch.bool (2, 8, 10)."),
    (D, {"maps": NAN}, "maps hold NaN or infinity"),
    (D, {"fill": "blurr"}, "fill 'blurr' is unknown: the nearest is 'blur'; known are blur, mean."),
    (D, TABLE | {"fill": "blur", "steps": 2}, 'fill "blur" needs images (N, C, H, W), got inputs of shape (2, 6).'),
    (D, TABLE, "steps must be at most 6, one per pixel, got 28."),
    (D, {"steps": 0}, "steps must be an integer of at least 1, got 0."),
    (D, {"steps": PIXELS + 1}, "steps must be at most 80, one per pixel, got 81."),
    (D, {"seed": -1}, "seed must be a non-negative integer, got -1."),
    (D, {"images": GIVEN["images"] / 0}, "images hold NaN or infinity"),
    (D, {"targets": torch.tensor([0, 3])}, "targets must lie in 0 to 2 (3 classes), got 0 to 3."),
    (D, {"model": network().train()}, "the model is in training mode"),
    (explain.insertion_curve, {"fill": "men"}, "fill 'men' is unknown: the nearest is 'mean'"),
    (explain.completeness, {"baseline": "meen"}, "baseline 'meen' is unknown: the nearest is 'mean'"),
    (explain.completeness, {"maps": NAN}, "maps hold NaN or infinity"),
    (I, {"samples": 0}, "samples must be an integer of at least 1, got 0."),
    (I, {"noise": 0}, "noise must be a positive finite number, got 0."),
    (I, {"perturb": "square"}, "perturb 'square' is unknown: the nearest is 'squares'"),
    (I, TABLE | {"perturb": "squares"}, 'perturb "squares" needs images (N, C, H, W)'),
    (R, {"order": "last"}, "order 'last' is unknown: the nearest is 'least'; known are least, most."),
    (R, {"shares": [0.5, 0]}, "shares must be numbers above 0 and up to 1, at least one, got (0.5, 0)."),
    (R, {"shares": [10]}, "shares must be numbers above 0 and up to 1, at least one, got (10,)."),
    (R, {"shares": []}, "at least one, got ()."),
    (R, {"shares": 0.5}, "shares must be numbers above 0 and up to 1, at least one, got 0.5."),
    (R, {"shares": [float("nan")]}, "got (nan,)."),
    (R, {"noise": -1}, "noise must be a finite number of at least 0, got -1."),
    (R, TABLE, "road needs images (N, C, H, W), got inputs of shape (2, 6)."),
]


@pytest.mark.parametrize("function, changed, sentence", BAD)
def test_bad_input_is_told_in_one_sentence(function, changed, sentence) -> None:
    with pytest.raises(ValueError) as caught:
        function(**(GIVEN | changed))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changed, sentence",
    [
        ({"method": "salience"}, "method 'salience' is unknown: the nearest is 'saliency'"),
        ({"steps": 3}, "option 'steps' is unknown: saliency has none."),
        ({"radius": 0}, "radius must be a positive finite number, got 0."),
        ({"samples": 0}, "samples must be an integer of at least 1, got 0."),
        ({"seed": 0.5}, "seed must be a non-negative integer, got 0.5."),
    ],
)
def test_bad_sensitivity_is_told_in_one_sentence(changed, sentence) -> None:
    given = {key: GIVEN[key] for key in ("model", "images", "targets")} | {"method": "saliency"} | changed
    with pytest.raises(ValueError) as caught:
        S(**given)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: explain.area(torch.ones(3)), "curves must be floats (N, steps + 1) with at least one step"),
        (lambda: explain.area(torch.ones(3, 1)), "got torch.float32 (3, 1)."),
        (lambda: explain.area([1.0]), "got a list."),
        (lambda: explain.mass_inside(GIVEN["maps"], MASK.float()), "masks must be bool of shape (2, 8, 10) or (8, 10)"),
        (lambda: explain.mass_inside(GIVEN["maps"], MASK[:1]), "got torch.bool (1, 8, 10)."),
        (lambda: explain.pointing_game(NAN, MASK), "maps hold NaN or infinity: every value must be finite."),
        (lambda: explain.pointing_game(GIVEN["images"], MASK), "maps must have the shape (N, H, W), got (2, 2, 8, 10)"),
        (lambda: explain.is_flat(MASK), "maps must be floats (N, H, W), got torch.bool (2, 8, 10)."),
        (lambda: explain.edges(GIVEN["maps"]), "images must be floats (N, C, H, W), got torch.float32 (2, 8, 10)."),
        (lambda: explain.centre_blob(MASK[None]), "images must be floats (N, C, H, W), got torch.bool"),
        (lambda: explain.cascade(nn.Flatten()), "the model has no parameters: there is nothing to draw anew."),
        (lambda: explain.cascade(network(), -1), "seed must be a non-negative integer, got -1."),
    ],
)
def test_other_bad_input_is_told_in_one_sentence(call, sentence) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
