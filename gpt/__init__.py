"""A GPT on `tensorlib`.

The files beside this one are the video's: start with `model`, then `training` and `generate`; what
they take is in `config`, `tokenizer` and `data`, and what they leave, in `checkpoint`. All the rest
is in folders: `text`, from a file to tokens; `fast`, what makes a step short; `runs`, what keeps a
long run whole; `weights`, to start from; `commands`, what the scripts do; `report`, a page to look
at. `python -m gpt.export` writes a model for Hugging Face.
"""

from gpt.config import GPTConfig, TrainConfig, UserError
from gpt.model import GPT

__all__ = ["GPT", "GPTConfig", "TrainConfig", "UserError"]
