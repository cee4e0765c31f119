"""Teaching the explanation: maps that can be trained, the losses between them, and the terms."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kdutils as kd
from kdutils import explain, guided, losses
from tests.common import fashion, modes, pixels, random_set, random_state, same_bits, weights

pytestmark = pytest.mark.filterwarnings("ignore:the teacher is right on")
ONE: dict[str, Any] = {"epochs": 1, "batch_size": 40, "augment": False, "weight_decay": 0.0}


class Small(nn.Module):
    """Convolution, batch norm, an activation, pooling, a head: as the book's student, on 8 × 8 images."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.act = activation
        self.deep = nn.Conv2d(5, 8, 3, stride=2)
        self.last = nn.ReLU() if isinstance(activation, nn.ReLU) else nn.Softplus()
        self.head = nn.Linear(8, 3)
        for layer in (self.conv, self.deep, self.head):
            layer.weight.data *= 3  # so that no loss and no slope is tiny

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.deep(self.act(self.norm(self.conv(x))))).mean((2, 3)))


def small(seed: int = 0, smooth: bool = True) -> Small:
    with kd.seeded(seed):
        model = Small(nn.Softplus() if smooth else nn.ReLU())
        assert model.norm.running_mean is not None and model.norm.running_var is not None
        model.norm.running_mean += torch.randn(5) / 3
        model.norm.running_var += torch.rand(5)
    return model.eval()


def inputs(n: int = 6, seed: int = 1) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


CLASSES = torch.tensor([0, 1, 2, 0, 1, 2])
MASK = torch.zeros(8, 8, dtype=torch.bool)
MASK[:3, :3] = True
cam = partial(guided.grad_cam, layer="deep")
MAPS: dict[str, guided.Explanation] = {
    "input_gradient": guided.input_gradient,
    "path_gradient": partial(guided.path_gradient, where=0.3),
    "grad_cam": cam,
}


def step(student: nn.Module, teacher: nn.Module | None, x: Tensor, **stored: Tensor) -> kd.Step:
    with torch.no_grad():
        logits = (teacher if teacher is not None else student)(x)
    return kd.Step(x, CLASSES[: len(x)], student, teacher, {"logits": logits, **stored})


def at_path(step: kd.Step) -> Tensor:
    with kd.seeded(5):
        return guided.path_matching()(step)


STEP_LOSSES: dict[str, Callable[[kd.Step], Tensor]] = {
    "e2KD": guided.matching(cam),
    "Jacobian": guided.matching(guided.input_gradient),
    "path": at_path,
    "reasons": lambda step: guided.outside_loss(step.student, step.inputs, MASK),
}


# The maps


def test_the_maps_are_those_of_explain() -> None:
    model, x = small(), inputs()
    gradient = guided.input_gradient(model, x, CLASSES)
    assert gradient.shape == x.shape
    torch.testing.assert_close(gradient.detach()[:, 0], explain.attribute(model, x, CLASSES, "saliency"))
    ours = F.interpolate(cam(model, x, CLASSES)[:, None], (8, 8), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(ours.detach(), explain.attribute(model, x, CLASSES, "grad_cam", layer="deep"))
    points = torch.stack([guided.path_gradient(model, x, CLASSES, (k + 0.5) / 50) for k in range(50)])
    whole = explain.attribute(model, x, CLASSES, "integrated_gradients", steps=50)
    torch.testing.assert_close(points.mean(0).detach()[:, 0], whole, rtol=1e-3, atol=1e-4)


def test_each_image_has_its_own_place_on_the_path() -> None:
    model, x, where = small(), inputs(), torch.linspace(0.1, 0.9, 6)
    together = guided.path_gradient(model, x, CLASSES, where)
    for i in range(6):
        alone = guided.path_gradient(model, x[i : i + 1], CLASSES[i : i + 1], float(where[i]))
        torch.testing.assert_close(together[i : i + 1], alone)


def test_the_mean_of_the_class_maps_is_the_logits() -> None:
    model = kd.models.tiny_cnn(4).eval()
    with kd.layers.read(model, ["8"]) as seen:
        logits = model(torch.randn(3, 1, 28, 28))
    maps = guided.class_maps(seen["8"], model[11])
    assert maps.shape == (3, 10, 7, 7)
    torch.testing.assert_close(maps.mean((2, 3)) + model[11].bias, logits)


@pytest.mark.parametrize("name", MAPS)
def test_a_map_has_a_graph_only_where_gradients_are_enabled(name: str) -> None:
    model, x = small(), inputs()
    live = MAPS[name](model, x, CLASSES)
    assert live.requires_grad
    with torch.no_grad():
        still = MAPS[name](model, x, CLASSES)
    assert not still.requires_grad
    torch.testing.assert_close(live.detach(), still)
    frozen = small().requires_grad_(False)
    torch.testing.assert_close(MAPS[name](frozen, x, CLASSES).detach(), still)


@pytest.mark.parametrize("name", MAPS)
def test_a_map_is_that_of_eval_mode_and_leaves_the_network_as_it_was(name: str) -> None:
    model, x = small().train(), inputs()
    model.act.eval()
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    before, mode, state, given = weights(model), modes(model), random_state(), x.clone()
    found = MAPS[name](model, x, CLASSES)
    torch.testing.assert_close(found, MAPS[name](small(), x, CLASSES))
    assert same_bits(weights(model), before) and modes(model) == mode and random_state() == state
    assert bool((model.conv.weight.grad == 1).all()) and model.head.weight.grad is None
    assert torch.equal(x, given) and not x.requires_grad
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# The losses


@pytest.mark.parametrize("name", STEP_LOSSES)
def test_every_loss_reaches_the_parameters_as_finite_differences_say(name: str) -> None:
    student, teacher, x = small(5).double(), small(2).double(), inputs().double()
    loss = STEP_LOSSES[name](step(student, teacher, x))
    loss.backward()
    for parameter in (student.conv.weight, student.deep.weight, student.head.weight):
        assert parameter.grad is not None and float(parameter.grad.abs().max()) > 1e-5
        for index in [0, parameter.numel() // 2, parameter.numel() - 1]:
            flat, found = parameter.data.view(-1), []
            for move in (1e-5, -2e-5):
                flat[index] += move
                found.append(STEP_LOSSES[name](step(student, teacher, x)).item())
            flat[index] += 1e-5
            slope = (found[0] - found[1]) / 2e-5
            assert float(parameter.grad.view(-1)[index]) == pytest.approx(slope, rel=1e-3, abs=1e-7)
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("name", ["e2KD", "Jacobian", "path"])
def test_a_student_that_is_like_its_teacher_has_no_loss(name: str) -> None:
    loss = STEP_LOSSES[name](step(small(1), small(1), inputs()))
    assert float(loss.detach().abs()) < 1e-6
    assert STEP_LOSSES[name](step(small(1), small(2), inputs())).item() > 0.01


def test_input_noise_is_nothing_between_equals_and_leaves_no_trace() -> None:
    with kd.seeded(0):
        equal = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    loss = guided.input_noise(noise=0.5, temperature=2.0)
    assert loss(step(equal, equal, inputs())).item() == pytest.approx(0, abs=1e-6)
    student, teacher = small(1).train(), small(2)
    before, mode = weights(student), modes(student)
    found = loss(step(student, teacher, inputs()))
    found.backward()
    assert found.item() > 0 and student.conv.weight.grad is not None
    assert bool((student.conv.weight.grad != 0).any())
    assert same_bits(weights(student), before) and modes(student) == mode
    assert student.norm.track_running_stats and all(p.grad is None for p in teacher.parameters())


def test_small_noise_matches_jacobians() -> None:
    """Of linear networks without biases, at a large temperature: σ² ‖J_s − J_t‖² / (2K), centred over the classes."""
    with kd.seeded(0):
        student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(64, 3, bias=False)).double() for _ in range(2))
    loss = guided.input_noise(noise=0.3, temperature=200.0)
    nothing = torch.zeros(20_000, 1, 8, 8, dtype=torch.float64)
    with kd.seeded(1):
        found = loss(kd.Step(nothing, CLASSES, student, teacher, {}))
    away = student[1].weight - teacher[1].weight
    away = away - away.mean(0)  # a softmax does not see what all classes have in common
    assert found.item() == pytest.approx(0.3**2 * away.square().sum().item() / (2 * 3), rel=0.05)


def test_the_biases_of_a_relu_network_get_no_gradient_from_jacobians() -> None:
    x = inputs()
    for smooth in (False, True):
        student = small(1, smooth)
        guided.matching(guided.input_gradient)(step(student, small(2, smooth), x)).backward()
        found = {name: p.grad for name, p in student.named_parameters() if name.endswith("bias") and p.grad is not None}
        moved = {name for name, gradient in found.items() if bool((gradient != 0).any())}
        assert moved == ({"conv.bias", "norm.bias", "deep.bias"} if smooth else set())


def test_map_loss_is_one_minus_the_cosine() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5, 4, 3, dtype=torch.float64, generator=generator)
    wanted = 1 - F.cosine_similarity(a.flatten(1), b.flatten(1))
    torch.testing.assert_close(losses.map_loss(a, b), wanted.mean())
    torch.testing.assert_close(losses.map_loss(100 * a, 1e-3 * b), wanted.mean())
    normal = [x.flatten(1) / x.flatten(1).norm(dim=1, keepdim=True) for x in (a, b)]
    torch.testing.assert_close(losses.map_loss(a, b), (normal[0] - normal[1]).square().sum(1).mean() / 2)
    b[2] = 0  # teaches nothing
    torch.testing.assert_close(losses.map_loss(a, b), wanted[[0, 1, 3, 4]].mean())
    a[0] = 0
    torch.testing.assert_close(losses.map_loss(a, b), (1 + wanted[[1, 3, 4]].sum()) / 4)
    a.requires_grad_()
    loss = losses.map_loss(a, b.requires_grad_())
    (slopes,) = torch.autograd.grad(loss, a)
    assert bool(torch.isfinite(slopes).all()) and bool((slopes[[0, 2]] == 0).all()) and bool((slopes[1] != 0).any())
    assert losses.map_loss(a, torch.zeros_like(a)).item() == 0


@pytest.mark.parametrize("loss", [losses.map_loss, losses.class_map_loss, partial(losses.class_map_loss, size=3)])
def test_the_losses_of_maps_pass_gradcheck(loss: Callable[..., Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 4, 5, 5, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda x: loss(x, b), a.requires_grad_())
    assert not loss(a.detach(), b.clone().requires_grad_()).requires_grad, "no gradient reaches the teacher"
    assert float(loss(a, a)) == pytest.approx(0, abs=1e-12)
    assert loss(a.half(), b.half()).dtype == torch.float32


def test_class_map_loss_is_the_published_form() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 4, 6, 6, generator=generator)
    pooled = [F.normalize(F.adaptive_avg_pool2d(x, 2), dim=(2, 3)) for x in (a, b)]
    torch.testing.assert_close(losses.class_map_loss(a, b), F.mse_loss(*pooled))
    other = F.interpolate(b, scale_factor=2)  # the same after pooling
    torch.testing.assert_close(losses.class_map_loss(a, other), F.mse_loss(*pooled))


def test_outside_loss_by_hand_and_only_outside() -> None:
    with kd.seeded(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    x = inputs(2).double()
    p = model(x).softmax(1)
    slopes = (model[1].weight.sum(0) - 3 * p @ model[1].weight).view(2, 8, 8)  # ∂ Σ_k log p_k / ∂ x
    own = torch.stack([MASK, ~MASK])
    wanted = (slopes[0][MASK].square().sum() + slopes[1][~MASK].square().sum()) / 2
    torch.testing.assert_close(guided.outside_loss(model, x, own), wanted)
    parts = [guided.outside_loss(model, x, mask) for mask in (MASK, ~MASK, torch.ones_like(MASK))]
    torch.testing.assert_close(parts[0] + parts[1], parts[2])


def test_outside_share_by_hand_and_without_a_unit() -> None:
    slopes = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    own = torch.stack([MASK, ~MASK])
    wanted = [slopes[i][:, own[i]].square().sum() / slopes[i].square().sum() for i in (0, 1)]
    torch.testing.assert_close(losses.outside_share(slopes, own), (wanted[0] + wanted[1]) / 2)
    torch.testing.assert_close(losses.outside_share(1e4 * slopes, own), (wanted[0] + wanted[1]) / 2)
    assert losses.outside_share(slopes[:, 0], MASK).item() + losses.outside_share(
        slopes[:, 0], ~MASK
    ).item() == pytest.approx(1)
    assert torch.autograd.gradcheck(lambda x: losses.outside_share(x, own), slopes.requires_grad_())
    nothing = torch.zeros(1, 8, 8, requires_grad=True)
    share = losses.outside_share(nothing, MASK)
    share.backward()
    assert share.item() == 0 and nothing.grad is not None and not nothing.grad.any()


def test_only_the_first_images_are_explained() -> None:
    student, teacher, x = small(1), small(2), inputs()
    maps = guided.teacher_maps(teacher, random_set(6, classes=3), cam)[0]
    for loss in (partial(guided.matching, cam), partial(guided.matching, cam, stored="cam")):
        whole, part = loss(), loss(images=2)
        first = step(student, teacher, x[:2], cam=maps[:2])
        torch.testing.assert_close(part(step(student, teacher, x, cam=maps)), whole(first))
    with kd.seeded(3):
        two = guided.path_matching(images=2)(step(student, teacher, x))
    with kd.seeded(3):
        torch.testing.assert_close(two, guided.path_matching()(step(student, teacher, x[:2])))


def test_stored_points_of_the_path_are_compared_with_the_same_points() -> None:
    teacher, data = small(2), random_set(6, classes=3)
    x, targets = data.tensors()[0], teacher(data.tensors()[0]).argmax(1)
    points = [
        guided.teacher_maps(teacher, data, partial(guided.path_gradient, where=(k + 0.5) / 3))[0] for k in range(3)
    ]
    torch.testing.assert_close(points[1], guided.path_gradient(teacher, x, targets, 0.5).detach())
    loss = guided.path_matching(stored="path", draws=2)
    equal = loss(step(small(2), None, x, path=torch.stack(points, 1)))
    assert float(equal.detach().abs()) < 1e-6
    assert loss(step(small(2), None, x, path=torch.stack(points[::-1], 1))).item() > 1e-4


# In a run


def terms() -> list[kd.Term]:
    everywhere = torch.ones(28, 28, dtype=torch.bool)
    found: dict[str, Callable[[kd.Step], Tensor]] = {
        "cam": guided.matching(partial(guided.grad_cam, layer="8"), partial(guided.grad_cam, layer="stage3")),
        "jacobian": guided.matching(guided.input_gradient, images=8),
        "path": guided.path_matching(),
        "noise": guided.input_noise(noise=0.3, temperature=4.0),
        "reasons": lambda step: guided.outside_loss(step.student, step.inputs, everywhere),
    }
    return [kd.Term(name, loss, 1, step=True) for name, loss in found.items()]


@pytest.mark.parametrize("term", terms(), ids=lambda term: term.name)
def test_each_term_trains_the_student_and_leaves_the_teacher(term: kd.Term) -> None:
    data, teacher = fashion()[0][:40], kd.zoo.load("fashion_mnist/resnet14").train()
    before, mode, state = weights(teacher), modes(teacher), random_state()
    with kd.seeded(0):
        student = kd.models.tiny_cnn()
    start = weights(student)
    history = kd.distill(student, teacher, data, kd_weight=0, ce_weight=0, terms=[term], **ONE)
    assert history[term.name][0] > 0 and history["loss"] == history[term.name]
    assert not torch.equal(start["0.weight"], student.state_dict()["0.weight"])
    assert same_bits(weights(teacher), before) and modes(teacher) == mode and random_state() == state
    assert all(p.grad is None for p in teacher.parameters())


def test_a_step_sees_what_the_loop_sees() -> None:
    data, teacher, student = random_set(), pixels(2).eval(), pixels(1)
    seen: list[kd.Step] = []

    def look(step: kd.Step) -> Tensor:
        seen.append(step)
        return step.student(step.inputs).square().mean()

    kd.distill(student, teacher, data, terms=[kd.Term("look", look, 1, step=True)], augment=False, epochs=1)
    (found,) = seen
    assert found.student is student and found.teacher is teacher
    torch.testing.assert_close(found.outputs["logits"], teacher(found.inputs).detach())
    assert torch.equal(found.inputs.sum((1, 2, 3)).sort().values, data.tensors()[0].sum((1, 2, 3)).sort().values)
    assert torch.equal(found.labels.sort().values, data.labels.sort().values)
    stored = kd.teacher_outputs(teacher, data) | {"own": torch.arange(40.0).view(1, 40, 1)}
    kd.distill(student, stored, data, terms=[kd.Term("look", look, 1, step=True)], augment=False, epochs=1)
    assert seen[1].teacher is None
    index = seen[1].outputs["own"][:, 0].long()
    torch.testing.assert_close(data.tensors()[0][index], seen[1].inputs)


@pytest.mark.parametrize("augment", [False, "flip"])
def test_stored_maps_teach_as_live_ones_do(augment: Any) -> None:
    data, teacher = random_set(classes=3), small(2)
    stored = kd.teacher_outputs(teacher, data, augment=augment)
    stored["cam"] = guided.teacher_maps(teacher, data, cam, augment)
    assert stored["cam"].shape[:2] == (1 + bool(augment), 40)
    found = []
    for source, name in ((teacher, None), (stored, "cam")):
        student = small(1)
        term = kd.Term("cam", guided.matching(cam, stored=name), 2.0, step=True)
        kd.distill(student, source, data, terms=[term], augment=augment, epochs=2, batch_size=8, seed=1)  # type: ignore[arg-type]
        found.append(weights(student))
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-4, atol=1e-5)


def test_stored_maps_of_another_class() -> None:
    data, teacher = random_set(classes=3), small(2)
    targets = (teacher(data.tensors()[0]).argmax(1) + 1) % 3
    wrong = guided.teacher_maps(teacher, data, guided.input_gradient, targets=targets)
    assert not torch.allclose(wrong, guided.teacher_maps(teacher, data, guided.input_gradient))
    torch.testing.assert_close(wrong[0], guided.input_gradient(teacher, data.tensors()[0], targets).detach())


def test_a_run_with_guided_terms_goes_on_to_the_bit(tmp_path: Path) -> None:
    data, teacher, found = random_set(classes=3), small(2), []
    options: dict[str, Any] = {"epochs": 3, "batch_size": 8, "seed": 1, "augment": "flip"}
    for stop in (None, 7):
        student, steps = small(1), 0

        def counted(step: kd.Step) -> Tensor:
            nonlocal steps
            steps += 1
            if steps == stop:  # noqa: B023
                raise InterruptedError
            return guided.path_matching()(step)

        own = options | {"checkpoint": tmp_path / f"{stop}.safetensors", "checkpoint_every": 3}
        own["terms"] = [kd.Term("path", counted, 1.0, step=True)]
        try:
            kd.distill(student, teacher, data, **own)
        except InterruptedError:
            student = small(1)
            kd.distill(student, teacher, data, resume=True, **own)
        found.append(weights(student))
    assert same_bits(*found)


# Bad input

MAPS4 = torch.ones(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: guided.grad_cam(small(), inputs(), CLASSES, "dep"), ["layer 'dep'", "'deep'"]),
        (lambda: guided.grad_cam(small(), inputs(), CLASSES, "head"), ["layer 'head'", "(6, 3)"]),
        (lambda: guided.class_maps(torch.ones(2, 5, 3, 3), nn.Linear(4, 3)), ["head", "in_features=4", "(2, 5, 3, 3)"]),
        (lambda: guided.outside_loss(small(), inputs(), MASK.float()), ["masks", "bool", "float32"]),
        (lambda: losses.outside_share(inputs(), MASK[:5]), ["masks", "(5, 8)", "(6, 8, 8)"]),
        (lambda: losses.outside_share(inputs(), [MASK]), ["masks", "a list"]),  # type: ignore[arg-type]
        (lambda: guided.outside_loss(small(), inputs(), MASK[:5]), ["masks", "(5, 8)", "(6, 8, 8)"]),
        (lambda: guided.matching(cam, images=0), ["images", "0"]),
        (lambda: guided.path_matching(draws=0), ["draws", "0"]),
        (lambda: guided.input_noise(noise=0, temperature=4.0), ["noise", "0"]),
        (lambda: guided.input_noise(noise=0.1, temperature=-1), ["temperature", "-1"]),
        (lambda: guided.matching(cam)(step(small(), None, inputs())), ["teacher itself", "stored"]),
        (lambda: guided.matching(cam, stored="kam")(step(small(), None, inputs(), cam=inputs())), ["'kam'", "'cam'"]),
        (lambda: guided.teacher_maps(small(), random_set(), cam, augment=True), ["augment", "True"]),  # type: ignore[arg-type]
        (lambda: losses.map_loss(torch.ones(2, 3), torch.ones(2, 4)), ["student_maps and teacher_maps", "(2, 4)"]),
        (lambda: losses.class_map_loss(MAPS4, MAPS4[:, 1:]), ["same N and K", "(2, 2, 4, 4)"]),
        (lambda: losses.class_map_loss(MAPS4, MAPS4, size=0), ["size", "0"]),
        (lambda: kd.Term("a", losses.hint_loss, 1, "8", step=True), ["step=True", "student_layer"]),
        (lambda: kd.Term("a", losses.hint_loss, 1, labels=True, step=True), ["step=True", "labels"]),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_one_sentence(call: Callable[[], Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        call()
    message = str(error.value)
    assert all(word in message for word in words), message
    assert message.endswith(".") and "\n" not in message
