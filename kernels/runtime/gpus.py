"""GPUs by their compute capability: what torch can't be asked where there is no GPU, and what it never knows."""

from __future__ import annotations

from typing import NamedTuple


class Gpu(NamedTuple):
    """What a GPU of that capability holds, and what it can do by the microsecond.

    Attributes:
        shared: bytes of shared memory that one program may have.
        programs: multiprocessors.
        matrix: operations in 16 bits.
        exchange: bytes that all programs together read of what the L2 cache holds.
    """

    shared: int
    programs: int
    matrix: float
    exchange: float


# A100 SXM, RTX 3090, RTX 4090, H100 SXM and RTX 5090: the smallest parts in use with these capabilities. Shared memory
# is that of CUDA's tables of compute capabilities, the matrix rate that of the makers' data sheets (dense, float32
# sums); an exchange is estimated, as about 1.6 times the memory's rate there.
GPUS = {
    "sm_80": Gpu(166_912, 108, 312e6, 3.3e6),
    "sm_86": Gpu(101_376, 82, 71e6, 1.5e6),
    "sm_89": Gpu(101_376, 128, 165e6, 1.6e6),
    "sm_90": Gpu(232_448, 132, 989e6, 5.4e6),
    "sm_120": Gpu(101_376, 170, 209e6, 2.9e6),
}
_OTHER = Gpu(65_536, 132, 60e6, 1.0e6)


def gpu(arch: str) -> Gpu:
    """The GPU of an architecture, ``sm_90``; of one that isn't listed, a small one."""
    return GPUS.get(arch, _OTHER)
