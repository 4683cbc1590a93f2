"""A whole run, as train.py starts it: what must be right before the first step, then training."""

from __future__ import annotations

import dataclasses

from gpt import memory
from gpt.checkpoint import Checkpoint
from gpt.config import TrainConfig, UserError
from gpt.data import Corpus, load_text
from gpt.run import Run
from gpt.training import Trainer


def train(config: TrainConfig, device: str = "cpu") -> Run:
    """A whole run: a text goes in; reports, checkpoints and a sample come out.

    Whatever can be wrong is checked before the work begins: UserError if something is.
    """
    config, corpus = with_corpus(config, device)
    checkpoint = None
    if config.resume:
        config = dataclasses.replace(config, out=Run.resumable(config.out).path)
        checkpoint = _resumable_checkpoint(config, corpus)
    trainer = Trainer(config, corpus, Run.create(config), device, share_work=True)
    if checkpoint is not None:
        trainer.resume(checkpoint)
    print(trainer.describe(), flush=True)
    trainer.train()
    trainer.finish()
    return trainer.run


def with_corpus(config: TrainConfig, device: str) -> tuple[TrainConfig, Corpus]:
    """The text of a configuration, and the configuration with the size of its vocabulary. UserError
    if the training would not fit in memory."""
    name, text = load_text(config.data)
    corpus = Corpus.from_text(name, text, config.model.block_size)
    model = dataclasses.replace(config.model, vocab_size=corpus.tokenizer.vocab_size)
    config = dataclasses.replace(config, model=model)
    memory.check(config, device)
    return config, corpus


def _resumable_checkpoint(config: TrainConfig, corpus: Corpus) -> Checkpoint:
    assert config.out is not None
    checkpoint = Checkpoint.load(Run(config.out).last)
    check_same(checkpoint, config, corpus)
    if checkpoint.step > config.max_iters:
        raise UserError(
            f"the run is at step {checkpoint.step} already, beyond --max-iters {config.max_iters}"
        )
    return checkpoint


def check_same(checkpoint: Checkpoint, config: TrainConfig, corpus: Corpus) -> None:
    """UserError unless text and model are those of the checkpoint."""
    before = checkpoint.config.model
    if corpus.sha256 != checkpoint.text_sha256:
        raise UserError(f"this run learns another text than {corpus.name}; resume it with its own")
    if config.model != dataclasses.replace(before, dropout=config.model.dropout):
        raise UserError("a run cannot change its model when it is resumed; leave those flags out")
