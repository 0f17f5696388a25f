"""The key-value cache of a rolling batch: rows come and go, one column per token.

All rows end in the same column, that of the newest token, and a mask tells which columns
before are a row's own:

    row 0   . . a b c d e . .
    row 1   . . . . f g h . .
                ^start    ^end

The buffers are larger than what is in use, so that a token is written in place and a row
that leaves makes room for the next. Models see views of the part in use. Layers with a
sliding window keep no more columns than they look back; recurrent ones keep a state for
each row, and no columns, or both. Imports torch: import this module late.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers.cache_utils import Cache

from rigging_transformers._layers import (
    RollingLayer,
    Window,
    device,
    looks_back,
    new_layer,
    reach,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["RollingCache", "remaining"]

# Columns to spare in a new buffer, beside a share of its width: it is copied this rarely.
_SPARE: Final = 32
_SHARE: Final = 4


class RollingCache:
    """Keys and values of all running rows.

    Attributes:
        lengths: Tokens of each row, of which a sliding window keeps the last.
    """

    def __init__(self) -> None:
        self.lengths: list[int]
        # The mask's, and that of layers that look back to the beginning.
        self._all: Window
        self._windows: dict[int | None, Window]
        self._layers: list[Any]
        self._mask: torch.Tensor
        self._drop_all()

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def width(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths, default=0)

    @property
    def room(self) -> int:
        """Rows that there are buffers for."""
        return self._all.room

    def add(
        self, prefilled: Cache, keep: Sequence[int], lengths: Sequence[int], *, more: int = 0
    ) -> None:
        """Take rows over from a left-padded batch of their own, whose cache is emptied.

        Args:
            prefilled: Of transformers, with layers that `may_roll` holds for.
            keep: Which of its rows.
            lengths: Tokens of these.
            more: How many rows will come soon after, for which room is made at once.
        """
        try:
            self._add(prefilled, keep, lengths, more)
        except Exception:
            # Half of the buffers are no use, and memory is short.
            if not self:
                self._drop_all()
            raise

    def _add(
        self, prefilled: Cache, keep: Sequence[int], lengths: Sequence[int], more: int
    ) -> None:
        width, first = max(lengths), len(self)
        rows = first + len(keep)
        if not first:
            self._drop_all()
            self._make_room(prefilled, rows + more, width)
        for window in self._windows.values():
            if rows > window.room or window.kept(width) > window.end:
                # Somewhat more than needed: who comes one by one shall not cost a copy each.
                room = window.room if rows <= window.room else rows + more + rows // _SHARE
                self._move(window, room, max(width, self.width))
        # Sent once to each device, and not with each layer.
        indices = functools.cache(lambda device: torch.tensor(keep, device=device))

        def pick(source: torch.Tensor) -> torch.Tensor:
            return source if len(source) == len(keep) else source[indices(source.device)]

        for number, layer in enumerate(prefilled.layers):
            if len(self._layers) <= number:
                self._layers.append(new_layer(self._windows[reach(layer)], layer))
            if isinstance(self._layers[number], RollingLayer):
                self._layers[number].take(layer, slice(first, rows), width, pick)
        self._mask[first:rows] = 0
        for row, length in enumerate(lengths, first):
            self._mask[row, self._all.live(length)] = 1
        self.lengths += lengths
        self._refit()

    def keep(self, order: Sequence[int]) -> None:
        """Keep these rows, in that order, which `remaining` gives; drop the others."""
        for into, source in _runs(order):
            longest = max(self.lengths[source])
            for layer in self._rolling():
                layer.keep(into, source, longest)
            self._mask[into] = self._mask[source]
        self.lengths = [self.lengths[row] for row in order]
        if self.lengths:
            self._refit()
        else:
            self._drop_all()

    def blank(self, index: int) -> None:
        """Forget what a row holds, where it must not be multiplied with any more."""
        for layer in self._rolling():
            layer.blank(index)

    def opened(self) -> tuple[Cache, torch.Tensor | None]:
        """Make room for one more token per row.

        Returns:
            What the model is given: the cache, and an attention mask of shape
            ``(rows, width + 1)``; None where no row is padded, or no layer looks back.
        """
        for window in self._windows.values():
            if window.end == window.columns:
                room = window.room if len(self) > window.room // 2 else len(self)
                self._move(window, room, self.width)
        rows, start, end = len(self), self._all.start, self._all.end
        masks = min(self.lengths) < self.width and any(map(looks_back, self._layers))
        self._mask[:rows, end] = 1
        return Cache(layers=self._layers), self._mask[:rows, start : end + 1] if masks else None

    def shrink(self) -> None:
        """Move what is in use into buffers for no more rows; if that fails, nothing is left."""
        for window in self._windows.values():
            if window.room > len(self):
                self._move(window, len(self), self.width)

    def give_up(self) -> None:
        """Drop all, unless the last token can be written again: a state may have taken it."""
        if any(layer.states for layer in self._rolling()):
            self._drop_all()

    def advance(self) -> None:
        """Count the token that was written."""
        self.lengths = [length + 1 for length in self.lengths]
        for window in self._windows.values():
            window.end += 1
            window.width += 1

    def _drop_all(self) -> None:
        self.lengths = []
        self._all = Window(reach=None)
        self._windows = {None: self._all}
        self._layers = []
        self._mask = torch.empty(0, 0, dtype=torch.long)

    def _refit(self) -> None:
        for window in self._windows.values():
            window.rows, window.width = len(self), self.width
        for layer in self._rolling():
            layer.refit()

    def _rolling(self) -> list[RollingLayer]:
        # Others hold nothing.
        return [layer for layer in self._layers if isinstance(layer, RollingLayer)]

    def _make_room(self, prefilled: Cache, rows: int, width: int) -> None:
        """Plan the first buffers, for rows like those of ``prefilled``."""
        for layer in prefilled.layers:
            self._windows.setdefault(reach(layer), Window(reach(layer)))
        for window in self._windows.values():
            window.end = window.kept(width)
            window.room, window.columns = rows, window.end + _spare(window.end)
        self._mask = torch.zeros(
            rows, self._all.columns, dtype=torch.long, device=device(prefilled.layers)
        )

    def _move(self, window: Window, rows: int, width: int) -> None:
        """Copy what is in use into new buffers, of ``rows`` rows and columns for ``width`` tokens.

        If that fails, nothing is left: some layers are in their new place and some are not.
        """
        try:
            self._copy(window, rows, window.kept(width))
        except Exception:
            self._drop_all()
            raise

    def _copy(self, window: Window, rows: int, end: int) -> None:
        columns, used = end + _spare(end), len(self)
        into = slice(end - window.kept(self.width), end)
        for layer in self._rolling():
            if layer.window is window:
                layer.move(rows, columns, into)
        if window is self._all:
            mask = self._mask.new_zeros(rows, columns)
            mask[:used, into] = self._mask[:used, window.start : window.end]
            self._mask = mask
        window.room, window.columns, window.end = rows, columns, end


def remaining(count: int, indices: Sequence[int]) -> list[int]:
    """Return which row is where, once some of ``count`` have left.

    Those behind fill the gaps, in their order.

    Example:
        >>> remaining(6, [0, 1, 4])
        [3, 5, 2]
    """
    gone = set(indices)
    kept = count - len(gone)
    behind = (row for row in range(kept, count) if row not in gone)
    return [next(behind) if row in gone else row for row in range(kept)]


def _runs(order: Sequence[int]) -> list[tuple[slice, slice]]:
    """Return the rows that move: where to and where from, side by side as far as they are."""
    runs: list[tuple[slice, slice]] = []
    for place, row in enumerate(order):
        if place == row:
            continue
        into, source = slice(place, place + 1), slice(row, row + 1)
        if runs and (runs[-1][0].stop, runs[-1][1].stop) == (place, row):
            first = runs.pop()
            into, source = slice(first[0].start, into.stop), slice(first[1].start, source.stop)
        runs.append((into, source))
    return runs


def _spare(width: int) -> int:
    return _SPARE + width // _SHARE
