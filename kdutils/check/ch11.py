"""Checks of chapter 11."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def exercise_1(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str | None:
    """`class_map(features, weight, targets)`: class activation maps, (N, h, w)."""
    # As many images as classes and as many maps as either, so that a mistaken axis comes out wrong and is told.
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 4, 3, 5, generator=generator)
    weight, targets = torch.randn(4, 4, generator=generator), torch.tensor([2, 0, 3, 3])
    found = answer(features.clone(), weight.clone(), targets.clone())
    right = torch.einsum("nk,nkij->nij", weight[targets], features)
    if found.shape != right.shape:
        return f"One number per cell: the result must have the shape {tuple(right.shape)}, not {tuple(found.shape)}."
    if _close(found, right):
        return None
    for wrong, hint in (
        (features.sum(1), "You added the maps up as they are: each has its weight for the class, w_ck."),
        (features.mean(1), "You averaged the maps as they are: each has its weight for the class, w_ck."),
        (right / 4, "You averaged over the maps: the linear layer adds them up, so take the sum."),
        (right / 15, "That is Grad-CAM's scale, divided by the cells. CAM's mean is to give the logit: do not divide."),
        (right.relu(), "The ReLU is Grad-CAM's. CAM keeps the sign, or its mean would not be the logit."),
        (right.relu() / 15, "That is Grad-CAM: CAM has no ReLU and is not divided by the number of cells."),
        (torch.einsum("nk,nkij->nij", weight[:, targets].T, features), "weight is (classes, maps): take rows of it."),
        (torch.einsum("nk,nkij->nij", weight[:, targets], features), "weight is (classes, maps): take rows of it."),
        (torch.einsum("k,nkij->nij", weight[targets[0]], features), "Every image has a class of its own: targets[n]."),
        (
            torch.einsum("nk,nkij->nij", weight, features),
            "The row of image n is that of its class, weight[targets[n]].",
        ),
    ):
        if _close(found, wrong):
            return hint
    return "These are not the maps M_ij = Σ_k w_ck A_kij, with c the class of each image."


def exercise_2(answer: Callable[[Tensor], Tensor]) -> str | None:
    """`rollout(attention)`: from (depth, N, heads, T, T), the class token's row over the patches, (N, T − 1)."""
    attention = torch.randn(3, 2, 2, 5, 5, generator=torch.Generator().manual_seed(1)).mul(2).softmax(-1)
    found = answer(attention.clone())
    right = _rolled(attention)[:, 0, 1:]
    if found.shape == (2, 5):
        return "The class token itself is no patch: leave column 0 out."
    if found.shape != right.shape:
        return f"One number per patch: the result must have the shape {tuple(right.shape)}, not {tuple(found.shape)}."
    if _close(found, right):
        return None
    eye, mean = torch.eye(5), attention.mean(2)
    plain = mean[2] @ mean[1] @ mean[0]
    largest = attention.amax(2) + eye
    for wrong, hint in (
        (_rolled(attention.flip(0))[:, 0, 1:], "The order is turned round: the last block stands on the left."),
        (plain[:, 0, 1:], "The shortcut is missing: half of what a token has after a block it had before. Add I."),
        (8 * right, "The rows no longer add up to 1: divide A + I by 2."),
        (_rolled(attention)[:, 1:, 0], "That is the column: who looks at the class token. Its own row is [0, 1:]."),
        (mean[-1][:, 0, 1:], "That is the last block alone: multiply all blocks."),
        (((mean[-1] + eye) / 2)[:, 0, 1:], "That is the last block alone: multiply all blocks."),
        (_rolled(attention[:, :, :1])[:, 0, 1:], "That is the first head alone: average the heads."),
        (_product(largest / largest.sum(-1, keepdim=True))[:, 0, 1:], "You took the largest head: average them."),
        (_rolled(attention[:, :, 0] @ attention[:, :, 1])[:, 0, 1:], "Heads work side by side: average, not multiply."),
        (((mean + eye) / 2).mean(0)[:, 0, 1:], "Blocks work one after the other: multiply them, do not average."),
        (((mean + eye) / 2).prod(0)[:, 0, 1:], "That multiplies number by number: blocks need the matrix product, @."),
    ):
        if _close(found, wrong):
            return hint
    return "Not yet. Heads averaged, (A + I) / 2, last block on the left, then row 0 without column 0."


def exercise_3(answer: Callable[[Tensor, Tensor], Tensor]) -> str | None:
    """`other_attention(weights, values)`: another row of attention weights, (T,), with the same output."""
    generator = torch.Generator().manual_seed(2)
    for tokens, size in ((50, 16), (20, 6)):
        weights = torch.randn(tokens, dtype=torch.float64, generator=generator).softmax(0)
        values = torch.randn(tokens, size, dtype=torch.float64, generator=generator)
        found = answer(weights.clone(), values.clone())
        if found.shape != weights.shape:
            return f"A row of {tokens} weights is wanted, of shape {tuple(weights.shape)}, not {tuple(found.shape)}."
        found = found.double()
        change = float((found - weights).abs().sum()) / 2
        if change < 1e-6:
            return "That is the same row. The output is to stay, the weights are to change."
        if float((found @ values - weights @ values).abs().max()) > 1e-4:
            if _close(found.sort().values, weights.sort().values):
                return "You put the same weights in another order: the sum of weight × value then changes."
            return "The output weights @ values is another one: change the row only along d with d @ values = 0."
        if abs(float(found.sum()) - 1) > 1e-4:
            return "The output is the same, but the weights do not add up to 1: that is one more linear condition."
        if float(found.min()) < -1e-6:
            return "A weight became negative, which a softmax never gives: stop before, or put it in as a bound."
        if change < 0.1:
            return f"It is another row, but only {change:.3f} of the weight has moved: go on until weights reach zero."
    return None


def _rolled(attention: Tensor) -> Tensor:
    mean = attention.mean(2) if attention.dim() == 5 else attention
    return _product((mean + torch.eye(mean.shape[-1])) / 2)


def _product(blocks: Tensor) -> Tensor:
    total = blocks[0]
    for block in blocks[1:]:
        total = block @ total
    return total


def _close(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and torch.allclose(found.to(wanted.dtype), wanted, rtol=1e-4, atol=1e-6)
