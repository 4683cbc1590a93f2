"""What a run shows: metrics.jsonl, which programs read, and loss.png, which people look at."""

import dataclasses
import gc
import itertools
import json
import math
import re
import struct
import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure

import gpt.runs.curves
import gpt.runs.run
from gpt.config import TrainConfig
from gpt.runs.run import Run

NAN, INF = float("nan"), float("inf")


def evaluations(*val_losses, **columns):
    """The reports of a run with these losses, 100 steps between them."""
    rows = [
        {"step": 100 * i, "train_loss": v - 0.5, "val_loss": v, "learning_rate": 1e-3}
        for i, v in enumerate(val_losses)
    ]
    return [row | {name: x[i] for name, x in columns.items()} for i, row in enumerate(rows)]


@pytest.fixture
def figures(monkeypatch):
    """The figures that were drawn."""
    drawn, savefig = [], Figure.savefig

    def recorded(figure, *arguments, **options):
        drawn.append(figure)
        savefig(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", recorded)
    return drawn


def points(line):
    return np.array(line.get_data()).T.tolist()


def test_the_curves_show_what_was_measured(figures):
    rows = evaluations(4.0, 2.0, 3.0, grad_norm=[None, 0.5, 0.7])
    extra = [{"step": 50, "sample": "a"}, {"step": 200, "full_val_loss": 2.1, "best_step": 100}]
    png = gpt.runs.curves.draw(rows + extra, "runs/1")
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">2I", png[16:24]) == (960, 660)
    losses, rate, norm = figures[0].axes
    train, val, best = losses.get_lines()
    assert points(train) == [[0, 3.5], [100, 1.5], [200, 2.5]]
    assert points(val) == [[0, 4.0], [100, 2.0], [200, 3.0]]
    assert points(best) == [[100, 2.0]]
    legend = [text.get_text() for text in losses.get_legend().get_texts()]
    assert legend == ["training", "validation", "best: 2.0000 at step 100"]
    assert points(rate.get_lines()[0]) == [[0, 1e-3], [100, 1e-3], [200, 1e-3]]
    assert points(norm.get_lines()[0])[1:] == [[100, 0.5], [200, 0.7]]
    assert [axes.get_yscale() for axes in figures[0].axes] == ["linear"] * 3
    assert figures[0].get_suptitle() == "runs/1"


def test_no_norm_was_measured(figures):
    gpt.runs.curves.draw(evaluations(4.0, 2.0, grad_norm=[None, None]), "")
    assert [axes.get_title() for axes in figures[0].axes] == ["", "learning rate"]


def test_a_run_that_diverges_is_seen_on_a_logarithmic_scale(figures):
    gpt.runs.curves.draw(evaluations(4.0, 2.0, 1e9, grad_norm=[None, 1.0, 100.0]), "")
    assert [axes.get_yscale() for axes in figures[0].axes] == ["log", "linear", "log"]


@pytest.mark.parametrize("rows", [0, 1, 5000])
def test_any_number_of_evaluations_can_be_drawn(rows, figures):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses = np.random.default_rng(0).uniform(1, 4, rows)
        assert gpt.runs.curves.draw(evaluations(*losses), "x_1$^ 日本")[:4] == b"\x89PNG"
    assert len(figures[0].axes[0].get_lines()[0].get_xdata()) == rows


def test_drawing_leaves_no_figures_behind():
    gc.disable()  # as training does
    try:
        gpt.runs.curves.draw(evaluations(4.0, 2.0), "")
        assert not [x for x in gc.get_objects() if type(x) is Figure]
    finally:
        gc.enable()


@pytest.fixture
def run(tmp_path):
    return Run.create(dataclasses.replace(TrainConfig(), out=tmp_path / "run"))


@pytest.mark.parametrize(("seconds", "expected"), [(1.0, 12), (30.0, 10)])
def test_drawing_takes_at_most_a_fiftieth_of_the_time(tmp_path, monkeypatch, seconds, expected):
    now, drawings = 0.0, 0

    def draw(reports, title):
        nonlocal now, drawings
        now, drawings = now + 0.5, drawings + 1
        return b""

    monkeypatch.setattr(gpt.runs.curves, "draw", draw)
    monkeypatch.setattr(gpt.runs.run.time, "monotonic", lambda: now)
    run = Run(tmp_path)
    run.plot(at_once=False)
    assert not run.curve.exists()  # too early
    now += 5.0
    while now < 300:
        run.plot(at_once=False)
        assert run.curve.exists()  # from the next evaluation on
        now += seconds  # until the next
    assert drawings == expected
    run.plot()
    assert drawings == expected + 1


def test_a_drawing_that_cannot_be_written_is_told_and_training_goes_on(run, capsys):
    run.curve.mkdir()
    run.plot()
    assert re.fullmatch(r"cannot write .*loss\.png: .+\n", capsys.readouterr().err)


# ---------------------------------------------------------------------------------------- metrics


def strict(line):
    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(line, parse_constant=refuse)


def test_what_is_no_number_is_null(run):
    run.report(step=3, val_loss=INF, train_loss=NAN, sample="é\n", grad_norm=None)
    (line,) = run.metrics.read_text().splitlines()
    nothing = dict.fromkeys(("val_loss", "train_loss", "grad_norm"))
    assert strict(line).items() >= {"step": 3, "sample": "é\n", **nothing}.items()


def test_every_field_is_flat_and_is_documented(script, text_file, tiny, tmp_path):
    flags = ["--max-iters", 6, "--eval-interval", 3, "--sample-interval", 2, *tiny]
    flags += ["--sample-prompt", "the fox"]
    done = script("train.py", "--data", text_file, *flags)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [strict(line) for line in (tmp_path / "runs/1/metrics.jsonl").open()]
    assert [line["step"] for line in lines] == [0, 2, 3, 4, 6, 6]
    evaluated = [line for line in lines if "val_loss" in line]
    assert [line["step"] for line in evaluated] == [0, 3, 6]
    assert all(line.keys() == evaluated[0].keys() for line in evaluated)  # stable names
    documented = set(re.findall(r"^([a-z_]+) {2,}\S", gpt.runs.run.__doc__, re.MULTILINE))
    assert {name for line in lines for name in line} == documented
    for value in itertools.chain(*(line.values() for line in lines)):
        assert value is None or isinstance(value, (int, float, str))
    assert all(math.isfinite(line["time"]) for line in lines)
    # the samples, there and on the screen: each begins with the prompt
    samples = {line["step"]: line["sample"] for line in lines if line.get("sample") is not None}
    assert sorted(samples) == [0, 2, 4, 6]
    for sample in samples.values():
        assert re.fullmatch(r"the fox(.|\n){8}", sample)
        assert "\n  " + sample.replace("\n", "⏎") + "\n" in done.stdout
    assert "sample:\n\nthe fox" in done.stdout
