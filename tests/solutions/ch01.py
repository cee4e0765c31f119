"""Chapter 1: Softmax and temperature."""

import torch


def exercise_1(p, temperature):
    # p_i is proportional to exp(z_i), so p_i to the power 1/T is proportional to exp(z_i / T):
    # only the normalisation is left to do.
    powered = p ** (1 / temperature)
    return powered / powered.sum(1, keepdim=True)


def exercise_2(logits, temperature):
    # Subtract the largest logit of each row first: then no exponential overflows and the sum is at
    # least 1, so that its logarithm is finite. The probabilities themselves are never formed, so
    # that none can underflow to 0 before its logarithm is taken.
    z = (logits - logits.max(1, keepdim=True).values) / temperature
    return z - z.exp().sum(1, keepdim=True).log()


def exercise_3(logits, nats):
    # The entropy rises with T, so halve an interval that holds the answer. Halving log T (a geometric
    # mean) copes with logits of any scale; 200 halvings are far more than six digits need.
    low, high = 1e-6, 1e6
    for _ in range(200):
        middle = (low * high) ** 0.5
        p = (logits / middle).softmax(0)
        if torch.special.entr(p).sum() < nats:
            low = middle
        else:
            high = middle
    return middle


# Plausible wrong answers, each with a word of the hint that it gets; the tests use them.


def _bisect(logits, nats, low, high, steps, bits=False, inverse=False, reverse=False):
    for _ in range(steps):
        middle = (low * high) ** 0.5
        entropy = torch.special.entr((logits * middle if inverse else logits / middle).softmax(0)).sum()
        too_low = entropy / (0.6931471805599453 if bits else 1) < nats
        low, high = (middle, high) if too_low != (inverse or reverse) else (low, middle)
    return middle


WRONG = {
    1: [
        (lambda p, temperature: (p / temperature).softmax(1), "took p for logits"),
        (lambda p, temperature: p ** (1 / temperature), "sum to 1"),
        (lambda p, temperature: p**temperature / (p**temperature).sum(1, keepdim=True), "upside down"),
        (lambda p, temperature: p / temperature / (p / temperature).sum(1, keepdim=True), "cancels"),
    ],
    2: [
        (lambda z, T: (z / T).exp().log() - (z / T).exp().sum(1, keepdim=True).log(), "NaN"),
        (lambda z, T: ((z - z.max(1, keepdim=True).values) / T).softmax(1).log(), "underflowed"),
        (lambda z, T: z.log_softmax(1) / T, "before the log-sum-exp"),
        (lambda z, T: z.log_softmax(1), "no effect"),
        (lambda z, T: (z / T).log_softmax(0), "each row"),
        (lambda z, T: (z - z.max()) / T - ((z - z.max()) / T).exp().sum(1, keepdim=True).log(), "infinity"),
    ],
    3: [
        (lambda z, nats: _bisect(z, nats, 1e-6, 1e6, 200, bits=True), "bits"),
        (lambda z, nats: _bisect(z, nats, 1e-6, 1e6, 200, inverse=True), "1/T"),
        (lambda z, nats: _bisect(z, nats, 1e-6, 1e6, 200, reverse=True), "go up"),
        (lambda z, nats: _bisect(z, nats, 0.1, 10.0, 200), "wide enough"),
        (lambda z, nats: _bisect(z, nats, 1e-6, 1e6, 12), "Nearly"),
    ],
}
