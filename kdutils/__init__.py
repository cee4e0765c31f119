"""Knowledge distillation and interpretability: the package behind the book *Distill and Explain*."""

from kdutils import (
    check,
    data,
    explain,
    guided,
    layers,
    losses,
    metrics,
    models,
    plot,
    selection,
    significance,
    store,
    trees,
    zoo,
)
from kdutils._base import device, profile, seeded, setup
from kdutils.metrics import compare, evaluate, interval, predict
from kdutils.train import Step, Term, distill, fit, mutual, teacher_logits, teacher_outputs

__version__ = "0.1.0"
__all__ = [
    "Step", "Term", "check", "compare", "data", "device", "distill", "evaluate", "explain", "fit", "guided", "interval",
    "layers", "losses", "metrics", "models", "mutual", "plot", "predict", "profile", "seeded", "selection", "setup",
    "significance", "store", "teacher_logits", "teacher_outputs", "trees", "zoo",
]  # fmt: skip
