"""Extra terms, several teachers, mixed images and mutual learning: what `distill` can do beyond one KD term."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn import functional as F

import kdutils as kd
from kdutils import losses
from tests.common import modes, pixels, random_set, random_state, same_bits, weights

ONE_STEP: dict[str, Any] = {"epochs": 1, "batch_size": 40, "augment": False, "lr": 0.1, "weight_decay": 0.0}
pytestmark = pytest.mark.filterwarnings("ignore:the teacher is right on")


def mlp(seed: int = 0, width: int = 6, classes: int = 10, size: int = 64) -> nn.Sequential:
    """Layers "1" (N, width) and "2" after its activation."""
    with kd.seeded(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(size, width), nn.Tanh(), nn.Linear(width, classes))


def hint(weight: float = 0.5, **options: Any) -> kd.Term:
    return kd.Term("hint", losses.hint_loss, weight, **({"student_layer": "2", "teacher_layer": "2"} | options))


def test_one_step_with_a_term_is_the_step_written_by_hand() -> None:
    data, teacher, student, by_hand = random_set(), mlp(2), mlp(1), mlp(1)
    history = kd.distill(
        student, teacher, data, temperature=3, kd_weight=0.7, ce_weight=0.2, terms=[hint()], **ONE_STEP
    )
    inputs, labels = data.tensors()
    parts = {
        "kd": losses.kd_loss(by_hand(inputs), teacher(inputs), 3),
        "ce": F.cross_entropy(by_hand(inputs), labels),
        "hint": F.mse_loss(by_hand[:3](inputs), teacher[:3](inputs).detach()),
    }
    loss = 0.7 * parts["kd"] + 0.2 * parts["ce"] + 0.5 * parts["hint"]
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=history["lr"][0], momentum=0.9, nesterov=True)
    loss.backward()
    optimizer.step()
    for name, part in {**parts, "loss": loss}.items():
        assert history[name][0] == pytest.approx(float(part), rel=1e-5), name
    for name, value in weights(student).items():
        torch.testing.assert_close(value, weights(by_hand)[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_projector_is_built_from_a_batch_and_trained_with_the_student(optimizer: Any) -> None:
    data, teacher = random_set(), mlp(2, width=9)
    options: dict[str, Any] = {"epochs": 15, "batch_size": 10, "augment": False, "optimizer": optimizer, "lr": 0.02}
    own = nn.Linear(6, 9)
    start = weights(own)
    for projector in ("linear", own):
        term, student = hint(3.0, projector=projector), mlp(1)
        history = kd.distill(student, teacher, data, terms=[term], **options)
        assert isinstance(term.trained, nn.Linear)
        assert tuple(term.trained.weight.shape) == (9, 6)
        assert history["hint"][-1] < 0.5 * history["hint"][0]
    assert term.trained is own
    assert not torch.equal(start["weight"], own.weight)


def test_each_run_starts_with_a_fresh_projector() -> None:
    term, found = hint(projector="linear"), []
    for _ in range(2):
        student = mlp(1)
        kd.distill(student, mlp(2, width=9), random_set(), terms=[term], epochs=2, batch_size=10, seed=3)
        assert term.trained is not None
        found.append(weights(student) | {f"p.{k}": v for k, v in weights(term.trained).items()})
    assert same_bits(*found)
    assert term.projector == "linear"


def test_the_projector_of_feature_maps_is_a_convolution() -> None:
    term = hint(student_layer="8", teacher_layer="stage3", projector="linear")
    data = kd.data.load("fashion_mnist", train_size=20)[0]
    kd.distill(kd.models.tiny_cnn(4), kd.zoo.load("fashion_mnist/resnet14"), data, terms=[term], epochs=1)
    assert isinstance(term.trained, nn.Conv2d)
    assert tuple(term.trained.weight.shape) == (64, 16, 1, 1)


def test_a_student_is_saved_with_its_projector(tmp_path: Path) -> None:
    student, term = mlp(1), hint(projector="linear")
    kd.distill(student, mlp(2, width=9), random_set(), terms=[term], epochs=1)
    assert term.trained is not None
    save_model(nn.ModuleDict({"student": student, "hint": term.trained}), str(tmp_path / "both.safetensors"))
    other = nn.ModuleDict({"student": mlp(5), "hint": nn.Linear(6, 9)})
    load_model(other, str(tmp_path / "both.safetensors"))
    assert same_bits(weights(other["student"]), weights(student))
    assert same_bits(weights(other["hint"]), weights(term.trained))


@pytest.mark.parametrize("augment", [False, "flip"])
def test_stored_outputs_teach_as_a_live_teacher_does(augment: Any) -> None:
    data, teacher = random_set(), mlp(2)
    stored = kd.teacher_outputs(teacher, data, ["2"], augment)
    assert {name: tuple(v.shape[:2]) for name, v in stored.items()} == dict.fromkeys(
        ("logits", "2"), (1 + bool(augment), 40)
    )
    options: dict[str, Any] = {"epochs": 2, "batch_size": 8, "augment": augment, "seed": 1, "lr": 0.05}
    found = []
    for source in (teacher, stored):
        student = mlp(1)
        kd.distill(student, source, data, terms=[hint()], **options)
        found.append(weights(student))
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-4, atol=1e-5)


def test_terms_leave_teacher_random_state_and_hooks_as_they_were() -> None:
    teacher, student = pixels(2).train(), pixels(1)
    teacher.norm.eval()
    before, mode, state = weights(teacher), modes(teacher), random_state()
    term = kd.Term("at", losses.attention_transfer_loss, 1.0, "norm", "norm")
    with pytest.raises(ValueError, match="features must have the same shape"):
        kd.distill(
            student, teacher, random_set(), epochs=1, terms=[term, hint(student_layer="norm", teacher_layer="head")]
        )
    kd.distill(student, teacher, random_set(), epochs=1, terms=[term])
    assert same_bits(weights(teacher), before)
    assert modes(teacher) == mode
    assert random_state() == state
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in (*teacher.modules(), *student.modules()))


def test_a_term_can_want_the_labels() -> None:
    loss = partial(losses.dkd_loss, temperature=4.0, target_weight=1.0, nontarget_weight=2.0)
    data, teacher, student = random_set(), mlp(2), mlp(1)
    wanted = loss(student(data.tensors()[0]), teacher(data.tensors()[0]), data.labels)
    term = kd.Term("dkd", loss, 1.0, labels=True)
    history = kd.distill(student, teacher, data, kd_weight=0, ce_weight=0, terms=[term], **ONE_STEP)
    assert history["dkd"][0] == pytest.approx(float(wanted), rel=1e-5)
    assert history["loss"] == history["dkd"]


def test_a_teacher_of_features_may_have_other_classes() -> None:
    history = kd.distill(mlp(1), mlp(2, classes=7), random_set(), kd_weight=0, ce_weight=1, terms=[hint()], epochs=1)
    assert set(history) == {"loss", "ce", "hint", "train_accuracy", "lr", "seconds"}


# Several teachers


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_several_teachers_teach_their_average(average: Any) -> None:
    data, teachers = random_set(), [mlp(seed, width=12) for seed in (2, 3, 4)]
    stored = [kd.teacher_logits(teacher, data)[0] for teacher in teachers]
    mean = losses.average_teachers(stored, temperature=2.0, average=average)[None]
    options: dict[str, Any] = {"epochs": 2, "batch_size": 8, "augment": False, "temperature": 2.0, "lr": 0.05}
    found = []
    for source in (teachers, [stored[0][None], *teachers[1:]], mean):
        student = mlp(1)
        kd.distill(student, source, data, teacher_average=average, **options)
        found.append(weights(student))
    for other in found[1:]:
        for name in other:
            torch.testing.assert_close(found[0][name], other[name], rtol=1e-4, atol=1e-5)


def test_a_term_reads_the_teacher_that_it_names() -> None:
    teachers, data = [mlp(2), mlp(3)], random_set()
    for i, teacher in enumerate(teachers):
        student = mlp(1)
        wanted = F.mse_loss(student[:3](data.tensors()[0]), teacher[:3](data.tensors()[0]))
        history = kd.distill(student, teachers, data, terms=[hint(teacher=i)], **ONE_STEP)
        assert history["hint"][0] == pytest.approx(float(wanted), rel=1e-5)


# The warning


def fashion_pieces() -> tuple[kd.data.ImageSet, nn.Module]:
    return kd.data.load("fashion_mnist", train_size=300)[0], kd.zoo.load("fashion_mnist/tiny_cnn")


@pytest.mark.filterwarnings("default:the teacher is right on")
def test_a_teacher_near_chance_is_told_and_a_good_one_is_not(recwarn: pytest.WarningsRecorder) -> None:
    data, good = fashion_pieces()
    fresh = kd.models.tiny_cnn()
    stored = kd.teacher_logits(good, data)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    wrong = {"untrained": kd.models.tiny_cnn(), "other images": stored[:, order], "other classes": stored.roll(1, -1)}
    history = kd.distill(fresh, good, data, epochs=1, augment=False)
    assert not [w for w in recwarn if "the teacher is right on" in str(w.message)]
    assert history["teacher_accuracy"][0] == pytest.approx(kd.evaluate(good, data)["accuracy"])
    for teacher in wrong.values():
        with pytest.warns(UserWarning, match=r"the teacher is right on .* guessing gives 10.0%"):
            kd.distill(fresh, teacher, data, epochs=1, augment=False)


def test_a_student_that_has_not_learned_is_told_at_the_end(recwarn: pytest.WarningsRecorder) -> None:
    """A learning rate of nearly nothing, on real images with a good teacher; and too few steps to say so."""
    data, good = fashion_pieces()
    options: dict[str, Any] = {"batch_size": 30, "augment": False, "progress": False}
    with pytest.warns(
        UserWarning, match=r"^after 60 steps the student is right on .* guessing gives 10.0%: .* more steps"
    ):
        kd.distill(kd.models.tiny_cnn(), good, data, epochs=6, lr=1e-9, **options)
    for more in ({"epochs": 4, "lr": 1e-9}, {"epochs": 6}, {"epochs": 6, "lr": 1e-9, "mix": "mixup"}):
        kd.distill(kd.models.tiny_cnn(), good, data, **{**options, **more})
    assert not [w for w in recwarn if "the student is right on" in str(w.message)]


# Mixed images


class Notes(nn.Module):
    """A network that keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.shown = mlp(2), []  # type: ignore[var-annotated]

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x.clone())
        return self.inner(x)


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_the_teacher_sees_the_mixed_images_that_the_student_sees(mix: Any) -> None:
    teacher, student, data = Notes(), Notes(), random_set()
    history = kd.distill(student, teacher, data, mix=mix, epochs=2, batch_size=8, augment=False)
    plain = {tuple(image.flatten().tolist()) for image in data.tensors()[0]}
    assert len(student.shown) == len(teacher.shown) == 10
    for ours, theirs in zip(student.shown, teacher.shown, strict=True):
        assert torch.equal(ours, theirs)
    shown = [tuple(image.flatten().tolist()) for batch in student.shown for image in batch]
    assert sum(each in plain for each in shown) < len(shown) / 2
    assert len(history["loss"]) == 2


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
@pytest.mark.parametrize("verb", ["fit", "distill"])
def test_mixing_follows_the_seed(mix: Any, verb: str) -> None:
    found = []
    for seed in (0, 0, 1):
        student, options = mlp(1), {"mix": mix, "epochs": 2, "batch_size": 8, "seed": seed}
        if verb == "fit":
            kd.fit(student, random_set(), **options)
        else:
            kd.distill(student, mlp(2), random_set(), **options)
        found.append(weights(student))
    assert same_bits(found[0], found[1])
    assert not same_bits(found[0], found[2])


def test_the_labels_are_mixed_by_the_share_of_the_images() -> None:
    from kdutils._batches import ImageBatches

    data = random_set(8, size=4)
    for batch in ImageBatches(data, 8, False, "mixup", 0, torch.device("cpu")):
        rows = torch.linalg.lstsq(data.tensors()[0].flatten(1).T, batch.inputs.flatten(1).T).solution.T
        one_hot = F.one_hot(data.labels, 10).float()
        torch.testing.assert_close(rows @ one_hot, batch.targets, atol=1e-4, rtol=1e-4)
        assert torch.equal(batch.labels, batch.targets.argmax(1))


# Mutual learning


def test_the_first_mutual_step_has_the_loss_of_the_paper() -> None:
    data, students = random_set(), [mlp(1), mlp(2), mlp(3)]
    inputs, labels = data.tensors()
    logits = [s(inputs).detach() for s in students]
    log_p = [F.log_softmax(z, 1) for z in logits]
    kls = [
        sum(F.kl_div(log_p[k], log_p[j], log_target=True, reduction="batchmean") for j in range(3) if j != k) / 2
        for k in range(3)
    ]
    history = kd.mutual(students, data, kd_weight=0.5, **ONE_STEP)
    assert history["kd"][0] == pytest.approx(float(sum(kls)) / 3, rel=1e-5)
    hard = sum(float(F.cross_entropy(z, labels)) for z in logits)
    assert history["ce"][0] == pytest.approx(hard / 3, rel=1e-5)
    assert history["loss"][0] == pytest.approx(hard + 0.5 * float(sum(kls)), rel=1e-5)


def test_without_the_kd_term_each_mutual_student_trains_as_if_alone() -> None:
    data, options = random_set(), {"epochs": 2, "batch_size": 8, "seed": 4, "lr": 0.05}
    students, alone = [mlp(1), mlp(2)], mlp(1)
    kd.mutual(students, data, kd_weight=0, **options)
    kd.fit(alone, data, **options)
    for name, value in weights(alone).items():
        torch.testing.assert_close(weights(students[0])[name], value, rtol=1e-4, atol=1e-5)


def test_mutual_students_pull_each_other_together_and_follow_the_seed() -> None:
    found = {}
    for weight in (0.0, 5.0):
        for again in range(2):
            students = [mlp(1), mlp(2)]
            kd.mutual(students, random_set(), epochs=10, batch_size=8, kd_weight=weight)
            found[weight, again] = students
        assert all(same_bits(weights(a), weights(b)) for a, b in zip(found[weight, 0], found[weight, 1], strict=True))
    far, near = (float(kd.compare(*found[w, 0], random_set())["kl"]) for w in (0.0, 5.0))
    assert near < far / 2
