"""Rows of unequal length as one rectangle."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["left_pad"]


def left_pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[list[list[int]], list[list[int]]]:
    """Pad token rows on the left to the width of the longest; none is ever truncated.

    On the left, because a causal model goes on writing at the right end.

    Args:
        rows: Token ids, shape ``(batch, length_i)``.
        pad_id: Id written into the padding.

    Returns:
        ``(ids, mask)``, both of shape ``(batch, width)``; ``mask`` is 1 on real tokens
        and 0 on padding.

    Raises:
        ValueError: If ``rows`` is empty.

    Example:
        >>> left_pad([[7, 8], [9]], 0)
        ([[7, 8], [0, 9]], [[1, 1], [0, 1]])
    """
    if not rows:
        raise ValueError("rows is empty: left_pad needs at least one row")
    width = max(len(row) for row in rows)
    ids = [[pad_id] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return ids, mask
