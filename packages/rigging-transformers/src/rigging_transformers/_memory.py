"""Memory: running out of it, and giving it back. Imports torch: import this module late."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Capacity", "free_memory", "is_out_of_memory", "weights_apart"]

# Steps without trouble after which one row more is tried. Doubled each time it fails.
_CALM: Final = 64

# Parameters of glibc's mallopt(), and what else sets them.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_SET_BY_USER: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


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
    # glibc keeps what is freed between blocks in use: a tenth of a model may stay.
    _call_glibc("malloc_trim", 0)


@contextlib.contextmanager
def weights_apart() -> Iterator[None]:
    """Have weights that are read meanwhile lie outside glibc's heaps, so that they can leave.

    Several threads read a model, each with a heap of its own, and glibc learns from what they
    free to keep up to 64 MB at the end of each, where `free_memory` does not reach. So blocks of
    a megabyte and more are taken from the system itself; afterwards only those of 32 MB, the most
    that glibc would learn by itself. Holds for the process, and for nobody who has set it.

    Source:
        glibc manual, "Malloc Tunable Parameters".
    """
    if any(name in os.environ for name in _SET_BY_USER):
        yield
        return
    _call_glibc("mallopt", _TRIM_THRESHOLD, 128 << 10)
    _call_glibc("mallopt", _MMAP_THRESHOLD, 1 << 20)
    try:
        yield
    finally:
        _call_glibc("mallopt", _MMAP_THRESHOLD, 32 << 20)


def _call_glibc(name: str, *arguments: int) -> None:
    if sys.platform == "linux":
        function = getattr(ctypes.CDLL(None), name, None)
        if function is not None:  # other C libraries have none
            function(*arguments)
