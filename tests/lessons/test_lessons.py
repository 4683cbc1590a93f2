"""Each lesson runs, and prints the numbers of the video that a seed determines.

Expected values are those on the video's screen; losses along the way those that PyTorch 2.13 prints
for the same program; and published sizes of models.
"""

import json
import re

import pytest

from lessons import chapters, common

NUMBERS = [int(path.name[:2]) for path in chapters.lessons()]


@pytest.mark.parametrize("number", NUMBERS)
def test_every_lesson_runs_on_any_text(lesson, text_file, number):
    assert lesson(number, text_file, limit=2).startswith(f"\n# {number} · ")


@pytest.mark.parametrize("number", [1, 11, 12])  # those that encode words of the video
def test_a_text_may_have_other_letters(lesson, tmp_path, number):
    path = tmp_path / "text.txt"
    path.write_text("король и королева\n" * 200, encoding="utf-8")
    assert lesson(number, path, limit=2).startswith(f"\n# {number} · ")


# what each prints with the video's text, and after how many steps at most
SHOWN = {
    1: (
        2,
        "length of dataset in characters: 1115394",
        "First Citizen:\nBefore we proceed any further, hear me speak.",
        "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz\n65\n",
        "[46, 47, 47, 1, 58, 46, 43, 56, 43]\nhii there",
        "tensor([18, 47, 56, 57, 58,  1, 15, 47, 58, 47, 64, 43, 52, 10,  0, 14, 43, 44,",
    ),
    2: (1, "1115394 = 1003854 to train + 111540 to validate"),
    3: (
        2,
        "tensor([18, 47, 56, 57, 58,  1, 15, 47, 58])",
        "when input is tensor([18]) the target: 47",
        "when input is tensor([18, 47, 56, 57, 58,  1, 15, 47]) the target: 58",
        "inputs:\n(4, 8)\n"
        "tensor([[24, 43, 58,  5, 57,  1, 46, 43],\n"
        "        [44, 53, 56,  1, 58, 46, 39, 58],\n"
        "        [52, 58,  1, 58, 46, 39, 58,  1],\n"
        "        [25, 17, 27, 10,  0, 21,  1, 54]])\n",
        "when input is [24] the target: 43",
        "when input is [25, 17, 27, 10, 0, 21, 1, 54] the target: 39",
    ),
    4: (
        2,
        "RuntimeError: cross_entropy: input (4, 8, 65) and target (4, 8) do not fit",
        "tensor(4.8786, grad_fn=",
        "\nSKIcLT;AcELMoTbvZv C?nq-QE33:CJqkOKH-q;:la!oiywkHjgChzbQ?u!3b",
        "ln 65 = 4.1744",
        "all logits 0: 4.1744",
    ),
    5: (100, "after    100 steps: loss 4.6563"),
    6: (
        301,
        "step 0: train loss 4.7305, val loss 4.7241",
        "step 300: train loss 2.8110, val loss 2.8249",
    ),
    7: (
        2,
        "c=\ntensor([[14., 16.],\n        [14., 16.],\n        [14., 16.]])",
        "c=\ntensor([[ 2.,  7.],\n        [ 8., 11.],\n        [14., 16.]])",
        "c=\ntensor([[2.0000, 7.0000],\n        [4.0000, 5.5000],\n        [4.6667, 5.3333]])",
        "tensor([[ 0.1808, -0.0700],\n        [-0.0894, -0.4926],",
    ),
    8: (2, "4,225 parameters", "4,481 parameters"),
    9: (2, "[-1.7629,    -inf,", "[0.1574, 0.8426, 0.0000,"),
    10: (
        2,
        "var of k 1.0449, of q 1.0700",
        "var of q @ k / sqrt(head_size): 1.0918",
        "tensor([0.1925, 0.1426, 0.2351, 0.1426, 0.2872])",
        "tensor([0.0326, 0.0030, 0.1615, 0.0030, 0.8000])",
    ),
    11: (200, "7,553 parameters", "IndexError: ", "train loss 4.2000, val loss 4.2047"),
    12: (2, "3072 = 3072 parameters", "7,553 parameters"),
    13: (2, "8,609 parameters"),
    14: (2, "41,921 parameters"),
    15: (
        2,
        "column 0: mean 0.1469, std 0.8803\nrow 0:    mean 0.0000, std 1.0000",
        "nn.LayerNorm / notebook = 1.005038, sqrt(100 / 99) = 1.005038",
        "42,369 parameters",
    ),
    16: (2, "10.788929 M parameters"),
    17: (2, "97 · quatre vingt dix sept · ninety seven", "71 · soixante et onze · seventy one"),
    18: (2, "124,439,808", "354,823,168", "774,030,080", "1,557,611,200", "10.788929 M"),
}


@pytest.mark.parametrize("number", SHOWN)
def test_the_numbers_of_the_video(lesson, tiny_shakespeare, number):
    limit, *expected = SHOWN[number]
    printed = lesson(number, tiny_shakespeare, limit)
    for text in expected:
        assert text in printed


def test_all_32_examples_of_the_batch(lesson, tiny_shakespeare):
    printed = lesson(3, tiny_shakespeare, 2).split("holds 32 examples")[1]
    assert len(re.findall(r"^when input is \[.*\] the target: \d+$", printed, re.M)) == 32


def test_a_lesson_runs_as_a_script_of_cells():
    for path in chapters.lessons():
        kinds = [cell.kind for cell in chapters.cells(path)]
        assert kinds[0] == "markdown"
        assert "code" in kinds
        number, name, when = chapters.title(path).split(" · ")
        assert int(number) == int(path.name[:2])
        assert name
        assert re.fullmatch(r"[\d:–]+|before it|EX\d", when), when


def test_an_error_names_the_line_of_the_lesson(tmp_path):
    path = tmp_path / "00_wrong.py"
    path.write_text("# %% [markdown]\n# # 0 · Wrong · 0:00\n\n# %%\nx = 1\nx / 0\n")
    with pytest.raises(ZeroDivisionError) as error:
        chapters.run(path)
    assert error.traceback[-1].lineno + 1 == 6


@pytest.mark.parametrize("path", chapters.lessons(), ids=lambda path: path.stem)
def test_the_notebook_is_in_step_with_the_script(path):
    """`python -m lessons notebooks` writes them; a change of a lesson must be followed by it."""
    file = chapters.HERE / "notebooks" / f"{path.stem}.ipynb"
    notebook = json.loads(file.read_text(encoding="utf-8"))
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]] == [
        (cell.kind, cell.source) for cell in chapters.cells(path)
    ]
    outputs = json.dumps([cell.get("outputs") for cell in notebook["cells"]])
    assert '"error"' not in outputs
    for trace in ("/home/", "/root/", "/tmp/", "C:\\\\", "its numbers will differ"):
        assert trace not in outputs


def test_heat_map():
    import tensorlib as torch

    w = torch.tensor([[1.0, float("-inf"), 0.0], [0.5, 0.24, 0.26]])
    negative = torch.tensor([[-1.0, float("-inf")], [1.0, 0.0]])
    assert common.heat_map(negative) == "  0 1\n0 ░\n1 █ ▒"
    assert common.heat_map(w, ["a", "bc"]) == "   0 1 2\n a █\nbc ▒ ░ ▒"
