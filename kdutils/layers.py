"""Reading named layers: what a network computes at a dotted path, without editing the network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from kdutils._base import nearest

Outputs = dict[str, Tensor]  # a layer's dotted path, or "logits" -> what came out of it for one batch


def check(name: str, model: nn.Module, path: str) -> nn.Module:
    """The layer of `model` at a dotted path such as "stage3" or "stage3.0.conv1"; `name` is the argument's.

    Raises:
        ValueError: if there is none; the sentence gives the nearest path.
    """
    layers = dict(model.named_modules())
    if not path or path not in layers:
        raise ValueError(nearest(name, path, [each for each in layers if each]))
    return layers[path]


@contextlib.contextmanager
def read(model: nn.Module, paths: Sequence[str]) -> Iterator[Outputs]:
    """Inside the block, each forward pass of `model` leaves the output of every named layer in the dictionary.

    A forward pass replaces what the pass before it left. Gradients flow through what is read::

        with kd.layers.read(model, ["stage3"]) as seen:
            logits = model(images)
        seen["stage3"]  # (N, 64, 7, 7)

    Args:
        model: any network; it is left as it was.
        paths: dotted paths, as in `model.get_submodule(path)`.

    Raises:
        ValueError: for an unknown path, and, at the forward pass, for a layer that gives no tensor, is
            called twice, or whose output a later layer changes in place (an `inplace=True` activation:
            what was read would not be the layer's output any more).
    """
    seen: Outputs = {}
    versions: dict[str, int] = {}
    within = False  # a pass of the whole network: a layer that is called by itself is not read

    def keep(path: str) -> Any:
        def hook(_layer: nn.Module, _inputs: Any, output: Any) -> None:
            if not within:
                return
            if not isinstance(output, Tensor):
                raise ValueError(f"layer {path!r} must give one tensor, got {type(output).__name__}.")
            if path in seen:
                raise ValueError(f"layer {path!r} is called twice in one forward pass: name a layer called once.")
            seen[path] = output
            versions[path] = 0 if output.is_inference() else output._version

        return hook

    def start(_model: nn.Module, _inputs: Any) -> None:
        nonlocal within
        within = True
        seen.clear()

    def end(_model: nn.Module, _inputs: Any, _output: Any) -> None:
        nonlocal within
        within = False
        for path, output in seen.items():
            if not output.is_inference() and output._version != versions[path]:
                raise ValueError(
                    f"the output of layer {path!r} is changed in place by a later layer: "
                    "name the layer that changes it (often the activation after it)."
                )
        missing = [path for path in paths if path not in seen]
        if missing:
            raise ValueError(f"layer {missing[0]!r} is not called in the forward pass: name one that is.")

    with contextlib.ExitStack() as hooks:
        hooks.callback(model.register_forward_pre_hook(start).remove)
        for path in dict.fromkeys(paths):
            hooks.callback(check("layer", model, path).register_forward_hook(keep(path)).remove)
        hooks.callback(model.register_forward_hook(end).remove)
        yield seen
