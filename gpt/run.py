"""A run directory: what a training run leaves for people and for programs.

config.json        every setting
metrics.jsonl      one JSON object per report
loss.png           the loss curves
best.safetensors   the model with the lowest validation loss so far
last.safetensors   where the run stands: model and optimizer, all that --resume needs
report.html        the run and its best model, to look at; from `python -m gpt.report`
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gpt.config import RunConfig, TrainConfig, UserError, to_record

RUNS = Path("runs")


class Run:
    """The files of one run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best = path / "best.safetensors"
        self.last = path / "last.safetensors"
        self.metrics = path / "metrics.jsonl"
        self.curve = path / "loss.png"

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def resumable(cls, path: Path | None) -> Run:
        """The run at `path`, by default the newest. UserError if there is none."""
        return cls.newest("last.safetensors") if path is None else cls(path)

    @classmethod
    def measured(cls, config: RunConfig) -> Path:
        """The checkpoint that --eval-only is about: --out itself, if it is a file; else the best of
        that run or of the newest, or with --resume its last. UserError if there is no run."""
        if config.out is not None and config.out.is_file():
            return config.out
        name = "last.safetensors" if config.resume else "best.safetensors"
        return (cls.newest(name).path if config.out is None else config.out) / name

    @classmethod
    def newest(cls, name: str) -> Run:
        """The run in runs/ whose file `name` was written last. UserError if none has one."""
        files = sorted(RUNS.glob(f"*/{name}"), key=lambda file: file.stat().st_mtime)
        if not files:
            raise UserError(
                f"there is no {RUNS}/*/{name} here; train a model first: python train.py"
            )
        return cls(files[-1].parent)

    @classmethod
    def create(cls, config: TrainConfig) -> Run:
        """Make the directory --out, by default the next free runs/<n>, and write config.json.

        UserError if it cannot be written, or holds a run that is not to be resumed.
        """
        path = config.out
        if path is None:
            taken = [int(entry.name) for entry in RUNS.glob("*") if entry.name.isdecimal()]
            path = RUNS / str(max(taken, default=0) + 1)
        run = cls(path)
        if run.metrics.exists() and not config.resume:
            raise UserError(f"{run} holds a run already; add --resume, or choose another --out")
        try:
            path.mkdir(parents=True, exist_ok=True)
            settings = json.dumps(to_record(config), indent=2) + "\n"
            (path / "config.json").write_text(settings, encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write to --out {run}: {error.strerror}") from None
        return run

    def report(self, **values: Any) -> None:
        """Append one line to metrics.jsonl."""
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def reports(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text(encoding="utf-8").split("\n")[:-1]  # a torn last one is not
        return [json.loads(line) for line in lines]

    def rewind(self, step: int) -> None:
        """Forget the reports of `step` and later: the run is about to make them again."""
        kept = [json.dumps(report) + "\n" for report in self.reports() if report["step"] < step]
        self.metrics.write_text("".join(kept), encoding="utf-8")

    def plot(self) -> None:
        """Draw loss.png from metrics.jsonl."""
        from matplotlib.figure import Figure  # half a second to import, and only needed here

        reports = [report for report in self.reports() if "train_loss" in report]
        steps = [report["step"] for report in reports]
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        for name, label in (("train_loss", "training"), ("val_loss", "validation")):
            axes.plot(steps, [report[name] for report in reports], label=label)
        axes.set(xlabel="step", ylabel="loss (nats per token)", title=str(self))
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(self.curve, dpi=120)
