"""The key-value cache of a rolling batch: rows come and go, one column per token.

All rows end in the same column, that of the newest token, and a mask tells which columns
before are a row's own:

    row 0   . . a b c d e . .
    row 1   . . . . f g h . .
                ^start    ^end

The buffers are larger than what is in use, so that a token is written in place and a row
that leaves makes room for the next. Models see views of the part in use. Imports torch:
import this module late.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers.cache_utils import Cache, DynamicLayer

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["RollingCache", "remaining"]

# Columns to spare in a new buffer, beside a share of its width: it is copied this rarely.
_SPARE: Final = 32
_SHARE: Final = 4


@dataclass
class _Window:
    """The part of the buffers that is in use: so many rows, columns ``start`` to ``end``."""

    rows: int = 0
    start: int = 0
    end: int = 0


class _Layer(DynamicLayer):  # type: ignore[misc]
    """One layer's buffers, shape ``(rows, heads, columns, size)``, and a view of the window."""

    def __init__(self, window: _Window, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self._window = window
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write what is new behind the window. Repeated for one token, it changes nothing."""
        rows, start, end = self._window.rows, self._window.start, self._window.end
        new = end + key_states.shape[-2]
        self.keys[:rows, :, end:new] = key_states
        self.values[:rows, :, end:new] = value_states
        return self.keys[:rows, :, start:new], self.values[:rows, :, start:new]

    def get_seq_length(self) -> int:
        return self._window.end - self._window.start


class RollingCache:
    """Keys and values of all running rows.

    Attributes:
        lengths: Tokens of each row that are in the cache.
    """

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self._window = _Window()
        self._layers: list[_Layer] = []
        self._mask = torch.empty(0, 0, dtype=torch.long)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def width(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths, default=0)

    def add(
        self, prefilled: Cache, keep: Sequence[int], lengths: Sequence[int], *, more: int = 0
    ) -> None:
        """Take rows over from a left-padded batch of their own, whose cache is emptied.

        Args:
            prefilled: Of transformers, with plain layers only.
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
        if not first:
            self._layers = []
        rows = first + len(keep)
        if not self._layers:
            device = prefilled.layers[0].keys.device
            self._mask = torch.zeros(
                rows + more, width + _spare(width), dtype=torch.long, device=device
            )
            self._window.end = width
        elif rows > len(self._mask) or width > self._window.end:
            room = len(self._mask)
            # Somewhat more than needed: who comes one by one shall not cost a copy each.
            room = room if rows <= room else rows + more + rows // _SHARE
            self._move(room, max(width, self.width))
        end = self._window.end
        into = (slice(first, rows), slice(None), slice(end - width, end))
        keeps_all = len(keep) == prefilled.layers[0].keys.shape[0]
        # Sent once to each device, and not with each layer.
        indices = functools.cache(lambda device: torch.tensor(keep, device=device))
        for number, layer in enumerate(prefilled.layers):
            if len(self._layers) <= number:
                self._layers.append(self._new_layer(layer))
            buffers = self._layers[number]
            for buffer, source in ((buffers.keys, layer.keys), (buffers.values, layer.values)):
                own = source[..., source.shape[-2] - width :, :]
                buffer[into] = own if keeps_all else own[indices(own.device)]
            layer.keys = layer.values = None
        self._mask[first:rows] = 0
        for row, length in enumerate(lengths, first):
            self._mask[row, end - length : end] = 1
        self.lengths += lengths
        self._refit()

    def keep(self, order: Sequence[int]) -> None:
        """Keep these rows, in that order, which `remaining` gives; drop the others."""
        for into, source in _runs(order):
            live = slice(self._window.end - max(self.lengths[source]), self._window.end)
            for layer in self._layers:
                layer.keys[into, :, live] = layer.keys[source, :, live]
                layer.values[into, :, live] = layer.values[source, :, live]
            self._mask[into] = self._mask[source]
        self.lengths = [self.lengths[row] for row in order]
        if self.lengths:
            self._refit()
        else:
            self._drop_all()

    def blank(self, index: int) -> None:
        """Forget what a row holds, where it must not be multiplied with any more."""
        for layer in self._layers:
            layer.keys[index] = 0
            layer.values[index] = 0

    def opened(self) -> tuple[Cache, torch.Tensor | None]:
        """Make room for one more token per row.

        Returns:
            What the model is given: the cache, and an attention mask of shape
            ``(rows, columns + 1)``; None where no row is padded.
        """
        if self._window.end == self._mask.shape[1]:
            rows = len(self._mask)
            self._move(rows if len(self) > rows // 2 else len(self), self.width)
        rows, start, end = self._window.rows, self._window.start, self._window.end
        padded = min(self.lengths) < self.width
        self._mask[:rows, end] = 1
        return Cache(layers=self._layers), self._mask[:rows, start : end + 1] if padded else None

    def advance(self) -> None:
        """Count the token that was written."""
        self._window.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def _drop_all(self) -> None:
        self.lengths = []
        self._layers = []
        self._mask = torch.empty(0, 0, dtype=torch.long)
        self._refit()

    def _refit(self) -> None:
        self._window.rows = len(self)
        self._window.start = self._window.end - self.width

    def _new_layer(self, like: DynamicLayer) -> _Layer:
        rows, columns = self._mask.shape
        keys, values = (_zeros(part, rows, columns) for part in (like.keys, like.values))
        return _Layer(self._window, keys, values)

    def _move(self, rows: int, end: int) -> None:
        """Copy what is in use into new buffers of ``rows`` rows, so that it ends at ``end``.

        If that fails, nothing is left: some layers are in their new place and some are not.
        """
        try:
            self._copy(rows, end)
        except Exception:
            self._drop_all()
            raise

    def _copy(self, rows: int, end: int) -> None:
        columns, used = end + _spare(end), len(self)
        source = (slice(used), slice(None), slice(self._window.start, self._window.end))
        into = (slice(used), slice(None), slice(end - self.width, end))
        for layer in self._layers:
            # One tensor at a time, so that no more than one is there twice.
            for name in ("keys", "values"):
                old = getattr(layer, name)
                new = _zeros(old, rows, columns)
                new[into] = old[source]
                setattr(layer, name, new)
        mask = self._mask.new_zeros(rows, columns)
        mask[:used, into[2]] = self._mask[:used, source[2]]
        self._mask = mask
        self._window.end = end
        self._refit()


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


def _zeros(like: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    # Zeros, because what is masked is still multiplied, and chance bits may be no number.
    _, heads, _, size = like.shape
    return like.new_zeros(rows, heads, columns, size)


def _spare(width: int) -> int:
    return _SPARE + width // _SHARE
