"""Chapter 15: Teaching the explanation"""

import torch
from torch.nn import functional as F


# Flattened, so that a map is one vector; the cosine forgets how steep the networks are. One cosine per image.
def exercise_1(student_maps, teacher_maps):
    return (1 - F.cosine_similarity(student_maps.flatten(1), teacher_maps.flatten(1))).mean()


# create_graph=True: the slopes are functions of the weights above the maps, and these are to learn too.
def exercise_2(logits, features, targets):
    score = logits.gather(1, targets[:, None]).sum()
    slopes = torch.autograd.grad(score, features, create_graph=True)[0]
    return (slopes.mean((2, 3), keepdim=True) * features).sum(1).relu()


# The point is a leaf of its own: the slope is taken there, and the whole input stands in front.
def exercise_3(model, inputs, targets, where):
    point = (where.view(-1, 1, 1, 1) * inputs).detach().requires_grad_()
    score = model(point).gather(1, targets[:, None]).sum()
    return inputs * torch.autograd.grad(score, point, create_graph=True)[0]


# Plausible wrong answers, each with a word of the hint that it gets; the tests use them.
def _slopes(logits, features, targets, graph=True):
    score = logits.gather(1, targets[:, None]).sum()
    return torch.autograd.grad(score, features, create_graph=graph, retain_graph=True)[0]


def _weighted(logits, features, targets, graph=True):
    return (_slopes(logits, features, targets, graph).mean((2, 3), keepdim=True) * features).sum(1)


def _freed(logits, features, targets):
    slopes = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), features)[0]
    return (slopes.mean((2, 3), keepdim=True) * features).sum(1).relu()


def _backward(logits, features, targets):
    features.retain_grad()
    logits.gather(1, targets[:, None]).sum().backward()
    return (features.grad.mean((2, 3), keepdim=True) * features).sum(1).relu()


def _through_the_input(model, inputs, targets, where):
    leaf = inputs.clone().requires_grad_()
    score = model(where.view(-1, 1, 1, 1) * leaf).gather(1, targets[:, None]).sum()
    return inputs * torch.autograd.grad(score, leaf, create_graph=True)[0]


def _point(model, inputs, targets, where, graph=True):
    point = (where * inputs).detach().requires_grad_()
    score = model(point).gather(1, targets[:, None]).sum()
    return torch.autograd.grad(score, point, create_graph=graph)[0]


WRONG = {
    1: [
        (lambda s, t: F.cosine_similarity(s.flatten(1), t.flatten(1)).mean(), "grows as"),
        (lambda s, t: (1 - F.cosine_similarity(s, t)).mean(), "Flatten each map first"),
        (lambda s, t: 1 - F.cosine_similarity(s.flatten(), t.flatten(), dim=0), "whole batch"),
        (F.mse_loss, "how steep"),
        (lambda s, t: exercise_1(s, t).detach(), "no gradient"),
    ],
    2: [
        (lambda z, f, y: _weighted(z, f, y, graph=False).relu(), "create_graph"),
        (lambda z, f, y: _weighted(z, f, y).relu().detach(), "detached"),
        (_weighted, "ReLU is missing"),
        (lambda z, f, y: (_slopes(z, f, y) * f).sum(1).relu(), "one weight per channel"),
        (lambda z, f, y: (_slopes(z, f, y).mean((2, 3), keepdim=True) * f.detach()).sum(1).relu(), "Detach neither"),
        (lambda z, f, y: _weighted(z, f, z.argmax(1)).relu(), "class in targets"),
        (lambda z, f, y: _weighted(z.log_softmax(1), f, y).relu(), "softmax"),
        (lambda z, f, y: _weighted(z / len(z), f, y).relu(), "don't average"),
        (_freed, "create_graph"),
        (_backward, "create_graph"),
    ],
    3: [
        (lambda m, x, y, w: x * _point(m, x, y, 1.0), "taken at the input"),
        (lambda m, x, y, w: w.view(-1, 1, 1, 1) * x * _point(m, x, y, w.view(-1, 1, 1, 1)), "not where · input"),
        (_through_the_input, "with respect to the point"),
        (lambda m, x, y, w: _point(m, x, y, w.view(-1, 1, 1, 1)), "factor is missing"),
        (lambda m, x, y, w: x * _point(m, x, y, w.view(-1, 1, 1, 1), graph=False), "create_graph"),
        (lambda m, x, y, w: x * _point(m, x, y, float(w.mean())), "mean place"),
    ],
}
