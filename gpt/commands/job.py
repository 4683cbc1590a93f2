"""A whole run, as train.py starts it: what must be right before the first step, then training."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from gpt.checkpoint import Checkpoint
from gpt.commands.cli import flag
from gpt.commands.header import header
from gpt.config import TrainConfig, UserError
from gpt.data import Corpus, load_corpus
from gpt.fast.cuda_graph import GraphUpdate
from gpt.generate import encode_prompt
from gpt.runs import memory
from gpt.runs.run import Run
from gpt.runs.saving import say
from gpt.text.reading import Text, find_text
from gpt.tokenizer import Tokenizer
from gpt.training import Trainer
from gpt.weights.pretrained import Pretrained, load

# what may differ from one part of a run to the next without a word
_PLACES = ("data", "out", "device", "resume", "overwrite", "eval_only", "config", "preset", "model")


def train(config: TrainConfig, device: str = "cpu") -> Run:
    """A whole run: a text goes in; reports, checkpoints and a sample come out.

    Whatever can be wrong is checked before the work begins: UserError if something is.
    """
    text = find_text(config.data, config.glob)
    checkpoint = weights = None
    if config.resume:
        config = dataclasses.replace(config, out=Run.resumable(config.out).path)
        checkpoint = _resumable_checkpoint(config, text)
    elif config.init_from is not None:
        weights = weights_for(config, config.init_from)
    start = checkpoint or weights
    tokenizer = start.tokenizer if start else config.tokenizer
    config, corpus = with_corpus(config, text, tokenizer, device)
    encode_prompt(corpus.tokenizer, config.sample_prompt)  # complains
    run = Run.create(config)
    with run.claimed():
        trainer = Trainer(config, corpus, run, device, share_work=True)
        run.begin(config)  # from here on, what was in the directory is gone
        if checkpoint is not None:
            trainer.resume(checkpoint)
        elif weights is not None:
            trainer.start_from(weights)
        if config.graph:
            trainer.update = GraphUpdate(trainer)  # type: ignore[method-assign]
        say(header(trainer))
        trainer.train()
        trainer.finish()
    return run


def weights_for(config: TrainConfig, path: Path) -> Pretrained:
    """The weights to start from. UserError, naming what differs, unless they fit the model."""
    weights = load(path)
    model = dataclasses.asdict(config.model) | {"tokenizer": config.tokenizer}
    theirs = dataclasses.asdict(weights.config) | {"tokenizer": weights.tokenizer.name}
    for name in model:
        if name not in ("block_size", "dropout", "vocab_size") and model[name] != theirs[name]:
            raise UserError(
                f"{path} is of a model with {flag(name)} {theirs[name]}, not {model[name]}; leave "
                "that out (of the model only --block-size and --dropout can change)"
            )
    return weights


def with_corpus(
    config: TrainConfig, text: Text, tokenizer: str | Tokenizer, device: str
) -> tuple[TrainConfig, Corpus]:
    """The text as tokens, and the configuration with the size of their vocabulary. UserError if the
    text is too short, or if the training would not fit in memory."""
    corpus = load_corpus(text, tokenizer, config.model.block_size)
    model = dataclasses.replace(config.model, vocab_size=corpus.tokenizer.vocab_size)
    config = dataclasses.replace(config, model=model)
    memory.check(config, device)
    return config, corpus


def check_same(checkpoint: Checkpoint, config: TrainConfig, text: Text) -> None:
    """UserError, naming what differs, unless text, tokenizer and model are the checkpoint's."""
    if text.sha256 != checkpoint.text_sha256:
        remedy = "give it its own with --data, or begin a new run with its weights: --init-from"
        if config.eval_only:
            remedy = f"to measure its model on this one: --init-from {config.out or 'RUN'}"
        raise UserError(
            f"this run learns another text than {text.name}, or that has changed since; {remedy}"
        )
    if config.tokenizer != checkpoint.config.tokenizer:
        raise UserError("a run cannot change its tokenizer when it is resumed; leave that flag out")
    vocab_size = checkpoint.config.model.vocab_size
    model = dataclasses.replace(config.model, vocab_size=vocab_size)
    if changes := _changes(checkpoint.config.model, model, but=["dropout"]):
        raise UserError(
            f"a run cannot change its model when it is resumed: {changes}; leave that out, or "
            "begin a new run with another --out"
        )


def _resumable_checkpoint(config: TrainConfig, text: Text) -> Checkpoint:
    assert config.out is not None
    run = Run(config.out)
    checkpoint = Checkpoint.load(run.last)
    check_same(checkpoint, config, text)
    if checkpoint.step > config.max_iters:
        raise UserError(
            f"the run is at step {checkpoint.step:,} already, beyond --max-iters "
            f"{config.max_iters:,}: give a larger one"
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
    """Which settings differ: "--n-layer was 4, is 6 now"."""
    old, new = dataclasses.asdict(before), dataclasses.asdict(now)
    changed = [name for name in old if name not in but and old[name] != new[name]]
    return ", ".join(f"{flag(name)} was {old[name]}, is {new[name]} now" for name in changed)
