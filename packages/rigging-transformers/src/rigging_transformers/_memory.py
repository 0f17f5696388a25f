"""Running out of memory, as torch says it. Imports torch: import this module late."""

from __future__ import annotations

import torch

__all__ = ["free_memory", "is_out_of_memory"]


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory did not suffice, on any device."""
    # On a CPU it is a RuntimeError like any other.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate" in str(
        error
    )


def free_memory() -> None:
    """Give back what an accelerator's allocator keeps for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
