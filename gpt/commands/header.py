"""The header of a run: what learns what, where, and how much work a step is."""

from __future__ import annotations

from gpt.commands.advice import advice
from gpt.runs import memory
from gpt.training import Trainer


def header(trainer: Trainer) -> str:
    """What is printed before the first step, a line for each thing."""
    config, corpus, model = trainer.config, trainer.corpus, trainer.model
    processes = f", {trainer.processes} processes" if trainer.processes > 1 else ""
    dtype = trainer.precision.dtype
    size = f"{config.batch_size} x {config.model.block_size}"
    if config.grad_accum > 1:
        size = f"{config.grad_accum} x {size}"
    gflop = config.tokens_per_step * model.flops_per_token() / 1e9
    lines = [
        f"device      {trainer.device}{processes}" + (f", {dtype}" if dtype != "float32" else ""),
        f"text        {corpus.name}: {len(corpus.train):,} tokens to learn, "
        f"{len(corpus.val):,} to validate",
        f"tokenizer   {corpus.tokenizer.name}, vocabulary {config.model.vocab_size:,}",
        f"model       {model.num_parameters():,} parameters",
        f"weights     {trainer.origin}",
        f"batch       {size} = {config.tokens_per_step:,} tokens, "
        f"{gflop:{',.1f' if gflop >= 1 else '.2g'}} GFLOP a step",
        f"memory      {memory.describe(config, trainer.device)}",
    ]
    if not (config.eval_only or config.overfit_batch):
        read = config.max_iters * config.tokens_per_step
        first, *notes = advice(
            len(corpus.train), model.num_parameters(), read, config.model.dropout
        )
        lines.append(f"run         {trainer.run}, from step {trainer.step} to {config.max_iters:,}")
        lines.append(f"reading     {first}")
        lines += [f"note        {note}" for note in notes]
    return "\n".join(lines)
