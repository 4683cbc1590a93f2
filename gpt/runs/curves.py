"""loss.png: a run's losses, and beneath them its learning rate and the norm of its gradient."""

from __future__ import annotations

import gc
import io
import warnings
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

Rows = list[dict[str, Any]]
_BLUE, _ORANGE, _GRAY = "#2f6db3", "#e07a2f", "#5f6b7a"
_FEW = 25  # evaluations, up to which one sees each of them as a dot


def draw(reports: Rows, title: str) -> bytes:
    """A PNG of the evaluations among the lines of a metrics.jsonl."""
    png = _render([report for report in reports if "val_loss" in report], title)
    gc.collect()  # a figure is full of cycles, and in training nobody else collects them
    return png


def _render(rows: Rows, title: str) -> bytes:
    clipped = np.isfinite(_column(rows, "grad_norm")).any()
    below: list[Any] = ["learning_rate", "grad_norm"] if clipped else ["learning_rate"]
    figure = Figure(figsize=(8, 5.5), dpi=120, layout="constrained")
    figure.suptitle(title, x=0.012, ha="left", weight="bold", parse_math=False)
    panels = figure.subplot_mosaic([["loss"] * len(below), below], height_ratios=(2.6, 1))
    _draw_losses(panels["loss"], rows)
    for name in below:
        panels[name].set_title(name.replace("_", " ").replace("grad ", "gradient "), size=10)
        _draw_curve(panels[name], rows, name, _GRAY)
        _set_axes(panels[name], rows, ticks=5)
    if clipped:
        _set_scale(panels["grad_norm"], rows, ["grad_norm"])
    png = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a title in letters that the font lacks
        figure.savefig(png, format="png")
    return png.getvalue()


def _column(rows: Rows, name: str) -> np.ndarray:
    """The numbers of that name, NaN where there is none: (len(rows),)."""
    return np.array([np.nan if row.get(name) is None else row[name] for row in rows])


def _draw_losses(axes: Axes, rows: Rows) -> None:
    _draw_curve(axes, rows, "train_loss", _BLUE, "training")
    _draw_curve(axes, rows, "val_loss", _ORANGE, "validation")
    losses = _column(rows, "val_loss")
    if np.isfinite(losses).any():
        best = rows[int(np.nanargmin(losses))]
        style: dict[str, Any] = {
            "color": _ORANGE,
            "ms": 14,
            "mec": "black",
            "mew": 0.8,
            "zorder": 3,
        }
        label = f"best: {best['val_loss']:.4f} at step {best['step']:,}"
        axes.plot(best["step"], best["val_loss"], "*", label=label, **style)
    axes.set_ylabel("loss (nats per token)")
    axes.legend(frameon=False)
    _set_axes(axes, rows, ticks=8)
    _set_scale(axes, rows, ["train_loss", "val_loss"])


def _draw_curve(axes: Axes, rows: Rows, name: str, color: str, label: str = "") -> None:
    marker, width = ("o", 1.6) if len(rows) <= _FEW else ("", 1.0)
    axes.plot(
        _column(rows, "step"), _column(rows, name), marker=marker, ms=3.5, lw=width, color=color,
        label=label,
    )  # fmt: skip


def _set_axes(axes: Axes, rows: Rows, ticks: int) -> None:
    last = max([1, *(row["step"] for row in rows)])
    axes.set_xlim(-0.03 * last, 1.03 * last)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _set_scale(axes: Axes, rows: Rows, names: list[str]) -> None:
    """Logarithmic if some value is more than 20 times another: a run that diverges, a spike."""
    values = np.concatenate([_column(rows, name) for name in names])
    values = values[np.isfinite(values)]
    if values.size and 0 < 20 * values.min() < values.max():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
