"""python -m gpt.report: the page in a real browser, what it says, and mistakes."""

import dataclasses
import json
import re

import browser
import numpy as np
import pytest

import tensorlib
from gpt.checkpoint import Checkpoint
from gpt.config import ReportConfig, UserError
from gpt.report import inside
from gpt.report.page import describe, render

PROMPT = "the fox"  # the tiny model sees 8 characters


@pytest.fixture
def trained(script, tiny, text_file, text, tmp_path):
    """The directory of a short run on a text that would like to end the page's script."""
    text_file.write_text(text.replace("jumps", "</script>"), encoding="utf-8")
    done = script("train.py", "--data", text_file, "--max-iters", 6, "--eval-interval", 2, *tiny)
    assert done.returncode == 0, done.stderr
    return tmp_path / "runs" / "1"


def opinionated(path):
    """Give the model at `path` heads that look at some places much more than at others."""
    checkpoint = Checkpoint.load(path)
    tensors = {k: x * 12 if "c_attn" in k else x for k, x in checkpoint.tensors.items()}
    dataclasses.replace(checkpoint, tensors=tensors).save(path)


def numbers(html):
    """What a page shows, as the page itself reads it."""
    script = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    return json.loads(script[1])


def mistake(done, *expected):
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert all(text in done.stderr for text in expected), done.stderr


@pytest.mark.skipif(browser.executable is None, reason="no Chromium or Chrome on the PATH")
def test_the_page_in_a_browser(trained, script):
    opinionated(trained / "best.safetensors")
    done = script("gpt.report", "--prompt", PROMPT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == "runs/1/report.html"
    page = trained / "report.html"
    assert page.stat().st_size < 5_000_000
    checkpoint = Checkpoint.load(trained / "best.safetensors")
    idx = tensorlib.from_numpy(checkpoint.tokenizer.encode(PROMPT)[None].astype(np.int64))
    weights = inside.attention(checkpoint.model(), idx)  # (1, heads, T, T)

    def check_readout(head, position, window):
        """It names the head, the token, and what that looks at, with the model's weights."""
        said = window.run("document.querySelector('#looks').textContent")
        token = PROMPT[position].replace(" ", "␣")
        start = f"Layer 0, head {head}: “{token}” at {position} looks at "
        assert said.startswith(start)
        looked_at = re.findall(r"“.” at (\d+) \((\d+)\s%\)", said.removeprefix(start))
        row = 100 * weights[0, head, position]
        assert len(looked_at) == min(position + 1, 5)
        for (place, percent), likeliest in zip(looked_at, sorted(row, reverse=True)):
            assert int(percent) == pytest.approx(row[int(place)], abs=1)
            assert int(percent) == pytest.approx(likeliest, abs=1)

    with browser.Browser() as window:
        window.open(page)
        assert window.run("document.querySelectorAll('section').length") == 7
        window.hover(".prompt .token:nth-of-type(6)")
        check_readout(0, 5, window)
        window.hover(".prompt .token:nth-of-type(4)")
        check_readout(0, 3, window)
        for _ in range(10):  # by keyboard: the prompt, along it, and to the heads
            window.press("Tab")
            if window.run("document.activeElement.matches('.prompt .token')"):
                break
        check_readout(0, 0, window)
        window.press("ArrowRight")
        check_readout(0, 1, window)
        window.press("Tab")
        window.press("ArrowRight")
        check_readout(1, 1, window)
        assert window.run("document.querySelectorAll('path.curve').length") == 4
        assert window.errors == []


def test_what_the_page_says(trained, script, text_file):
    (trained.parents[1] / "pages").mkdir()
    assert script("gpt.report", trained, "--prompt", PROMPT, "--out", "pages").returncode == 0
    html = (trained.parents[1] / "pages" / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"https?://[^\"]*", html) == ["http://www.w3.org/2000/svg"]  # SVG's name
    page, reports = numbers(html), [json.loads(x) for x in (trained / "metrics.jsonl").open()]
    assert page["curves"]["step"] == [0, 2, 4, 6]
    for name in ("train_loss", "val_loss", "learning_rate"):
        recorded = [r[name] for r in reports if name in r]
        assert page["curves"][name] == pytest.approx(recorded, rel=1e-3)
    assert page["curves"]["grad_norm"][0] is None
    assert [s["step"] for s in page["samples"]] == [0, 2, 4, 6]
    assert all(len(s["text"]) == 8 for s in page["samples"])
    assert len(page["sample"]["text"]) == 200
    assert page["attention"]["tokens"] == list(PROMPT)
    # the context of each prediction stands in the text before the character that came
    text = text_file.read_text(encoding="utf-8")
    lists = page["predictions"]
    for kind in ("certain", "uncertain", "surprising"):
        for case in lists[kind]:
            assert case["context"] + case["actual"][0] in text
            assert case["guesses"][0][1] >= case["guesses"][1][1] >= case["guesses"][2][1]
    best = [[case["guesses"][0][1] for case in lists[kind]] for kind in ("certain", "uncertain")]
    assert min(best[0]) >= max(best[1])
    came = [case["actual"][1] for case in lists["surprising"]]
    assert came == sorted(came)


def test_without_its_text_the_page_says_so(trained, text_file):
    text_file.rename(text_file.with_name("moved.txt"))
    best = trained / "best.safetensors"
    page = numbers(render(describe(best, ReportConfig())))
    assert "text.txt" in page["missing"]
    assert page["predictions"] is None
    assert {gradient for *_, gradient in page["norms"]} == {None}
    assert page["attention"]["tokens"] == list(page["sample"]["text"][:8])
    found = ReportConfig(data=text_file.with_name("moved.txt"))
    assert numbers(render(describe(best, found)))["missing"] == ""
    text_file.write_text("another text" * 100, encoding="utf-8")
    assert "another text" in describe(best, ReportConfig())["missing"]
    with pytest.raises(UserError, match="another text than"):
        describe(best, ReportConfig(data=text_file))


def test_mistakes(trained, script, tmp_path):
    (tmp_path / "empty").mkdir()
    mistake(script("gpt.report", "nothing"), "nothing", "No such file")
    mistake(script("gpt.report", "--checkpoint", trained), "the run is given without a flag, ")
    mistake(script("gpt.report", "empty"), "empty/best.safetensors", "No such file")
    mistake(script("gpt.report", trained / "metrics.jsonl"), "metrics.jsonl")
    mistake(script("gpt.report", trained, "--prompt", "café"), "'é'")
    mistake(script("gpt.report", trained, "--prompt", "the fox t"), "9 tokens", "8 at once")
    mistake(script("gpt.report", trained, "--promt", "a"), "--promt", "--prompt")
    mistake(script("gpt.report", trained, "--out", "no/where.html"), "where.html", "--out")
    assert not (trained / "report.html").exists()


def test_without_a_run(script):
    mistake(script("gpt.report"), "train.py")
