"""What is to be tried on hardware, as data: a variant is a change of one loop's pass, with what it is expected to do.

The order is the one in which they are run: first what is expected to gain most. An expectation is the time over that of
the unchanged pass. It is an estimate, made of what is counted and of what compiling showed (docs/tuning.md), and stays
as it was written when measuring shows otherwise; what was decided then is written into ``kept``.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import nan

from .variant import BACKWARD, FORWARD, Place, Trial, Variant


def _lstm(*shapes: tuple[int, int], dtype: str = "bfloat16") -> tuple[Place, ...]:
    return tuple(Place("lstm", H, B, dtype) for H, B in shapes)


_BLOCK, _UNIT_ROWS = _lstm((128, 64), (64, 64)), {"ROWS": "units"}
_DEFAULT = "the default is the other, since compiling; this measures what that is worth"
_WHOLE = {"SLICES": 1, "BN": 16, "BB": 16, "KC": 128, "SUMS": "gates"}
VARIANTS = (
    Variant(
        "block-rows-by-gate", "block", "forward", {"ROWS": "gates"}, (*_BLOCK, Place("gru", 128, 64)), 1.33,
        "22 block barriers a step in training and 12 in inference where there are 4: without a unit's gates side by "
        "side, Triton moves each value that is loaded or stored to the layout of the product, and not its result once",
        _DEFAULT,
    ),
    Variant(
        "block-backward-not-relaid", "block", "backward", {"RELAID": False}, (*_BLOCK, Place("gru", 128, 64)), 1.22,
        "20 block barriers a step where there are 4, for the same reason, and more registers",
        _DEFAULT,
    ),
    Variant(
        "grid-every-thread-polls", "grid", "forward", {"FORM": "every"}, _lstm((512, 64), (1024, 64)), 0.98,
        "of 5 block barriers a step one comes before the wait, where time is free, in place of behind it, for as many "
        "polls as there are warps",
    ),
    Variant(
        "grid-values-as-flags", "grid", "forward", {"FORM": "flag"},
        (*_lstm((512, 64)), Place("gru_reset_first", 512, 64)), 0.95,
        "no fence, counter and poll before the state's bytes are asked for, 0.6 to 0.9 microseconds of a meeting's 1.2 "
        "to 1.7; but 15 block barriers and 345 instructions more, since what is loaded as words goes through shared "
        "memory to become a tile",
    ),
    Variant(
        "grid-backward-8-warps", "grid", "backward", {"warps": 8}, _lstm((512, 64), (1024, 64), (512, 256)), 1.06,
        "a second group of four warps multiplies the same rows for half of the samples: 28 matrix instructions for 16, "
        "and 11 block barriers a step for 7, but fewer instructions of a warp",
        _DEFAULT,
    ),
    Variant(
        "grid-backward-16-units", "grid", "backward", {"BU": 16}, _lstm((512, 64), (1024, 64)), 1.04,
        "half of the programs have no pointwise work, where all of them have some with 8 units",
        _DEFAULT,
    ),
    Variant(
        "grid-reset-first-32-units", "grid", "forward", {"BU": 32},
        (Place("gru_reset_first", 512, 64), Place("gru_reset_first", 200, 16)), 0.9,
        "32 large matrix instructions and 64 small ones where there are 128 small ones, and half the programs that "
        "meet, but all registers, and some on the stack",
    ),
    Variant(
        "grid-backward-sums-by-gate", "grid", "backward", {"SUMS": "gates"},
        (*_lstm((256, 64), (256, 16)), Place("gru", 256, 16)), 0.78,
        "32 matrix instructions a warp and step where there are 128, which all four warps run alike and each of which "
        "waits for one before it; 3 block barriers more",
    ),
    Variant(
        "grid-backward-whole-sums", "grid", "backward", _WHOLE,
        (*_lstm((512, 64), (512, 16), (768, 16)), Place("peephole_lstm", 512, 64), Place("gru_reset_first", 512, 64)),
        0.78,
        "one meeting of programs a phase where there are two, for 64 KB of gate gradients a program and step where "
        "there are 16, and 64 small matrix instructions a warp, which sums by gate keep from being 256",
    ),
    Variant(
        "block-backward-ahead", "block", "backward", {"AHEAD": True}, _BLOCK, 0.7,
        "each step begins by waiting for its slots and states; asked for a step earlier they are there",
    ),
    Variant(
        "grid-turns-of-16", "grid", "forward", {"BB": 16}, _lstm((512, 128), (768, 64), (1024, 64)), 0.88,
        "as many bytes a program, in two tiles that take turns: the meeting for one hides behind the work on the "
        "other, but each reads the weights from shared memory, which costs more the larger H is",
    ),
    Variant(
        "grid-turns-of-32", "grid", "forward", {"BB": 32, "warps": 4}, _lstm((768, 128), dtype="float16"), 0.8,
        "a tile of 64 takes 13 block barriers and the stack at this size, one of 32 takes 5, and the tiles take turns",
    ),
    Variant(
        "block-8-warps", "block", "forward", {"warps": 8}, _lstm((64, 64)), 0.73,
        "half the instructions of a warp",
    ),
    Variant(
        "block-16-warps", "block", "forward", {"warps": 16}, _lstm((128, 64)), 0.83,
        "half the instructions of a warp, but for 16 warps to meet",
    ),
    Variant(
        "grid-backward-turns-of-32", "grid", "backward", {"BB": 32}, _lstm((1024, 64)), 0.87,
        "two tiles that take turns hide a part of each meeting; 11 block barriers for a tile where one of 64 takes 15",
    ),
    Variant(
        "grid-backward-4-slices", "grid", "backward", {"SLICES": 4, "BB": 16},
        (*_lstm((512, 64)), Place("peephole_lstm", 512, 64)), 0.96,
        "32 programs meet where 64 do, half the partial sums, and fewer block barriers for a tile of 16 by 4 warps",
    ),
    Variant(
        "grid-chunks-of-256", "grid", "forward", {"KC": 256},
        (*_lstm((512, 64)), *_lstm((1024, 16), dtype="float16")), 0.98,
        "the first product need not wait for the last bytes of the state",
    ),
    Variant(
        "grid-backward-every-thread-polls", "grid", "backward", {"FORM": "every"}, _lstm((512, 64)), 0.98,
        "two block barriers a step less, for as many polls as there are warps",
    ),
    Variant(
        "grid-8-warps", "grid", "forward", {"warps": 8}, _lstm((512, 128), (512, 64)), 1.03,
        "a third fewer registers and instructions of a thread, but both warp groups read all weights, each for half of "
        "the samples",
    ),
    Variant(
        "grid-32-units", "grid", "forward", {"BU": 32, "warps": 8}, _lstm((256, 64), (512, 16)), 1.05,
        "half as many programs meet, each with twice the weights to read from shared memory: what the number costs",
    ),
    Variant(
        "grid-8-units", "grid", "forward", {"BU": 8}, _lstm((1024, 16), dtype="float16"), 1.15,
        "nothing on the stack and half the weights to read, but 128 programs meet where 64 do, and 32 rows are too few "
        "for the large matrix instruction",
    ),
    Variant(
        "grid-states-left", "grid", "forward", {"LEFT": "states", "BU": 8, "BB": 64, "warps": 4},
        _lstm((256, 64), (1024, 64)), 1.15,
        "3 block barriers a step where there are 5, with the samples in the rows of the matrix instruction, but two to "
        "four times the state's bytes for each program",
    ),
    Variant(
        "grid-loads-through-l1", "grid", "forward", {"LOADS": ".ca"}, _lstm((512, 64)), 1.0,
        "the acquire has emptied the L1 cache and each byte is read once; a difference would say something else",
    ),
    Variant(
        "grid-portable-barrier", "grid", "forward", {"FORM": "portable"}, _lstm((512, 64)), 1.15,
        "each poll is an atomic and costs two block barriers: what the form for other makers' GPUs costs",
    ),
    Variant(
        "step-longer-parts", "step", "forward", {"LENGTHS": (128, 32, 8)}, _lstm((1024, 64)), 0.97,
        "a fourth of the starts of recorded parts, at longer copies",
    ),
    Variant(
        "step-records-large-states", "step", "forward", {"LARGEST": 2**22}, _lstm((2048, 256)), 0.97,
        "the host is as fast as the device at this size, so that the starts saved are worth little more than copies",
    ),
    Variant(
        "step-not-recorded", "step", "forward", {"LARGEST": 0}, _lstm((512, 64)), 2.5,
        "the host starts two kernels a step: what recording is worth",
    ),
)  # fmt: skip

# What compiling has shown to be no way: compiled with the others, and not run.
RULED_OUT = tuple(
    Variant(name, loop, way, changes, _lstm(place), nan, why)
    for name, loop, way, changes, place, why in (
        ("block-one-stage", "block", "forward", {"num_stages": 1}, (64, 64), "the same code: nothing was pipelined"),
        (
            "block-4-warps",
            "block",
            "forward",
            {"warps": 4},
            (128, 64),
            "twice the instructions of a warp, and all registers",
        ),
        (
            "block-tile-of-32",
            "block",
            "forward",
            {"BB": 32},
            (64, 64),
            "all registers, and twice the instructions of a warp",
        ),
        (
            "grid-rows-by-unit",
            "grid",
            "forward",
            _UNIT_ROWS,
            (512, 64),
            "as many block barriers: with 16 units Triton moves the product's result once as it is",
        ),
        (
            "grid-8-warps-at-1024",
            "grid",
            "forward",
            {"warps": 8},
            (1024, 64),
            "no register less and more block barriers",
        ),
        ("grid-8-warps-at-768", "grid", "forward", {"warps": 8}, (768, 16), "no register less and more block barriers"),
        (
            "grid-states-left-of-16",
            "grid",
            "forward",
            {"LEFT": "states"},
            (512, 64),
            "the small matrix instruction and more block barriers: 16 samples are too few for its rows",
        ),
        (
            "grid-backward-64-units",
            "grid",
            "backward",
            {"BN": 64},
            (256, 64),
            "all registers: the large matrix instruction comes with four times the pointwise work of a program",
        ),
        (
            "grid-backward-4-slices-of-32",
            "grid",
            "backward",
            {"SLICES": 4, "BB": 32},
            (1024, 64),
            "all registers, and in most compilations more on the stack than is allowed",
        ),
        (
            "grid-backward-whole-sums-in-turn",
            "grid",
            "backward",
            {"SLICES": 1, "BN": 16, "BB": 16},
            (512, 64),
            "256 small matrix instructions a warp and step, one after the other",
        ),
    )
)


def trials() -> Iterator[Trial]:
    """All trials, in the order in which they are run: each variant at its first place, then at the others."""
    for first in (True, False):
        for variant in VARIANTS:
            for place in variant.places[:1] if first else variant.places[1:]:
                for way in BACKWARD if variant.way == "backward" else FORWARD:
                    yield Trial(variant, place, way)


def ruled_out() -> Iterator[Trial]:
    """Trials that are compiled and not run."""
    for variant in RULED_OUT:
        yield Trial(variant, variant.places[0], BACKWARD[0] if variant.way == "backward" else FORWARD[0])
