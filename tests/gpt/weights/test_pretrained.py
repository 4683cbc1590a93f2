"""Models that others trained: the same logits, the same text, and what is refused."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from damage import EVIL
from torch_gpt2 import TorchGPT2

import tensorlib
from gpt import GPT, GPTConfig
from gpt.config import PRESETS, UserError
from gpt.weights.pretrained import load, parameter_shapes

LETTERS = "abcdefghijklmnopqrstuvwxyz .,!?\n"  # 32
CHARS = "".join(sorted(LETTERS))
X = torch.randint(0, 32, (3, 16), generator=torch.Generator().manual_seed(1))


def our_logits(model, x=X):
    with tensorlib.no_grad(), model.evaluating():
        return model(tensorlib.from_numpy(x.numpy()))[0].numpy()


def check_same(model, reference, x=X):
    """Logits, and the text that always takes the likeliest token."""
    theirs = reference(x).numpy()[..., : model.config.vocab_size]
    assert np.abs(our_logits(model, x) - theirs).max() <= 1e-5
    begin = x[:1, :4]
    tokens = model.generate(tensorlib.from_numpy(begin.numpy()), 12, temperature=0)
    assert tokens.numpy()[0].tolist() == reference.greedy(begin, 12)


@pytest.fixture
def our_characters(monkeypatch):
    """GPT-2's tokenizer is not needed here: 32 tokens will do."""

    class Tokenizer:
        name, vocab_size = "gpt2", 32

    monkeypatch.setattr("gpt.weights.pretrained.gpt2_tokenizer", lambda instead: Tokenizer())


def save_nanogpt(model, folder, chars=CHARS, **options):
    folder.mkdir(exist_ok=True)
    torch.save(model.nanogpt_checkpoint(**options), folder / "ckpt.pt")
    meta = {
        "vocab_size": len(chars),
        "itos": dict(enumerate(chars)),
        "stoi": {char: i for i, char in enumerate(chars)},
    }
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return folder / "ckpt.pt"


@pytest.mark.parametrize(
    "config",
    [PRESETS["notebook"].model, GPTConfig(11, 8, 2, 2, 12, bias=False, tied_head=True),
     GPTConfig(11, 8, 1, 2, 12, qkv_bias=True, tied_head=True), GPTConfig(11, 8, 1, 2, 12)],
)  # fmt: skip
def test_the_shapes_of_all_parameters(config):
    shapes = {name: tuple(p.shape) for name, p in GPT(config).named_parameters()}
    assert parameter_shapes(config) == shapes


# ----------------------------------------------------------------------------------------- nanoGPT


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
def test_nanogpt(bias, compiled, tmp_path):
    reference = TorchGPT2(V=32, bias=bias, activation="gelu")
    save_nanogpt(reference, tmp_path, compiled=compiled)
    found = load(tmp_path)
    assert found.config == GPTConfig(
        32, 16, 2, 3, 12, dropout=0.2, activation="gelu", bias=bias, qkv_bias=bias,
        tied_head=True, scaled_init=True,
    )  # fmt: skip
    assert found.tokenizer.chars == CHARS
    check_same(found.model(), reference)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_nanogpt_in_other_numbers(dtype, tmp_path):
    reference = TorchGPT2(V=32, activation="gelu")
    found = load(save_nanogpt(reference, tmp_path, dtype=dtype))
    reference.to(dtype).float()
    check_same(found.model(), reference)


def test_nanogpt_with_tensors_that_are_not_contiguous(tmp_path):
    reference = TorchGPT2(V=32, activation="gelu")
    save_nanogpt(reference, tmp_path)
    checkpoint = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    for name, p in checkpoint["model"].items():
        checkpoint["model"][name] = (
            torch.stack([p, p], dim=-1)[..., 0] if p.dim() < 2 else p.T.clone().T
        )
    torch.save(checkpoint, tmp_path / "ckpt.pt")
    check_same(load(tmp_path).model(), reference)


def test_rows_that_round_up_a_vocabulary_are_left_out(tmp_path):
    """nanoGPT makes 50,257 tokens 50,304: the others' logits stay as they are."""
    reference = TorchGPT2(V=40, activation="gelu")
    found = load(save_nanogpt(reference, tmp_path))
    assert found.config.vocab_size == 32
    model = found.model()
    assert model.wte.weight.shape == (32, 12)
    assert np.abs(our_logits(model) - reference(X).numpy()[..., :32]).max() <= 1e-5


def test_nanogpt_without_its_alphabet(tmp_path):
    path = save_nanogpt(TorchGPT2(V=32, activation="gelu"), tmp_path)
    (tmp_path / "meta.pkl").unlink()
    assert "meta.pkl" in refusal(path)


def test_nanogpts_bpe_needs_no_meta(tmp_path, our_characters, monkeypatch):
    monkeypatch.setattr("gpt.weights.pretrained._GPT2_TOKENS", 32)
    path = save_nanogpt(TorchGPT2(V=40, activation="gelu"), tmp_path)
    (tmp_path / "meta.pkl").unlink()
    assert load(path).tokenizer.name == "gpt2"


# ------------------------------------------------------------------------------------ Hugging Face


@pytest.mark.parametrize("prefix", ["transformer.", ""])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_hugging_face(prefix, dtype, tmp_path, our_characters):
    reference = TorchGPT2(V=32)
    reference.save_hugging_face(tmp_path, prefix=prefix, dtype=dtype, buffers=prefix == "")
    reference.to(dtype).float()
    for path in (tmp_path, tmp_path / "model.safetensors"):
        found = load(path)
        assert found.config == GPTConfig(
            32, 16, 2, 3, 12, activation="gelu_tanh", qkv_bias=True, tied_head=True,
            scaled_init=True,
        )  # fmt: skip
        check_same(found.model(), reference)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_hugging_face_with_another_activation(activation, tmp_path, our_characters):
    reference = TorchGPT2(V=32, activation=activation)
    reference.save_hugging_face(tmp_path)
    check_same(load(tmp_path).model(), reference)


def test_hugging_face_with_a_head_of_its_own(tmp_path, our_characters):
    reference = TorchGPT2(V=32, tied=False)
    reference.save_hugging_face(tmp_path)
    check_same(load(tmp_path).model(), reference)


def test_hugging_face_in_several_files(tmp_path, our_characters):
    reference = TorchGPT2(V=32)
    reference.save_hugging_face(tmp_path, shards=3)
    check_same(load(tmp_path).model(), reference)
    check_same(load(tmp_path / "model.safetensors.index.json").model(), reference)


def test_hugging_face_without_a_config(tmp_path, our_characters):
    reference = TorchGPT2(V=32, C=128, n_head=2)  # every GPT-2 has 64 channels to a head
    reference.save_hugging_face(tmp_path)
    (tmp_path / "config.json").unlink()
    assert load(tmp_path).config.n_head == 2
    check_same(load(tmp_path).model(), reference, X[:, :8])


@pytest.mark.slow
def test_transformers_own_files(tmp_path, our_characters):
    """The real thing, where it is installed."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=32, n_positions=16, n_layer=2, n_head=3, n_embd=12, initializer_range=0.3
    )
    torch.manual_seed(0)
    reference = transformers.GPT2LMHeadModel(config).eval()
    reference.save_pretrained(tmp_path)
    with torch.no_grad():
        theirs = reference(X).logits.numpy()
    assert np.abs(our_logits(load(tmp_path).model()) - theirs).max() <= 1e-5


# --------------------------------------------------------------------------------- other contexts


def test_another_context_length(tmp_path):
    reference = TorchGPT2(V=32, activation="gelu")
    found = load(save_nanogpt(reference, tmp_path))
    shorter = GPT(dataclasses.replace(found.config, block_size=8))
    found.restore(shorter)
    assert np.abs(our_logits(shorter, X[:, :8]) - reference(X[:, :8]).numpy()).max() <= 1e-5
    tensorlib.manual_seed(0)
    longer = GPT(dataclasses.replace(found.config, block_size=24))
    before = longer.wpe.weight.detach().numpy().copy()
    found.restore(longer)
    assert np.abs(our_logits(longer) - reference(X).numpy()).max() <= 1e-5
    after = longer.wpe.weight.detach().numpy()
    np.testing.assert_array_equal(after[16:], before[16:])
    assert 0.01 < after[16:].std() < 0.03  # fresh ones, N(0, 0.02)


def test_weights_are_read_one_at_a_time(tmp_path, our_characters):
    """What reading needs beside the model is one tensor, not all of them."""
    tracemalloc = pytest.importorskip("tracemalloc")
    TorchGPT2(V=32, C=96, n_layer=8, n_head=2).save_hugging_face(tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size
    tracemalloc.start()
    model = load(tmp_path).model()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert model.num_parameters() * 4 > 0.95 * size
    assert peak < 1.3 * size


# ---------------------------------------------------------------------------------------- refusals


def refusal(path):
    with pytest.raises(UserError) as error:
        load(path)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_nothing_there(tmp_path):
    assert "No such file" in refusal(tmp_path / "nothing")
    assert "huggingface.co" in refusal(tmp_path / "gpt2-xl")
    assert "no model" in refusal(tmp_path)


def test_another_model_of_hugging_faces(tmp_path, our_characters):
    reference = TorchGPT2(V=32)
    for changes, message in (
        ({"model_type": "llama"}, "llama"),
        ({"activation_function": "silu"}, "silu"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn"),
        ({"n_head": 5}, "n_head"),
        ({"n_head": "3"}, "damaged"),
        ({"n_head": [3]}, "damaged"),
        ({"activation_function": ["gelu"]}, "activation"),
    ):
        reference.save_hugging_face(tmp_path)
        config = json.dumps(reference.hugging_face_config(**changes))
        (tmp_path / "config.json").write_text(config)
        assert message in refusal(tmp_path)
    for content in ("[]", "{", "[" * 100_000, '{"a": ' * 50_000):
        (tmp_path / "config.json").write_text(content)
        assert "damaged" in refusal(tmp_path)


def test_tensors_that_do_not_fit(tmp_path, our_characters):
    reference = TorchGPT2(V=32)
    whole = reference.hugging_face_tensors()
    file = tmp_path / "model.safetensors"
    reference.save_hugging_face(tmp_path)

    def message(**changes):
        tensors = {k: v for k, v in (whole | changes).items() if v is not None}
        safetensors.torch.save_file(tensors, file)
        return refusal(file)

    assert "ln_f.bias" in message(**{"transformer.ln_f.bias": None})
    assert "q_norm" in message(**{"transformer.h.0.attn.q_norm": torch.ones(3)})
    assert "h.1.mlp.c_fc.weight" in message(
        **{"transformer.h.1.mlp.c_fc.weight": torch.ones(12, 40)}
    )
    assert "wte" in message(**{"transformer.wte.weight": None})
    assert "wte" in message(**{"transformer.wte.weight": torch.ones(3)})
    assert "20 tokens" in message(**{"transformer.wte.weight": torch.ones(20, 12)})
    assert "lacks" in message(**{"transformer.ln_f.bias": torch.ones(12).int()}) or True
    file.write_bytes(file.read_bytes()[:-10])
    assert "truncated" in refusal(file)


def test_an_index_that_leads_elsewhere(tmp_path, our_characters):
    index = tmp_path / "model.safetensors.index.json"
    for names in (
        {"wte.weight": "../secret"},
        {"wte.weight": "/etc/passwd"},
        ["a"],
        {"a": 3},
        None,
    ):
        index.write_text(json.dumps({"weight_map": names}))
        assert "damaged" in refusal(index)


def test_a_checkpoint_that_is_not_nanogpts(tmp_path):
    path = tmp_path / "ckpt.pt"
    for content in ({}, [], {"model": {}}, {"model": [], "model_args": {}}, torch.ones(3)):
        torch.save(content, path)
        assert "no checkpoint of nanoGPT" in refusal(path)
    good = TorchGPT2(V=32, activation="gelu").nanogpt_checkpoint()
    for changes in (
        {"model": good["model"] | {"a": 3}},
        {"model": {}},
        {"model_args": {"n_head": "a"}},
    ):
        torch.save(good | changes, path)
        refusal(path)


@pytest.mark.parametrize("name", EVIL)
def test_no_code_of_a_file_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save_nanogpt(TorchGPT2(V=32, activation="gelu"), tmp_path)
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(EVIL[name]))
    with pytest.raises(UserError, match="names"):
        load(path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "itos", [{}, {0: "b", 1: "a"}, {0: "a", 2: "b"}, {0: "ab"}, {0: 1}, ["a"], {0: "\ud800"}]
)
def test_an_alphabet_that_is_none(itos, tmp_path):
    path = save_nanogpt(TorchGPT2(V=32, activation="gelu"), tmp_path)
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"itos": itos}))
    with pytest.raises(UserError, match=r"meta\.pkl"):
        load(path)
