"""Chapter 08: many teachers, or none."""

import torch
from torch.nn import functional as F


# Each teacher's divergence from the average, averaged over the teachers: the Jensen-Shannon divergence.
def exercise_1(teacher_logits, temperature):
    log_p = torch.stack([F.log_softmax(z / temperature, dim=1) for z in teacher_logits])  # (M, N, K)
    middle = log_p.exp().mean(dim=0).log()
    return (log_p.exp() * (log_p - middle)).sum(dim=2).mean(dim=0)


# A peer that teaches is a constant: without detach, it would be pulled towards its own pupil.
def exercise_2(logits, labels, temperature):
    losses = []
    for i, own in enumerate(logits):
        q = F.log_softmax(own / temperature, dim=1)
        peers = [F.log_softmax(z.detach() / temperature, dim=1) for j, z in enumerate(logits) if j != i]
        soft = sum(F.kl_div(q, p, reduction="batchmean", log_target=True) for p in peers) / len(peers)
        losses.append(F.cross_entropy(own, labels) + temperature**2 * soft)
    return losses


# Names such as "stage2.1.conv1.weight" say which block a tensor belongs to; stem and head have no block.
def exercise_3(teacher_state, keep):
    student_state = {}
    for name, value in teacher_state.items():
        if name.startswith("stage"):
            stage, block, rest = name.split(".", 2)
            if int(block) not in keep:
                continue
            name = f"{stage}.{keep.index(int(block))}.{rest}"
        student_state[name] = value.clone()  # its own memory
    return student_state


# Plausible wrong answers, each with a word of the hint that it gets; the tests use them.
def _swapped(teacher_logits, temperature):
    log_p = torch.stack([F.log_softmax(z / temperature, dim=1) for z in teacher_logits])
    middle = log_p.exp().mean(dim=0).log()
    return (middle.exp() * (middle - log_p)).sum(dim=2).mean(dim=0)


def _logits(teacher_logits, temperature):
    log_p = torch.stack([F.log_softmax(z / temperature, dim=1) for z in teacher_logits])
    middle = F.log_softmax(torch.stack(teacher_logits).mean(dim=0) / temperature, dim=1)
    return (log_p.exp() * (log_p - middle)).sum(dim=2).mean(dim=0)


def _entropy(teacher_logits, temperature):
    p = torch.stack([F.softmax(z / temperature, dim=1) for z in teacher_logits]).mean(dim=0)
    return -(p * p.log()).sum(dim=1)


def _mutual(divide=True, detach=True, swap=False, everybody=False, scale=True):
    def losses(logits, labels, temperature):
        found = []
        for i, own in enumerate(logits):
            soft = 0
            for j, peer in enumerate(logits):
                if i != j:
                    peer = peer.detach() if detach else peer
                    p, q = (F.log_softmax(z / temperature, dim=1) for z in ((own, peer) if swap else (peer, own)))
                    soft = soft + F.kl_div(q, p, reduction="batchmean", log_target=True)
            soft = soft / ((len(logits) - (not everybody)) if divide else 1)
            found.append(F.cross_entropy(own, labels) + soft * (temperature**2 if scale else 1))
        return found

    return losses


def _no_renaming(teacher_state, keep):
    def kept(name):
        return not name.startswith("stage") or int(name.split(".")[1]) in keep

    return {name: value.clone() for name, value in teacher_state.items() if kept(name)}


def _first_blocks(teacher_state, keep):
    return exercise_3(teacher_state, list(range(len(keep))))


def _shared_memory(teacher_state, keep):
    return {name: teacher_state[_source(name, keep)] for name in exercise_3(teacher_state, keep)}


def _source(name, keep):
    if not name.startswith("stage"):
        return name
    stage, block, rest = name.split(".", 2)
    return f"{stage}.{keep[int(block)]}.{rest}"


WRONG = {
    1: [
        (_swapped, "swapped"),
        (_logits, "averaged the logits"),
        (_entropy, "entropy of the average"),
        (lambda teacher_logits, temperature: exercise_1(teacher_logits, 1.0), "temperature"),
        (lambda teacher_logits, temperature: exercise_1(teacher_logits, temperature).mean(), "per image"),
        (lambda teacher_logits, temperature: 4 * exercise_1(teacher_logits, temperature), "sum over the teachers"),
        (lambda teacher_logits, temperature: exercise_1(teacher_logits, temperature) / 10, "classes"),
    ],
    2: [
        (_mutual(divide=False), "sum over the others"),
        (_mutual(detach=False), "detach"),
        (_mutual(swap=True), "swapped"),
        (_mutual(everybody=True), "oneself"),
        (_mutual(scale=False), "T²"),
        (lambda logits, labels, temperature: sum(exercise_2(logits, labels, temperature)), "one loss per student"),
    ],
    3: [
        (_no_renaming, "rename"),
        (_first_blocks, "comes from block 1"),
        (lambda state, keep: {n: v for n, v in exercise_3(state, keep).items() if "running" not in n}, "running_mean"),
        (lambda state, keep: {n: v for n, v in exercise_3(state, keep).items() if n.startswith("stage")}, "stem"),
        (lambda state, keep: exercise_3(state, [0, 2]), "keep is not read"),
        (_shared_memory, "memory"),
    ],
}
