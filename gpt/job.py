"""A whole run, as train.py starts it: what must be right before the first step, then training."""

from __future__ import annotations

import dataclasses

from gpt.checkpoint import Checkpoint
from gpt.config import TrainConfig, UserError
from gpt.cuda_graph import GraphUpdate
from gpt.data import Corpus, load_text
from gpt.run import Run
from gpt.training import Trainer


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
    trainer = Trainer(config, corpus, Run.create(config), device, share_work=True)
    if checkpoint is not None:
        trainer.resume(checkpoint)
    if config.graph:
        trainer.update = GraphUpdate(trainer)  # type: ignore[method-assign]
    print(trainer.describe(), flush=True)
    trainer.train()
    trainer.finish()
    return trainer.run


def _resumable_checkpoint(config: TrainConfig, corpus: Corpus) -> Checkpoint:
    assert config.out is not None
    checkpoint = Checkpoint.load(Run(config.out).last)
    before = checkpoint.config.model
    if corpus.sha256 != checkpoint.text_sha256:
        raise UserError(f"this run learns another text than {corpus.name}; resume it with its own")
    if config.model != dataclasses.replace(before, dropout=config.model.dropout):
        raise UserError("a run cannot change its model when it is resumed; leave those flags out")
    if checkpoint.step > config.max_iters:
        raise UserError(
            f"the run is at step {checkpoint.step} already, beyond --max-iters {config.max_iters}"
        )
    return checkpoint
