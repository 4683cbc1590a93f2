"""The exercises: what they build is right, and each of them runs at a tiny size."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as pytorch

import tensorlib as torch
from gpt import GPT, GPTConfig, UserError
from gpt.config import Sampling
from gpt.generate import generate
from lessons import common, exercise
from lessons import ex1_heads_as_batch as ex1
from lessons import ex2_addition as ex2
from lessons import ex2b_calculator as calculator
from lessons import ex3_pretraining as ex3
from lessons import ex4_papers as ex4
from lessons.model import MultiHeadAttention
from tensorlib.nn import functional as F

LESSONS = Path(__file__).parents[2] / "lessons"


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(f"The {i}th fox jumps over {7 * i} lazy dogs.\n" for i in range(200)))
    return path


@pytest.fixture
def run(monkeypatch, capsys, text_file):
    """run(module, *flags): its main at a tiny size; returns what it printed."""
    before = vars(common.options).copy()

    def run(module, *flags):
        command = [module.__name__, "--quick", "--data", str(text_file), *map(str, flags)]
        monkeypatch.setattr(sys, "argv", command)
        module.main()
        return capsys.readouterr().out

    yield run
    vars(common.options).update(before)


# ---- EX1 ----------------------------------------------------------------------------------------


def test_heads_as_a_batch_equal_the_loop_of_heads():
    torch.manual_seed(0)
    loop = MultiHeadAttention(12, 3, 5, scale=4**-0.5).to(torch.float64)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    for fused in (False, True):
        batched = ex1.HeadsAsBatch(12, 3, fused).to(torch.float64)
        assert max(ex1.largest_differences(loop, batched, x).values()) > 0.1
        batched.take_weights(loop)
        assert max(ex1.largest_differences(loop, batched, x).values()) < 1e-12


def test_ex1_runs(run, monkeypatch):
    monkeypatch.setattr(ex1, "SIZES", {"small": (2, 4, 8, 2)})
    assert "| small | 2, 4, 8, 2 |" in run(ex1)


# ---- EX2: addition ------------------------------------------------------------------------------


def written(task, pairs):
    return ["".join(ex2.CHARS[i] for i in row) for row in task.write(np.array(pairs))]


def test_problems_as_text():
    assert written(ex2.Addition(2, reverse=True), [(12, 34), (7, 99)]) == ["12+34=640", "07+99=601"]
    assert written(ex2.Addition(2, reverse=False), [(12, 34), (7, 99)]) == [
        "12+34=046",
        "07+99=106",
    ]
    assert written(ex2.Addition(3, reverse=True), [(5, 999)]) == ["005+999=4001"]


@pytest.mark.parametrize("problems", [None, 50])
def test_nothing_that_is_held_out_is_trained_on(problems):
    torch.manual_seed(0)
    task = ex2.Addition(1, reverse=True, problems=problems)
    held_out = set(map(tuple, task.held_out.tolist()))
    drawn = set(map(tuple, np.concatenate([task.draw(500) for _ in range(20)]).tolist()))
    assert held_out == {(b, a) for a, b in held_out}
    assert not drawn & held_out
    if problems is None:
        assert len(drawn | held_out) == 100
    else:
        assert len(drawn) <= problems


def test_the_loss_is_asked_of_the_answer_only():
    torch.manual_seed(0)
    task = ex2.Addition(2, reverse=True)
    x, targets = task.batch(8)
    assert x.shape == targets.shape == (8, 8)
    assert (targets.numpy()[:, :5] == -1).all()
    assert (targets.numpy()[:, 5:-1] == x.numpy()[:, 6:]).all()
    logits = torch.randn(8, 8, 12).requires_grad_()
    F.cross_entropy(logits.view(-1, 12), targets.view(-1), ignore_index=-1).backward()
    used = np.abs(logits.grad.numpy()).sum(axis=(0, 2)) > 0
    assert used.tolist() == [False] * 5 + [True] * 3


def test_a_digit_counts_in_its_place():
    """A model that always writes 6, 4, 0: all of 12+34 right, of 12+35 the ones wrong."""

    class Parrot:
        def generate(self, idx, count, temperature):
            digits = [6, 4, 0] if task.reverse else [0, 4, 6]
            return torch.cat([idx, torch.tensor([digits] * len(idx))], dim=1)

    for reverse in (True, False):
        task = ex2.Addition(2, reverse)
        right = ex2.right_digits(Parrot(), task, np.array([(12, 34), (12, 35)]))
        assert right.tolist() == [[True, True, True], [False, True, True]]


def test_it_learns_to_add_one_digit_numbers(run, monkeypatch):
    monkeypatch.setattr(common, "steps", lambda count: count)
    table = run(ex2, "--digits", 1, "--order", "reversed", "--max-iters", 200)
    assert "100.00 %" in table.splitlines()[-2]


def test_ex2_runs(run):
    assert run(ex2).count("thousands") == 0
    with pytest.raises(UserError, match="digits"):
        run(ex2, "--digits", 9)


# ---- EX2: the calculator ------------------------------------------------------------------------


def test_the_steps_lead_to_the_answer():
    for a in range(100):
        for b in range(100):
            _, steps, answer = calculator.worked(a, "+", b)
            ones, tens = steps.split(",")
            assert answer == str(int(tens) * 10 + int(ones[1])) == str(a + b)
            _, steps, answer = calculator.worked(a, "-", b)
            ones, tens = steps.lstrip("-").split(",")
            assert ones[0] in "01"
            assert tens[0] == "0"
            size = int(tens[1] + ones[1])
            assert answer == str(a - b) == str(-size if steps[0] == "-" else size)
            _, steps, answer = calculator.worked(a, "*", b)
            columns = steps.split(";")[2].split(",")
            assert answer == str(int("".join(c[1] for c in reversed(columns)))) == str(a * b)
            if b:
                _, steps, answer = calculator.worked(a, "/", b)
                quotient = int("".join(step[0] for step in steps.split(",")))
                assert answer == f"{quotient}r{int(steps[-2:])}" == f"{a // b}r{a % b}"


def test_the_longest_problem_fits():
    longest = max(
        len("".join(calculator.worked(a, o, b))) + 2
        for a, b in ((99, 99), (99, 1), (0, 99))
        for o in calculator.OPERATORS
    )
    assert longest == calculator.BLOCK + 1


def test_batches_of_the_calculator():
    torch.manual_seed(0)
    problems = calculator.Problems()
    for a, operator, b in problems.draw(1000):
        assert not problems.is_held_out[calculator.OPERATORS.index(operator), a, b]
        assert operator != "/" or b
    x, targets = (t.numpy() for t in problems.batch(32))
    for tokens, row in zip(x, targets, strict=True):
        text = calculator.TOKENIZER.decode(tokens)
        asked = "".join(calculator.TOKENIZER.chars[i] for i in row if i >= 0)
        a, operator, b = text[:2], text[2], text[3:5]
        question, steps, answer = calculator.worked(int(a), operator, int(b))
        assert text.startswith(question)
        assert asked == f"{steps}>{answer}\n"


def test_the_exam_looks_at_the_answer(monkeypatch):
    """Everything right but division, where the remainder is missing."""

    def written(model, questions):
        found = []
        for q in questions:
            _, steps, answer = calculator.worked(int(q[:2]), q[2], int(q[3:5]))
            found.append(f"{steps}>{answer.split('r')[0]}")
        return found

    monkeypatch.setattr(calculator, "answers", written)
    torch.manual_seed(0)
    problems = calculator.Problems()
    for operator in calculator.OPERATORS:
        right, asked = calculator.exam(None, problems, operator, 2)
        assert 600 < asked < 1200
        assert right == (0 if operator == "/" else asked)
    assert calculator.solve(None, "47 × 58").endswith(">2726   (right)")
    assert calculator.solve(None, "7/2").endswith(">3   (wrong: it is 3r1)")
    for line in ("", "1+", "100+1", "5/0", "a"):
        with pytest.raises(UserError):
            calculator.solve(None, line)


def test_the_calculator_runs_and_can_be_asked(run, tmp_path, monkeypatch):
    file = tmp_path / "calculator.safetensors"
    with pytest.raises(UserError, match="train first"):
        run(calculator, "--ask", "--file", file)
    assert "| / |" in run(calculator, "--file", file)
    monkeypatch.setattr(sys, "stdin", ["12+34\n", "what?\n"])
    assert run(calculator, "--ask", "--file", file).startswith("12+34=")


# ---- EX3 ----------------------------------------------------------------------------------------


def test_every_tenth_page_is_for_validation():
    split = ex3.every_tenth_page(torch.arange(105), page=2)
    assert split.val.tolist() == [n for n in range(100) if n // 2 % 10 == 9]
    assert split.train.tolist() == [n for n in range(100) if n // 2 % 10 != 9]
    assert split.seen.tolist() == [n for n in range(100) if n // 2 % 10 == 0]


def test_a_weak_start_for_the_small_text_only(monkeypatch):
    """Pretraining changes the model that is fine-tuned, not the one trained from scratch."""
    monkeypatch.setattr(common.options, "quick", True)
    letters = ex3.first_nine_tenths(torch.from_numpy(np.arange(3000) % 5))
    ones = ex3.first_nine_tenths(torch.zeros(3000, dtype=torch.long))
    chosen = ex3.Pretraining(pretrain_iters=3, tune_iters=1)
    one = ex3.compare(chosen, (5, ones, letters), seed=1)
    other = ex3.compare(chosen, (5, letters, letters), seed=1)
    assert one[0, 1, 1e-3] == other[0, 1, 1e-3]
    assert one[3, 0, 0.0] > other[3, 0, 0.0]


def test_ex3_runs(run, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("Another text, with a … in it.\n" * 500)
    out = run(ex3, "--text", tmp_path / "other", "--seeds", 1)
    assert "14,500 characters to pretrain on" in out
    assert out.count("\n| ") == 4


def test_the_text_that_python_carries():
    text = ex3.python_text()
    assert len(text) > 1e6
    assert "def dedent(" in text


# ---- EX4 ----------------------------------------------------------------------------------------

CONFIG = GPTConfig(11, block_size=6, n_layer=2, n_head=2, n_embd=16)


@pytest.mark.parametrize("name", ex4.VARIANTS)
def test_every_variant_is_a_causal_model_all_of_which_learns(name):
    torch.manual_seed(0)
    model = ex4.build(ex4.VARIANTS[name], CONFIG)
    idx = torch.randint(5, (2, 6))
    logits, loss = model(idx, idx)
    other = idx.clone()
    other[:, -1] = 10 - other[:, -1]
    same = (model(other)[0] == logits).numpy().all(axis=-1)
    assert same[:, :-1].all()
    assert not same[:, -1].any()
    with_cache, without = (
        [t.tolist() for t in generate(model, idx[:, :2], 4, Sampling(temperature=0), 1, use_cache)]
        for use_cache in (True, False)
    )
    assert with_cache == without
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    baseline = GPT(CONFIG)
    changed = str(model) != str(baseline) or ex4.VARIANTS[name].cosine
    assert changed == (name != "baseline")


def test_rope_turns_as_complex_numbers_do():
    x = torch.randn(3, 5, 8)
    theta = 10000.0 ** (-np.arange(0, 8, 2) / 8)
    turns = np.exp(1j * np.arange(5)[:, None] * theta)
    z = (x.numpy()[..., :4] + 1j * x.numpy()[..., 4:]) * turns
    expected = np.concatenate([z.real, z.imag], axis=-1)
    np.testing.assert_allclose(ex4.rotated(x).numpy(), expected, atol=1e-5)


def test_rope_makes_affinities_depend_on_the_distance_alone():
    """The same query and key at all positions: equal along the diagonals."""
    q, k = (torch.randn(1, 8).numpy().repeat(6, axis=0) for _ in range(2))
    affinities = ex4.rotated(torch.from_numpy(q)) @ ex4.rotated(torch.from_numpy(k)).T
    for d in range(-5, 6):
        assert np.ptp(np.diagonal(affinities.numpy(), d)) < 1e-4


def test_queries_and_keys_are_normed():
    attention = ex4.NormedAttention(CONFIG)
    q, k = attention.prepare(torch.randn(2, 2, 6, 8) * 9, torch.randn(2, 2, 6, 8), 0)
    for x in (q, k):
        np.testing.assert_allclose((x * x).mean(-1).detach().numpy(), 1, rtol=1e-4)


def test_swiglu_against_pytorch():
    mlp = ex4.SwiGLU(GPTConfig(n_embd=24, n_head=4))
    x = torch.randn(2, 3, 24)
    g, v, w = (
        (pytorch.tensor(m.weight.tolist()), pytorch.tensor(m.bias.tolist()))
        for m in (mlp.gate, mlp.value, mlp.proj)
    )
    t, linear = pytorch.tensor(x.tolist()), pytorch.nn.functional.linear
    expected = linear(pytorch.nn.functional.silu(linear(t, *g)) * linear(t, *v), *w)
    np.testing.assert_allclose(mlp(x).detach().numpy(), expected.numpy(), atol=1e-5)
    assert mlp.gate.out_features == 64


def test_ex4_runs(run):
    out = run(ex4, "--variants", "baseline", "together", "--seeds", 1, 2)
    assert "± 0.0000 |" in out.splitlines()[-2]
    assert out.splitlines()[-1].startswith("| together | ")
    with pytest.raises(UserError, match="no variant"):
        run(ex4, "--variants", "rop")


# ---- what they share ----------------------------------------------------------------------------


def test_the_loss_of_a_whole_split(monkeypatch):
    monkeypatch.setattr(common.options, "quick", False)
    torch.manual_seed(0)
    model, data = GPT(CONFIG), torch.randint(11, (100,))
    losses = []
    for start in range(0, 96, 6):
        x, y = data[start : start + 6], data[start + 1 : start + 7]
        losses.append(model(x.view(1, 6), y.view(1, 6))[1].item())
    assert exercise.whole_loss(model, data, batch_size=5) == pytest.approx(np.mean(losses))


def test_the_spread_of_runs():
    assert exercise.spread([1.0, 2.0, 3.0]) == "2.0000 ± 1.0000"
    assert exercise.spread([1.0]) == "1.0000"


def test_a_wrong_flag_is_told_in_one_line():
    command = [sys.executable, str(LESSONS / "ex2_addition.py"), "--digit", "2"]
    environment = {"PYTHONPATH": str(LESSONS.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: unknown flag --digit; did you mean --digits?\n"
