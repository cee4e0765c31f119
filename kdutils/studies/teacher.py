"""Train the book's teacher, a ResNet-14 on Fashion-MNIST, and ship the first two seeds.

    python -m kdutils.studies.teacher

The 60,000 training images are split once: 5,000 are held out for validation (temperature scaling and
every choice of a hyperparameter in the book), 55,000 train. Last-epoch results, no test-time augmentation.
Writes `recorded/teacher.csv` (one row per seed), `recorded/teacher_curves.csv` (one row per seed and
epoch) and `weights/fashion_mnist-resnet14.safetensors`, the teacher of the book; seed 1 is shipped as its twin, for
questions about teachers that one teacher cannot answer.
"""

from __future__ import annotations

import argparse

import torch

import kdutils as kd
from kdutils.selection import HELD_OUT
from kdutils.selection import split as split
from kdutils.studies._record import Record

EPOCHS, DEPTH = 15, 14
SHIPPED = {0: "fashion_mnist/resnet14", 1: "fashion_mnist/resnet14_twin"}


def main() -> None:
    """Train every seed that is not recorded, or not shipped, yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train, validation, test = split()
    runs = Record("teacher", keys=("seed",))
    curves = Record("teacher_curves", keys=("seed", "epoch"))
    for seed in args.seeds:
        name, recorded = SHIPPED.get(seed), runs.has(seed=seed)
        if recorded and (name is None or name in kd.zoo.names()):
            continue
        with kd.seeded(seed):
            model = kd.models.resnet(DEPTH)
        history = kd.fit(model, train, epochs=EPOCHS, seed=seed, validation=validation)
        final = kd.evaluate(model, test)
        if not recorded:
            for epoch in range(EPOCHS):
                curves.add(seed=seed, epoch=epoch + 1, **{key: values[epoch] for key, values in history.items()})
            temperature = kd.metrics.fit_temperature(*kd.metrics.logits_and_labels(model, validation))
            runs.add(
                seed=seed,
                **final,
                val_accuracy=history["val_accuracy"][-1],
                fitted_temperature=temperature,
                seconds=sum(history["seconds"]),
            )
        if name is not None and name not in kd.zoo.names():
            kd.zoo.save(
                model,
                name,
                "resnet",
                {"depth": DEPTH},
                command=f"python -m kdutils.studies.teacher --seeds {seed}",
                seed=seed,
                data=f"Fashion-MNIST, {len(train)} training images, {EPOCHS} epochs",
                test_accuracy=final["accuracy"],
            )
    curves.sort(curves.keys)
    runs.finish(runs.keys, model=f"resnet({DEPTH})", epochs=EPOCHS, train=len(train), validation=HELD_OUT)


if __name__ == "__main__":
    main()
