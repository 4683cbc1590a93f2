"""A whole run, as train.py starts it: what must be right before the first step, then training."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Collection
from typing import Any

from gpt.checkpoint import Checkpoint
from gpt.config import TrainConfig, UserError
from gpt.data import Corpus, load_text
from gpt.run import Run
from gpt.saving import say
from gpt.training import Trainer

_PLACES = ("data", "out", "device", "resume", "overwrite", "preset", "model")  # not what is learned


def train(config: TrainConfig, device: str = "cpu") -> Run:
    """A whole run: a text goes in; reports, checkpoints and a sample come out.

    Whatever can be wrong is checked before the work begins: UserError if something is.
    """
    name, text = load_text(config.data)
    corpus = Corpus.from_text(name, text, config.model.block_size)
    model = dataclasses.replace(config.model, vocab_size=corpus.tokenizer.vocab_size)
    config = dataclasses.replace(config, model=model)
    checkpoint = None
    if config.resume:
        config = dataclasses.replace(config, out=Run.resumable(config.out).path)
        checkpoint = _resumable_checkpoint(config, corpus)
    run = Run.create(config)
    with run.claimed():
        trainer = Trainer(config, corpus, run, device, share_work=True)
        run.begin(config)  # from here on, what was in the directory is gone
        if checkpoint is not None:
            trainer.resume(checkpoint)
        say(trainer.describe())
        trainer.train()
        trainer.finish()
    return run


def _resumable_checkpoint(config: TrainConfig, corpus: Corpus) -> Checkpoint:
    assert config.out is not None
    run = Run(config.out)
    checkpoint = Checkpoint.load(run.last)
    if corpus.sha256 != checkpoint.text_sha256:
        raise UserError(f"this run learns another text than {corpus.name}; resume it with its own")
    if model := _changes(checkpoint.config.model, config.model, but=["dropout"]):
        raise UserError(
            f"a run cannot change its model when it is resumed: {model}; leave that out, or begin "
            "a new run with another --out"
        )
    if checkpoint.step > config.max_iters:
        raise UserError(
            f"the run is at step {checkpoint.step} already, beyond --max-iters {config.max_iters}"
        )
    if other := _changes(checkpoint.config, config, but=_PLACES):
        say(f"from here on: {other}", sys.stderr)
    if checkpoint.best_loss is not None:
        try:
            best_loss = Checkpoint.load(run.best).best_loss
        except UserError:
            say(f"{run.best} cannot be read; the next evaluation writes it anew", sys.stderr)
            best_loss = None
        checkpoint = dataclasses.replace(checkpoint, best_loss=best_loss)  # that of the file
    return checkpoint


def _changes(before: Any, now: Any, but: Collection[str]) -> str:
    """Which settings differ: "n_layer was 4, is 6 now"."""
    old, new = dataclasses.asdict(before), dataclasses.asdict(now)
    changed = [name for name in old if name not in but and old[name] != new[name]]
    return ", ".join(f"{name} was {old[name]}, is {new[name]} now" for name in changed)
