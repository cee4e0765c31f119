"""Chapter 16: The student as a tree."""

import torch


def exercise_1(right):
    # Every path is a product of turns. Node 1 is the root's left child, node 2 its right child.
    root, left_child, right_child = right.T
    return torch.stack(
        [
            (1 - root) * (1 - left_child),
            (1 - root) * left_child,
            root * (1 - right_child),
            root * right_child,
        ],
        dim=1,
    )


def exercise_2(came, right):
    # A weighted mean over the images: who hardly ever comes to a node hardly counts there.
    return (came * right).sum(0) / came.sum(0)


def exercise_3(surrogate, control, model, labels):
    # Right answers agree, whoever gives them. Where the model errs, only one who follows it errs with it.
    wrong = model != labels
    follows = (surrogate == model)[wrong].float().mean()
    by_chance = (control == model)[wrong].float().mean()
    return float(follows - by_chance)


# Plausible wrong answers, each with a word of the hint that it gets; the tests use them.


def _mean(values):
    return float(values.float().mean())


WRONG = {
    1: [
        (lambda p: exercise_1(p).flip(1), "counted from the right"),
        (lambda p: exercise_1(1 - p), "mixed up"),
        (lambda p: exercise_1(p[:, [0, 1, 1]]), "column 2"),
        (lambda p: torch.stack([1 - p[:, 1], p[:, 1], 1 - p[:, 2], p[:, 2]], 1), "first factor"),
        (lambda p: exercise_1(torch.cat([1 - p[:, :1], 1 - p[:, 1:]], 1))[:, [3, 1, 2, 0]], "add up to 1, but"),
        (lambda p: torch.stack([p[:, 0] * p[:, 1], p[:, 1], p[:, 2], p[:, 0]], 1), "do not add up"),
    ],
    2: [
        (lambda c, r: r.mean(0), "plain mean"),
        (lambda c, r: (c * r).mean(0), "all* images"),
        (lambda c, r: (c * r).sum(0), "grows with"),
        (lambda c, r: (c * (1 - r)).sum(0) / c.sum(0), "goes left"),
    ],
    3: [
        (lambda s, c, m, y: _mean((s == m)[m != y]), "alone"),
        (lambda s, c, m, y: _mean(s == m) - _mean(c == m), "On all images"),
        (lambda s, c, m, y: _mean(s == m), "plain fidelity"),
        (lambda s, c, m, y: _mean(s == y) - _mean(c == y), "accuracies"),
        (lambda s, c, m, y: -exercise_3(s, c, m, y), "other way round"),
    ],
}
