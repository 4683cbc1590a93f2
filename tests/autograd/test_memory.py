"""When memory is freed: with the garbage collector off, no array outlives its use."""

import gc
import os
import tracemalloc
import weakref

import harness
import numpy as np
import pytest
from harness import tensorlib
from tape import leaf, no_grad, only_ours, tensor

from tensorlib import devices


@pytest.fixture
def no_gc():
    """Only reference counting frees memory in here."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def owner(t):
    """A weak reference to the array that owns the memory of a tensor."""
    array = t.array
    while isinstance(array.base, type(array)):
        array = array.base
    reference = weakref.ref(array)
    del array
    assert reference() is not None
    return reference


@only_ours
@pytest.mark.usefixtures("no_gc")
class TestMemory:
    def test_a_result_dies_with_its_last_use(self):
        x = leaf(1.0, 2.0)
        h = x.exp()
        loss = h.sum()
        array, handle = owner(h), weakref.ref(h)
        del h
        assert handle() is None  # the tensor itself is never kept
        assert array() is not None  # exp needs its result
        del loss
        assert array() is None

    @pytest.mark.parametrize(
        "use",
        [
            lambda h: h + 1,
            lambda h: h * 2.0,
            lambda h: h.sum(),
            lambda h: h.mean(0),
            lambda h: h.exp(),
            lambda h: h.tanh(),
            lambda h: h.relu(),
            lambda h: h.softmax(-1),
            lambda h: h * tensor([[1.0, 2.0]]),
            lambda h: h @ tensor([[1.0], [2.0]]),
            lambda h: h[[0, 0]],
            lambda h: tensorlib.cat([h, h]),
            lambda h: h.masked_fill(tensor([[True, False]]), 0.0),
        ],
    )
    def test_what_backward_does_not_need_is_freed_at_once(self, use):
        h = leaf([1.0, 2.0]) * 1.5
        loss = use(h)
        array = owner(h)
        del h
        assert array() is None, "kept by the graph although no gradient needs it"
        loss.sum().backward()

    def test_backward_frees_what_was_saved(self):
        x = leaf(1.0, 2.0)
        a = x * 3
        b = a.sin()
        c = b * a
        loss = c.exp().sum()
        arrays = [owner(t) for t in (a, b, c)]
        del a, b, c
        assert arrays[0]() is not None
        assert arrays[1]() is not None
        loss.backward()
        assert [array() for array in arrays] == [None] * 3  # while `loss` is still held
        assert loss.requires_grad
        arrays = [owner(x), owner(x.grad)]
        del x, loss  # the graph still leads to its leaves, as in PyTorch
        assert [array() is None for array in arrays] == [True] * 2

    def test_backward_frees_inner_gradients(self):
        seen = []
        from tensorlib.autograd import operation

        @operation
        def spy(x):
            def backward(g):
                result = g * 2
                seen.append(weakref.ref(result))
                return result

            return x * 2, (backward,)

        x = leaf(1.0, 2.0)
        loss = spy(spy(spy(x).exp()).exp()).sum()
        loss.backward()
        assert len(seen) == 3
        assert seen[0]() is None
        assert seen[1]() is None

    def test_retain_graph_keeps_and_del_frees(self):
        x = leaf(1.0, 2.0)
        h = x.sin()
        loss = (h * h).sum()
        array = owner(h)
        del h
        loss.backward(retain_graph=True)
        assert array() is not None
        del loss
        assert array() is None

    def test_an_error_leaves_no_gradients_and_no_cycle(self):
        x = leaf(1.0, 2.0)
        h = x * 2
        loss = (h * h).sum()
        array = owner(h)
        with no_grad():
            h.add_(1)
        with pytest.raises(RuntimeError):
            loss.backward()
        assert x.grad is None
        del h, loss
        assert array() is None

    def test_no_grad_keeps_nothing(self):
        with no_grad():
            h = leaf(1.0, 2.0).sin()
            array = owner(h)
            y = h.exp()
        del h
        assert array() is None
        assert y.is_leaf

    def test_every_operation_is_free_of_cycles(self):
        programs = [
            lambda x: x.view(4).reshape(2, 2).T.mT.permute(1, 0).unsqueeze(0).squeeze(0).flatten(),
            lambda x: tensorlib.stack(tensorlib.cat(x.split(1)).unbind(0) + x.chunk(2)[0].unbind()),
            lambda x: x.max(0).values + x.min(0)[0] + x.amax(0) + x.var(0) + x.logsumexp(0),
            lambda x: x[[0, 1, 1]].gather(1, tensor([[0], [1], [1]])) * x[x > 0].sum(),
            lambda x: (x @ x).log_softmax(0).cumsum(0).tril().repeat(2, 1).clamp(-1, 1),
            lambda x: tensorlib.where(x > 1, x, 2 - x) ** 2 + 2**x + tensorlib.maximum(x, x.T),
        ]
        for program in programs:
            x = leaf([1.0, 2.0], [3.0, 4.0])
            h = x * 1.5
            y = program(h)
            arrays = [owner(h), owner(y)]
            del h
            y.sum().backward()
            del y
            assert [array() for array in arrays] == [None, None]

    def test_live_bytes_return_to_the_start_after_training(self):
        rng = np.random.default_rng(0)
        pairs = [(64, 128), (128, 128), (128, 8)]
        weights = [tensor(rng.normal(0, 0.1, pair), requires_grad=True) for pair in pairs]
        biases = [tensor(np.zeros(n), requires_grad=True) for _, n in pairs]
        x, target = tensor(rng.normal(size=(32, 64))), tensor(rng.normal(size=(32, 8)))

        def step():
            h = x
            for w, b in zip(weights, biases, strict=True):
                h = (h @ w + b).tanh()
            loss = ((h - target) ** 2).mean()
            for p in weights + biases:
                p.grad = None
            loss.backward()
            with no_grad():
                for p in weights + biases:
                    p -= 0.1 * p.grad
            return loss.item()

        def live_tensor_bytes():
            tensors = [o for o in gc.get_objects() if issubclass(type(o), tensorlib.Tensor)]
            return sum(t.array.nbytes for t in tensors)

        def bytes_in_use():
            if harness.device == "cpu":
                return tracemalloc.get_traced_memory()[0]
            return devices.library(harness.device).get_default_memory_pool().used_bytes()

        tracemalloc.start()
        losses = [step() for _ in range(3)]  # the gradients and the caches now exist
        tensors, used = live_tensor_bytes(), bytes_in_use()
        losses += [step() for _ in range(20)]
        tensors_after, used_after = live_tensor_bytes(), bytes_in_use()
        tracemalloc.stop()
        assert losses[-1] < losses[0]
        assert tensors > 8 * 128 * 128, "the weights are alive, and counted"
        assert tensors_after == tensors
        assert used_after - used < 16_384, "an activation is 32,768 bytes"


@only_ours
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads Linux's /proc")
def test_the_process_does_not_grow():
    """Memory beyond what Python accounts for: 300 steps with 4 MB of activations each."""

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    x = tensor(np.ones((512, 512), np.float32), requires_grad=True)
    for step in range(330):
        if step == 30:
            before = resident()
        ((x * 2).sin() * x).sum().backward()
    assert resident() - before < 20e6


def test_of_borrowed_gradients_the_second_allocates_and_later_ones_add_in_place():
    p = tensorlib.ones(2, requires_grad=True)
    arrived = tensorlib.autograd._Arrived(useful=None)
    gradients = [np.array([n, -n], np.float32) for n in (1, 2, 4)]
    for gradient in gradients[:2]:
        arrived.add(p, 0, gradient, fresh=False)
    (total,) = arrived.gradients[p]
    arrived.add(p, 0, gradients[2], fresh=False)
    assert arrived.gradients[p][0] is total
    assert arrived.owned()[p, 0] is total  # and it is not copied
    assert total.tolist() == [7, -7]
    assert [g.tolist() for g in gradients] == [[1, -1], [2, -2], [4, -4]]
