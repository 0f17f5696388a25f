"""A tokenizer whose tokens are bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["decode"]


def decode(_before: Sequence[int], tokens: Sequence[int]) -> str:
    """Decode tokens that follow others, as a byte-level tokenizer does."""
    return bytes(tokens).decode(errors="replace")
