"""Choose on validation data, report on test data: the one place where the book does either."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from kdutils import data
from kdutils.metrics import Interval, interval

HELD_OUT, SPLIT_SEED = 5_000, 0


class Split(NamedTuple):
    """Three sets that share no image: `train` to learn from, `validation` to choose on, `test` to report on."""

    train: data.ImageSet
    validation: data.ImageSet
    test: data.ImageSet


def split(name: str = "fashion_mnist", held_out: int = HELD_OUT, **options: Any) -> Split:
    """The same three parts everywhere in the book: of Fashion-MNIST 55,000, 5,000 and 10,000 images.

    Args:
        name: of the data set, as in :func:`kdutils.data.load`.
        held_out: how many training images are held out for validation, always the same ones.
        options: what else :func:`kdutils.data.load` takes.

    Raises:
        ValueError: as :func:`kdutils.data.load`, or if `held_out` leaves no training image.
    """
    everything, test = data.load(name, **options)
    validation, train = everything.split(held_out, seed=SPLIT_SEED)
    return Split(train, validation, test)


def choose(table: pd.DataFrame, by: str | Sequence[str], score: str = "val_accuracy") -> dict[str, Any]:
    """The settings with the highest mean validation score, over the seeds in the table.

    Args:
        table: one row per run.
        by: the column, or the columns, whose values are to be chosen.
        score: a column of validation scores, higher is better; its name begins with "val". Of equal
            means the first in the order of `by` wins.

    Returns:
        The chosen value of each column of `by`.

    Raises:
        ValueError: for a score that is not a validation score, an unknown column, an empty table, or
            settings that were not run equally often (the best of more tries would have an advantage).
    """
    columns = [by] if isinstance(by, str) else list(by)
    if not score.startswith("val"):
        raise ValueError(f"score must be a validation score, whose name begins with 'val', got {score!r}.")
    _check_columns(table, [*columns, score])
    groups = table.groupby(columns)[score]
    if groups.size().nunique() != 1:
        raise ValueError(f"table must hold equally many runs of each setting, got {groups.size().to_dict()!r:.200}.")
    best = groups.mean().idxmax()
    return dict(zip(columns, best if isinstance(best, tuple) else (best,), strict=True))


def report(
    table: pd.DataFrame, control: str, arm: str = "arm", seed: str = "seed", score: str = "accuracy"
) -> dict[str, Interval]:
    """For each arm but the control, the interval of its paired difference to the control over the seeds.

    Args:
        table: one row per run.
        control: the value of the column `arm` that the others are compared with.
        arm: name of that column.
        seed: the column by which runs are paired: runs of one seed share data, order and start.
        score: what is compared.

    Raises:
        ValueError: for an unknown column or control, or an arm whose seeds are not those of the control.
    """
    _check_columns(table, [arm, seed, score])
    wide = table.pivot(index=seed, columns=arm, values=score)
    if control not in wide:
        raise ValueError(f"control must be one of {', '.join(map(str, wide))}, got {control!r}.")
    if wide.isna().any(axis=None):
        short = ", ".join(str(each) for each in wide.columns[wide.isna().any()])
        raise ValueError(f"table must hold every seed of every arm, some are missing of: {short}.")
    return {name: interval(wide[name].to_numpy(), minus=wide[control].to_numpy()) for name in wide if name != control}


def _check_columns(table: pd.DataFrame, columns: Sequence[str]) -> None:
    if not isinstance(table, pd.DataFrame) or table.empty:
        raise ValueError("table must be a pandas DataFrame with at least one row.")
    missing = [each for each in columns if each not in table]
    if missing:
        raise ValueError(f"table has no column {missing[0]!r}: it has {', '.join(map(str, table.columns))}.")
