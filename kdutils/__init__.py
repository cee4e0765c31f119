"""Knowledge distillation and interpretability: the package behind the book *Distill and Explain*."""

from kdutils import check, data, explain, layers, losses, metrics, models, plot, selection, zoo
from kdutils._base import device, profile, seeded, setup
from kdutils.metrics import compare, evaluate, interval, predict
from kdutils.train import Term, distill, fit, mutual, teacher_logits, teacher_outputs

__version__ = "0.1.0"
__all__ = [
    "Term", "check", "compare", "data", "device", "distill", "evaluate", "explain", "fit", "interval", "layers",
    "losses", "metrics", "models", "mutual", "plot", "predict", "profile", "seeded", "selection", "setup",
    "teacher_logits", "teacher_outputs", "zoo",
]  # fmt: skip
