"""Command lines: flags, presets, help, and one clear line for a mistake."""

import dataclasses
import io
import re
import sys

import pytest

import tensorlib
from gpt.commands import cli
from gpt.config import (
    PRESETS,
    ExportConfig,
    GPTConfig,
    ReportConfig,
    SampleConfig,
    Sampling,
    TrainConfig,
    UserError,
)
from lessons.ex2b_calculator import Calculator


def test_without_flags_a_cpu_gets_nanogpts_recipe(monkeypatch):
    monkeypatch.setattr(cli, "find_device", lambda name: "cpu")
    assert cli.train_config([]) == dataclasses.replace(TrainConfig(), preset="nanogpt-cpu")


def test_without_flags_a_gpu_gets_the_videos_model(monkeypatch):
    monkeypatch.setattr(cli, "find_device", lambda name: "cpu" if name == "cpu" else "cuda")
    assert cli.train_config([]) == dataclasses.replace(PRESETS["video"], preset="video")
    assert cli.train_config(["--device", "cpu"]).preset == "nanogpt-cpu"


def test_flags_override_the_preset_wherever_they_stand():
    line = "--n-head 12 --preset video --device cpu --tied-head --no-bias --learning_rate=2e-4"
    config = cli.train_config([*line.split(), "--min-lr", "0"])
    model = dataclasses.replace(PRESETS["video"].model, n_head=12, tied_head=True, bias=False)
    assert config.model == model
    assert (config.learning_rate, config.min_lr, config.batch_size) == (2e-4, 0, 64)


def test_sampling_flags():
    config = cli.parse(SampleConfig, ["--prompt", "- a", "--top-k", "3", "--temperature", "0"])
    assert config == SampleConfig(prompt="- a", sampling=Sampling(temperature=0, top_k=3))


WRONG = {
    "--n-layr 3": r"unknown flag --n-layr; did you mean --n-layer\?",
    "--nlayer=3": r"unknown flag --nlayer; did you mean --n-layer\?",
    "--run 3": r"unknown flag --run; see --help",
    "--batchsize 3": r"unknown flag --batchsize; did you mean --batch-size\?",
    "--vocab-size 3": r"unknown flag --vocab-size; did you mean --block-size\?",
    "--lr 3": r"unknown flag --lr; did you mean --learning-rate\?",
    "--max-iters 1e5": "^--max-iters: '1e5' is no whole number$",
    "--dropout x": "^--dropout: 'x' is no number$",
    "--xyzzy": "unknown flag --xyzzy; see --help",
    "stray": "unexpected argument 'stray': .* --data stray ",
    "--overwrite stray": "unexpected argument 'stray': --overwrite takes no value, ",
    "--data a.txt b.txt": "'b.txt': --data takes one value, in quotes if",
    "--data a.txt --bias false": "'false': --bias takes no value, its opposite is --no-bias$",
    "--no-bias=1": "unexpected argument '1': --bias takes no value, its opposite is --no-bias$",
    "–data 3": r"unknown flag –data; did you mean --data\?",
    "-data 3": r"unknown flag -data; did you mean --data\?",
    "--out a --out=b": "^--out is there twice, and takes one path$",
    "--init_from a --init-from b": "^--init-from is there twice, and takes one path$",
    "--learning-rate 0,001": "^--learning-rate: '0,001' is no number$",
    "--n-layer x": "--n-layer: .*'x'",
    "--n-layer": "missing value .*--n-layer",
    "--preset huge": "'huge'.*'nanogpt-cpu', 'video', 'notebook'",
    "--device tpu": "'tpu'.*'cpu', 'gpu', 'cuda'",
    "--activation silu": "'silu'.*'relu', 'gelu', 'gelu_tanh'",
    "--n-embd 130": r"^--n-embd \(130\) must be a multiple of --n-head \(4\), so that",
    "--preset video --n-head 5": r"^--n-embd \(384\) must be a multiple of --n-head \(5\)",
    "--dropout 1": r"^--dropout is 1\.0, but must be in \[0, 1\)$",
    "--learning-rate nan": "^--learning-rate is nan, but must be a positive number$",
    "--max_iters 0": "^--max-iters is 0, but must be at least 1$",
    "--min-lr 1": r"^--min-lr \(1\.0\) must not be above --learning-rate \(0\.001\)$",
    "--processes all": "^--processes: 'all' is no whole number$",
    "--sample-interval 1.5": r"^--sample-interval: '1\.5' is no whole number$",
    "--processes 13": "^--processes is 13, but must be from 1 to --batch-size$",
    f"--max-iters {2**63}": rf"^--max-iters is {2**63}, but must be below {2**63}$",
    "--tokenizer data": "^--tokenizer is 'data', but must be char, bytes, gpt2, or bpe:SIZE, ",
}


@pytest.mark.parametrize("arguments", WRONG)
@pytest.mark.parametrize("columns", ["40", "80", "300"])
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])  # tyro draws its boxes accordingly
def test_a_mistake_is_one_line(arguments, columns, encoding, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    with pytest.raises(UserError, match=WRONG[arguments]) as error:
        cli.train_config(["--device", "cpu", *arguments.split()])
    assert not re.search(r"[\n│╭─]|  |--$|Error parsing", str(error.value))
    assert sys.stdout.tell() == 0
    assert capsys.readouterr().err == ""


PATHS = [
    (config, "" if "Positional" in str(field.type) else "--" + field.name.replace("_", "-"))
    for config in (TrainConfig, SampleConfig, ReportConfig, ExportConfig, Calculator)
    for field in dataclasses.fields(config)
    if "Path" in str(field.type)
]


@pytest.mark.parametrize(("config", "flag"), PATHS)
def test_a_variable_that_is_not_set_does_not_mean_this_folder(config, flag):
    for arguments in [flag, ""] if flag else [""], [f"{flag}="] if flag else [""]:
        with pytest.raises(UserError, match="the path is empty; give one") as error:
            cli.parse(config, arguments)
        assert str(error.value).startswith(flag)


def test_what_stands_alone_is_given_the_flag_that_it_may_want(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "1").mkdir(parents=True)
    (tmp_path / "runs" / "1" / "config.json").touch()
    for config, value, flag in [
        (TrainConfig, "runs/1", "--out runs/1"),
        (TrainConfig, "my text.txt", "--data 'my text.txt'"),
        (SampleConfig, "runs/1", "--checkpoint runs/1"),
        (SampleConfig, "ROMEO:", "--prompt ROMEO:"),
    ]:
        with pytest.raises(UserError, match=re.escape(f"perhaps {flag} (see --help)")):
            cli.parse(config, [value])


def test_a_prompt_may_look_like_flags():
    assert cli.parse(SampleConfig, ["--prompt=--seed --seed"]).prompt == "--seed --seed"
    assert cli.parse(SampleConfig, ["--prompt", "a --seed b", "--seed", "1"]).seed == 1


def test_a_gpu_that_cannot_be_used():
    if tensorlib.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match=r"--device gpu: no GPU"):
        cli.find_device("gpu")
    assert cli.find_device("auto") == cli.find_device("cpu") == "cpu"


def flags(config):
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from flags(value)
        elif field.name != "vocab_size":
            yield "--" + field.name.replace("_", "-")


@pytest.mark.parametrize("config", [TrainConfig(), SampleConfig()])
def test_help_has_a_line_for_every_flag_within_80_columns(config, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as leave:
        cli.parse(type(config), ["--help"])
    assert leave.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "vocab" not in text
    assert "None" not in text
    entries = re.split(r"\n[│ ] (?=--?[a-z])", text)[1:]
    described = {re.match(r"--[a-z0-9-]+|-h", entry)[0]: entry for entry in entries}
    assert set(described) == {"-h", *flags(config)}
    assert all("(default:" in entry for flag, entry in described.items() if flag != "-h")


def test_help_shows_the_presets_defaults(capsys):
    with pytest.raises(SystemExit):
        cli.train_config(["--preset", "video", "--help"])
    assert re.search(r"--max-iters INT .*\(default: 5000\)", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("no"), 2, "error: no\n"),
        (MemoryError(), 2, "error: out of memory; take a smaller"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_become_statuses(error, status, line, capsys, monkeypatch):
    monkeypatch.setattr(cli.signals, "ignore", lambda: None)  # pytest lives on

    def main():
        raise error

    with pytest.raises(SystemExit) as leave:
        cli.run(main)
    assert leave.value.code == status
    told = capsys.readouterr().err
    assert told.startswith(line)
    assert told.count("\n") == bool(line)


def test_a_bug_of_ours_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 / 0)


def test_gpt_config_needs_no_command_line():
    assert GPTConfig(n_layer=2).n_layer == 2
