"""Chapter 09: the bug lab."""

import torch
from torch.nn import functional as F


# The mean ran over N·K elements instead of N images, so it is K times too small; and T² was missing.
def exercise_1(value, classes, temperature):
    return value * classes * temperature**2


# A takes the mean over all elements; B calls eval() in the first epoch and never train() again; C puts the teacher in
# training mode together with the student; D mirrors the image after its soft label was stored; E chooses T on test.
exercise_2 = {
    "A": "mean_over_classes",
    "B": "student_left_in_eval",
    "C": "teacher_in_train_mode",
    "D": "wrong_soft_label",
    "E": "chosen_on_test",
}


# One reference in float64 finds whatever is wrong in size or direction, if it is asked at several temperatures and
# with small and very large logits. NaN is close to nothing, so it is found, too.
def exercise_3(soft):
    generator = torch.Generator().manual_seed(0)
    for temperature in (1.0, 4.0):
        for scale in (1.0, 1000.0):
            s, t = (scale * torch.randn(8, 10, generator=generator) for _ in range(2))
            log_q, log_p = (F.log_softmax(z.double() / temperature, dim=1) for z in (s, t))
            right = (log_p.exp() * (log_p - log_q)).sum(1).mean() * temperature**2
            if not torch.isclose(soft(s, t, temperature).double(), right, rtol=1e-3):
                return True
    return False


# Plausible wrong answers, each with a word of the hint that it gets; the tests use them.
def _compare(temperatures=(1.0,), scales=(1.0,), rtol=1e-3, batch=8):
    def alarm(soft):
        generator = torch.Generator().manual_seed(0)
        for temperature in temperatures:
            for scale in scales:
                s, t = (scale * torch.randn(batch, 10, generator=generator) for _ in range(2))
                log_q, log_p = (F.log_softmax(z.double() / temperature, dim=1) for z in (s, t))
                right = (log_p.exp() * (log_p - log_q)).sum(1).mean() * temperature**2
                if not torch.isclose(soft(s, t, temperature).double(), right, rtol=rtol, atol=0):
                    return True
        return False

    return alarm


def _zero_when_equal(soft):
    z = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    return bool(soft(z, z, 2.0).abs() > 1e-4)


def _takes_a_gradient(soft):
    s, t = torch.randn(2, 8, 10, generator=torch.Generator().manual_seed(0))
    soft(s.requires_grad_(), t, 2.0).backward()
    return not bool(s.grad.isfinite().all())


WRONG = {
    1: [
        (lambda value, classes, temperature: value * classes, "where is T²"),
        (lambda value, classes, temperature: value * temperature**2, "sums over classes"),
        (lambda value, classes, temperature: value * classes * temperature, "not T"),
        (lambda value, classes, temperature: value / classes * temperature**2, "Turned round"),
    ],
    2: [
        ({"A": "mean_over_classes"}, "Name all five"),
        ({**exercise_2, "A": "forgotten_temperature"}, "not on the list"),
        ({**exercise_2, "A": "nan_by_hand"}, "4 of 5"),
        ({**exercise_2, "C": "teacher_under_autograd", "D": "roles_swapped"}, "one image in two"),
        ({**exercise_2, "D": "projector_left_out"}, "very tensor"),
        ({**exercise_2, "E": "mean_over_classes"}, "twice"),
    ],
    3: [
        (lambda soft: True, "false alarm"),
        (lambda soft: False, "nobody predicts"),
        (_zero_when_equal, "nobody predicts"),
        (_takes_a_gradient, "passes none"),
        (_compare(), "T = 1 only"),
        (_compare(temperatures=(1.0, 4.0)), "very confident"),
        (_compare(rtol=1e-9), "false alarm"),
        (lambda soft: 3.0, "True or False"),
    ],
}
