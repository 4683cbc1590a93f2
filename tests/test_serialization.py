"""Arrays to and from safetensors files; what a crash or a flipped bit leaves."""

import contextlib
import os

import numpy as np
import pytest
import safetensors.torch
import torch

import tensorlib
from tensorlib.serialization import load_file, save_file, write_atomically

ARRAYS = {
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "strided": np.arange(10.0)[::2],
    "number": np.array(3, np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "integers": np.array([[1, -2]], np.int64),
    "tensor": tensorlib.tensor([[1.5, 2.5]], requires_grad=True),
}


def test_round_trip_here_and_in_pytorch(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(ARRAYS, path, {"note": "é\n"})
    arrays, metadata = load_file(path)
    theirs = safetensors.torch.load_file(path)
    assert metadata["note"] == "é\n"
    assert arrays.keys() == theirs.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        expected = value if isinstance(value, np.ndarray) else value.detach().numpy()
        np.testing.assert_array_equal(arrays[name], expected, strict=True)
        np.testing.assert_array_equal(theirs[name].numpy(), expected, strict=True)


def test_a_module_there_and_back(tmp_path):
    path, layer, other = str(tmp_path / "a"), tensorlib.nn.Linear(2, 3), tensorlib.nn.Linear(2, 3)
    save_file(layer.state_dict(), path)
    other.load_state_dict(load_file(path)[0])
    assert tensorlib.equal(layer.weight, other.weight)


def test_what_is_no_tensor_is_refused(tmp_path):
    with pytest.raises(TypeError, match="'model' is a dict"):
        save_file({"model": {}, "step": 3}, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_file_of_pytorchs(tmp_path):
    safetensors.torch.save_file({"w": torch.ones(2, 3)}, tmp_path / "a")
    arrays, metadata = load_file(tmp_path / "a")
    np.testing.assert_array_equal(arrays["w"], np.ones((2, 3), np.float32), strict=True)
    assert metadata == {}


def test_a_flipped_bit_and_a_truncation_are_noticed(tmp_path):
    path = tmp_path / "a"
    save_file({"w": np.arange(3.0), "b": np.ones(1, np.float32)}, path, {"gpt": '{"n": 1}'})
    whole, good = path.read_bytes(), load_file(path)
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"empty|truncated"):
            load_file(path)
    for i in range(len(whole)):
        flipped = bytearray(whole)
        flipped[i] ^= 1 << i % 8
        path.write_bytes(flipped)
        with contextlib.suppress(ValueError):
            arrays, metadata = load_file(path)
            if "sha256" in metadata:  # only a flip in white space passes
                assert metadata == good[1]
                assert {k: v.tolist() for k, v in arrays.items()} == {"w": [0, 1, 2], "b": [1]}


def test_no_safetensors_file_at_all(tmp_path):
    (tmp_path / "a").write_bytes(b"#!/bin/sh\necho hello, this is no safetensors file\n")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_file(tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        load_file(tmp_path / "b")


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch, moment):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    path = tmp_path / "a"
    write_atomically(path, b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, moment, fail)
        with pytest.raises(OSError, match="space"):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
