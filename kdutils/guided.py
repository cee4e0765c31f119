"""Teaching the explanation: maps with a gradient of their own, losses between them, and the terms for `distill`.

The maps of :mod:`kdutils.explain` are for looking at: they come detached. Those here can be trained: called with
gradients enabled, each keeps its graph, so that a loss on the map reaches the network's parameters (a gradient of a
gradient); under `torch.no_grad()` it comes without one. Every map is that of the network as it will be used, in eval
mode: in training mode batch normalisation would mix the images of a batch, and each further pass would move its
statistics. Parameters, buffers, modes and stored gradients are left as they were.

In a network of ReLU layers the input gradient does not depend on the biases, except where a ReLU switches: losses on
:func:`input_gradient` and :func:`path_gradient` give the biases a gradient of exactly zero.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from kdutils import _base, layers, losses
from kdutils.data import ImageSet
from kdutils.train import Step

Explanation = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (network, inputs (N, ...), classes (N,)) -> maps (N, ...)


def input_gradient(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """∂ logit of the target / ∂ input, the quantity that Jacobian matching matches (Srinivas & Fleuret 2018).

    arXiv:1803.00443.

    Args:
        model: gives logits (N, K).
        inputs: (N, ...).
        targets: int64, (N,).

    Returns:
        The shape of `inputs`, with its graph if gradients are enabled.
    """
    return _slopes(model, inputs, lambda logits: _chosen(logits, targets).sum())


def path_gradient(model: nn.Module, inputs: Tensor, targets: Tensor, where: float | Tensor) -> Tensor:
    """input · gradient at the point `where` · input: one point of integrated gradients.

    With `where` uniform in 0 to 1 its mean is integrated gradients from the baseline zero, the mean image
    (Sundararajan et al. 2017, arXiv:1703.01365, eq. 1).

    Args:
        model: gives logits (N, K).
        inputs: (N, ...), normalised.
        targets: int64, (N,).
        where: the share of the way from zero to the input, one for all or (N,).

    Returns:
        The shape of `inputs`, with its graph if gradients are enabled.
    """
    share = torch.as_tensor(where, dtype=inputs.dtype, device=inputs.device).reshape(-1, *[1] * (inputs.dim() - 1))
    return inputs * input_gradient(model, share * inputs, targets)


def grad_cam(model: nn.Module, inputs: Tensor, targets: Tensor, layer: str) -> Tensor:
    """Positive Grad-CAM at the layer's own resolution (Selvaraju et al. 2017, arXiv:1610.02391, eq. 1 and 2).

    Args:
        model: gives logits (N, K).
        inputs: (N, C, H, W).
        targets: int64, (N,).
        layer: dotted path of a layer that gives maps (N, C', h, w).

    Returns:
        (N, h, w), ≥ 0, with its graph if gradients are enabled; zeros where nothing speaks for the class.

    Raises:
        ValueError: for an unknown layer, or one that does not give maps.
    """
    graph = torch.is_grad_enabled()
    with torch.enable_grad(), _base.eval_mode(model), layers.read(model, [layer]) as seen:
        # Without this, a frozen network would build no graph to take a gradient along.
        score = _chosen(model(inputs.detach().requires_grad_()), targets).sum()
        maps = seen[layer]
        if maps.dim() != 4:
            raise ValueError(f"layer {layer!r} must give maps (N, C, h, w), got {tuple(maps.shape)}.")
        slopes = torch.autograd.grad(score, maps, create_graph=graph)[0]
        cam = (slopes.mean((2, 3), keepdim=True) * maps).sum(1).relu()
    return cam if graph else cam.detach()


def class_maps(features: Tensor, head: nn.Linear) -> Tensor:
    """Class activation maps: the head's weights applied at every place (Zhou et al. 2016, arXiv:1512.04150).

    Their mean over the places, plus the bias, are the logits of a network that ends in average pooling and `head`.

    Args:
        features: (N, C, H, W), the last maps.
        head: the last layer, C features to K logits.

    Returns:
        (N, K, H, W), with gradients to both.

    Raises:
        ValueError: if `head` is no `nn.Linear` of C features.
    """
    if not isinstance(head, nn.Linear) or features.dim() != 4 or head.in_features != features.shape[1]:
        got = f"{head} and features {tuple(features.shape)}"
        raise ValueError(f"head must be the nn.Linear that takes the C features of (N, C, H, W), got {got}.")
    return torch.einsum("nchw,kc->nkhw", features, head.weight)


def outside_loss(model: nn.Module, inputs: Tensor, masks: Tensor) -> Tensor:
    """Right for the right reasons: how steep the network is where it must not look (Ross et al. 2017).

    arXiv:1703.03717: the squared gradient of Σ_k log p_k with respect to the input, summed over the forbidden
    pixels of an image; the mean over the images. It needs somebody who knows the forbidden pixels: an oracle.

    Args:
        model: gives logits (N, K).
        inputs: (N, C, H, W).
        masks: bool, (N, H, W) or (H, W) for all: True where the network must not look.

    Returns:
        A scalar in nats² per squared unit of the input.

    Raises:
        ValueError: for masks that are not bool or do not fit.
    """
    losses.check_masks(masks, inputs)
    slopes = _slopes(model, inputs, lambda logits: logits.log_softmax(1).sum())
    return (slopes * masks.reshape(-1, 1, *masks.shape[-2:])).square().flatten(1).sum(1).mean()


def matching(
    student: Explanation, teacher: Explanation | None = None, *, stored: str | None = None, images: int | None = None
) -> Callable[[Step], Tensor]:
    """A loss for `kd.Term(..., step=True)`: the student's map is to be the teacher's.

    They are compared by :func:`~kdutils.losses.map_loss`. The class is the teacher's first, for both. With
    :func:`grad_cam` this is e²KD, with :func:`input_gradient` Jacobian matching::

        cam = kd.guided.grad_cam
        loss = kd.guided.matching(
            partial(cam, layer="8"),
            partial(cam, layer="stage3"),
        )
        term = kd.Term("cam", loss, 1.0, step=True)

    Args:
        student: makes the student's maps.
        teacher: makes the teacher's in every step; the same as `student` if None.
        stored: the name of maps that :func:`teacher_maps` made beforehand, in the outputs that are passed to
            `distill` as its teacher; then nothing is asked of the teacher.
        images: how many of a batch to explain, its first ones (batches are shuffled); all if None. A gradient of a
            gradient is dear.

    Returns:
        A function of a :class:`~kdutils.train.Step`. It raises ValueError if the maps' shapes differ, if the stored
        name is unknown, or if only stored outputs are there and no `stored` is given.

    Raises:
        ValueError: for a number of images below 1.
    """
    if images is not None:
        _base.check_positive_int("images", images)

    def loss(step: Step) -> Tensor:
        step = _first(step, images)
        targets = step.outputs["logits"].argmax(1)
        if stored is not None:
            theirs = _stored(step, stored)
        else:
            with torch.no_grad():
                theirs = (teacher or student)(_network(step), step.inputs, targets)
        return losses.map_loss(student(step.student, step.inputs, targets), theirs)

    return loss


def path_matching(*, draws: int = 1, stored: str | None = None, images: int | None = None) -> Callable[[Step], Tensor]:
    """A loss for `kd.Term(..., step=True)`: integrated gradients matched by `draws` random points a step.

    Both networks' :func:`path_gradient` is taken at the same points, averaged over `draws`, and compared by
    :func:`~kdutils.losses.map_loss`. Integrated gradients in full cost 16 passes or more per image and step; the noise
    of a single point averages out over the steps.

    Args:
        draws: points per image and step.
        stored: the name of the teacher's maps (N, P, ...) at the P midpoints (p + ½)/P of the path, as
            :func:`teacher_maps` gives them for :func:`path_gradient`, stacked; then points are drawn among these.
        images: as in :func:`matching`.

    Returns:
        As :func:`matching`.

    Raises:
        ValueError: for a number of draws or images below 1.
    """
    _base.check_positive_int("draws", draws)
    if images is not None:
        _base.check_positive_int("images", images)

    def loss(step: Step) -> Tensor:
        step = _first(step, images)
        inputs, targets = step.inputs, step.outputs["logits"].argmax(1)
        n, pairs = len(inputs), []
        for _ in range(draws):
            if stored is not None:
                known = _stored(step, stored)
                drawn = torch.randint(known.shape[1], (n,), device=inputs.device)
                where, theirs = (drawn + 0.5) / known.shape[1], known[torch.arange(n, device=inputs.device), drawn]
            else:
                where = torch.rand(n, device=inputs.device)
                with torch.no_grad():
                    theirs = path_gradient(_network(step), inputs, targets, where)
            pairs.append((path_gradient(step.student, inputs, targets, where), theirs))
        ours, theirs = (torch.stack(each).mean(0) for each in zip(*pairs, strict=True))
        return losses.map_loss(ours, theirs)

    return loss


def input_noise(*, noise: float, temperature: float) -> Callable[[Step], Tensor]:
    """A loss for `kd.Term(..., step=True)`: distillation on noisy copies of the images.

    For small noise its expectation is the loss on the clean images plus σ² times the distance of the Jacobians
    (Srinivas & Fleuret 2018, arXiv:1803.00443): Jacobian matching without a second derivative. The student is in
    training mode, as on the clean images, but the noisy ones leave no trace in its batch normalisation's statistics.

    Args:
        noise: standard deviation σ of the Gaussian noise, in units of the normalised input.
        temperature: T > 0 of :func:`~kdutils.losses.kd_loss`.

    Returns:
        As :func:`matching`; it needs the teacher itself.

    Raises:
        ValueError: for a noise or temperature that is not positive.
    """
    _base.check_number("noise", noise, 0, above=True)
    losses.check_temperature(temperature)

    def loss(step: Step) -> Tensor:
        noisy = step.inputs + noise * torch.randn_like(step.inputs)
        teacher = _network(step)
        with torch.no_grad(), _base.eval_mode(teacher):
            theirs = teacher(noisy)
        with same_statistics(step.student):
            return losses.kd_loss(step.student(noisy), theirs, temperature)

    return loss


def teacher_maps(
    teacher: nn.Module,
    train: ImageSet,
    explanation: Explanation,
    augment: Literal[False, "flip"] = False,
    targets: Tensor | None = None,
) -> Tensor:
    """The teacher's maps for every view of every image, to be stored beside :func:`~kdutils.train.teacher_outputs`::

        outputs = kd.teacher_outputs(teacher, train)
        cam = partial(
            kd.guided.grad_cam, layer="stage3"
        )
        outputs["cam"] = kd.guided.teacher_maps(
            teacher, train, cam
        )
        kd.distill(student, outputs, train, ...)

    Args:
        teacher: is left as it was.
        train: the images.
        explanation: makes the maps.
        augment: False for one view, "flip" for two: as it is, mirrored.
        targets: int64, (N,): the class to explain; the teacher's first of each view if None.

    Returns:
        float32 (V, N, ...) on the CPU.

    Raises:
        ValueError: for another `augment`, since its views are too many to store.
    """
    if augment not in (False, "flip"):
        raise ValueError(f'augment must be False or "flip" to have few views, got {augment!r}.')
    device, found = _base.model_device(teacher), []
    with torch.no_grad(), _base.eval_mode(teacher):
        for view in [train.images] if not augment else [train.images, train.images.flip(-1)]:
            chunks, start = [], 0
            for images in view.split(250):
                inputs = train.normalise(images.to(device))
                classes = teacher(inputs).argmax(1) if targets is None else targets[start : start + len(images)]
                chunks.append(explanation(teacher, inputs, classes.to(device)).float().cpu())
                start += len(images)
            found.append(torch.cat(chunks))
    return torch.stack(found)


@contextlib.contextmanager
def same_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch normalisation use the batch's statistics, and forget them."""
    kept = [layer for layer in model.modules() if getattr(layer, "track_running_stats", False)]
    for layer in kept:
        layer.track_running_stats = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer in kept:
            layer.track_running_stats = True  # type: ignore[assignment]


def _first(step: Step, images: int | None) -> Step:
    """The step with its first `images` inputs only."""
    if images is None:
        return step
    outputs = {name: values[:images] for name, values in step.outputs.items()}
    return replace(step, inputs=step.inputs[:images], labels=step.labels[:images], outputs=outputs)


def _slopes(model: nn.Module, inputs: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient of `score(logits)` with respect to the input."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad(), _base.eval_mode(model):
        inputs = inputs.detach().requires_grad_()
        return torch.autograd.grad(score(model(inputs)), inputs, create_graph=graph)[0]


def _chosen(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.gather(1, targets[:, None])[:, 0]


def _network(step: Step) -> nn.Module:
    if step.teacher is None:
        raise ValueError("the term needs the teacher itself, but distill was given stored outputs: name stored maps.")
    return step.teacher


def _stored(step: Step, name: str) -> Tensor:
    if name not in step.outputs:
        raise ValueError(_base.nearest("stored", name, step.outputs))
    return step.outputs[name]
