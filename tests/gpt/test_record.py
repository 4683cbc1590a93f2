"""`--config`: a run's settings, from a file that may be anybody's."""

import dataclasses
import json
import typing
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from gpt.commands import cli
from gpt.config import PRESETS, GPTConfig, TrainConfig, UserError
from gpt.record import from_record, read_config, to_record


@pytest.fixture
def read(tmp_path):
    """read(content): the configuration of a file with this content."""

    def from_content(content):
        path = tmp_path / "c.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_config(path)

    return from_content


def test_every_setting_is_read_back(tmp_path):
    changed = TrainConfig(
        data=Path("a/é.txt"), seed=2**64 - 1, learning_rate=2.0, processes=3, sample_interval=7,
        sample_prompt="a\nb", dtype="tf32", preset="notebook",
        model=GPTConfig(n_layer=1, bias=False, dropout=0.5, activation="gelu"),
    )  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(to_record(changed)))
    assert read_config(tmp_path) == read_config(tmp_path / "config.json") == changed
    for cls in (TrainConfig, GPTConfig):  # a type that from_record does not know would say so
        default = to_record(TrainConfig(model=GPTConfig()))
        from_record(default)
        assert typing.get_type_hints(cls).keys() == {f.name for f in dataclasses.fields(cls)}


def test_where_one_run_is_kept_is_not_taken_over(read):
    record = to_record(TrainConfig(out=Path("runs/1"), resume=True, config=Path("c")))
    assert read(json.dumps(record)) == TrainConfig()


def test_a_few_settings_by_hand(read):
    config = read(
        '\ufeff{"preset": "video", "max_iters": 7, "grad_clip": 1, "model": {"n_layer": 2}}'
    )
    shape = dataclasses.replace(PRESETS["video"].model, n_layer=2)
    expected = dataclasses.replace(
        PRESETS["video"], preset="video", max_iters=7, grad_clip=1.0, model=shape
    )
    assert config == expected
    assert isinstance(config.grad_clip, float)


def test_flags_override_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.json"
    path.write_text('{"preset": "notebook", "max_iters": 7, "eval_iters": 8}')
    config = cli.train_config(["--eval-iters", "9", "--config", str(path), "--device", "cpu"])
    assert (config.max_iters, config.eval_iters, config.batch_size) == (7, 9, 16)
    assert (config.preset, config.out, config.config) == ("notebook", None, path)
    with pytest.raises(UserError, match="--preset notebook already"):
        cli.train_config(["--config", str(path), "--preset", "video"])
    with pytest.raises(UserError, match="leave --config out"):
        cli.train_config(["--config", str(path), "--resume"])


WRONG = {
    "": "is not JSON: Expecting value: line 1",
    "{": "is not JSON: Expecting property name",
    "[1]": r"a configuration is \{name: value, \.\.\.\}, not \[1\]",
    "null": "not None",
    '{"n_layr": 3}': r"no setting 'n_layr'; did you mean model\.n_layer\?",
    '{"model": {"n_layr": 3}}': r"no setting 'model\.n_layr'; did you mean model\.n_layer\?",
    '{"dropout": 0.1}': r"'dropout'; did you mean model\.dropout\?",
    '{"model": {"max_iters": 3}}': r"'model\.max_iters'; did you mean max_iters\?",
    '{"max-iters": 3}': r"'max-iters'; did you mean max_iters\?",
    '{"xyzzy": 3}': "'xyzzy'; a newer version may know it",
    '{"model": 3}': "model is {name: value, ...}, not 3",
    '{"max_iters": true}': "max_iters is True, but must be a whole number",
    '{"max_iters": 2.0}': "max_iters is 2.0, but must be a whole number",
    '{"max_iters": "2"}': "max_iters is '2', but must be a whole number",
    '{"max_iters": null}': "max_iters is None",
    '{"max_iters": 0}': "max_iters is 0, but must be at least 1",
    '{"max_iters": 1' + "0" * 60 + "}": "max_iters is 1000.*, but must be a whole number",
    '{"seed": 1' + "0" * 5000 + "}": "is not JSON: Exceeds the limit",
    '{"processes": [1]}': r"processes is \[1\], but must be a whole number",
    '{"learning_rate": NaN}': "learning_rate is nan, but must be a number",
    '{"weight_decay": 1e999}': "weight_decay is inf, but must be a number",
    '{"beta1": 1' + "0" * 400 + "}": "beta1 is 1000.*, but must be a number",
    '{"model": {"bias": 1}}': "model.bias is 1, but must be true or false",
    '{"model": {"activation": ["relu"]}}': "model.activation is .*, but must be one of relu, gelu",
    '{"model": {"n_embd": 130}}': r"n_embd \(130\) must be a multiple",
    '{"device": "tpu"}': "device is 'tpu', but must be one of auto, cpu, gpu, cuda",
    '{"preset": {}}': "preset is {}, but must be one of",
    '{"data": "a\\u0000"}': "data is .*, but must be a path",
    '{"data": "\\ud800"}': "data is .*, but must be a path",
    '{"sample_prompt": 3}': "sample_prompt is 3, but must be a text",
    '{"seed": 1, "seed": 2}': "'seed' is there twice",
    "[" * 100_000: "is not JSON: (maximum recursion depth|Stack overflow)",  # Python 3.14 says
    '{"data": ' + "[" * 900 + "]" * 900 + "}": "but must be a path",
    " " * 2_000_000: "more than a configuration can be long",
}


@pytest.mark.parametrize("content", WRONG, ids=lambda content: content[:30])
def test_a_wrong_file_is_one_line(content, read):
    with pytest.raises(UserError, match=WRONG[content]) as error:
        read(content)
    assert "c.json" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_files_that_are_none(read, tmp_path):
    with pytest.raises(UserError, match=r"cannot read --config .*nothing: No such file"):
        read_config(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"cannot read --config .*config\.json: No such file"):
        read_config(tmp_path)
    with pytest.raises(UserError, match="is not JSON: 'utf-8' codec"):
        read(b'{"seed": "\xff"}')
    if Path("/dev/zero").exists():  # without an end
        with pytest.raises(UserError, match="more than a configuration"):
            read_config(Path("/dev/zero"))


@pytest.mark.slow
def test_a_run_is_repeated_bit_for_bit(script, text_file, tiny, tmp_path):
    flags = ["--data", text_file, "--max-iters", 6, "--eval-interval", 3, *tiny, "--seed", 5]
    flags += ["--dropout", 0.2, "--learning-rate", 0.01, "--sample-prompt", "the "]
    first = script("train.py", *flags)
    assert first.returncode == 0, first.stderr
    again = script("train.py", "--config", "runs/1")
    assert again.returncode == 0, again.stderr
    assert again.stdout.replace("runs/2", "runs/1") == first.stdout
    runs = [tmp_path / "runs" / name for name in ("1", "2")]
    one, two = (safetensors.numpy.load_file(run / "last.safetensors") for run in runs)
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], name)
    records = [json.loads((run / "config.json").read_text()) for run in runs]
    assert records[1] == records[0] | {"config": "runs/1"}


def test_a_wrong_file_on_the_command_line(script, tmp_path):
    (tmp_path / "c.json").write_text('{"n_layr": 3}')
    done = script("train.py", "--config", "c.json")
    assert (done.returncode, done.stdout) == (2, "")
    hint = "there is no setting 'n_layr'; did you mean model.n_layer?"
    assert done.stderr == f"error: c.json: {hint}\n"
