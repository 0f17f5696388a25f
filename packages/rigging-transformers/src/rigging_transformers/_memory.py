"""Memory: running out of it, and giving it back. Imports torch: import this module late."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

import torch

__all__ = ["Capacity", "free_memory", "is_out_of_memory"]

# Steps without trouble after which one row more is tried. Doubled each time it fails.
_CALM: Final = 64


class Capacity:
    """How many rows may run at once: fewer when memory ran out, more again after a while.

    Args:
        most: What it begins with, and never exceeds.

    Attributes:
        rows: How many at present.
    """

    def __init__(self, most: int) -> None:
        self.rows = most
        self._most = most
        self._calm = _CALM
        self._steps = 0

    def halve(self, rows: int) -> None:
        """Note that memory did not suffice for so many."""
        self.rows = rows // 2
        self._calm *= 2
        self._steps = 0

    def count_step(self) -> None:
        """Note that a step of as many rows as may run went well."""
        self._steps += 1
        if self.rows < self._most and self._steps >= self._calm:
            self.rows += 1
            self._steps = 0


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory did not suffice, on any device."""
    # On a CPU it is a RuntimeError like any other.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate" in str(
        error
    )


def free_memory() -> None:
    """Give back what allocators keep for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        # glibc keeps what is freed between blocks in use: a tenth of a model may stay.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # other C libraries have none
            trim(0)
