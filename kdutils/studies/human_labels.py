"""Are a network's soft labels like those of people? CIFAR-10H beside a CIFAR-10 teacher.

    python -m kdutils.studies.human_labels --cifar10 FOLDER --cifar10h FILE

CIFAR-10H (Peterson et al. 2019, arXiv:1908.07086) holds how about 50 people named each of CIFAR-10's 10,000
test images. Get `cifar10h-probs.npy` from github.com/jcpeterson/cifar-10h (CC BY-NC-SA 4.0) and CIFAR-10
through torchvision. Both are looked for in `$KDUTILS_HOME`, else `~/.cache/kdutils`. Neither is part of this
package: what is recorded are summaries.

The teacher is one ResNet-8 (one seed), trained on 45,000 of the training images if it is not shipped; its
temperature is fitted on the other 5,000. On the test images its soft labels are set beside people's. The
controls are the *permuted* teacher (the soft label of another image of the same class) and the *smoothed*
label (the right class, and image by image as uncertain as the teacher). Intervals are bootstrapped over
images: they hold for this one network. Writes `recorded/human_labels.csv`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

import kdutils as kd
from kdutils._base import cache_folder
from kdutils.data import ImageSet
from kdutils.metrics import fit_temperature, logits_and_labels
from kdutils.studies._record import Record
from kdutils.studies.dark_knowledge import smooth_to_entropy
from kdutils.studies.students import shuffle_within_classes

DEPTH, EPOCHS, SEED = 8, 5, 0
TEACHER = "cifar10/resnet8"
HUMAN_FILE = "cifar10h-probs.npy"
BOOTSTRAPS = 1_000
Row = dict[str, str | float]
Statistic = Callable[..., Any]  # arrays over images -> one number


def load_human(path: Path) -> Tensor:
    """People's soft labels (10,000, 10), in the order of CIFAR-10's test images.

    Raises:
        FileNotFoundError: with one sentence on what to get.
        ValueError: if the file holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: get {HUMAN_FILE} from github.com/jcpeterson/cifar-10h (CC BY-NC-SA 4.0), "
            "and put it there or name its place with --cifar10h."
        )
    human = torch.from_numpy(np.load(path)).double()
    if human.shape != (10_000, 10) or not torch.allclose(human.sum(1), torch.ones(10_000).double(), atol=1e-3):
        raise ValueError(f"{path} must hold 10,000 × 10 probabilities, got {tuple(human.shape)}.")
    return human


def train_teacher(train: ImageSet, validation: ImageSet, test: ImageSet) -> None:
    """Train the teacher and ship it."""
    with kd.seeded(SEED):
        model = kd.models.resnet(DEPTH, in_channels=3)
    kd.fit(model, train, epochs=EPOCHS, seed=SEED, validation=validation)
    kd.zoo.save(
        model,
        TEACHER,
        "resnet",
        {"depth": DEPTH, "in_channels": 3},
        command="python -m kdutils.studies.human_labels",
        seed=SEED,
        data=f"CIFAR-10, {len(train)} training images, {EPOCHS} epochs",
        test_accuracy=kd.evaluate(model, test)["accuracy"],
    )


def entropy(p: Tensor) -> Tensor:
    """Entropy (N,) in nats of the rows of `p` (N, K)."""
    return -torch.xlogy(p, p).sum(1)


def cross_entropy(p: Tensor, q: Tensor) -> Tensor:
    """−Σ p log q for each row, (N,) in nats; infinite where q is 0 and p is not."""
    return -torch.where(p > 0, p * q.log(), 0.0).sum(1)


def without_label(p: Tensor, labels: Tensor) -> Tensor:
    """Each row (N, K) with 0 at the label and the other K − 1 scaled to sum to 1; NaN if nothing is left."""
    rest = p.scatter(1, labels[:, None], 0.0)
    return rest / rest.sum(1, keepdim=True)


def similarity(p: Tensor, labels: Tensor) -> np.ndarray:
    """Class similarity (K, K): mean soft label of each class, made symmetric, diagonal NaN."""
    k = p.shape[1]
    means = torch.stack([p[labels == label].mean(0) for label in range(k)])
    both = ((means + means.T) / 2).numpy()
    both[np.diag_indices(k)] = np.nan
    return both


def same_structure(a: np.ndarray, b: np.ndarray, permutations: int = 10_000) -> tuple[float, float]:
    """Spearman correlation of two similarity matrices (K, K) over their K(K − 1)/2 pairs, and its p value.

    The p value is Mantel's: how often the classes of `b`, renamed at random, fit as well.
    """
    pairs = np.triu_indices(len(a), 1)
    rng = np.random.default_rng(0)
    ranks = stats.zscore(stats.rankdata(a[pairs]))
    whole = np.zeros_like(b)
    whole[pairs] = stats.zscore(stats.rankdata(b[pairs]))
    whole += whole.T
    found = float((ranks * whole[pairs]).mean())
    orders = (rng.permutation(len(a)) for _ in range(permutations))
    as_good = sum((ranks * whole[np.ix_(order, order)][pairs]).mean() >= found - 1e-12 for order in orders)
    return found, (as_good + 1) / (permutations + 1)


def bootstrap(statistic: Statistic, draws: int, *values: Tensor) -> tuple[float, float]:
    """A 95 % interval of `statistic(*values)`, the images drawn anew; the same draws for every statistic."""
    rng = np.random.default_rng(0)
    arrays = [np.asarray(v) for v in values]
    n = len(arrays[0])
    drawn = (rng.integers(n, size=n) for _ in range(draws))
    found = [statistic(*(a[rows] for a in arrays)) for rows in drawn]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def compare(
    logits: Tensor, temperature: float, labels: Tensor, human: Tensor, bootstraps: int = BOOTSTRAPS
) -> list[Row]:
    """Every comparison of a teacher's test logits (N, K) with people's soft labels (N, K).

    Returns:
        One row per measure and source: "measure", "source", "value", "low", "high", "n".
    """
    plain, fitted = logits.double().softmax(1), (logits.double() / temperature).softmax(1)
    order = shuffle_within_classes(labels, SEED)
    one_hot = F.one_hot(labels, 10).double()
    sources = {
        "teacher": plain,
        "teacher, fitted T": fitted,
        "permuted, fitted T": fitted[order],
        "smoothed label": smooth_to_entropy(labels, entropy(fitted), 10),
        "hard label": one_hot,
    }
    rows: list[Row] = []

    def put(measure: str, source: str, value: float, low: float, high: float, n: int) -> None:
        rows.append({"measure": measure, "source": source, "value": value, "low": low, "high": high, "n": n})

    def add(measure: str, source: str, statistic: Statistic, *values: Tensor) -> None:
        value = float(statistic(*map(np.asarray, values)))
        low, high = bootstrap(statistic, bootstraps, *values) if np.isfinite(value) else (value, value)
        put(measure, source, value, low, high, len(values[0]))

    def correlation(a: np.ndarray, b: np.ndarray) -> float:
        return float(stats.spearmanr(a, b).statistic)

    doubted = human.gather(1, labels[:, None])[:, 0] < 1  # somebody named another class
    top = without_label(human[doubted], labels[doubted])
    clear = (top == top.max(1, keepdim=True).values).sum(1) == 1  # and one other class is named most often
    second = top[clear].argmax(1)
    add("accuracy", "teacher", np.mean, (logits.argmax(1) == labels).double())
    add("accuracy", "people", np.mean, (human.argmax(1) == labels).double())
    add("entropy", "people", np.mean, entropy(human))
    for name, p in sources.items():
        add("entropy", name, np.mean, entropy(p))
        add("kl", name, np.mean, cross_entropy(human, p) - entropy(human))
    add("infinite", "hard label", np.mean, cross_entropy(human, one_hot).isinf().double())
    for name in ("teacher", "teacher, fitted T", "permuted, fitted T"):
        p = sources[name]
        add("entropy correlation", name, correlation, entropy(human), entropy(p))
        rest = without_label(p, labels)
        add("second choice", name, np.mean, (rest[doubted][clear].argmax(1) == second).double())
        add("other classes", name, np.mean, cross_entropy(top, rest[doubted]))
    even = float(np.log(9))  # all nine other classes alike
    put("other classes", "smoothed label", even, even, even, len(top))
    for name in ("teacher", "teacher, fitted T"):
        found, p_value = same_structure(similarity(human, labels), similarity(sources[name], labels))
        put("class structure", name, found, found, found, 45)
        put("class structure, p value", name, p_value, p_value, p_value, 45)
    return rows


def run(cifar10: Path, cifar10h: Path, bootstraps: int = BOOTSTRAPS) -> tuple[list[Row], float]:
    """(the comparison of the shipped teacher, its fitted temperature), with the reader's own copy of the data."""
    human = load_human(cifar10h)
    train, validation, test = kd.selection.split("cifar10", root=cifar10)
    if TEACHER not in kd.zoo.names():
        train_teacher(train, validation, test)
    teacher = kd.zoo.load(TEACHER)
    temperature = fit_temperature(*logits_and_labels(teacher, validation))
    logits, labels = logits_and_labels(teacher, test)
    return compare(logits, temperature, labels, human, bootstraps), temperature


def rerun() -> list[Row] | None:
    """The comparison again, with a rough interval, if both data sets are in the cache folder; else None."""
    home = cache_folder()
    if (home / HUMAN_FILE).is_file() and (home / "cifar-10-batches-py").is_dir():
        return run(home, home / HUMAN_FILE, bootstraps=20)[0]
    return None


def main() -> None:
    """Compare, and record the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, default=cache_folder(), help="folder of cifar-10-batches-py")
    parser.add_argument("--cifar10h", type=Path, default=cache_folder() / HUMAN_FILE, help=f"the file {HUMAN_FILE}")
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:
        rows, temperature = run(args.cifar10, args.cifar10h)
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None
    record = Record("human_labels", keys=("measure", "source"))
    record.path.unlink(missing_ok=True)
    for row in rows:
        record.add(**row)
    card = kd.zoo.card(TEACHER)
    record.provenance(teacher=card["sha256"], data=card["data"], fitted_temperature=temperature, seeds=[SEED])


if __name__ == "__main__":
    main()
