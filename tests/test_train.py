"""Training: the loop against one written by hand, the seed rule, and a teacher that nothing touches."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, TensorDataset

import kdutils as kd
from kdutils import _base, losses, train
from kdutils import _batches as batches
from kdutils.data import ImageSet
from tests.common import (
    fashion,
    linear,
    modes,
    pixels,
    random_set,
    random_state,
    same_bits,
    shuffling_loader,
    weights,
)

# Teachers of random weights are the rule here; that they are told apart is tested in test_terms.
pytestmark = pytest.mark.filterwarnings("ignore:the teacher is right on")

SETS = {
    "ImageSet": lambda workers=0: random_set(),
    "seeded loader": lambda workers=0: random_set().loader(8, shuffle=True, seed=5, workers=workers),
    "plain DataLoader": lambda workers=0: shuffling_loader(random_set(), workers=workers),
}


def run(verb: str, data: Any, seed: int = 0, **options: Any) -> dict[str, Tensor]:
    """Train the same small student, and give its weights."""
    student, options = pixels(1), {"epochs": 2, "batch_size": 8, "seed": seed, "lr": 0.05} | options
    if verb == "fit":
        kd.fit(student, data, **options)
    else:
        kd.distill(student, pixels(2), data, **options)
    return weights(student)


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("verb", ["fit", "distill"])
def test_same_seed_same_weights_to_the_bit(verb: str, kind: str) -> None:
    data = SETS[kind]()
    first = run(verb, data, 3)
    torch.rand(7)  # what was drawn before does not matter
    assert same_bits(first, run(verb, data, 3))
    assert same_bits(first, run(verb, SETS[kind](), 3))
    assert not same_bits(first, run(verb, data, 4))


@pytest.mark.parametrize("augment", [True, False, "flip"])
def test_same_seed_same_weights_with_every_augmentation(augment: Any) -> None:
    assert same_bits(run("distill", random_set(), augment=augment), run("distill", random_set(), augment=augment))


@pytest.mark.parametrize("kind", ["seeded loader", "plain DataLoader"])
def test_a_different_number_of_workers_changes_nothing(kind: str) -> None:
    assert same_bits(run("distill", SETS[kind](0)), run("distill", SETS[kind](2)))


def test_a_progress_bar_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    without = run("distill", random_set(), progress=False)
    shown = io.StringIO()
    monkeypatch.setenv("KDUTILS_PROGRESS", "1")
    monkeypatch.setattr(_base, "in_notebook", lambda: True)
    monkeypatch.setattr("sys.stderr", shown)
    with_bar = run("distill", random_set(), progress=True)
    assert "distill" in shown.getvalue()  # there was one
    assert same_bits(without, with_bar)


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("verb", ["fit", "distill"])
def test_the_global_random_state_is_left_as_found(verb: str, kind: str) -> None:
    data = SETS[kind]()
    generator = getattr(data, "generator", None)
    own = generator.get_state() if generator is not None else torch.zeros(0)
    state = random_state()
    run(verb, data)
    assert random_state() == state
    if generator is not None:
        assert torch.equal(generator.get_state(), own)


# The teacher


class Seen(nn.Module):
    """A teacher that notes the mode in which it was called."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.inner = pixels(2)
        self.calls: list[bool] = []
        self.fail_at = fail_at

    def forward(self, x: Tensor) -> Tensor:
        if len(self.calls) == self.fail_at:
            raise RuntimeError("the teacher broke")
        self.calls.append(any(modes(self)))
        return self.inner(x)


def mixed_modes(teacher: Seen) -> Seen:
    """Training mode, except for one part: the mode of each part has to come back."""
    teacher.train()
    teacher.inner.norm.eval()
    return teacher


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("augment", [True, False])
def test_distill_puts_the_teacher_in_eval_mode_and_gives_each_part_its_mode_back(kind: str, augment: bool) -> None:
    teacher = mixed_modes(Seen())
    before, mode = weights(teacher), modes(teacher)
    kd.distill(pixels(1), teacher, SETS[kind](), epochs=1, batch_size=8, augment=augment)
    assert teacher.calls
    assert not any(teacher.calls), "the teacher was called in training mode"
    assert modes(teacher) == mode
    assert same_bits(weights(teacher), before), "a parameter or a buffer of the teacher changed"
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())


def test_distill_from_a_teacher_left_in_training_mode_learns_the_same_as_from_one_in_eval_mode() -> None:
    found = []
    for mode in (True, False):
        student = pixels(1)
        kd.distill(student, pixels(2).train(mode), SETS["plain DataLoader"](), epochs=1)
        found.append(weights(student))
    assert same_bits(*found)


@pytest.mark.parametrize("fail_at", [0, 2])
def test_the_teacher_gets_its_mode_back_after_an_exception(fail_at: int) -> None:
    teacher = mixed_modes(Seen(fail_at))
    before, mode, state = weights(teacher), modes(teacher), random_state()
    with pytest.raises(RuntimeError, match="the teacher broke"):
        kd.distill(pixels(1), teacher, random_set(), epochs=1, batch_size=8)
    assert modes(teacher) == mode
    assert same_bits(weights(teacher), before)
    assert random_state() == state


def test_the_student_is_trained_in_training_mode_and_left_in_eval_mode() -> None:
    student = Seen().eval()
    kd.fit(student, random_set(), epochs=1, batch_size=8)
    assert all(student.calls)
    assert not any(modes(student))


# The loss


def test_the_first_step_has_the_distillation_loss() -> None:
    data = random_set(32)
    student, teacher = pixels(1), pixels(2).eval()
    student.drop.p = 0.0
    images, labels = data.tensors()
    settings = {"temperature": 3.0, "kd_weight": 0.7, "ce_weight": 0.2}
    student.train()
    start = weights(student)
    with torch.no_grad():
        wanted = losses.distillation_loss(student(images), teacher(images), labels, **settings)
        kd_part = losses.kd_loss(student(images), teacher(images), 3.0)
        ce_part = F.cross_entropy(student(images), labels)
    student.load_state_dict(start)  # the forward passes moved the batch norm's averages
    history = kd.distill(student, teacher, data, epochs=1, batch_size=32, augment=False, **settings)
    assert history["loss"][0] == pytest.approx(float(wanted), rel=1e-5)
    assert history["kd"][0] == pytest.approx(float(kd_part), rel=1e-5)
    assert history["ce"][0] == pytest.approx(float(ce_part), rel=1e-5)


def test_fit_smooths_labels_as_the_formula_says() -> None:
    data, model = random_set(20), linear()
    images, labels = data.tensors()
    with torch.no_grad():
        log_q = model(images).double().log_softmax(1).numpy()
    target = np.full((20, 10), 0.2 / 10)
    target[np.arange(20), labels.numpy()] += 0.8
    history = kd.fit(model, data, epochs=1, batch_size=20, augment=False, label_smoothing=0.2)
    assert history["loss"][0] == pytest.approx(float(-(target * log_q).sum(1).mean()), rel=1e-5)


@pytest.mark.parametrize("verb", ["fit", "distill"])
def test_history_keys(verb: str) -> None:
    student, options = linear(1), {"epochs": 3, "batch_size": 16, "validation": random_set(20, seed=1)}
    history = (
        kd.fit(student, random_set(), **options)
        if verb == "fit"
        else kd.distill(student, linear(2), random_set(), **options)
    )
    terms = {"ce"} if verb == "fit" else {"kd", "ce", "teacher_accuracy"}
    assert set(history) == {"loss", "train_accuracy", "lr", "seconds", "val_accuracy", "val_nll"} | terms
    assert all(len(values) == 3 and all(isinstance(v, float) for v in values) for values in history.values())
    last = kd.evaluate(student, random_set(20, seed=1))
    assert history["val_accuracy"][-1] == last["accuracy"]
    assert history["val_nll"][-1] == pytest.approx(last["nll"])


def test_validation_has_no_influence_on_the_training() -> None:
    assert same_bits(run("distill", random_set()), run("distill", random_set(), validation=random_set(30, seed=9)))


# The steps


def one_cycle(peak: float, done: np.ndarray) -> np.ndarray:
    """Up in a straight line to the peak at a fifth of the way, then down to zero."""
    return peak * np.interp(done, [0, 0.2, 1], [0, 1, 0])


def spy_on_steps() -> tuple[list[float], Any]:
    seen: list[float] = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))
    return seen, hook


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("kind", ["ImageSet", "seeded loader"])
def test_the_learning_rate_is_one_cycle(kind: str, optimizer: Any) -> None:
    seen, hook = spy_on_steps()
    history = kd.fit(linear(), SETS[kind](), epochs=20, batch_size=8, lr=0.3, optimizer=optimizer)
    hook.remove()
    assert len(seen) == 20 * 5
    np.testing.assert_allclose(seen, one_cycle(0.3, np.arange(100) / 100), atol=0.3 * 0.006)
    assert max(seen) == pytest.approx(0.3, rel=0.02)
    assert min(seen) > 0
    assert history["lr"][-1] == seen[-1]


def test_the_learning_rate_is_never_negative_even_if_a_stream_is_longer_than_it_says() -> None:
    class Lies(list[Any]):
        def __len__(self) -> int:
            return 2

    batches = Lies(random_set().loader(8))
    seen, hook = spy_on_steps()
    kd.fit(linear(), batches, epochs=2)
    hook.remove()
    assert len(seen) == 10
    assert min(seen) >= 0


def test_a_stream_without_a_length_trains_from_the_first_epoch() -> None:
    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            yield from zip(*random_set().tensors(), strict=True)

    seen, hook = spy_on_steps()
    kd.fit(linear(), DataLoader(Stream(), batch_size=8), epochs=4, lr=0.1)
    hook.remove()
    assert len(seen) == 20
    assert seen[0] > 0.05  # the number of steps is not known yet, so the middle of the epoch stands for it
    np.testing.assert_allclose(seen[5:], one_cycle(0.1, np.arange(5, 20) / 20), atol=0.001)


def batches_of(data: ImageSet, size: int) -> list[tuple[Tensor, Tensor]]:
    images, labels = data.tensors()
    return list(zip(images.split(size), labels.split(size), strict=True))


def test_an_sgd_run_is_the_loop_written_by_hand() -> None:
    data, teacher = random_set(), linear(2)
    student, mine = linear(1).double(), linear(1).double()
    batches = [(x.double(), y) for x, y in batches_of(data, 8)]
    teacher.double()
    settings = {"temperature": 2.0, "kd_weight": 0.6, "ce_weight": 0.4}
    kd.distill(student, teacher, batches, epochs=3, lr=0.05, weight_decay=0.01, **settings)
    weight, bias = mine[1].weight.detach().numpy().copy(), mine[1].bias.detach().numpy().copy()
    teacher_w, teacher_b = (p.detach().numpy() for p in teacher[1].parameters())
    momentum = [np.zeros_like(weight), np.zeros_like(bias)]

    def soft(z: np.ndarray) -> np.ndarray:
        z = np.exp(z - z.max(1, keepdims=True))
        return z / z.sum(1, keepdims=True)

    for step in range(15):
        inputs, labels = batches[step % 5]
        x = inputs.flatten(1).numpy()
        logits, wanted = x @ weight.T + bias, x @ teacher_w.T + teacher_b
        hard = soft(logits)
        hard[np.arange(len(x)), labels.numpy()] -= 1
        gradient = (0.6 * 2 * (soft(logits / 2) - soft(wanted / 2)) + 0.4 * hard) / len(x)
        parts = [gradient.T @ x + 0.01 * weight, gradient.sum(0)]
        done = step / 15
        lr = 0.05 * min((done + 1e-3) / 0.2, (1 - done) / 0.8)
        for i, (value, part) in enumerate(zip((weight, bias), parts, strict=True)):
            momentum[i] = 0.9 * momentum[i] + part
            value -= lr * (part + 0.9 * momentum[i])  # Nesterov
    np.testing.assert_allclose(student[1].weight.detach().numpy(), weight, atol=1e-12)
    np.testing.assert_allclose(student[1].bias.detach().numpy(), bias, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weight_decay_acts_on_matrices_only(optimizer: Any) -> None:
    # Black images and equal biases: no gradient reaches anything, so only weight decay can move a number.
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 2))
    nn.init.zeros_(model[2].weight)
    nn.init.ones_(model[2].bias)
    kernel = nn.Parameter(torch.ones(3, 3))
    model.register_parameter("unused_matrix", kernel)
    model.register_parameter("unused_vector", nn.Parameter(torch.ones(3)))
    model.register_forward_hook(lambda m, _, out: out + 0 * m.unused_matrix.sum() + 0 * m.unused_vector.sum())
    batch = (torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 0, 1]))
    kd.fit(model, [batch] * 5, epochs=2, lr=0.1, weight_decay=0.1, optimizer=optimizer)
    assert torch.equal(model.unused_vector, torch.ones(3))
    assert torch.equal(model[2].bias, torch.ones(2))
    assert torch.equal(model[1].weight, torch.ones(4))
    decayed = kernel.detach().unique().tolist()
    assert len(decayed) == 1
    assert 0.3 < decayed[0] < 0.99


def test_frozen_parameters_stay_as_they_are() -> None:
    model = pixels()
    model.conv.requires_grad_(False)
    before = model.conv.weight.clone()
    kd.fit(model, random_set(), epochs=1, batch_size=8)
    assert torch.equal(model.conv.weight, before)


# Augmentation and stored logits


def views(image: Tensor) -> set[bytes]:
    """Every flip and shift of one image (C, H, W) by up to an eighth, written with loops."""
    _, h, w = image.shape
    found = set()
    for picture in (image, image.flip(-1)):
        for down in range(-(h // 8), h // 8 + 1):
            for right in range(-(w // 8), w // 8 + 1):
                view = torch.zeros_like(image)
                for i in range(h):
                    for j in range(w):
                        if 0 <= i - down < h and 0 <= j - right < w:
                            view[:, i, j] = picture[:, i - down, j - right]
                found.add(view.numpy().tobytes())
    return found


def test_augmentation_only_flips_and_shifts() -> None:
    data = random_set(6, size=16, channels=2)
    flip = torch.tensor([False, True] * 3)
    generator = torch.Generator().manual_seed(0)
    allowed = [views(image) for image in data.images]
    seen: list[set[bytes]] = [set() for _ in range(6)]
    for _ in range(30):
        for i, view in enumerate(train.flip_and_shift(data.images, flip, generator)):
            assert view.numpy().tobytes() in allowed[i]
            seen[i].add(view.numpy().tobytes())
    assert min(map(len, seen)) > 15  # and it does move them
    still = train.flip_and_shift(data.images, flip, None)
    assert torch.equal(still[0], data.images[0])
    assert torch.equal(still[1], data.images[1].flip(-1))


def record_batches(monkeypatch: pytest.MonkeyPatch) -> list[batches.Batch]:
    seen: list[batches.Batch] = []
    usual = batches.ImageBatches.__iter__

    def spy(self: Any) -> Iterator[batches.Batch]:
        for batch in usual(self):
            seen.append(batch)
            yield batch

    monkeypatch.setattr(batches.ImageBatches, "__iter__", spy)
    return seen


@pytest.mark.parametrize("augment", [True, False, "flip"])
def test_each_epoch_shows_every_image_once_with_its_label(augment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = random_set(30, size=8)
    seen = record_batches(monkeypatch)
    kd.fit(linear(), data, epochs=2, batch_size=8, augment=augment)
    kinds = {True: 18, False: 1, "flip": 2}[augment]
    allowed = [
        views(i) if augment is True else {i.numpy().tobytes(), i.flip(-1).numpy().tobytes()} for i in data.images
    ]
    for epoch in (seen[:4], seen[4:]):
        inputs = torch.cat([batch.inputs for batch in epoch])
        labels = torch.cat([batch.labels for batch in epoch])
        pixel_values = (data.denormalise(inputs) * 255).round().to(torch.uint8)
        which = [[k for k, some in enumerate(allowed) if p.numpy().tobytes() in some] for p in pixel_values]
        assert sorted(which) == [[k] for k in range(30)]
        assert labels.tolist() == [int(data.labels[k]) for (k,) in which]
        plain = sum(bool((p == data.images[k]).all()) for p, (k,) in zip(pixel_values, which, strict=True))
        assert plain == 30 if kinds == 1 else plain < 30


def test_stored_logits_are_those_of_a_live_teacher_on_the_very_images(monkeypatch: pytest.MonkeyPatch) -> None:
    data, teacher = random_set(40), pixels(2).eval()
    stored = kd.teacher_logits(teacher, data, "flip")
    assert stored.shape == (2, 40, 10)
    seen = record_batches(monkeypatch)
    kd.distill(linear(1), stored, data, epochs=2, batch_size=8, augment="flip")
    flipped = 0
    for batch in seen:
        (outputs,) = batch.teachers
        torch.testing.assert_close(outputs["logits"], teacher(batch.inputs).detach(), rtol=0, atol=1e-5)
        flipped += len(batch.labels)
    assert flipped == 80


@pytest.mark.parametrize("augment", [False, "flip"])
def test_a_student_of_stored_logits_equals_a_student_of_a_live_teacher(
    augment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, teacher = random_set(40), pixels(2)
    options = {"epochs": 2, "batch_size": 8, "lr": 0.02}
    seen = record_batches(monkeypatch)
    stored, module, live = linear(1), linear(1), linear(1)
    kd.distill(stored, kd.teacher_logits(teacher, data, augment), data, augment=augment, **options)
    recorded = list(seen)
    kd.distill(module, teacher, data, augment=augment, **options)
    assert same_bits(weights(stored), weights(module))

    class Replay:
        """The very batches, epoch after epoch, without logits: the teacher has to be asked."""

        epoch = -1

        def __len__(self) -> int:
            return 5

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            self.epoch += 1
            yield from ((b.inputs, b.labels) for b in recorded[5 * self.epoch : 5 * self.epoch + 5])

    kd.distill(live, teacher, Replay(), epochs=2, lr=0.02)
    for name, value in weights(live).items():
        torch.testing.assert_close(weights(stored)[name], value, rtol=0, atol=1e-5)


def test_teacher_logits_are_the_teachers_answers() -> None:
    data, teacher = random_set(20), pixels(2).eval()
    images, _ = data.tensors()
    stored = kd.teacher_logits(teacher, data, "flip")
    torch.testing.assert_close(stored[0], teacher(images).detach())
    torch.testing.assert_close(stored[1], teacher(images.flip(-1)).detach())
    assert kd.teacher_logits(teacher, data).shape == (1, 20, 10)


# Other networks, and the real thing


def test_any_pair_of_networks_with_a_data_loader() -> None:
    from torchvision.models import mobilenet_v3_small, resnet18

    with kd.seeded(0):
        teacher, student = resnet18(num_classes=10), mobilenet_v3_small(num_classes=10)
    data = random_set(16, size=32, channels=3)
    loader = DataLoader(TensorDataset(*data.tensors()), batch_size=8, shuffle=True)
    before, start = weights(teacher), weights(student)
    history = kd.distill(student, teacher, loader, epochs=1, lr=0.01)
    assert np.isfinite(history["loss"]).all()
    assert same_bits(weights(teacher), before)
    assert not same_bits(weights(student), start)
    assert teacher.training
    assert 0 <= kd.evaluate(student, loader)["accuracy"] <= 1


@pytest.fixture(scope="module")
def few() -> tuple[ImageSet, ImageSet]:
    return fashion()[0].subset(2_000, seed=1), fashion()[1].subset(1_000, seed=1)


def test_two_thousand_real_images_teach_more_than_60_percent(few: tuple[ImageSet, ImageSet]) -> None:
    with kd.seeded(0):
        student = kd.models.tiny_cnn()
    history = kd.fit(student, few[0], epochs=8, batch_size=64, augment="flip")
    assert history["loss"][-1] < 0.6 * history["loss"][0]
    assert kd.evaluate(student, few[1])["accuracy"] > 0.6


def test_distillation_from_the_shipped_teacher_works_end_to_end(few: tuple[ImageSet, ImageSet]) -> None:
    teacher = kd.zoo.load("fashion_mnist/resnet14")
    with kd.seeded(0):
        student = kd.models.tiny_cnn()
    unseen = few[1][:500]
    near = kd.compare(student, teacher, unseen)["kl"]
    kd.distill(student, teacher, few[0], epochs=8, batch_size=64, augment="flip")
    found = kd.compare(student, teacher, unseen)
    assert found["student_accuracy"] > 0.6
    assert found["agreement"] > 0.6
    assert found["kl"] < 0.6 * near
