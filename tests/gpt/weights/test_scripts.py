"""train.py, sample.py and gpt.export with weights from elsewhere, as a user runs them."""

import json
import pickle
import re

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from damage import EVIL
from torch_gpt2 import TorchGPT2

from gpt.export import merges
from gpt.text import bpe
from gpt.tokenizer import BPETokenizer

GREEDY = ["--temperature", 0, "--max-new-tokens", 6]


def check_mistake(done, *expected):
    """One clear line on standard error, status 2."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    for text in expected:
        assert text in done.stderr


@pytest.fixture
def nanogpt(tmp_path, text):
    """(PyTorch's model, folder) of a nanoGPT checkpoint for the characters of the text."""
    folder = tmp_path / "nanogpt"
    folder.mkdir()
    chars = sorted(set(text))
    reference = TorchGPT2(V=len(chars), activation="gelu", bias=False)
    torch.save(reference.nanogpt_checkpoint(compiled=True), folder / "ckpt.pt")
    itos, stoi = dict(enumerate(chars)), {char: i for i, char in enumerate(chars)}
    meta = {"vocab_size": len(chars), "itos": itos, "stoi": stoi}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return reference, folder


@pytest.fixture
def gpt2(tmp_path, text):
    """(PyTorch's model, its tokenizer, folder) of a small GPT-2 as Hugging Face stores it."""
    tokenizer = BPETokenizer(bpe.train(bpe.count_pre_tokens([text]), 300), "<|endoftext|>")
    reference = TorchGPT2(V=301, T=32)
    with torch.no_grad():  # only what can be printed is ever the likeliest
        for i, token in enumerate(tokenizer.tokens):
            if not token.decode("latin1").isprintable() or not token.isascii():
                reference.lm_head.weight[i] = 0
    folder = tmp_path / "gpt2"
    reference.save_hugging_face(folder, prefix="", buffers=True)
    shown = tokenizer.to_record()["merged"]
    vocabulary = {token: i for i, token in enumerate([*shown, "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = "\n".join(["#version: 0.2", *map(" ".join, merges(shown))])
    (folder / "merges.txt").write_text(lines + "\n", encoding="utf-8")
    return reference, tokenizer, folder


def test_sampling_a_nanogpt_checkpoint(nanogpt, text, script):
    reference, folder = nanogpt
    chars = sorted(set(text))
    prompt = torch.tensor([[chars.index(char) for char in "the fox"]])
    expected = "".join(chars[token] for token in reference.greedy(prompt, 6))
    for path in (folder, folder / "ckpt.pt"):
        done = script("sample.py", "--checkpoint", path, "--prompt", "the fox", *GREEDY)
        assert done.returncode == 0, done.stderr
        assert done.stdout == expected + "\n"


def test_sampling_gpt2(gpt2, script):
    reference, tokenizer, folder = gpt2
    prompt = torch.tensor(tokenizer.encode("the fox jumps").astype(int)[None])
    expected = tokenizer.decode(reference.greedy(prompt, 6))
    done = script("sample.py", "--checkpoint", folder, "--prompt", "the fox jumps", *GREEDY)
    assert done.returncode == 0, done.stderr
    assert "\ufffd" not in expected
    assert done.stdout == expected + "\n"


@pytest.mark.slow
def test_gpt2_without_its_vocabulary(script, text_file, tmp_path):
    """A model has its tokenizer: `--tokenizer bpe:1024` would be no help."""
    reference = TorchGPT2(V=50_257, n_layer=1)
    reference.save_hugging_face(tmp_path / "theirs")
    (tmp_path / "nanogpt").mkdir()
    torch.save(reference.nanogpt_checkpoint(), tmp_path / "nanogpt" / "ckpt.pt")
    for folder in ("theirs", "nanogpt"):
        remedy = f"copy GPT-2's vocab.json and merges.txt into {folder}"
        check_mistake(script("sample.py", "--checkpoint", folder), remedy)
        check_mistake(script("train.py", "--data", text_file, "--init-from", folder), remedy)


@pytest.mark.slow
def test_fine_tuning_and_resuming_without_the_weights(nanogpt, script, text_file, tmp_path):
    reference, folder = nanogpt
    flags = ["--data", text_file, "--max-iters", 2, "--eval-interval", 2, "--eval-iters", 1]
    flags += ["--init-from", folder, "--block-size", 24, "--dropout", 0.1]
    done = script("train.py", *flags)
    assert done.returncode == 0, done.stderr
    assert re.search(r"weights +\S*ckpt.pt \(nanoGPT\); positions 16 to 23 are new", done.stdout)
    record = json.loads((tmp_path / "runs/1/config.json").read_text())
    assert record["init_from"] == str(folder)
    assert record["model"]["n_head"] == 3
    assert record["model"]["dropout"] == 0.1
    assert record["learning_rate"] == record["min_lr"] == 3e-5  # small steps, by itself
    last = safetensors.numpy.load_file(tmp_path / "runs/1/last.safetensors")
    theirs = reference.state_dict()
    assert last["wpe.weight"].shape == (24, 12)
    for name in ("h.1.mlp.c_fc.weight", "wte.weight"):  # two small steps away
        step = np.abs(last[name] - theirs[f"transformer.{name}"].numpy()).max()
        assert 0 < step < 1e-4

    (folder / "ckpt.pt").unlink()
    done = script("train.py", "--resume", "--max-iters", 4)
    assert done.returncode == 0, done.stderr
    assert "step 4:" in done.stdout


@pytest.mark.slow
def test_fine_tuning_our_own(script, text_file, tiny, tmp_path):
    flags = ["--data", text_file, "--max-iters", 3, "--eval-interval", 3]
    assert script("train.py", *flags, *tiny, "--out", "first").returncode == 0
    other = tmp_path / "other.txt"
    other.write_text("the lazy dog\n" * 60)  # other text, fewer characters: the tokenizer stays
    flags = ["--data", other, "--max-iters", 1, "--eval-interval", 1, "--eval-iters", 1]
    flags += ["--learning-rate", 1e-9, "--min-lr", 1e-9, "--block-size", 4]
    done = script("train.py", *flags, "--init-from", "first", "--out", "second")
    assert done.returncode == 0, done.stderr
    assert "of its 8 positions the first 4" in done.stdout
    first, second = (
        safetensors.numpy.load_file(tmp_path / run / "best.safetensors")
        for run in ("first", "second")
    )
    for name in first:
        np.testing.assert_allclose(second[name], first[name][: len(second[name])], atol=1e-7)
    done = script(
        "train.py", "--data", other, "--init-from", "first/last.safetensors", "--n-layer", 2
    )
    check_mistake(done, "first/last.safetensors", "--n-layer 1, not 2")
    done = script("train.py", "--data", other, "--init-from", "first", "--tokenizer", "bytes")
    check_mistake(done, "tokenizer char, not bytes")


@pytest.mark.slow
def test_fine_tuning_gpt2_then_exporting_it(gpt2, script, text_file, tmp_path):
    _, _, folder = gpt2
    flags = ["--data", text_file, "--max-iters", 1, "--eval-interval", 1, "--eval-iters", 1]
    done = script("train.py", *flags, "--init-from", folder)
    assert done.returncode == 0, done.stderr
    assert "model.safetensors (GPT-2)" in done.stdout
    done = script("gpt.export", "runs/1")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "runs/1/huggingface\n")
    out = tmp_path / "runs/1/huggingface"
    names = {"config.json", "model.safetensors", "tokenizer_config.json"}
    assert {path.name for path in out.iterdir()} == names | {"vocab.json", "merges.txt"}
    for name in ("vocab.json", "merges.txt"):
        ours, theirs = ((where / name).read_text(encoding="utf-8") for where in (out, folder))
        assert ours == theirs if name == "merges.txt" else json.loads(ours) == json.loads(theirs)
    before = safetensors.torch.load_file(folder / "model.safetensors")
    after = safetensors.torch.load_file(out / "model.safetensors")
    for name, p in after.items():
        torch.testing.assert_close(p, before[name.removeprefix("transformer.")], atol=1e-4, rtol=0)
    check_mistake(script("gpt.export", "runs/1"), "runs/1/huggingface is there already")
    texts = [
        script("sample.py", "--checkpoint", path, "--prompt", "the", *GREEDY).stdout
        for path in ("runs/1", out)
    ]
    assert texts[0] == texts[1] != ""


@pytest.mark.slow
def test_exporting_the_videos_model(script, text_file, tiny, tmp_path):
    flags = ["--data", text_file, "--max-iters", 1, "--eval-interval", 1, *tiny]
    assert script("train.py", *flags).returncode == 0
    check_mistake(script("gpt.export"), "head has a bias", "--tied-head")
    assert sorted(path.name for path in (tmp_path / "runs/1").glob("*hugging*")) == []
    done = script("train.py", *flags, "--tied-head", "--out", "tied")
    assert done.returncode == 0, done.stderr
    done = script("gpt.export", "tied", "--out", "a/b")
    assert (done.returncode, done.stdout) == (0, "a/b\n")
    names = {"config.json", "gpt_tokenizer.json", "model.safetensors"}
    assert {path.name for path in (tmp_path / "a/b").iterdir()} == names


def test_our_files_are_safetensors(script, text_file, tiny, tmp_path):
    """Eight bytes of length, JSON, numbers: readable by anybody."""
    flags = ["--data", text_file, "--max-iters", 1, "--eval-interval", 1, *tiny]
    assert script("train.py", *flags).returncode == 0
    for name in ("best", "last"):
        path = tmp_path / f"runs/1/{name}.safetensors"
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        theirs = safetensors.torch.load_file(path)
        assert header.keys() - {"__metadata__"} == theirs.keys()
        for key, tensor in theirs.items():
            start, end = (8 + length + n for n in header[key]["data_offsets"])
            assert header[key]["dtype"] == "F32"
            numbers = np.frombuffer(content[start:end], "<f4").reshape(header[key]["shape"])
            np.testing.assert_array_equal(numbers, tensor.numpy())


@pytest.mark.slow
def test_mistakes(script, nanogpt, text_file, tmp_path):
    _, folder = nanogpt

    def train(*arguments):
        return script("train.py", "--data", text_file, *arguments)

    check_mistake(train("--init-from", "nothing"), "nothing", "No such file")
    check_mistake(train("--init-from", tmp_path), "no model in")
    check_mistake(train("--init-from", text_file), "text.txt", "safetensors")
    check_mistake(train("--init-from", folder, "--no-tied-head"), "--tied-head True, not False")
    check_mistake(train("--init-from", folder, "--resume"), "--init-from")
    check_mistake(train("--preset", "finetune"), "--init-from")
    (tmp_path / "new.txt").write_text("ÄÖÜ" * 200)
    check_mistake(script("train.py", "--data", "new.txt", "--init-from", folder), "'Ä'")
    torch.save({"model": EVIL["os.system"]}, folder / "ckpt.pt")
    check_mistake(script("sample.py", "--checkpoint", folder), "system")
    assert not list(tmp_path.rglob("pwned"))
    assert not (tmp_path / "runs").exists()
