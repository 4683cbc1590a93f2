"""A GPT on `tensorlib`. What the video has comes first; start with `model.py`.

The video    config, tokenizer, data, model, generate, training; checkpoint; job, what train.py does
Faster       parallel, several processes; decode, a token at a time; machine, threads and memory;
             on a GPU precision and cuda_graph
Any text     text, to find and read it; bpe, to learn tokens; cache, network; advice on sizes
Weights      pretrained, of three origins; stored, torch_file and unpickle, their files; export
A long run   run, its directory; saving, signals, guard, ending; memory, asked for before
To look at   header, evaluation, curves, sampling; modes, runs that measure only; report, inside
"""

from gpt.config import GPTConfig, TrainConfig, UserError
from gpt.model import GPT

__all__ = ["GPT", "GPTConfig", "TrainConfig", "UserError"]
