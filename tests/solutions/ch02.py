"""Chapter 2: Cross-entropy and KL."""

import math

from torch.nn import functional as F

# 1/2 · log(1/2 : 1/4) + 1/2 · log(1/2 : 1/2) + 0 = 1/2 · log 2. The third class has weight p = 0. The other way
# round it would have the weight 1/4 and log(1/4 : 0) = ∞: KL(q ‖ p) is infinite, because q thinks possible what
# p rules out.
exercise_1 = math.log(2) / 2


def exercise_2(student_logits, teacher_logits, temperature):
    # Log-probabilities on both sides, so that nothing underflows; batchmean, so that classes are summed;
    # T² against the 1/T² of the gradient; detach, because the teacher is a constant.
    log_q = (student_logits / temperature).log_softmax(1)
    log_p = (teacher_logits.detach() / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def exercise_3(student_logits, teacher_logits, temperature):
    # With r_i = log(q_i / p_i), the loss of one image is T² Σ q_i r_i. Its derivative with respect to q_i is
    # r_i + 1, and ∂q_i/∂z_k = q_i (1[i = k] − q_k) / T. The ones cancel, and T q_k (r_k − Σ q_i r_i) is left.
    # The factor q_k is the difference: a class that the student gives almost no probability gets almost no
    # gradient, however likely the teacher holds it. In the forward loss it gets T (q_k − p_k) ≈ −T p_k.
    log_q = (student_logits / temperature).log_softmax(1)
    log_p = (teacher_logits / temperature).log_softmax(1)
    q, r = log_q.exp(), log_q - log_p
    return temperature * q * (r - (q * r).sum(1, keepdim=True)) / len(q)


# Plausible wrong answers, each with a word of the hint that it gets; the tests use them.


def _softened(zs, zt, T):
    return (zs / T).log_softmax(1), (zt / T).log_softmax(1)


def _kl(zs, zt, T, reduction="batchmean"):
    log_q, log_p = _softened(zs, zt, T)
    return F.kl_div(log_q, log_p, reduction=reduction, log_target=True)


def _without_the_mean(zs, zt, T):
    log_q, log_p = _softened(zs, zt, T)
    return T * log_q.exp() * (log_q - log_p) / len(zs)


def _written_out(zs, zt, T):
    p, q = (zt.detach() / T).softmax(1), (zs / T).softmax(1)
    return T**2 * (p * (p.log() - q.log())).sum(1).mean()


WRONG = {
    1: [
        (0.5, "bits"),
        (1.5 * math.log(2), "cross-entropy"),
        (math.inf, "KL(q‖p)"),
        (-math.log(2) / 2, "sign"),
        (math.log(2) / 6, "number of classes"),
        (0.1505, "decimal"),
    ],
    2: [
        (lambda zs, zt, T: _kl(zs, zt.detach(), T), "T² is missing"),
        (lambda zs, zt, T: T**2 * _kl(zs, zt, T, "none").mean(), "batchmean"),
        (lambda zs, zt, T: T**2 * _kl(zt, zs, T), "swapped"),
        (lambda zs, zt, T: T**2 * F.cross_entropy(zs / T, (zt / T).softmax(1)), "cross-entropy"),
        (lambda zs, zt, T: F.kl_div(zs.log_softmax(1), (zt / T).softmax(1), reduction="batchmean"), "must be too"),
        (lambda zs, zt, T: F.kl_div((zs / T).softmax(1), (zt / T).softmax(1), reduction="batchmean"), "log-prob"),
        (_written_out, "±1000"),
        (lambda zs, zt, T: T**2 * _kl(zs, zt, T), "flows to the teacher"),
    ],
    3: [
        (lambda zs, zt, T: T * ((zs / T).softmax(1) - (zt / T).softmax(1)) / len(zs), "forward"),
        (_without_the_mean, "sum to 0"),
        (lambda zs, zt, T: exercise_3(zs, zt, T) * len(zs), "divide by N"),
        (lambda zs, zt, T: -exercise_3(zs, zt, T), "sign"),
        (lambda zs, zt, T: exercise_3(zs, zt, T) / T**2, "power of T"),
    ],
}
