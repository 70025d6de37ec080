"""Launches that the device refuses for want of room, before anything of them runs."""

from __future__ import annotations

# As CUDA and HIP word their error 720: a cooperative launch whose programs can't all be resident, as under MPS's limits
# or in a part of the device; Triton raises it as a RuntimeError.
_TOO_MANY = (
    "too many blocks in cooperative launch",
    "COOPERATIVE_LAUNCH_TOO_LARGE",
    "hipErrorCooperativeLaunchTooLarge",
)


def refused(error: Exception) -> bool:
    """Whether an error says that a kernel takes more than there is, of a multiprocessor or of the device."""
    from triton.runtime.errors import OutOfResources

    if isinstance(error, OutOfResources):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TOO_MANY)
