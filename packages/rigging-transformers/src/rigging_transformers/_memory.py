"""A device's memory: running out of it, and giving it back.

Imports torch: import this module late.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Capacity",
    "count_failures",
    "free_memory",
    "free_workspaces",
    "is_out_of_memory",
    "weights_apart",
]

_log: Final = logging.getLogger(__name__)

# Steps without trouble after which one row more is tried. Doubled each time it fails, up to
# the second number: what did not fit once may fit later.
_CALM: Final = 64
_CALMEST: Final = 4096

# What a RuntimeError says where memory did not suffice: any device, cuBLAS and cuDNN, a CPU.
_SIGNS: Final = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "_ALLOCATION_FAILED",  # the same, since cuDNN 9
    "can't allocate",
    "not enough memory",  # the same, on Windows
    "OUT_OF_DEVICE_MEMORY",  # XPU
    "OUT_OF_HOST_MEMORY",
)
# A thread's first multiplication takes memory for cuBLAS, which says so if there is none.
_NO_HANDLE: Final = re.compile("CUBLAS_STATUS_NOT_INITIALIZED.*cublasCreate")

# Parameters of glibc's mallopt(), and what else sets them.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_SET_BY_USER: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


class Capacity:
    """How many rows may run at once: fewer when memory ran out, more again after a while.

    Args:
        most: What it begins with, and never exceeds.

    Attributes:
        most: The same.
        rows: How many at present.
    """

    def __init__(self, most: int) -> None:
        self.rows = most
        self.most = most
        self._calm = _CALM
        self._steps = 0

    def halve(self, rows: int) -> None:
        """Note that memory did not suffice for so many."""
        # That may be more than may run by now: it was begun before.
        self.rows = min(self.rows, rows // 2)
        self._calm = min(2 * self._calm, _CALMEST)
        self._steps = 0

    def count_step(self) -> None:
        """Note that a step of as many rows as may run went well."""
        self._steps += 1
        if self.rows < self.most and self._steps >= self._calm:
            self.rows += 1
            self._steps = 0


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory did not suffice, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # Most of those who run out say it by an error like any other.
    text = str(error)
    is_sign = any(sign in text for sign in _SIGNS) or _NO_HANDLE.search(text)
    return isinstance(error, RuntimeError) and bool(is_sign)


def count_failures() -> int:
    """Return how often memory has not sufficed on the process's CUDA GPUs."""
    if not torch.cuda.is_initialized():
        return 0
    stats = map(torch.cuda.memory_stats, range(torch.cuda.device_count()))
    return sum(each.get("num_ooms", 0) for each in stats)


def free_workspaces() -> None:
    """Free the workspaces of cuBLAS, which each thread leaves behind that multiplied matrices.

    Nothing may multiply meanwhile, no thread of the caller's either: it would go on with memory
    that is free.
    """
    # Not public, and torch's own tests for leaks need it, too.
    clear = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
    if clear is not None and torch.cuda.is_initialized():
        with contextlib.suppress(RuntimeError):  # see `free_memory`
            clear()


def free_memory() -> None:
    """Give back what allocators keep for later."""
    try:
        _empty_cache()
    except RuntimeError as error:
        # After a failed assertion, CUDA answers nothing any more. What else is to do shall go on.
        _log.warning(
            "the accelerator has failed, and this process cannot use it again: restart it (%s)",
            error,
        )
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


def _empty_cache() -> None:
    if not torch.accelerator.is_available():
        return
    if hasattr(torch.accelerator, "empty_cache"):
        torch.accelerator.empty_cache()
    elif torch.cuda.is_available():  # torch before 2.9
        torch.cuda.empty_cache()


def _call_glibc(name: str, *arguments: int) -> None:
    if sys.platform == "linux":
        function = getattr(ctypes.CDLL(None), name, None)
        if function is not None:  # other C libraries have none
            function(*arguments)
