"""Training: update, evaluate, report, save; the loop of `Trainer.train` reads top to bottom.

Every draw is a function of (seed, stream, step), so a run that was interrupted and resumed does
exactly what it would have done.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

import tensorlib
from gpt.checkpoint import Checkpoint, optimizer_tensors
from gpt.config import Sampling, TrainConfig, UserError
from gpt.data import Corpus
from gpt.fast import machine
from gpt.fast.parallel import Team
from gpt.generate import generate_text
from gpt.model import GPT
from gpt.runs import memory
from gpt.runs.ending import Ending, after_divergence
from gpt.runs.evaluation import bits_per_byte
from gpt.runs.guard import Guard
from gpt.runs.run import Run
from gpt.runs.saving import Saver, say
from gpt.runs.signals import STOP, uninterrupted
from gpt.weights.pretrained import Pretrained
from tensorlib import Tensor, nn, optim
from tensorlib.optim.lr_scheduler import warmup_cosine


class Trainer:
    """A model in training.

    step: how many updates it has had.
    best_loss: its lowest validation loss so far, None before the first evaluation.
    origin: where its weights came from, in words.
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
        set this process up for it (`gpt.fast.machine`)."""
        self.config, self.corpus, self.run, self.device = config, corpus, run, device
        self.step = 0
        self.best_loss: float | None = None
        self.origin = "random"
        self.saver = Saver(run.best, run.last)
        self.guard = Guard()
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
        """Update until max_iters, or until `gpt.runs.ending` has a reason to stop; evaluate, report
        and save every eval_interval, and save every ten minutes. After Ctrl-C or SIGTERM, save
        where the run stands, and raise it again. UserError if the last checkpoint could not be
        saved where it belongs, or training has diverged."""
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
                        say(self.evaluate())
                        ends = ends or ending.after(self.step, self.run)
                    elif self.sample_due():
                        sample = self.sample()
                        self.run.report(step=self.step, sample=sample)
                        bar.clear()
                        say(self._shown(sample))
                    if ends:
                        break
                    loss = self.update()
                    if self.device == "cpu" or self.step % 100 == 0:  # a GPU has to be waited for
                        self._check_guard()
                    if self.saver.is_due() and self.guard.counts()[1] == 0:
                        self.saver.save(self.checkpoint(with_moments=True), self.run.last)
                    if bar.update():  # it has just been redrawn: time to look at the loss
                        bar.set_postfix_str(self._progress(loss), refresh=False)
        except STOP:
            with uninterrupted():  # a second Ctrl-C must not cut the work of the first short
                path = self.saver.save_for_good(self.checkpoint(with_moments=True))
                say(f"stopped at step {self.step}, saved in {path}; --resume goes on", sys.stderr)
            self.run.plot()
            raise
        if not self.saver.saved:
            path = self.saver.save_for_good(self.checkpoint(with_moments=True))
            if path != self.run.last:
                raise UserError(f"{self.run} takes no more; step {self.step} is in {path}")

    def update(self) -> Tensor:
        """One training step. Returns the loss of its batch, before the update.

        The video's batch, forward and backward are in `Share.gradient` of `gpt/fast/parallel.py`,
        since several processes may share them; its `optimizer.step()` is `scaler.step(…)`. Nothing
        is zeroed: every step's gradients overwrite the last ones.
        """
        config = self.config
        loss = self.team.gradient(self.step)
        scaler = self.precision.scaler
        scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.team.whole, config.grad_clip or math.inf)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        with uninterrupted():  # the weights and the step must agree in a checkpoint
            self.optimizer.found_inf = self.guard.refuses(norm)
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
        config = self.config
        updates, seconds = self._since_mark()
        losses = self.estimate_loss()
        if not all(map(math.isfinite, losses.values())):
            raise UserError(
                f"the loss is not finite at step {self.step}; {after_divergence(config, self.run)}"
            )
        self._check_guard()
        skipped, _ = self.guard.counts()
        per_step = seconds / updates if updates else None
        loss, bits = losses["val_loss"], bits_per_byte(losses["val_loss"], self.corpus)
        sample = self.sample() if self.sample_due() else None
        self.run.report(
            step=self.step,
            **losses,
            val_bits_per_byte=bits,
            learning_rate=self.learning_rate(),
            grad_norm=self.guard.last_norm(),
            skipped=skipped,
            ms_per_step=per_step and 1e3 * per_step,
            tokens_per_second=per_step and config.tokens_per_step / per_step,
            sample=sample,
        )
        self._save(loss)
        self.run.plot(at_once=False)
        self._mark = (self.step, time.perf_counter())
        line = f"step {self.step}: train loss {losses['train_loss']:.4f}, val loss {loss:.4f}"
        line += f" ({bits:.4f} bits per byte)"
        line += f", skipped so far: {skipped}" if skipped else ""
        return line if sample is None else f"{line}\n{self._shown(sample)}"

    def _save(self, loss: float) -> None:
        """Both checkpoints, after an evaluation with this validation loss."""
        # best before last: whoever resumes from last finds in best what it remembers
        before = self.best_loss
        if before is None or loss < before:
            self.best_loss = loss
            if not self.saver.save(self.checkpoint(), self.run.best):
                self.best_loss = before  # that of the file
        self.saver.save(self.checkpoint(with_moments=True), self.run.last)

    def _check_guard(self) -> None:
        self.guard.check(lambda: after_divergence(self.config, self.run))

    def estimate_loss(self) -> dict[str, float]:
        """The mean loss over some batches of either split, the same ones at every evaluation."""
        n = self.config.eval_iters
        splits = {split: self.team.losses(split, range(n)) for split in ("train", "val")}
        return {f"{split}_loss": sum(losses) / n for split, losses in splits.items()}

    def sample(self) -> str:
        """What the model writes now, after --sample-prompt: a context of at most 64 tokens, with
        the same dice always. The time that takes is no step's."""
        _, before = self._since_mark()
        text = "".join(self._continue(min(64, self.config.model.block_size)))
        step, moment = self._mark
        self._mark = (step, moment + self._since_mark()[1] - before)
        return self.config.sample_prompt + text

    def sample_due(self) -> bool:
        """Whether --sample-interval wants a sample after this step."""
        interval = self.config.sample_interval
        interval = self.config.eval_interval if interval is None else interval
        return bool(interval) and (self.step % interval == 0 or self.step == self.config.max_iters)

    def _continue(self, tokens: int) -> Iterator[str]:
        prompt, seed = self.config.sample_prompt, self.config.seed
        return generate_text(self.model, self.corpus.tokenizer, prompt, tokens, Sampling(), seed)

    def _shown(self, sample: str) -> str:
        """A sample as one line of a terminal, with at most the end of its prompt."""
        start = max(len(self.config.sample_prompt) - 20, 0)
        line = sample[start : start + 76].replace("\n", "⏎")
        return "  " + "".join(char if char.isprintable() else "·" for char in line)

    def finish(self) -> None:
        """Draw the curves, measure the best model on the whole validation split, print a sample."""
        self.run.plot()
        best = Checkpoint.load(self.run.best)
        best.restore(self.model)
        try:
            loss = self.full_val_loss()
        except STOP:
            say(f"stopped before the end of the validation split; {self.run} is saved", sys.stderr)
            raise
        bits = bits_per_byte(loss, self.corpus)
        whole = {"full_val_loss": loss, "full_val_bits_per_byte": bits}
        self.run.report(step=self.step, best_step=best.step, **whole)
        say(
            f"whole validation split: loss {loss:.4f}, {bits:.4f} bits per byte "
            f"({self.run.best}, of step {best.step})"
        )
        say(f"curves: {self.run.curve}\nsample:\n\n{self.config.sample_prompt}", end="")
        for piece in self._continue(500):
            say(piece, end="")
        say()

    def full_val_loss(self) -> float:
        """The mean loss over every token of the validation split; how far it is, is shown."""
        windows = self.team.share.evaluation["val"].windows
        sizes = [end - start for start, end in windows]
        every = range(len(windows))
        some = 16 * self.processes  # at a time, as many for each process
        form = "whole validation split: {percentage:3.0f}%|{bar}| {remaining} left"
        losses: list[float] = []
        with tqdm(total=len(windows), disable=None, bar_format=form, leave=False) as bar:
            while rest := every[len(losses) :]:
                losses += self.team.losses("val", rest[:some], windows=True)
                bar.update(len(losses) - bar.n)
        return sum(loss * size for loss, size in zip(losses, sizes)) / sum(sizes)

    def checkpoint(self, with_moments: bool = False) -> Checkpoint:
        """Where the run stands now; with the optimizer's moments it can be resumed."""
        tensors = dict(self.model.state_dict())
        if with_moments:
            tensors |= optimizer_tensors(self.model, self.optimizer)
            tensors |= self.precision.tensors(self.optimizer) | self.guard.tensors()
        tokenizer, sha256 = self.corpus.tokenizer, self.corpus.sha256
        return Checkpoint(self.config, tokenizer, self.step, self.best_loss, sha256, tensors)

    def start_from(self, pretrained: Pretrained) -> None:
        """Take the weights of a trained model; positions that it does not have stay random."""
        pretrained.restore(self.model)
        self.origin = pretrained.origin
        T, theirs = self.config.model.block_size, pretrained.config.block_size
        if T > theirs:
            self.origin += f"; positions {theirs:,} to {T - 1:,} are new, and random"
        elif T < theirs:
            self.origin += f"; of its {theirs:,} positions the first {T:,}"

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go back to where `checkpoint` stood, reports included."""
        checkpoint.restore(self.model, self.optimizer)
        self.precision.restore(checkpoint.tensors)
        self.guard.restore(checkpoint.tensors, self.device)
        self.step, self.best_loss = checkpoint.step, checkpoint.best_loss
        self.origin = f"{self.run.last}, of step {checkpoint.step:,}"
        self.run.rewind(self.step)
        self._mark = (self.step, time.perf_counter())

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
