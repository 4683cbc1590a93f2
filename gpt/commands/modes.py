"""What train.py does when it does not train: measure a model, or learn one batch by heart.

Neither writes a file.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from gpt.checkpoint import Checkpoint
from gpt.commands.header import header
from gpt.commands.job import check_same, weights_for, with_corpus
from gpt.config import TrainConfig, UserError
from gpt.runs.evaluation import bits_per_byte, lowest_loss
from gpt.runs.run import Run
from gpt.runs.saving import answer
from gpt.text.reading import find_text
from gpt.training import Trainer
from gpt.weights.pretrained import Pretrained

_REACHED = 0.02  # above the lowest possible loss: nearly every token has a probability near 1


def evaluate(config: TrainConfig, device: str = "cpu") -> None:
    """--eval-only: print the losses of a run's checkpoint, or of the weights of --init-from on any
    text, estimated and of the whole validation split.

    UserError if there is none, or the run learned another text.
    """
    text = find_text(config.data, config.glob)
    if config.init_from is None:
        path = Run.measured(config)
        checkpoint = Checkpoint.load(path)
        check_same(checkpoint, config, text)
        origin = f"{path}, of step {checkpoint.step:,}"
        start: Checkpoint | Pretrained = checkpoint
    else:
        start = weights_for(config, config.init_from)
        origin = start.origin
    config, corpus = with_corpus(config, text, start.tokenizer, device)
    trainer = Trainer(config, corpus, Run(Path()), device, share_work=True)
    start.restore(trainer.model)
    trainer.origin = origin
    answer(header(trainer))
    losses = trainer.estimate_loss()
    bits = bits_per_byte(losses["val_loss"], corpus)
    answer(
        f"{config.eval_iters} batches of either split: train loss {losses['train_loss']:.4f}, "
        f"val loss {losses['val_loss']:.4f} ({bits:.4f} bits per byte)"
    )
    loss = trainer.full_val_loss()
    bits = bits_per_byte(loss, corpus)
    answer(f"whole validation split: loss {loss:.4f} ({bits:.4f} bits per byte)")


def overfit(config: TrainConfig, device: str = "cpu") -> None:
    """--overfit-batch: train on the first batch alone, until its loss is as low as it can be.

    A model, a learning rate or a loop with something wrong fails here, within a minute. UserError
    if it did not get there within max_iters.
    """
    undropped = dataclasses.replace(config.model, dropout=0.0)  # what is dropped cannot be learned
    config = dataclasses.replace(config, model=undropped)
    text = find_text(config.data, config.glob)
    config, corpus = with_corpus(config, text, config.tokenizer, device)
    trainer = Trainer(config, corpus, Run(Path()), device, share_work=True)
    lowest = lowest_loss(*(part.numpy() for part in trainer.team.share.batch(0)))
    goal = lowest + _REACHED
    answer(header(trainer))
    answer(
        f"expected    the loss of this one batch falls below {goal:.4f}: {lowest:.4f} if every "
        "token is known by heart"
    )
    while trainer.step < config.max_iters:
        step, loss = trainer.step, trainer.update().item()
        if step % config.eval_interval == 0 or not loss > goal:
            answer(f"step {step}: loss {loss:.4f}")
        if loss <= goal:
            answer("reached: this model can learn; nothing is kept of it")
            return
        if loss != loss:
            break
    raise UserError(
        f"the loss of one batch is {loss:.4f} after {trainer.step} steps, and should be below "
        f"{goal:.4f}: take more --max-iters, another --learning-rate or a larger --n-embd"
    )
