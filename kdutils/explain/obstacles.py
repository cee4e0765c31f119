"""What a model contains that the rescale rule of DeepLIFT and DeepSHAP, or guided backpropagation, cannot see."""

from __future__ import annotations

import contextlib
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn, no_grad
from torch.overrides import TorchFunctionMode

from kdutils import _base

# What the rescale rule is known for, and the functions that are nonlinear and so need a rule.
_RULES = (
    nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
)  # fmt: skip
_NONLINEAR = {
    "relu", "relu6", "threshold", "clamp", "clamp_min", "clamp_max", "clip", "hardtanh", "leaky_relu", "elu", "selu",
    "celu", "prelu", "rrelu", "gelu", "silu", "mish", "glu", "sigmoid", "logsigmoid", "tanh", "softplus", "softsign",
    "hardswish", "hardsigmoid", "hardshrink", "softshrink", "tanhshrink", "softmax", "log_softmax", "softmin",
    "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "layer_norm", "group_norm", "instance_norm", "rms_norm", "scaled_dot_product_attention",
    "multi_head_attention_forward",
}  # fmt: skip


Kind = Literal["function", "no rule", "twice", "windows", "neighbours", "in place", "activation"]


class Nonlinearity(NamedTuple):
    """One nonlinearity of a forward pass, and what is to be said of it."""

    kind: Kind
    name: str  # of the function or the layer's type
    sentence: str


def rescale_obstacles(model: nn.Module, images: Tensor, library: Literal["captum", "shap"] = "captum") -> list[str]:
    """What in a model keeps the rescale rule of DeepLIFT and DeepSHAP from being exact, one sentence each.

    One forward pass of one input is watched. Both libraries change the gradient of layers, and so are wrong where

    - an activation is a function (`F.relu`, `x.clamp(min=0)`) and no layer: neither sees it;
    - an activation layer is called twice: Captum raises, shap keeps the last pair of values;
    - the windows of a max pooling overlap, as 3 × 3 with stride 2 do: unpooling keeps one of the shares of a pixel;
    - a layer has no rule (`nn.LayerNorm`, `nn.SiLU`, `nn.ReLU6`; for Captum also `nn.GELU`).

    Only Captum is wrong where a layer with a rule takes what another one gives, such as MaxPool after ReLU: its
    hooks meet on one tensor (captum issue 1104); the error vanishes by chance where the inner maps of the baseline
    are constant. Only shap fails on an activation that works in place.

    Args:
        model: in eval mode.
        images: normalised floats (N, ...); the first is used.
        library: whose implementation is asked about: "captum", which :func:`deep_lift` uses, or "shap".

    Returns:
        the sentences, without a full stop; empty where nothing is known to be wrong.

    Raises:
        ValueError: for an unknown library.
    """
    if library not in ("captum", "shap"):
        raise ValueError(_base.nearest("library", library, ("captum", "shap")))
    kinds = {"function", "no rule", "twice", "windows", "neighbours" if library == "captum" else "in place"}
    only_shap = {"GELU", "SELU", "Softmax"} if library == "shap" else set()  # it has a rule for these too
    return [o.sentence for o in nonlinearities(model, images[:1]) if o.kind in kinds and o.name not in only_shap]


def nonlinearities(model: nn.Module, image: Tensor) -> list[Nonlinearity]:
    """Every nonlinearity of one forward pass and every reason why a rule may fail on it, in forward order."""
    found: dict[Nonlinearity, None] = {}
    within: list[tuple[str, nn.Module]] = []  # the layers being computed, the innermost last
    called: set[str] = set()  # paths of layers with a rule
    gave: dict[str, Tensor] = {}  # and their outputs, which tell by identity who meets whom

    def say(kind: Kind, name: str, sentence: str) -> None:
        found[Nonlinearity(kind, name, sentence)] = None

    def enter(path: str) -> Any:
        def hook(layer: nn.Module, inputs: Any) -> None:
            within.append((path, layer))
            if type(layer) not in _RULES:
                return
            name = type(layer).__name__
            this = f"layer {path!r} ({name})"
            say("activation", name, this)
            if getattr(layer, "inplace", False):
                say("in place", name, f"{this} works in place: build it with inplace=False")
            if path in called:
                say("twice", name, f"{this} is called twice: use a layer of its own for each call")
            if _overlaps(layer):
                say("windows", name, f"the windows of {this} overlap: pool with stride = kernel_size")
            for other, tensor in gave.items():
                if other != path and tensor is inputs[0]:
                    first = f"layer {other!r} ({type(model.get_submodule(other)).__name__})"
                    why = "where one rule overwrites the other: put a linear layer between them"
                    say("neighbours", name, f"{first} and {this} meet on one tensor, {why}")
            called.add(path)

        return hook

    def leave(path: str) -> Any:
        def hook(layer: nn.Module, _inputs: Any, output: Any) -> None:
            within.pop()
            if type(layer) in _RULES:
                gave[path] = output

        return hook

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = getattr(func, "__name__", "").strip("_")
            path, layer = within[-1] if within else ("", model)
            if name in _NONLINEAR and type(layer) not in _RULES:
                own = type(layer).__name__
                if type(layer).__module__.startswith("torch.nn.modules.") and not list(layer.children()):
                    say("no rule", own, f"layer {path!r} ({own}) has no rule")
                else:
                    place = f"layer {path!r} ({own})" if path else f"the model's own forward ({own})"
                    say("function", name, f"{place} calls the function {name}: make it a layer of its own")
            return func(*args, **(kwargs or {}))

    with contextlib.ExitStack() as hooks, no_grad():
        for path, layer in model.named_modules():
            hooks.callback(layer.register_forward_pre_hook(enter(path)).remove)
            hooks.callback(layer.register_forward_hook(leave(path)).remove)
        with Watch():
            model(image.detach())
    return list(found)


def _overlaps(layer: Any) -> bool:
    """Whether the windows of a pooling layer overlap."""
    if not hasattr(layer, "kernel_size"):
        return False
    sizes, strides = (each if isinstance(each, tuple) else (each,) * 3 for each in (layer.kernel_size, layer.stride))
    return any(size > stride for size, stride in zip(sizes, strides, strict=False))
