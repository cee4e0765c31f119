"""What `kd.explain.attribute` costs over the bare passes of the model that a method needs.

Bare means: the same number of forward passes, with the gradient to the input where the method needs one (to the
layer for Grad-CAM), in the best of a few batch sizes, and nothing else; for KernelSHAP on inputs that are masked
already. Both run in turns and the median ratio of neighbours is reported, so that a busy machine slows both.
From the root of the repository::

    python benchmarks/explain.py --images 500 --repeats 5

The limits are those for the ResNet-14; the student's ratios stand beside them.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

import kdutils as kd

MODELS = {"ResNet-14": "fashion_mnist/resnet14", "student": "fashion_mnist/tiny_cnn_distilled"}
PASSES = {"saliency": 1, "integrated_gradients": 32, "smoothgrad": 16, "grad_cam": 1, "kernel_shap": 200}
LIMITS = {name: 1.5 if name == "grad_cam" else 1.3 for name in PASSES}
LAYERS = {"ResNet-14": "stage3", "student": "8"}
BATCHES = (64, 128, 256)
PEAK = """
import sys, torch, kdutils as kd
torch.set_num_threads(2)
model = kd.zoo.load(sys.argv[1])
x, _ = kd.data.load("fashion_mnist")[1][: int(sys.argv[3])].tensors()
targets = kd.predict(model, x).argmax(1)
def kib(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
open("/proc/self/clear_refs", "w").write("5")  # forget the peak of loading the data
before = kib("VmRSS")
kd.explain.attribute(model, x, targets, sys.argv[2], **eval(sys.argv[4]))
print((kib("VmHWM") - before) / 1024)
"""


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def bare(model: nn.Module, x: Tensor, targets: Tensor, method: str, layer: str, batch: int) -> None:
    """The passes of one method over all of `x`; the inputs of a batch are ready beforehand."""
    left = PASSES[method] * len(x)
    repeated = -(-batch // len(x))
    inputs, chosen = x.repeat(repeated, 1, 1, 1)[:batch].clone(), targets.repeat(repeated)[:batch, None]
    while left > 0:
        part, to = inputs[:left], chosen[:left]
        if method == "kernel_shap":
            with torch.no_grad():
                model(part)
        else:
            part = part.detach().requires_grad_()
            if method == "grad_cam":
                with kd.layers.read(model, [layer]) as seen:
                    logits = model(part)
                torch.autograd.grad(logits.gather(1, to).sum(), seen[layer])
            else:
                torch.autograd.grad(model(part).gather(1, to).sum(), part)
        left -= len(part)


def ratios(name: str, method: str, images: int, repeats: int) -> tuple[list[float], float, int]:
    """The ratios of `repeats` pairs, the seconds of the last bare run, and the batch size that was best."""
    model = kd.zoo.load(MODELS[name])
    x, _ = kd.data.load("fashion_mnist")[1][:images].tensors()
    targets = kd.predict(model, x).argmax(1)
    sample = x[: max(8, images // 10)] if PASSES[method] > 1 else x
    timed = {
        b: min(seconds(lambda b=b: bare(model, sample, targets, method, LAYERS[name], b)) for _ in range(2))
        for b in BATCHES
    }
    best, found, last = min(timed, key=lambda b: timed[b]), [], 0.0
    for turn in range(repeats):
        runs = [
            lambda: bare(model, x, targets, method, LAYERS[name], best),
            lambda: kd.explain.attribute(model, x, targets, method),
        ]
        order = (0, 1) if turn % 2 == 0 else (1, 0)
        took = {which: seconds(runs[which]) for which in order}
        found.append(took[1] / took[0])
        last = took[0]
    return found, last, best


def steadiness(images: int = 8) -> tuple[float, float]:
    """The correlation of two seeds' KernelSHAP values on the student, ours and Captum's, at 200 samples."""
    from captum import attr

    student = kd.zoo.load(MODELS["student"])
    x, _ = kd.data.load("fashion_mnist")[1][:images].tensors()
    targets, ids = kd.predict(student, x).argmax(1), kd.explain.segment_ids(x, 7)

    def captums(seed: int) -> Tensor:
        with kd.seeded(seed):
            parts = [
                attr.KernelShap(student).attribute(
                    x[i : i + 1],
                    target=targets[i : i + 1],
                    feature_mask=ids[:, None],
                    n_samples=200,
                    perturbations_per_eval=200,
                )
                for i in range(len(x))
            ]
        return torch.cat(parts)[:, 0]

    def ours(seed: int) -> Tensor:
        return kd.explain.attribute(student, x, targets, "kernel_shap", seed)

    def agree(maps: list[Tensor]) -> float:
        a, b = (each[:, 2::4, 2::4].flatten(1) for each in maps)
        return float(np.mean([np.corrcoef(p, q)[0, 1] for p, q in zip(a, b, strict=True)]))

    return agree([ours(0), ours(1)]), agree([captums(0), captums(1)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=PASSES, default=list(PASSES))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--memory", nargs="*", type=int, default=[100, 1000], help="numbers of images")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.images} images, {options.repeats} pairs; attribute / bare passes")
    heads = "".join(f"{head:>7s}" for head in ("bare s", "batch", "ratio", "min", "max", "limit"))
    print(f"{'network':10s} {'method':21s}{heads}")
    for name in options.models:
        for method in options.methods:
            found, last, best = ratios(name, method, options.images, options.repeats)
            numbers = (statistics.median(found), min(found), max(found), LIMITS[method])
            row = f"{name:10s} {method:21s}{last:7.2f}{best:7d}" + "".join(f"{n:7.2f}" for n in numbers)
            print(row, flush=True)
    for method in options.methods if options.memory else ():
        extra = {"samples": 98} if method == "kernel_shap" else {}
        peaks = []
        for images in options.memory:
            command = [sys.executable, "-c", PEAK, MODELS["student"], method, str(images), repr(extra)]
            peaks.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        said = ", ".join(f"{peak:.0f} MiB at {n}" for n, peak in zip(options.memory, peaks, strict=True))
        print(f"peak memory of the call (Linux), student, {method}: {said} images", flush=True)
    own, theirs = steadiness()
    print(f"KernelSHAP, two seeds, 200 samples, student: r = {own:.2f} here, {theirs:.2f} in Captum")


if __name__ == "__main__":
    main()
