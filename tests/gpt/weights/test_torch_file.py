"""Files of torch.save and pickle.dump: the same values as PyTorch reads, and nothing else."""

import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from damage import EVIL

from gpt.config import UserError
from gpt.weights.torch_file import TorchFile, unpickle_file
from gpt.weights.unpickle import TorchTensor, unpickle

RANDOM = torch.Generator().manual_seed(0)
TENSORS = {
    **{
        str(dtype): torch.randn(3, 4, generator=RANDOM).to(dtype)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    },
    **{
        str(dtype): torch.arange(5).to(dtype)
        for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    },
    "scalar": torch.tensor(2.5),
    "transposed": torch.randn(3, 4, generator=RANDOM).T,
    "a part": torch.randn(6, 4, generator=RANDOM)[2:5, 1:3],
    "every other": torch.randn(10, generator=RANDOM)[1::2],
    "five dimensions": torch.randn(2, 3, 1, 2, 2, generator=RANDOM).permute(3, 1, 0, 4, 2),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors(name, tmp_path):
    path, tensor = tmp_path / "a.pt", TENSORS[name]
    torch.save({"x": [tensor, tensor]}, path)
    file = TorchFile(path)
    first, second = file.content["x"]
    assert first == second
    stored = file.stored({"x": first})["x"]
    assert stored.shape == tuple(tensor.shape)
    np.testing.assert_array_equal(stored.read(), tensor.float().numpy())
    assert stored.read().dtype == np.float32
    assert stored.read().flags.c_contiguous


VALUES = {
    "a": [1, -1, 255, 65_536, -(2**31), 2**63, True, False, None, 2.5, "", "é 🦊", "x" * 300],
    "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    "dicts": {"empty": {}, 3: OrderedDict([("b", 1), ("a", 2)]), "list": [[], [[]]]},
}
VALUES["again"] = VALUES["tuples"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_values(protocol, tmp_path):
    assert unpickle(pickle.dumps(VALUES, protocol)) == VALUES
    torch.save(VALUES, tmp_path / "a.pt", pickle_protocol=protocol)
    assert TorchFile(tmp_path / "a.pt").content == VALUES


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("name", EVIL)
def test_no_code_of_the_file_runs(name, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": EVIL[name]}, "ckpt.pt", pickle_protocol=protocol)
    with pytest.raises(UserError, match="names '") as error:
        TorchFile(tmp_path / "ckpt.pt")
    assert "\n" not in str(error.value)
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(EVIL[name], protocol))
    with pytest.raises(UserError, match="names '"):
        unpickle_file(tmp_path / "meta.pkl")
    assert not (tmp_path / "pwned").exists()


ORDERED_DICT = b"ccollections\nOrderedDict\n"
PROGRAMS = {
    "an instruction that calls": b"\x80\x02i" + b"os\nsystem\n.",
    "OBJ": b"\x80\x02(" + ORDERED_DICT + b"o.",
    "NEWOBJ": b"\x80\x02" + ORDERED_DICT + b")\x81.",
    "arguments for a dictionary": b"\x80\x02" + ORDERED_DICT + b"(K\x01tR.",
    "a storage that is called": b"\x80\x02ctorch\nFloatStorage\n)R.",
    "a number that is called": b"\x80\x02K\x01)R.",
    "too little on the stack": b"\x80\x02\x87.",
    "nothing": b"\x80\x02.",
    "no end": b"\x80\x02K\x01",
    "no mark": b"\x80\x02t.",
    "no list": b"\x80\x02}K\x01a.",
    "no dictionary": b"\x80\x02]K\x01K\x02s.",
    "a key without a value": b"\x80\x02}(K\x01u.",
    "a memo that is empty": b"\x80\x02h\x05.",
    "a string beyond the end": b"\x80\x02X\xff\xff\xff\x7f.",
    "a text that is not UTF-8": b"\x80\x02X\x01\0\0\0\xff.",
    "an attribute of nothing": b"\x80\x02b.",
    "a key that is a tuple": b"\x80\x02})K\x01s.",
    "a key that is a long number": b"\x80\x02}\x8a\x09\0\0\0\0\0\0\0\0\x01K\x01s.",
    "a persistent number": b"\x80\x02K\x01Q.",
    "no pickle": b"hello",
    "empty": b"",
    "a memo of four billion": b"\x80\x02K\x01r\xff\xff\xff\xffh\x05.",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_that_are_refused(name):
    with pytest.raises(ValueError) as error:
        unpickle(PROGRAMS[name])
    assert "\n" not in str(error.value)


def test_a_tuple_of_tuples_that_would_be_hashed_for_ever():
    program = b"\x80\x02})" + b"q\x00h\x00\x86" * 64 + b"K\x01s."  # t = (t, t), 64 times, as a key
    with pytest.raises(ValueError, match="damaged"):
        unpickle(program)


def test_a_hundred_thousand_nested_lists():
    unpickle(b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".")


def tensor_program(shape, stride, offset=0, length=6, key="0"):
    """`_rebuild_tensor_v2` on a storage, as torch.save writes it."""

    def numbers(values):
        return b"(" + b"".join(b"\x8a\x09" + n.to_bytes(9, "little") for n in values) + b"t"

    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + key.encode()
    storage += b"X\x03\0\0\0cpu" + numbers([length])[1:-1] + b"tQ"
    arguments = storage + numbers([offset])[1:-1] + numbers(shape) + numbers(stride) + b"\x89}"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR."


def test_a_tensor_by_hand():
    tensor = unpickle(tensor_program([2, 3], [3, 1]))
    assert isinstance(tensor, TorchTensor)
    assert (tensor.shape, tensor.stride, tensor.storage.length) == ((2, 3), (3, 1), 6)


@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [
        ([2, 3], [3, 1], 1),
        ([7], [1], 0),
        ([2, 3], [4, 1], 0),
        ([2**40], [0], 0),  # a terabyte of one number
        ([2**61, 2**61], [0, 0], 0),
        ([2, 3], [3], 0),
        ([1], [1], 2**70),
        ([0], [1], 0),
        ([1] * 7, [2**60] * 7, 2**60),
    ],
)
def test_tensors_beyond_their_storage(shape, stride, offset):
    with pytest.raises(ValueError):
        unpickle(tensor_program(shape, stride, offset))


def archive(path, program, storage=b"", compression=zipfile.ZIP_STORED, name="data.pkl"):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr(f"archive/{name}", program)
        file.writestr("archive/data/0", storage)
    return path


def test_a_storage_that_is_truncated(tmp_path):
    file = TorchFile(
        archive(tmp_path / "a", tensor_program([6], [1]), struct.pack("<6f", *range(6)))
    )
    assert file.stored({"x": file.content})["x"].read().tolist() == [0, 1, 2, 3, 4, 5]
    file = TorchFile(archive(tmp_path / "b", tensor_program([6], [1]), b"123"))
    with pytest.raises(UserError, match="truncated"):
        file.stored({"x": file.content})["x"].read()


def test_a_storage_that_is_not_there(tmp_path):
    file = TorchFile(archive(tmp_path / "a", tensor_program([6], [1], key="7"), bytes(24)))
    with pytest.raises(UserError, match="damaged"):
        file.stored({"x": file.content})["x"].read()


def test_tensors_that_claim_more_than_the_file_is_large(tmp_path):
    huge = tensor_program([10**9], [1], length=10**9)
    file = TorchFile(archive(tmp_path / "a", huge, bytes(24)))
    with pytest.raises(UserError, match="larger than the file"):
        file.stored({"x": file.content})
    small = TorchFile(archive(tmp_path / "b", tensor_program([6], [1]), bytes(24)))
    with pytest.raises(UserError, match="larger than the file"):
        small.stored({str(i): small.content for i in range(1000)})


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_bomb(compression, tmp_path):
    path = archive(tmp_path / "a", b"\x80\x02" + b"0" * 10**7, compression=compression)
    with pytest.raises(UserError, match="compressed"):
        TorchFile(path)


def test_a_pickle_that_is_too_long(tmp_path):
    with pytest.raises(UserError, match="larger"):
        TorchFile(archive(tmp_path / "a", b"\x80\x02" + b"]" * (5 << 20)))


def test_the_format_before_2020(tmp_path):
    torch.save({}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="before 2020"):
        TorchFile(tmp_path / "a.pt")


def test_another_zip_archive(tmp_path):
    with pytest.raises(UserError, match=r"not of torch\.save"):
        TorchFile(archive(tmp_path / "a", b"", name="other"))
