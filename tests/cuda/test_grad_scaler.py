"""GradScaler: it scales, skips and grows as PyTorch's does, and waits for the GPU once a step."""

import fake_cupy
import numpy as np
import pytest
import torch

import tensorlib
from tensorlib import nn, optim
from tensorlib.amp import GradScaler, autocast

pytestmark = pytest.mark.usefixtures("machine")


@pytest.mark.parametrize("unscale_first", [False, True])
def test_grad_scaler_does_what_pytorch_s_does(unscale_first):
    options = {"init_scale": 8.0, "growth_interval": 3, "backoff_factor": 0.25, "growth_factor": 3}
    bad = {2: np.inf, 3: np.nan, 10: -np.inf}
    sequences = []
    for t, scaler in ((torch, torch.amp.GradScaler("cpu", **options)),
                      (tensorlib, GradScaler("cuda", **options))):  # fmt: skip
        device = {"device": "cuda"} if t is tensorlib else {}
        p, q = (t.ones(3, requires_grad=True, **device) for _ in range(2))
        optimizer = t.optim.SGD([p, q], lr=0.1)
        sequence = []
        for step in range(14):
            optimizer.zero_grad()
            loss = (p * p * 0.5).sum() + q.sum() * bad.get(step, 1.0)
            scaler.scale(loss).backward()
            if unscale_first:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update(5.0 if step == 12 else None)
            state = scaler.state_dict()
            sequence.append([*p.tolist(), *q.tolist(), scaler.get_scale(), *state.values()])
        sequences.append(sequence)
        keys = list(state)
    assert keys == list(torch.amp.GradScaler("cpu").state_dict())
    np.testing.assert_allclose(sequences[1], sequences[0], rtol=1e-6)


def test_a_step_that_overflows_changes_nothing():
    model = nn.Linear(3, 2).to("cuda")
    optimizer = optim.AdamW(model.parameters(), lr=0.1)
    scaler = GradScaler(init_scale=2.0**16)
    x = tensorlib.ones(4, 3, device="cuda")
    before = model.weight.tolist()
    scales = []
    while model.weight.tolist() == before:
        assert not optimizer.state
        scales.append(scaler.get_scale())
        optimizer.zero_grad()
        with autocast("cuda"):
            loss = model(x).sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert scales == [65536, 32768]  # float16 ends at 65504
    assert optimizer.state[model.weight]["step"] == 1
    assert np.isfinite(model.weight.tolist()).all()


def test_grad_scaler_waits_once_per_step(machine):
    if machine == "GPU":
        pytest.skip("nobody counts")
    p = tensorlib.ones(3, device="cuda", requires_grad=True)
    optimizer, scaler = optim.SGD([p], lr=0.1), GradScaler()
    with fake_cupy.no_synchronisation():
        scaler.scale((p * p).sum()).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_([p], 1.0)
    before = fake_cupy.count.synchronisations
    scaler.step(optimizer)
    assert fake_cupy.count.synchronisations == before + 1
    with fake_cupy.no_synchronisation():
        scaler.update()


def test_a_disabled_grad_scaler_does_nothing():
    p = tensorlib.ones(3, requires_grad=True)
    optimizer, scaler = optim.SGD([p], lr=1.0), GradScaler(enabled=False)
    loss = (p * p).sum()
    assert scaler.scale(loss) is loss
    loss.backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert p.tolist() == [-1, -1, -1]
    assert (scaler.get_scale(), scaler.state_dict(), scaler.is_enabled()) == (1.0, {}, False)


def test_grad_scaler_s_state_goes_on():
    one, other = GradScaler(init_scale=4.0, growth_interval=2), GradScaler()
    p = tensorlib.ones(3, requires_grad=True)
    optimizer = optim.SGD([p], lr=1.0)
    one.scale([p.sum(), p.sum()])[1].backward()
    assert p.grad.tolist() == [4, 4, 4]
    one.step(optimizer)
    one.update()
    other.load_state_dict(one.state_dict())
    other.step(optimizer)
    other.update()
    assert other.get_scale() == 8


def test_grad_scaler_s_mistakes():
    p = tensorlib.ones(3, requires_grad=True)
    optimizer, scaler = optim.SGD([p], lr=1.0), GradScaler()
    with pytest.raises(RuntimeError, match="without a step"):
        scaler.update()
    with pytest.raises(RuntimeError, match="no parameter of the optimizer has a gradient"):
        scaler.step(optimizer)
    scaler.scale(p.sum()).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match=r"unscale_\(\) was called"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match=r"step\(\) was called"):
        scaler.step(optimizer)
    with pytest.raises(ValueError, match="growth_factor"):
        GradScaler(growth_factor=0.5)
    with pytest.raises(RuntimeError, match="state is empty"):
        scaler.load_state_dict({})
    half = tensorlib.ones(3, dtype=tensorlib.float16, requires_grad=True)
    half.grad = tensorlib.ones(3, dtype=tensorlib.float16)
    with pytest.raises(ValueError, match="gradients in float16"):
        GradScaler().unscale_(optim.SGD([half], lr=1.0))
