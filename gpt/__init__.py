"""A GPT on `tensorlib`: model, tokenizer, data, training, sampling. Start with `model.py`."""

from gpt.config import GPTConfig, TrainConfig, UserError
from gpt.model import GPT

__all__ = ["GPT", "GPTConfig", "TrainConfig", "UserError"]
