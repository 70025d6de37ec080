"""The examples run and say what they are meant to show."""

import runpy
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "examples"
# What each prints, among other things.
SAYS = {
    "accelerate.py": [
        "1 of 1 recurrent layer changed.",
        "torch.nn.LSTM -> gatefuse.LSTM",
        "same results: True",
        "same parameters: True",
        "gatefuse.LSTM -> torch.nn.LSTM",
    ],
    "drop_in.py": [
        "output (8, 35, 64) h_n (2, 8, 64) c_n (2, 8, 64)",
        "close: True",
        "equal by vendor: True",
        "is a torch.nn.LSTM: True",
    ],
    "embedding.py": [
        "output (10, 20, 18) h_n (1, 10, 18) c_n (1, 10, 18)",
        "equal to cross-entropy: True and to the mean by weight: True",
        "right: 10 of 10",
    ],
    "language_model.py": ["epoch 20: perplexity ", "the likeliest: the name ", "drawn: the name "],
    "lengths.py": ["with zeros after the end: True", "packed gives the same: True True", "as if it were alone: True"],
    "missing_values.py": [
        "GRU-D: output (20, 4, 16)",
        "what is missing reaches nothing: True",
        "your own, with noise in training: llvm: ",
    ],
    "own_cell.py": ["output (20, 4, 32) h_n (4, 4, 16)", "gradient of decay: (16,)", "@triton.jit", "of light."],
    "peephole.py": [
        "peephole_lstm: output (12, 4, 16), parameters of the peepholes: p_i_l0, p_f_l0, p_o_l0",
        "article_peephole_lstm: output (12, 4, 16), parameters of the peepholes: none",
        "an LSTM where they are zero: True",
    ],
    "read_report.py": ["tokens_per_second", "between the fastest and the slowest lies a factor of "],
    "resets.py": ["the second episode knows nothing of the first: True", "or begins from a state of your own: True"],
    "scripted.py": ["same results without gatefuse: True"],
    "streaming.py": ["in chunks as in one: True", "bytes kept between two chunks: 256"],
    "two_grus.py": [
        "gru is torch.nn.GRU: True",
        "gru_reset_first is the book's: True",
        "largest difference between the two: 0.",
    ],
    "warmup.py": ["llvm: ", "parameters and gradients are as before: True"],
}


@pytest.mark.parametrize("name", SAYS)
def test_example(name, capsys):
    torch.manual_seed(0)
    runpy.run_path(str(FOLDER / name), run_name="__main__")
    said = capsys.readouterr().out
    for text in SAYS[name]:
        assert text in said, f"{name} did not say {text!r}, but\n{said}"


def test_every_example_is_tested():
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parents[1].rglob("*.py"))
    for path in FOLDER.glob("*.py"):
        assert path.name in tests, f"no test runs {path.name}"


def test_own_cells_have_ten_lines():
    text = (FOLDER / "own_cell.py").read_text(encoding="utf-8")
    lines = text[text.index("@gatefuse.cell") : text.index("layer = ")].strip().splitlines()
    assert len(lines) <= 10
