"""Knowledge distillation and interpretability: the package behind the book *Distill and Explain*."""

from kdutils import data, losses, metrics, models, zoo
from kdutils._base import device, profile, seeded, setup
from kdutils.metrics import compare, evaluate, interval
from kdutils.train import distill, fit

__version__ = "0.1.0"
