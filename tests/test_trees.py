"""Soft decision trees: against a slow recursion over nodes, by hand, and trained through the package's own verbs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import kdutils as kd
from kdutils.trees import MostLikelyPath, SoftDecisionTree, balance_loss, log_paths
from tests.common import random_set, same_bits, weights


def tree(depth: int = 3, features: int = 5, classes: int = 4, seed: int = 0, beta: float = 1.0) -> SoftDecisionTree:
    with kd.seeded(seed):
        return SoftDecisionTree(features, classes, depth, beta).double()


def inputs(n: int = 7, features: int = 5, seed: int = 1) -> Tensor:
    return torch.randn(n, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


def go(grown: SoftDecisionTree, x: Tensor, node: int = 0) -> tuple[Tensor, dict[int, float]]:
    """The class probabilities below `node` for one input (F,), and the probability of each leaf from there."""
    inner = 2**grown.depth - 1
    if node >= inner:
        return (10 * grown.leaves[node - inner]).softmax(0), {node: 1.0}
    z = grown.gates.beta * (x @ grown.gates.weight[node] + grown.gates.bias[node])
    right = 1 / (1 + math.exp(-z))
    (a, left_leaves), (b, right_leaves) = go(grown, x, 2 * node + 1), go(grown, x, 2 * node + 2)
    paths = {leaf: (1 - right) * p for leaf, p in left_leaves.items()}
    return (1 - right) * a + right * b, paths | {leaf: right * p for leaf, p in right_leaves.items()}


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_the_tree_is_the_recursion_over_its_nodes(depth: int, beta: float) -> None:
    grown, x = tree(depth, beta=beta), inputs()
    with torch.no_grad():
        logits, paths = grown(x), grown.leaf_paths(x).exp()
        for i, one in enumerate(x):
            average, slow = go(grown, one)
            torch.testing.assert_close(logits[i].exp(), average, rtol=0, atol=1e-10)
            wanted = torch.tensor([slow[leaf] for leaf in sorted(slow)], dtype=torch.float64)
            torch.testing.assert_close(paths[i], wanted, rtol=0, atol=1e-10)


def test_depth_one_by_hand() -> None:
    grown = tree(1, features=2, classes=2)
    with torch.no_grad():
        grown.gates.weight.copy_(torch.tensor([[1.0, 2.0]]))
        grown.gates.bias.fill_(-1.0)
        grown.leaves.copy_(torch.tensor([[0.0, math.log(3)], [math.log(4), 0.0]], dtype=torch.float64) / 10)
    x = torch.tensor([[1.0, math.log(3) / 2]], dtype=torch.float64)  # the gate's logit is ln 3: right with 3/4
    wanted = torch.tensor([[1 / 4 * 1 / 4 + 3 / 4 * 4 / 5, 1 / 4 * 3 / 4 + 3 / 4 * 1 / 5]], dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(grown(x).exp(), wanted, rtol=0, atol=1e-12)
        torch.testing.assert_close(MostLikelyPath(grown)(x).exp(), torch.tensor([[0.8, 0.2]]).double())
        assert grown.path(x).tolist() == [[0, 2]]


def test_probabilities_sum_to_one_at_every_level_and_in_every_answer() -> None:
    grown, x = tree(4), inputs(9)
    with torch.no_grad():
        nodes = log_paths(grown.gates(x)).exp()
        for level in range(5):
            here = nodes[:, 2**level - 1 : 2 ** (level + 1) - 1]
            torch.testing.assert_close(here.sum(1), torch.ones(9).double())
        for answer in (grown(x), MostLikelyPath(grown)(x)):
            torch.testing.assert_close(answer.exp().sum(1), torch.ones(9).double())


def test_inputs_of_any_shape_are_flattened() -> None:
    grown = tree(2, features=12)
    x = inputs(3, features=12)
    assert torch.equal(grown(x), grown(x.view(3, 1, 3, 4)))


def test_the_most_likely_path_leads_to_the_leaf_with_the_greatest_probability() -> None:
    grown, x = tree(4), inputs(40)
    with torch.no_grad():
        paths, answers = grown.path(x), MostLikelyPath(grown)(x)
        for i, one in enumerate(x):
            _, slow = go(grown, one)
            best = max(slow, key=lambda leaf: slow[leaf])
            walk = [best]
            while walk[0]:
                walk.insert(0, (walk[0] - 1) // 2)
            assert paths[i].tolist() == walk
            torch.testing.assert_close(answers[i], (10 * grown.leaves[best - 15]).log_softmax(0))


def test_the_likelier_side_at_every_node_may_lead_elsewhere() -> None:
    grown = tree(2, features=1, classes=4)
    with torch.no_grad():
        grown.gates.weight.zero_()
        grown.gates.bias.copy_(torch.tensor([math.log(0.6 / 0.4), -30.0, math.log(0.51 / 0.49)]))
    assert grown.path(torch.zeros(1, 1).double()).tolist() == [[0, 1, 3]]  # 0.4 · 1 against 0.6 · 0.51


def slow_balance(gates: Tensor) -> float:
    """The penalty node by node, image by image."""
    right, total = gates.sigmoid(), 0.0
    for node in range(gates.shape[1]):
        level = int(math.log2(node + 1))
        came = torch.ones(len(gates), dtype=gates.dtype)
        below = node
        while below:
            above = (below - 1) // 2
            came = came * (right[:, above] if below == 2 * above + 2 else 1 - right[:, above])
            below = above
        alpha = float((came * right[:, node]).sum() / came.sum())
        total -= 2.0**-level * 0.5 * (math.log(alpha) + math.log(1 - alpha))
    return total


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_penalty_is_that_of_the_nodes_one_by_one(depth: int) -> None:
    gates = inputs(11, features=2**depth - 1)
    assert float(balance_loss(gates)) == pytest.approx(slow_balance(gates), abs=1e-10)


def test_the_penalty_by_hand() -> None:
    # Two images. The root sends 3/4 and 1/4 right: α = 1/2. The right child gets 3/4 and 1/4 of them, and sends
    # all of the first and none of the second right: α = 3/4. The left child sends half of each right.
    probabilities = torch.tensor([[0.75, 0.5, 1 - 1e-12], [0.25, 0.5, 1e-12]], dtype=torch.float64)
    cross = -0.5 * (math.log(0.75) + math.log(0.25))
    wanted = math.log(2) + 0.5 * math.log(2) + 0.5 * cross
    assert float(balance_loss(probabilities.logit())) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("depth", [1, 3, 6])
def test_the_penalty_is_least_for_an_even_tree_and_finite_for_a_dead_one(depth: int) -> None:
    even = torch.zeros(4, 2**depth - 1)
    assert float(balance_loss(even)) == pytest.approx(depth * math.log(2), rel=1e-5)
    dead = torch.full_like(even, 200.0, requires_grad=True)  # nobody ever goes left: the left half gets nothing
    penalty = balance_loss(dead)
    penalty.backward()
    assert 50 < float(penalty.detach()) < math.inf
    assert dead.grad is not None and torch.isfinite(dead.grad).all() and dead.grad[:, 0].min() > 0


def test_the_leaf_loss_is_the_sum_over_leaves_and_bounds_the_loss_of_the_average() -> None:
    grown, x = tree(3), inputs(6)
    teacher, labels = torch.randn(6, 4).double(), torch.tensor([0, 1, 2, 3, 0, 1])
    with torch.no_grad():
        gates = grown.gates(x)
        for target, found in (
            (teacher.softmax(1), grown.leaf_loss(gates, teacher)),
            (nn.functional.one_hot(labels, 4).double(), grown.leaf_loss(gates, teacher, labels)),
        ):
            slow = 0.0
            for i, one in enumerate(x):
                for leaf, p in go(grown, one)[1].items():
                    slow -= p * float(target[i] @ (10 * grown.leaves[leaf - 7]).log_softmax(0)) / 6
            assert float(found) == pytest.approx(slow, abs=1e-10)
            assert float(found) > float(-(target * grown(x)).sum(1).mean())


def test_gradients() -> None:
    grown = tree(3)
    x = inputs(4).requires_grad_()
    teacher = torch.randn(4, 4).double()
    assert torch.autograd.gradcheck(grown, (x,))
    assert torch.autograd.gradcheck(lambda gates: balance_loss(gates), (inputs(4, features=7).requires_grad_(),))
    gates = inputs(4, features=7).requires_grad_()
    assert torch.autograd.gradcheck(lambda gates: grown.leaf_loss(gates, teacher), (gates,))
    grown(x).sum().backward()
    assert all(p.grad is not None and p.grad.abs().min() > 0 for p in grown.parameters())


def test_hard_decisions_stay_finite() -> None:
    grown = tree(6, beta=1e4).float()
    x = inputs(8).float().requires_grad_()
    logits = grown(x)
    assert torch.isfinite(logits).all()
    logits.logsumexp(1).sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()
    with torch.no_grad():  # one leaf takes all: the two readings agree
        torch.testing.assert_close(logits, MostLikelyPath(grown)(x), atol=1e-3, rtol=1e-3)
        grown.leaves[:, 0] = -1e4  # a class that no leaf has ever heard of
        assert torch.isfinite(grown(x)).all()


def test_the_same_seed_gives_the_same_tree() -> None:
    assert same_bits(weights(tree(seed=3)), weights(tree(seed=3)))
    assert not same_bits(weights(tree(seed=3)), weights(tree(seed=4)))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0, 3, 2), "in_features must be an integer of at least 1, got 0"),
        ((4, 1, 2), "classes must be at least 2, got 1"),
        ((4, 3, 0), "depth must be an integer of at least 1, got 0"),
        ((4, 3, 2.0), "depth must be an integer of at least 1, got 2.0"),
        ((4, 3, 15), "depth must be at most 14"),
        ((4, 3, 2, 0.0), "beta must be a positive finite number, got 0.0"),
        ((4, 3, 2, math.inf), "beta must be a positive finite number, got inf"),
    ],
)
def test_a_bad_argument_is_told_in_one_sentence(arguments: tuple[int, int, int], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}") as error:
        SoftDecisionTree(*arguments)
    assert str(error.value).endswith(".")


def test_inputs_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^inputs must have 5 values each \(in_features\), got shape \(2, 2, 3\)"):
        tree().float()(torch.zeros(2, 2, 3))
    with pytest.raises(ValueError, match=r"^gates must be of shape \(N, 2\^depth − 1\), got \(2, 4\)\.$"):
        log_paths(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="gates must be of shape"):
        balance_loss(torch.zeros(3))


def small(seed: int = 0) -> SoftDecisionTree:
    with kd.seeded(seed):
        return SoftDecisionTree(64, 10, 3)


SHARED = {"epochs": 3, "augment": False, "optimizer": "adamw", "progress": False, "device": "cpu"}


def test_it_is_trained_by_fit_and_read_by_evaluate_and_explain() -> None:
    data = random_set(60)
    first, again = small(), small()
    longer = SHARED | {"epochs": 30, "batch_size": 20, "lr": 0.05}
    history = kd.fit(first, data, **longer)
    kd.fit(again, data, **longer)
    assert same_bits(weights(first), weights(again))
    assert history["loss"][-1] < history["loss"][0]
    assert kd.evaluate(first, data)["accuracy"] > 0.5 > kd.evaluate(small(), data)["accuracy"]
    assert kd.evaluate(MostLikelyPath(first), data)["n"] == 60
    images, labels = data.tensors()
    assert kd.explain.attribute(first, images, labels, "saliency").shape == (60, 8, 8)


def test_a_penalty_without_weight_changes_nothing_and_a_teacher_without_weight_has_no_say() -> None:
    """Labels alone with a penalty: `distill` with kd_weight=0, where any stored logits may stand for the teacher."""
    data, plain, through_distill = random_set(60), small(), small()
    term = kd.Term("balance", balance_loss, 0.0, student_layer="gates")
    kd.fit(plain, data, **SHARED)
    nobody = torch.zeros(1, 60, 10)
    history = kd.distill(through_distill, nobody, data, kd_weight=0, ce_weight=1, terms=[term], **SHARED)
    assert same_bits(weights(plain), weights(through_distill))
    assert history["balance"][0] >= 3 * math.log(2) - 1e-5


def test_the_penalty_balances_and_the_leaf_loss_makes_the_likeliest_leaf_right() -> None:
    data = random_set(60)
    soft = torch.randn(1, 60, 10) + 5 * nn.functional.one_hot(data.labels, 10)
    found = {}
    for weight in (0.0, 3.0):
        grown = small()
        term = kd.Term("balance", balance_loss, weight, student_layer="gates")
        options = SHARED | {"epochs": 30}
        found[weight] = kd.distill(grown, soft, data, kd_weight=1, ce_weight=0, terms=[term], **options)["balance"]
    assert found[3.0][-1] < found[0.0][-1]
    grown = small()
    term = kd.Term("leaves", grown.leaf_loss, 1.0, student_layer="gates")
    history = kd.distill(grown, soft, data, kd_weight=0, ce_weight=0, terms=[term], **options)
    assert history["leaves"][-1] < history["leaves"][0]
    hard = kd.Term("leaves", grown.leaf_loss, 1.0, student_layer="gates", labels=True)
    history = kd.distill(grown, soft, data, kd_weight=0, ce_weight=0, terms=[hard], **options)
    assert history["leaves"][-1] >= history["ce"][-1] - 1e-4
