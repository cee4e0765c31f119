"""Does a student inherit a planted bias, and do the maps show it?

    python -m kdutils.studies.shortcut

A *tag* is stamped on the upper left corner of the images: 4 × 4 pixels, four cells, the binary digits of a class's
number. On *biased* images it is the tag of the image's own class with the probability `SHARE`, otherwise that of any
class; on *random* images that of any class; *clean* images have none. Every network is measured on test images whose
tag is *aligned* (own class), random, in *conflict* (always another class) and that have none.

- Teachers, ResNet-8 of half the usual width: two biased ones, from biased images, and two that are right for the
  right reason, from random ones.
- Students, `tiny_cnn`, from labels alone and from each teacher, on biased, random and clean images. A seed stands
  for the draw of the images, their tags, the start and the order: the same in every arm.
- Strength: students from labels alone on images with smaller shares, to see which method finds the tag first.

The primary measure, declared before the students were trained: "follows", the share of images in conflict that are
called what their tag says, paired by seed, in nine comparisons: labels alone, biased against random images; and for
each pair of teachers, student of the biased teacher against student of the right one, on random and on clean images;
student of either against labels alone, on biased images. All else is exploratory.

Where the networks look is measured on `MAPS` aligned test images, for the class that each names itself: by every
method, the share of the positive values on the tag ("mass"), whether the highest pixel is there ("pointing"),
whether that of the mean map is ("found", which needs no knowledge of the tag); and by counterfactual images, the
share of the squared change that goes into the tag. Nothing is chosen: temperature, weight and learning rate are the
defaults of `kd.distill` and `kd.fit`. Writes `recorded/shortcut.csv`, `recorded/shortcut_maps.csv`, and the first
teacher of each kind into `weights`.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kdutils as kd
from kdutils import _checkpoint, explain
from kdutils._base import cache_folder
from kdutils.data import ImageSet
from kdutils.selection import Split, split
from kdutils.studies import _jobs
from kdutils.studies._record import Record

IMAGES, BATCH, EPOCHS = 4_000, 64, 5
TEACHER_IMAGES, TEACHER_BATCH, TEACHER_EPOCHS = 10_000, 128, 5
SHARE, SHARES = 0.9, (0.1, 0.3, 0.6)
SEEDS, TEACHER_SEEDS = range(8), range(2)
TEST, MAPS, COUNTERFACTUALS = 4_000, 30, 20
METHODS = tuple(method for method in explain.METHODS if not method.startswith("attention"))
KEYS = ("network", "teacher", "images", "share", "seed")
COMMAND = "python -m kdutils.studies.shortcut"

RESNET: dict[str, Any] = {"depth": 8, "width": 8}
SIDE = 4
_PLACE = slice(1, 1 + SIDE)  # off the edge, and off the 7 × 7 grid of patches of KernelSHAP and LIME
_BITS = (torch.arange(1, 11)[:, None] >> torch.arange(4)) & 1
TAGS = (255 * _BITS).to(torch.uint8).view(10, 2, 2).repeat_interleave(2, 1).repeat_interleave(2, 2)
"""The ten tags: uint8 (10, 4, 4), the number of the class plus 1 in binary, a cell of 2 × 2 pixels for each digit."""

AREA = torch.zeros(28, 28, dtype=torch.bool)
AREA[_PLACE, _PLACE] = True
"""Where the tag is: bool (28, 28)."""


def tags_for(labels: Tensor, share: float, seed: int) -> Tensor:
    """Whose tag each image shows: its own class's with probability `share`, else that of any class; int64 (N,)."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.rand(len(labels), generator=generator) < share
    return torch.where(own, labels, torch.randint(10, labels.shape, generator=generator))


def other_tags(labels: Tensor, seed: int) -> Tensor:
    """For each image the tag of another class, each of the nine equally likely; int64 (N,)."""
    return (labels + torch.randint(1, 10, labels.shape, generator=torch.Generator().manual_seed(seed))) % 10


def stamp(data: ImageSet, tags: Tensor) -> ImageSet:
    """The images with the tags (N,) of these classes in the corner; `data` is left as it was."""
    images = data.images.clone()
    images[:, 0, _PLACE, _PLACE] = TAGS[tags]
    return ImageSet(images, data.labels, data.classes, data.mean, data.std)


class Run(NamedTuple):
    """One network: `teacher` is "none" or a kind and a number; `images` are biased, random or clean."""

    network: str
    teacher: str
    images: str
    share: float
    seed: int


@cache
def parts() -> Split:
    """The book's split."""
    return split()


def training_images(run: Run) -> ImageSet:
    """The images that a network learns from."""
    draw = run.seed + 1_000 * (run.network == "resnet8")  # a teacher's images, tags and start are its own
    bare = parts().train.subset(TEACHER_IMAGES if run.network == "resnet8" else IMAGES, seed=draw)
    return bare if run.images == "clean" else stamp(bare, tags_for(bare.labels, run.share, draw))


def train(run: Run) -> nn.Module:
    """Train one network."""
    data = training_images(run)
    shared: dict[str, Any] = {"augment": False, "seed": run.seed}  # a flip would move the tag
    with kd.seeded(run.seed):
        model: nn.Module = kd.models.resnet(**RESNET) if run.network == "resnet8" else kd.models.tiny_cnn()
    if run.network == "resnet8":
        kd.fit(model, data, epochs=TEACHER_EPOCHS, batch_size=TEACHER_BATCH, **shared)
    elif run.teacher == "none":
        kd.fit(model, data, epochs=EPOCHS, batch_size=BATCH, **shared)
    else:
        kd.distill(model, teacher(run.teacher), data, epochs=EPOCHS, batch_size=BATCH, **shared)
    return model


def teacher_run(name: str) -> Run:
    """What the teacher "biased 0" or "right 1" is as a run."""
    kind, seed = name.split()
    return Run("resnet8", "none", *(("biased", SHARE) if kind == "biased" else ("random", 0.0)), int(seed))


def teacher(name: str) -> nn.Module:
    """A teacher, trained at the first call and then kept in the cache folder."""
    path = cache_folder() / f"shortcut-{TEACHER_IMAGES}-{TEACHER_EPOCHS}" / f"{name.replace(' ', '_')}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _checkpoint.write(path, train(teacher_run(name)).state_dict(), {"teacher": name})
    model = kd.models.resnet(**RESNET)
    model.load_state_dict(_checkpoint.read(path)[0])
    return model.eval()


def behaviour(model: nn.Module, test: ImageSet) -> dict[str, float]:
    """Accuracy by kind of tag; "follows" is the share of images in conflict that are called what their tag says."""
    conflict = other_tags(test.labels, seed=1)
    kinds = {
        "aligned": stamp(test, test.labels),
        "random": stamp(test, tags_for(test.labels, 0.0, seed=1)),
        "conflict": stamp(test, conflict),
        "clean": test,
    }
    said = {kind: kd.predict(model, data.tensors()[0]).argmax(1) for kind, data in kinds.items()}
    right = {f"accuracy_{kind}": float((found == test.labels).double().mean()) for kind, found in said.items()}
    return right | {"follows": float((said["conflict"] == conflict).double().mean()), "n": len(test)}


def audit_images(n: int) -> Tensor:
    """Aligned test images, what someone has at hand who does not know of the tag: normalised (n, 1, 28, 28)."""
    drawn = parts().test.subset(n, seed=0)
    return stamp(drawn, drawn.labels).tensors()[0]


def where_it_looks(maps: Tensor) -> dict[str, float]:
    """Three numbers for the maps (N, 28, 28) of one network by one method."""
    positive = maps.clamp(min=0)
    each = positive / positive.sum((1, 2), keepdim=True).clamp(min=1e-12)
    return {
        "mass": float(explain.mass_inside(maps, AREA).mean()),
        "pointing": float(explain.pointing_game(maps, AREA).mean()),
        "found": float(explain.pointing_game(each.mean(0, keepdim=True), AREA)),
    }


def counterfactual(model: nn.Module, images: Tensor, targets: Tensor, steps: int = 60) -> tuple[Tensor, Tensor]:
    """The smallest change found that makes the network say `targets`, by gradient descent.

    Minimises λ · cross-entropy + ‖change‖² (Wachter et al. 2017, arXiv:1711.00399, eq. 2, with another loss), where
    each image has a λ of its own that grows until the image is flipped and shrinks afterwards.

    Args:
        model: in eval mode.
        images: normalised (N, C, H, W); the changed image stays within the range of all their values.
        targets: int64 (N,), not what the network says already.
        steps: of Adam.

    Returns:
        The changes (N, C, H, W), zero where none was found, and bool (N,): whether one was.
    """
    change = torch.zeros_like(images, requires_grad=True)
    weight = torch.ones(len(images))
    best, size = torch.zeros_like(images), torch.full((len(images),), torch.inf)
    optimizer = torch.optim.Adam([change], lr=0.05)
    for _ in range(steps):
        logits, distance = model(images + change), change.square().flatten(1).sum(1)
        flipped = logits.argmax(1) == targets
        smaller = flipped & (distance < size)
        best[smaller], size[smaller] = change.detach()[smaller], distance.detach()[smaller]
        loss = weight * F.cross_entropy(logits, targets, reduction="none") + distance
        change.grad = torch.autograd.grad(loss.sum(), change)[0]
        optimizer.step()
        with torch.no_grad():  # not a pixel darker than black or brighter than white
            change.clamp_(images.min() - images, images.max() - images)
        weight = torch.where(flipped, 0.9 * weight, 1.1 * weight)
    return best, size.isfinite()


def runner_up(model: nn.Module, images: Tensor) -> Tensor:
    """The class in second place: int64 (N,)."""
    return kd.predict(model, images).topk(2).indices[:, 1]


def measure(run: Run, model: nn.Module) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Everything that is recorded of one network: one row, and one more for each method."""
    images = audit_images(MAPS)
    named = kd.predict(model, images).argmax(1)
    maps = {name: where_it_looks(explain.attribute(model, images, named, name)) for name in METHODS}
    few = images[:COUNTERFACTUALS]
    change, found = counterfactual(model, few, runner_up(model, few))
    power = change[found][:, 0].square()
    row = behaviour(model, parts().test.subset(TEST, seed=0))
    row["flipped"] = float(found.double().mean())
    row["change_inside"] = float(explain.mass_inside(power, AREA).mean()) if len(power) else float("nan")
    row["change_size"] = float(power.sum((1, 2)).sqrt().mean())
    return row, maps


def do(run: Run) -> None:
    """Train and measure one network, unless it is recorded."""
    networks, maps = Record("shortcut", KEYS), Record("shortcut_maps", (*KEYS, "method"))
    keys = run._asdict()
    if networks.has(**keys):
        return
    is_teacher = run.network == "resnet8"
    name = f"{'biased' if run.images == 'biased' else 'right'} {run.seed}"
    model = teacher(name) if is_teacher else train(run)
    row, by_method = measure(run, model)
    for method, found in by_method.items():
        if not maps.has(**keys, method=method):
            maps.add(**keys, method=method, **found)
    if is_teacher and run.seed == 0:
        kd.zoo.save(
            model,
            f"fashion_mnist/resnet8_{name.split()[0]}",
            "resnet",
            RESNET,
            command=COMMAND,
            seed=run.seed,
            data=f"Fashion-MNIST, {TEACHER_IMAGES} training images with {run.images} tags, {TEACHER_EPOCHS} epochs",
            test_accuracy=row["accuracy_clean"],
        )
    networks.add(**keys, **row)  # last: the row says that the run is complete


def runs() -> list[list[Run]]:
    """Lists of runs: those of one list are independent of each other, and need only the lists before."""
    kinds = {"biased": SHARE, "random": 0.0, "clean": 0.0}
    alone = [Run("tiny_cnn", "none", images, share, seed) for seed in SEEDS for images, share in kinds.items()]
    weaker = [Run("tiny_cnn", "none", "biased", share, seed) for seed in SEEDS for share in SHARES]
    taught = [
        Run("tiny_cnn", f"{kind} {teacher_seed}", images, share, seed)
        for teacher_seed in TEACHER_SEEDS
        for seed in SEEDS
        for kind in ("biased", "right")
        for images, share in kinds.items()
    ]
    teachers = [teacher_run(f"{kind} {seed}") for seed in TEACHER_SEEDS for kind in ("biased", "right")]
    return [teachers, alone + taught + weaker]


def main() -> None:
    """Run what is not recorded yet."""
    jobs = _jobs.jobs(__doc__)
    for independent in runs():
        _jobs.spread(do, independent, jobs)
    facts = {"images": IMAGES, "batch": BATCH, "epochs": EPOCHS, "test_images": TEST, "maps": MAPS}
    facts |= {"teacher_images": TEACHER_IMAGES, "teacher_batch": TEACHER_BATCH, "teacher_epochs": TEACHER_EPOCHS}
    Record("shortcut_maps", KEYS).sort((*KEYS, "method"))
    Record("shortcut", KEYS).finish(KEYS, **facts, counterfactuals=COUNTERFACTUALS)


if __name__ == "__main__":
    main()
