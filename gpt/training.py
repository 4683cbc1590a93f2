"""Training: update, evaluate, report, save; the loop of `Trainer.train` reads top to bottom.

Every draw is a function of (seed, stream, step), so a run that was interrupted and resumed does
exactly what it would have done.
"""

from __future__ import annotations

import math
import sys
import time

from tqdm import tqdm

import tensorlib
from gpt import machine, memory
from gpt.checkpoint import Checkpoint, optimizer_tensors
from gpt.config import Sampling, TrainConfig, UserError
from gpt.data import Corpus
from gpt.ending import Ending
from gpt.evaluation import bits_per_byte
from gpt.generate import generate_text
from gpt.model import GPT
from gpt.parallel import Team
from gpt.run import Run
from gpt.signals import uninterrupted
from tensorlib import Tensor, nn, optim
from tensorlib.optim.lr_scheduler import warmup_cosine


class Trainer:
    """A model in training.

    step: how many updates it has had.
    best_loss: its lowest validation loss so far, None before the first evaluation.
    grad_norm: of the last update's gradient before it was clipped, None where none was.
    """

    def __init__(
        self,
        config: TrainConfig,
        corpus: Corpus,
        run: Run,
        device: str = "cpu",
        share_work: bool = False,
    ) -> None:
        """share_work: take all cores of a CPU, with several processes where that is faster, and
        set this process up for it (`gpt.machine`)."""
        self.config, self.corpus, self.run, self.device = config, corpus, run, device
        self.step = 0
        self.best_loss: float | None = None
        self.grad_norm: Tensor | None = None
        tensorlib.manual_seed(config.seed)
        self.model = GPT(config.model)
        self.model.to(device)
        self.processes = 1
        if share_work and device == "cpu":
            self.processes = memory.processes(config)
            machine.prepare(threads=max(machine.cores() // self.processes, 1))
        self.team = Team(config, corpus, self.model, self.processes)
        self.precision = self.team.share.precision
        self.optimizer = make_optimizer([self.team.matrices], [self.team.vectors], config)
        self._mark = (self.step, time.perf_counter())  # since when the speed is measured

    def train(self) -> None:
        """Update until max_iters, or until `gpt.ending` has a reason to stop; evaluate, report and
        save every eval_interval. After Ctrl-C, save where the run stands, and raise
        KeyboardInterrupt."""
        config = self.config
        form = "{percentage:3.0f}%|{bar}| {n}/{total}{postfix}, {remaining} left"
        bar = tqdm(total=config.max_iters, initial=self.step, disable=None, bar_format=form)
        ending = Ending(config)
        try:
            with bar:
                while True:
                    ends = ending.before(self.step)
                    if ends or self.step % config.eval_interval == 0:
                        bar.clear()
                        print(self.evaluate(), flush=True)
                        ends = ends or ending.after(self.step, self.run)
                    if ends:
                        return
                    loss = self.update()
                    if bar.update():  # it has just been redrawn: time to look at the loss
                        bar.set_postfix_str(self._progress(loss), refresh=False)
        except KeyboardInterrupt:
            self.checkpoint(with_moments=True).save(self.run.last)
            self.run.plot()
            saved = f"stopped at step {self.step}, saved in {self.run.last}; --resume goes on"
            print(saved, file=sys.stderr)
            raise

    def update(self) -> Tensor:
        """One training step. Returns the loss of its batch, before the update."""
        config = self.config
        loss = self.team.gradient(self.step)
        scaler = self.precision.scaler
        scaler.unscale_(self.optimizer)
        if config.grad_clip:
            self.grad_norm = nn.utils.clip_grad_norm_(self.team.whole, config.grad_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        with uninterrupted():  # the weights and the step must agree in a checkpoint
            scaler.step(self.optimizer)
            scaler.update()
            self.step += 1
        return loss

    def learning_rate(self) -> float:
        """Up in a line over the warm-up, then down a cosine to min_lr: a function of the step."""
        config = self.config
        final = config.min_lr / config.learning_rate
        factor = warmup_cosine(config.warmup_iters, config.max_iters, final)
        return config.learning_rate * factor(self.step)

    def evaluate(self) -> str:
        """Estimate both losses, write them to metrics.jsonl, save the checkpoints; returns the line
        to print. UserError if training has diverged."""
        updates, seconds = self._since_mark()
        losses = self.estimate_loss()
        if not all(map(math.isfinite, losses.values())):
            raise UserError(
                f"the loss is not a number any more at step {self.step}: "
                "take a lower --learning-rate"
            )
        per_step = seconds / updates if updates else None
        tokens = self.config.tokens_per_step
        bits = bits_per_byte(losses["val_loss"], self.corpus)
        self.run.report(
            step=self.step,
            **losses,
            val_bits_per_byte=bits,
            learning_rate=self.learning_rate(),
            grad_norm=None if self.grad_norm is None else self.grad_norm.item(),
            ms_per_step=per_step and 1e3 * per_step,
            tokens_per_second=per_step and tokens / per_step,
            sample=self.sample(),
        )
        # best before last: whoever resumes from last finds in best what it remembers
        if self.best_loss is None or losses["val_loss"] < self.best_loss:
            self.best_loss = losses["val_loss"]
            self.checkpoint().save(self.run.best)
        self.checkpoint(with_moments=True).save(self.run.last)
        self._mark = (self.step, time.perf_counter())
        line = (
            "step {}: train loss {train_loss:.4f}, val loss {val_loss:.4f} ({:.4f} bits per byte)"
        )
        return line.format(self.step, bits, **losses)

    def estimate_loss(self) -> dict[str, float]:
        """The mean loss over some batches of either split, the same ones at every evaluation."""
        n = self.config.eval_iters
        return {f"{split}_loss": sum(self.team.losses(split, n)) / n for split in ("train", "val")}

    def sample(self) -> str:
        """What the model writes now: a context of at most 64 tokens, with the same dice always."""
        length = min(64, self.config.model.block_size)
        tokenizer, seed = self.corpus.tokenizer, self.config.seed
        return "".join(generate_text(self.model, tokenizer, "", length, Sampling(), seed))

    def finish(self) -> None:
        """Measure the best model on the whole validation split, draw the curves, print a sample."""
        best = Checkpoint.load(self.run.best)
        best.restore(self.model)
        loss = self.full_val_loss()
        bits = bits_per_byte(loss, self.corpus)
        whole = {"full_val_loss": loss, "full_val_bits_per_byte": bits}
        self.run.report(step=self.step, best_step=best.step, **whole)
        self.run.plot()
        print(
            f"whole validation split: loss {loss:.4f}, {bits:.4f} bits per byte "
            f"({self.run.best}, of step {best.step})"
        )
        print(f"curves: {self.run.curve}\nsample:\n", flush=True)
        tokenizer, seed = self.corpus.tokenizer, self.config.seed
        for piece in generate_text(self.model, tokenizer, "", 500, Sampling(), seed):
            print(piece, end="", flush=True)
        print()

    def full_val_loss(self) -> float:
        """The mean loss over every token of the validation split."""
        windows = self.team.share.evaluation["val"].windows
        sizes = [end - start for start, end in windows]
        losses = self.team.losses("val", len(windows), windows=True)
        return sum(loss * size for loss, size in zip(losses, sizes)) / sum(sizes)

    def checkpoint(self, with_moments: bool = False) -> Checkpoint:
        """Where the run stands now; with the optimizer's moments it can be resumed."""
        tensors = dict(self.model.state_dict())
        if with_moments:
            tensors |= optimizer_tensors(self.model, self.optimizer)
            tensors |= self.precision.tensors(self.optimizer)
        tokenizer, sha256 = self.corpus.tokenizer, self.corpus.sha256
        return Checkpoint(self.config, tokenizer, self.step, self.best_loss, sha256, tensors)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go back to where `checkpoint` stood, reports included."""
        checkpoint.restore(self.model, self.optimizer)
        self.precision.restore(checkpoint.tensors)
        self.step, self.best_loss = checkpoint.step, checkpoint.best_loss
        self.run.rewind(self.step)
        self._mark = (self.step, time.perf_counter())

    def describe(self) -> str:
        """The header of a run: what learns what, where, and how much work a step is."""
        config, corpus = self.config, self.corpus
        size = f"{config.batch_size} x {config.model.block_size}"
        if config.grad_accum > 1:
            size = f"{config.grad_accum} x {size}"
        processes = f", {self.processes} processes" if self.processes > 1 else ""
        dtype = f", {self.precision.dtype}" if self.precision.dtype != "float32" else ""
        lines = [
            f"device      {self.device}{processes}{dtype}",
            f"text        {corpus.name}: {len(corpus.train):,} tokens to learn, "
            f"{len(corpus.val):,} to validate",
            f"model       {self.model.num_parameters():,} parameters, "
            f"vocabulary {config.model.vocab_size}",
            f"batch       {size} = {config.tokens_per_step:,} tokens, "
            f"{self.flops() / 1e9:,.1f} GFLOP a step",
            f"memory      {memory.describe(config, self.device)}",
        ]
        if not (config.eval_only or config.overfit_batch):
            lines.append(f"run         {self.run}, from step {self.step} to {config.max_iters:,}")
        return "\n".join(lines)

    def flops(self) -> float:
        """Floating-point operations of a training step."""
        return self.config.tokens_per_step * self.model.flops_per_token()

    def _since_mark(self) -> tuple[int, float]:
        if self.device != "cpu":
            tensorlib.cuda.synchronize()  # the steps that a GPU was given, it may not have done
        step, moment = self._mark
        return self.step - step, time.perf_counter() - moment

    def _progress(self, loss: Tensor) -> str:
        updates, seconds = self._since_mark()
        ms = 1e3 * seconds / updates
        tokens = self.config.tokens_per_step / ms
        return f"loss {loss.item():.3f}, {ms:.0f} ms/step, {tokens:.1f}k tokens/s"


def make_optimizer(
    matrices: list[Tensor], vectors: list[Tensor], config: TrainConfig
) -> optim.AdamW:
    """AdamW, with weight decay for the matrices only, as in nanoGPT."""
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2))
