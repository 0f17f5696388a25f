"""Which rows go together: padding costs time and memory, so it is bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rigging_transformers._row import Row

__all__ = ["fits", "groups", "within"]

# How much longer than the shortest row of a group the longest may be: by this factor, and
# so many tokens.
_STRETCH: Final = 1.5
_NEAR: Final = 8
# Cells of the cache (rows times columns) that may be padding without being looked at, and
# above that, how many cells there may be for one token.
_FREE_CELLS: Final = 1 << 16
_CELLS_PER_TOKEN: Final = 4


def fits(lengths: Sequence[int]) -> bool:
    """Tell whether rows of these lengths, in tokens, waste little enough on padding."""
    cells = len(lengths) * max(lengths)
    return cells <= max(_FREE_CELLS, _CELLS_PER_TOKEN * sum(lengths))


def groups(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Put rows together that are of similar length, the longest first.

    Args:
        rows: To be read, with what they have generated.
        size: Tokens of a group at most, with padding; one long row may be more.
    """
    group: list[Row] = []
    for row in sorted(rows, key=lambda row: row.length, reverse=True):
        if group:
            width = group[0].length
            if width * (len(group) + 1) > size or width > _STRETCH * row.length + _NEAR:
                yield group
                group = []
        group.append(row)
    if group:
        yield group


def within(limit: int | None, rows: Sequence[Row]) -> list[Row]:
    """Return the first of rows, and of the others those that can be padded beside it.

    Padded to the longest prompt and run to the end of the slowest, they must stay within a
    limit: ``generate`` goes on with a row that has ended.

    Args:
        limit: In tokens; None if there is none.
        rows: At least one.
    """
    found = list(rows[:1])
    for row in rows[1:]:
        together = [*found, row]
        columns = max(len(one.prompt) for one in together) + max(one.max_tokens for one in together)
        if limit is None or columns <= limit:
            found = together
    return found
