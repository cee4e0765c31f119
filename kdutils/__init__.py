"""Knowledge distillation and interpretability: the package behind the book *Distill and Explain*."""

import importlib
from typing import TYPE_CHECKING, Any

from kdutils import backbones, data, guided, layers, losses, metrics, models, significance, store, trees, zoo
from kdutils._base import device, profile, seeded, setup
from kdutils.metrics import compare, evaluate, interval, predict
from kdutils.train import Step, Term, distill, fit, mutual, teacher_logits, teacher_outputs

if TYPE_CHECKING:
    from kdutils import check, explain, plot, selection
else:

    def __getattr__(name: str) -> Any:
        """Import what needs large libraries (Captum, seaborn, pandas) when it is first used: training does not."""
        if name in ("check", "explain", "plot", "selection"):
            return importlib.import_module(f"kdutils.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__version__ = "0.1.0"
__all__ = [
    "Step", "Term", "backbones", "check", "compare", "data", "device", "distill", "evaluate", "explain", "fit",
    "guided", "interval", "layers", "losses", "metrics", "models", "mutual", "plot", "predict", "profile", "seeded",
    "selection", "setup", "significance", "store", "teacher_logits", "teacher_outputs", "trees", "zoo",
]  # fmt: skip
