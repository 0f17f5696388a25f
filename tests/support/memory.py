"""The error by which a device says that its memory does not suffice."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["out_of_memory"]


def out_of_memory() -> torch.OutOfMemoryError:
    """Return torch's own, for a test to raise."""
    import torch

    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
