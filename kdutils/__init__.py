"""Knowledge distillation and interpretability: the package behind the book *Distill and Explain*."""

from kdutils import check, data, explain, losses, metrics, models, plot, zoo
from kdutils._base import device, profile, seeded, setup
from kdutils.metrics import compare, evaluate, interval, predict
from kdutils.train import distill, fit, teacher_logits

__version__ = "0.1.0"
__all__ = [
    "check", "compare", "data", "device", "distill", "evaluate", "explain", "fit", "interval", "losses",
    "metrics", "models", "plot", "predict", "profile", "seeded", "setup", "teacher_logits", "zoo",
]  # fmt: skip
