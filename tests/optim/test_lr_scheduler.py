"""Learning-rate schedules beside PyTorch's, over 30 steps and over a restart."""

import math

import pytest
import torch
from harness import tensorlib

BOTH = (torch, tensorlib)
OURS = pytest.mark.skipif(tensorlib is torch, reason="PyTorch does not do this")
SCHEDULES = {
    "LambdaLR": lambda s, o: s.LambdaLR(o, lr_lambda=lambda step: 0.9**step),
    "LambdaLR-integer": lambda s, o: s.LambdaLR(o, lambda step: step),
    "StepLR": lambda s, o: s.StepLR(o, step_size=7),
    "StepLR-gamma": lambda s, o: s.StepLR(o, step_size=3, gamma=0.5),
    "StepLR-1": lambda s, o: s.StepLR(o, 1, 0.9),
}


def scheduler(t):
    return t.optim.lr_scheduler


def start(t, name):
    params = [t.nn.Parameter(t.zeros(2)) for _ in range(2)]
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.02}]
    optimizer = t.optim.SGD(groups, lr=0.1)
    return optimizer, SCHEDULES[name](scheduler(t), optimizer)


def follow(optimizer, schedule, steps=30):
    """The rates before each step, and what get_last_lr says of them."""
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        assert rates[-1] == schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    return rates


def assert_rates(ours, theirs):
    for step, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a == pytest.approx(b, rel=1e-9, abs=1e-15), f"step {step}"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", SCHEDULES)
def test_rates(name):
    theirs, ours = (follow(*start(t, name)) for t in BOTH)
    assert_rates(ours, theirs)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", SCHEDULES)
def test_restart_from_state_dicts(name):
    """Optimizer and schedule saved after 8 steps and loaded into fresh ones go on as if nothing."""
    expected = follow(*start(tensorlib, name), 20)
    optimizer, schedule = start(tensorlib, name)
    follow(optimizer, schedule, 8)
    again, continued = start(tensorlib, name)
    again.load_state_dict(optimizer.state_dict())
    continued.load_state_dict(schedule.state_dict())
    assert continued.last_epoch == 8
    assert_rates(follow(again, continued, 12), expected[8:])


def test_initial_lr_and_last_epoch():
    def facts(t):
        optimizer, schedule = start(t, "StepLR")
        follow(optimizer, schedule, 9)
        return [g["initial_lr"] for g in optimizer.param_groups], schedule.last_epoch

    assert facts(tensorlib) == facts(torch)


@OURS
@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(("up", "end"), [(10, 30), (0, 30), (29, 30), (1, 2)])
def test_warm_up_and_cosine_in_closed_form(up, end, floor):
    """nanoGPT's: linear up to the peak, half a cosine down to the floor, flat from there."""
    peak = 1e-3

    def rate(step):
        if step < up:
            return peak * (step + 1) / (up + 1)
        if step >= end:
            return peak * floor
        return peak * (floor + (1 - floor) * (1 + math.cos(math.pi * (step - up) / (end - up))) / 2)

    optimizer = tensorlib.optim.AdamW([tensorlib.nn.Parameter(tensorlib.zeros(1))], lr=peak)
    factor = scheduler(tensorlib).warmup_cosine(up, end, floor)
    rates = follow(optimizer, scheduler(tensorlib).LambdaLR(optimizer, factor), 40)
    assert_rates(rates, [[rate(step)] for step in range(40)])
