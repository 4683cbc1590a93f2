"""The configuration: what it refuses, its presets, its way through JSON."""

import dataclasses
import json
import typing

import pytest

from gpt.config import (
    PRESETS,
    GPTConfig,
    Preset,
    SampleConfig,
    Sampling,
    Stream,
    TrainConfig,
    UserError,
)
from gpt.record import from_record, to_record


def test_defaults_are_nanogpts_cpu_recipe():
    config = TrainConfig()
    assert config.model == GPTConfig(65, 64, 4, 4, 128, 0.0)
    assert (config.batch_size, config.max_iters, config.warmup_iters) == (12, 2000, 100)
    assert (config.learning_rate, config.min_lr) == (1e-3, 1e-4)
    assert (config.beta1, config.beta2) == (0.9, 0.99)
    assert (config.weight_decay, config.grad_clip) == (0.1, 1.0)


def test_preset_video_has_the_settings_of_the_videos_script():
    config = PRESETS["video"]
    assert config.model == GPTConfig(65, 256, 6, 6, 384, 0.2)
    assert (config.batch_size, config.max_iters) == (64, 5000)
    assert (config.eval_interval, config.eval_iters) == (500, 200)
    assert config.learning_rate == config.min_lr == 3e-4  # no schedule
    assert config.warmup_iters == config.grad_clip == 0
    assert (config.beta1, config.beta2, config.weight_decay) == (0.9, 0.999, 0.01)  # AdamW's own


def test_every_preset_can_be_chosen_and_nothing_else():
    assert set(typing.get_args(Preset)) == {"auto", *PRESETS}


@pytest.mark.parametrize("name", PRESETS)
def test_a_record_is_json_and_comes_back(name):
    config = dataclasses.replace(PRESETS[name], preset=name, data="a/text.txt", seed=2**63)
    record = json.loads(json.dumps(to_record(from_record(to_record(config)))))
    assert from_record(record) == dataclasses.replace(config, data=from_record(record).data)
    assert str(from_record(record).data) == "a/text.txt"
    assert from_record(record).out is None


NAN, INF = float("nan"), float("inf")
TOKENIZERS = ["bpe:256", "bpe:many", "bpe:", "bpe:-300", "BPE:300", "bpe:99999999", "word", ""]
WRONG = [
    *((TrainConfig, "tokenizer", value) for value in TOKENIZERS),
    (TrainConfig, "glob", " "),
    *((GPTConfig, name, 0) for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd")),
    (GPTConfig, "n_embd", 130),
    *((GPTConfig, "n_layer", value) for value in (2.5, 4.0, "4", None)),
    *((TrainConfig, name, 1.5) for name in ("seed", "processes", "batch_size", "early_stop")),
    (TrainConfig, "processes", 13),
    (Sampling, "top_k", 1.5),
    (SampleConfig, "num_samples", 1.5),
    *((GPTConfig, "dropout", value) for value in (-0.1, 1.0, NAN)),
    (GPTConfig, "activation", "silu"),
    *((TrainConfig, n, 0) for n in ("max_iters", "eval_interval", "eval_iters", "batch_size")),
    *((TrainConfig, name, -1) for name in ("seed", "warmup_iters", "weight_decay", "grad_clip")),
    *((TrainConfig, name, 2**63) for name in ("max_iters", "warmup_iters", "grad_accum")),
    (TrainConfig, "sample_interval", -1),
    (TrainConfig, "seed", 2**64),
    *((TrainConfig, "learning_rate", value) for value in (0.0, -1.0, NAN, INF)),
    *((TrainConfig, "min_lr", value) for value in (-1.0, 0.1, NAN)),
    *((TrainConfig, name, 1.0) for name in ("beta1", "beta2")),
    *((Sampling, "temperature", value) for value in (-1.0, NAN, INF)),
    *((Sampling, "top_p", value) for value in (0.0, 1.1, NAN)),
    (Sampling, "top_k", 0),
    *((SampleConfig, name, 0) for name in ("max_new_tokens", "num_samples")),
    (SampleConfig, "seed", -1),
]


@pytest.mark.parametrize(("cls", "name", "value"), WRONG)
def test_a_wrong_value_is_one_line_that_names_it(cls, name, value):
    with pytest.raises(UserError, match=name) as error:
        cls(**{name: value})
    assert isinstance(error.value, ValueError)
    assert str(value) in str(error.value)
    assert "\n" not in str(error.value)


def test_streams_differ():
    assert len(set(Stream)) == len(Stream.__members__) == 4
