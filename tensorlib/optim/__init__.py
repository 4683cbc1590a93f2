"""Optimizers and schedules, as in `torch.optim`."""

from . import lr_scheduler
from .optimizer import SGD, Adam, AdamW, Optimizer
