"""A page to look at: `python -m gpt.report runs/1` writes runs/1/report.html.

It shows a run's curves and samples, and its best model from inside (`inside.py`). The page is one
file that needs no network: template.html beside this module, with the numbers put in as JSON.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

import tensorlib
from gpt.checkpoint import Checkpoint
from gpt.commands import cli
from gpt.config import ReportConfig, Sampling, Stream, UserError
from gpt.data import Batches, Corpus, load_corpus
from gpt.fast import machine
from gpt.generate import generate_text
from gpt.model import GPT
from gpt.report import inside
from gpt.runs.run import Run
from gpt.text.reading import STDIN, find_text
from gpt.tokenizer import Tokenizer
from tensorlib.serialization import write_atomically

TEMPLATE = Path(__file__).with_name("template.html")
_CURVES = ("train_loss", "val_loss", "learning_rate", "grad_norm")


def main() -> None:
    config = cli.parse(ReportConfig)
    machine.prepare(threads=machine.cores())
    path = config.run or Run.newest("best.safetensors").path
    path = Run(path).best if path.is_dir() else path
    page = render(describe(path, config))
    out = config.out or path.parent
    out = out / "report.html" if out.is_dir() else out
    try:
        write_atomically(out, page.encode("utf-8"))
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; choose another --out") from None
    print(out)


def render(numbers: dict[str, Any]) -> str:
    """The page that shows `numbers`."""
    data = json.dumps(numbers, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    data = data.replace("<", "\\u003c")  # a text with </script> in it must not end the script
    return TEMPLATE.read_text(encoding="utf-8").replace("{{ data }}", data)


def describe(path: Path, config: ReportConfig) -> dict[str, Any]:
    """All that the page shows of the checkpoint at `path`, as JSON values. UserError for what
    cannot be read, and for a prompt that does not fit the model."""
    checkpoint = Checkpoint.load(path)
    model, tokenizer = checkpoint.model(), checkpoint.tokenizer
    _check_prompt(config.prompt, checkpoint)
    corpus, missing = _find_corpus(checkpoint, config.data)
    reports = Run(path.parent).reports()
    seed = checkpoint.config.seed
    sample = "".join(generate_text(model, tokenizer, config.prompt, 200, Sampling(), seed))
    longest = min(64, checkpoint.config.model.block_size)
    if config.prompt or corpus is None:
        shown = tokenizer.encode(config.prompt or sample)[:longest]
    else:
        shown = corpus.val[:longest]
    batch = None if corpus is None else _batches(checkpoint, corpus)(0)
    return {
        "name": str(path),
        "facts": _facts(checkpoint, model, reports),
        "missing": missing,
        "curves": _curves(reports),
        "samples": [{"step": r["step"], "text": r["sample"]} for r in reports if r.get("sample")],
        "sample": {"prompt": config.prompt, "text": sample},
        "attention": _attention(model, tokenizer, shown),
        "tokens": _tokens(model, tokenizer, shown if corpus is None else corpus.val),
        "positions": _bytes(inside.cosines(model.wpe.weight.detach().numpy()) * 127, np.int8),
        "norms": [
            [n.layer, n.parameters, _round(n.weight), _round(n.gradient)]
            for n in inside.norms(model, batch)
        ],
        "predictions": None if corpus is None else _predictions(model, corpus),
    }


# --------------------------------------------------------------------------------- what it rests on


def _check_prompt(prompt: str, checkpoint: Checkpoint) -> None:
    length, longest = len(checkpoint.tokenizer.encode(prompt)), checkpoint.config.model.block_size
    if length > longest:
        raise UserError(
            f"the prompt has {length} tokens, but this model sees {longest} at once; "
            "take a shorter --prompt"
        )


def _find_corpus(checkpoint: Checkpoint, data: Path | None) -> tuple[Corpus | None, str]:
    """The text that the model learned; or None, and why. UserError if `data` is not that text."""
    try:
        if data is None and checkpoint.config.data == STDIN:
            raise UserError("the run had its text from standard input; name a file with --data")
        text = find_text(data or checkpoint.config.data, checkpoint.config.glob)
        if text.sha256 != checkpoint.text_sha256:
            raise UserError(
                f"this run learned another text than {text.name}; name its own with --data"
            )
        return load_corpus(text, checkpoint.tokenizer, checkpoint.config.model.block_size), ""
    except UserError as error:
        if data is not None:
            raise
        return None, str(error)


def _batches(checkpoint: Checkpoint, corpus: Corpus) -> Batches:
    config = checkpoint.config
    size, length = config.batch_size, config.model.block_size
    return Batches(corpus.val, size, length, config.seed, Stream.EVALUATION_BATCH)


# ------------------------------------------------------------------------------ the page's sections


def _facts(
    checkpoint: Checkpoint, model: GPT, reports: list[dict[str, Any]]
) -> list[tuple[str, str]]:
    """What stands at the head of the page: (label, value)."""
    shape = checkpoint.config.model
    whole = [r["full_val_loss"] for r in reports if "full_val_loss" in r]
    facts = [
        ("parameters", f"{model.num_parameters():,}"),
        ("layers × heads", f"{shape.n_layer} × {shape.n_head}"),
        ("channels", f"{shape.n_embd:,}"),
        ("context", f"{shape.block_size:,}"),
        ("vocabulary", f"{shape.vocab_size:,}"),
        ("step", f"{checkpoint.step:,}"),
    ]
    if checkpoint.best_loss is not None:
        facts.append(("best validation loss", f"{checkpoint.best_loss:.4f}"))
    if whole:
        facts.append(("whole validation split", f"{whole[-1]:.4f}"))
    return facts


def _curves(reports: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The columns of metrics.jsonl that can be drawn, with the step of each row."""
    rows = [r for r in reports if "train_loss" in r]
    names = [name for name in _CURVES if any(r.get(name) is not None for r in rows)]
    return {name: [_round(r.get(name)) for r in rows] for name in ("step", *names)}


def _attention(model: GPT, tokenizer: Tokenizer, tokens: np.ndarray) -> dict[str, Any]:
    weights = inside.attention(model, tensorlib.from_numpy(tokens[None].astype(np.int64)))
    labels = [tokenizer.decode([token]) for token in tokens]
    return {"tokens": labels, "heads": weights.shape[1], **_bytes(weights * 255, np.uint8)}


def _tokens(model: GPT, tokenizer: Tokenizer, text: np.ndarray, most: int = 512) -> dict[str, Any]:
    """Each token's nearest neighbours among the token embeddings: [token, cosine in percent]. Of a
    large vocabulary, the tokens that `text` has most often."""
    counts = np.bincount(text, minlength=tokenizer.vocab_size)
    shown = np.sort(np.argsort(-counts, kind="stable")[:most])
    similarity = inside.cosines(model.wte.weight.detach().numpy()[shown])
    near = inside.nearest(similarity, 8)
    percent = np.rint(100 * np.take_along_axis(similarity, near, 1)).astype(int)
    labels = [tokenizer.decode([token]) for token in shown]
    return {"chars": labels, "near": np.stack([near, percent], 2).tolist()}


def _predictions(model: GPT, corpus: Corpus, n: int = 4096, rows: int = 10) -> dict[str, Any]:
    """The most and the least certain predictions, and the greatest surprises."""
    n = min(n, 20_000_000 // model.config.vocab_size)  # of each, the whole vocabulary's chances
    found = inside.predictions(model, corpus.val, n)
    best = found.probabilities.max(1)  # (N,), of the likeliest token
    targets = corpus.val[found.places].astype(np.int64)
    actual = np.take_along_axis(found.probabilities, targets[:, None], 1)[:, 0]

    def listed(order: np.ndarray) -> list[dict[str, Any]]:
        picked: dict[tuple[int, int], dict[str, Any]] = {}
        for i in order:  # "qu" a hundred times would teach nothing: each ending once
            place, p = found.places[i], found.probabilities[i]
            context = corpus.tokenizer.decode(corpus.val[place - min(found.seen[i], 40) : place])
            guesses = np.argsort(-p, kind="stable")[:3]
            picked.setdefault((corpus.val[place - 1], targets[i]), {
                "context": context,
                "actual": [corpus.tokenizer.decode([targets[i]]), _round(actual[i])],
                "guesses": [[corpus.tokenizer.decode([j]), _round(p[j])] for j in guesses],
            })  # fmt: skip
            if len(picked) == rows:
                break
        return list(picked.values())

    return {
        "count": len(best),
        "right": _round((actual == best).mean()),
        "certain": listed(np.argsort(-best, kind="stable")),
        "uncertain": listed(np.argsort(best, kind="stable")),
        "surprising": listed(np.argsort(actual, kind="stable")),
    }


# ------------------------------------------------------------------------------------- compact JSON


def _round(value: Any) -> float | None:
    """Four significant digits: more, nobody sees on a screen."""
    return None if value is None else float(f"{value:.4g}")


def _bytes(values: np.ndarray, dtype: Any) -> dict[str, Any]:
    """Many numbers as one string: a byte each, in base64, and the array's shape."""
    data = base64.b64encode(np.rint(values).astype(dtype).tobytes()).decode()
    return {"shape": values.shape, "data": data}
