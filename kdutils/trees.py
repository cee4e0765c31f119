"""Soft decision trees: a student whose decision can be followed from the root to a leaf.

Frosst and Hinton 2017 (arXiv:1711.09784). The nodes of a tree of depth D are numbered as in a heap: the root is 0, the
children of node i are 2i + 1 (left) and 2i + 2 (right); 0 to 2^D − 2 are the inner nodes, the leaves follow.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdutils._base import check_number, check_positive_int

MAX_DEPTH = 14  # 16,383 filters: more would be no explanation, and does not fit into memory
LEAF_GAIN = 10.0  # a filter of hundreds of pixels moves fast; at the same learning rate a leaf would stay vague


class Gates(nn.Linear):
    """The filters of all inner nodes as one linear layer: β · (w · x + b), whose sigmoid is the chance to go right.

    Args:
        in_features: size of an input, once flattened.
        nodes: number of inner nodes.
        beta: the inverse temperature β > 0: the larger, the harder the decisions.
    """

    def __init__(self, in_features: int, nodes: int, beta: float) -> None:
        super().__init__(in_features, nodes)
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        return self.beta * super().forward(x)


class SoftDecisionTree(nn.Module):
    """A binary tree in which every node sends every input both ways, with probabilities that a linear filter gives.

    A leaf is a distribution over the classes that no input changes. The tree's answer is their average, weighted by
    the probability of the path from the root to each leaf (section 2 of the paper); :class:`MostLikelyPath` reads
    one leaf instead. It is trained as any network, with :func:`kdutils.train.fit` or :func:`kdutils.train.distill`.
    The layer "gates" is what the losses of this module take::

        balance = kd.Term(
            "balance", kd.trees.balance_loss,
            0.1, student_layer="gates",
        )

    Args:
        in_features: size of an input, once flattened.
        classes: K ≥ 2.
        depth: number of decisions on each path, 1 to 14; there are 2^depth leaves.
        beta: the inverse temperature of the decisions, > 0.

    Inputs are (N, ...); the logits (N, K) are the logarithms of the averaged probabilities, in nats.

    Raises:
        ValueError: for an argument that does not fit, or, at the call, inputs of another size.
    """

    def __init__(self, in_features: int, classes: int, depth: int, beta: float = 1.0) -> None:
        check_positive_int("in_features", in_features)
        check_positive_int("classes", classes)
        check_positive_int("depth", depth)
        if classes < 2:
            raise ValueError(f"classes must be at least 2, got {classes}.")
        if depth > MAX_DEPTH:
            raise ValueError(f"depth must be at most {MAX_DEPTH} (a tree has 2^depth leaves), got {depth}.")
        check_number("beta", beta, 0, above=True)
        super().__init__()
        self.depth = depth
        self.gates = Gates(in_features, 2**depth - 1, beta)
        self.leaves = nn.Parameter(0.1 * torch.randn(2**depth, classes) / LEAF_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        average = self.leaf_paths(x).exp() @ self.log_leaves.exp()
        return average.clamp_min(torch.finfo(average.dtype).tiny).log()

    @property
    def log_leaves(self) -> Tensor:
        """The logarithms of the leaves' class probabilities: (2^depth, K)."""
        return (LEAF_GAIN * self.leaves).log_softmax(1)

    def leaf_paths(self, x: Tensor) -> Tensor:
        """The logarithm of the probability (N, 2^depth) with which each input (N, ...) comes to each leaf.

        Raises:
            ValueError: for inputs of another size than the tree was made for.
        """
        flat = x.flatten(1)
        if flat.shape[1] != self.gates.in_features:
            wanted = f"{self.gates.in_features} values each (in_features)"
            raise ValueError(f"inputs must have {wanted}, got shape {tuple(x.shape)}, {flat.shape[1]} each.")
        return log_paths(self.gates(flat))[:, 2**self.depth - 1 :]

    def path(self, x: Tensor) -> Tensor:
        """The nodes from the root to the leaf with the greatest path probability, for each input: int64 (N, depth + 1).

        This is the paper's reading. A walk that takes the likelier side at every node may end elsewhere: 0.6 · 0.5 is
        less than 0.4 · 1.
        """
        leaf = self.leaf_paths(x).argmax(1)
        steps = torch.arange(self.depth, -1, -1, device=leaf.device)
        return ((leaf[:, None] + 2**self.depth) >> steps) - 1  # counted from 1, node n's parent is n >> 1

    def leaf_loss(self, gates: Tensor, teacher_logits: Tensor, labels: Tensor | None = None) -> Tensor:
        """Each leaf's own cross-entropy with the target, weighted by its path's probability: the paper's loss.

        Equation 3 of the paper without its outer logarithm, whose argument would be negative. It is never less than
        the cross-entropy of the average (Jensen), and equal where one leaf takes all. For a
        :class:`kdutils.train.Term`.

        Args:
            gates: (N, 2^depth − 1), what the layer "gates" gave.
            teacher_logits: (N, K); the target is their softmax,
            labels: unless labels (N,) are given (`kd.Term(..., labels=True)`).

        Returns:
            A scalar in nats, the mean over the batch.
        """
        target = teacher_logits.softmax(1) if labels is None else F.one_hot(labels, self.leaves.shape[1])
        surprise = -target.to(gates.dtype) @ self.log_leaves.T
        return (log_paths(gates)[:, 2**self.depth - 1 :].exp() * surprise).sum(1).mean()


class MostLikelyPath(nn.Module):
    """A soft tree that answers with one leaf: that of the greatest path probability. Logits (N, K).

    Args:
        tree: the tree; it is shared, not copied.
    """

    def __init__(self, tree: SoftDecisionTree) -> None:
        super().__init__()
        self.tree = tree

    def forward(self, x: Tensor) -> Tensor:
        return self.tree.log_leaves[self.tree.leaf_paths(x).argmax(1)]


def log_paths(gates: Tensor) -> Tensor:
    """The logarithm of the probability with which each input comes to each node, level by level.

    Args:
        gates: (N, 2^D − 1), the logits of going right at each inner node.

    Returns:
        (N, 2^(D + 1) − 1), in the order of the nodes; the root's is 0.

    Raises:
        ValueError: if the number of gates is not one less than a power of two.
    """
    nodes = gates.shape[1] + 1 if gates.dim() == 2 else 0
    if nodes < 2 or nodes & (nodes - 1):
        raise ValueError(f"gates must be of shape (N, 2^depth − 1), got {tuple(gates.shape)}.")
    levels = [torch.zeros_like(gates[:, :1])]
    for here in gates.split([2**level for level in range(nodes.bit_length() - 1)], dim=1):
        both = torch.stack([F.logsigmoid(-here), F.logsigmoid(here)], dim=2)
        levels.append((levels[-1][..., None] + both).flatten(1))
    return torch.cat(levels, dim=1)


def balance_loss(gates: Tensor, _teacher: Tensor | None = None) -> Tensor:
    """The penalty on nodes that send nearly all inputs to one side (Frosst and Hinton 2017, section 3.1).

    For each inner node, the cross-entropy between (½, ½) and (1 − α, α), where α is the share that goes right, averaged
    over the batch with each input weighted by its probability of coming to this node; a node at depth d counts 2^−d.
    The paper keeps running averages over a longer time for deeper nodes; here it is the batch: take it large.

    Args:
        gates: (N, 2^D − 1), what the layer "gates" gave.
        _teacher: has no say; it is here so that a :class:`kdutils.train.Term` can call this function.

    Returns:
        A scalar in nats; the least is D · ln 2, where every node sends half of its inputs to each side.

    Raises:
        ValueError: as :func:`log_paths`.
    """
    arrived = log_paths(gates).logsumexp(0)  # of the whole batch, at each node
    shares = arrived[1:].view(-1, 2) - arrived[: gates.shape[1], None]  # log(1 − α), log α
    decay = [2.0**-level for level in range(gates.shape[1].bit_length()) for _ in range(2**level)]
    return -(shares.mean(1) * shares.new_tensor(decay)).sum()
