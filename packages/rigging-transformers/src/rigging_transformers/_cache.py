"""The key-value cache of a rolling batch: rows come and go, one column per token.

All rows end in the same column, that of the newest token, and a mask tells which columns
before are a row's own:

    row 0   . . a b c d e . .
    row 1   . . . . f g h . .
                ^start    ^end

The buffers are larger than what is in use, so that a token is written in place and a row
that leaves makes room for the next. Models see views of the part in use. Layers with a
sliding window keep no more columns than they look back. Imports torch: import this module
late.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import cache_utils
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["RollingCache", "is_rolling", "remaining"]

# Columns to spare in a new buffer, beside a share of its width: it is copied this rarely.
_SPARE: Final = 32
_SHARE: Final = 4

# Of layers that keep nothing; not in all versions of transformers.
_NOTHING: Final = getattr(cache_utils, "DummyLayer", None)


@dataclass
class _Window:
    """The part of some buffers that is in use: so many rows, columns ``start`` to ``end``.

    Attributes:
        reach: How many tokens before a new one are looked at; None if all are.
        room: Rows that the buffers have.
        columns: Columns that they have.
        rows: Those in use.
        width: Tokens of the longest row.
    """

    reach: int | None
    room: int = 0
    columns: int = 0
    rows: int = 0
    width: int = 0
    end: int = 0

    @property
    def start(self) -> int:
        return self.end - self.kept(self.width)

    def kept(self, tokens: int) -> int:
        """Return how many of a row's tokens are kept."""
        return tokens if self.reach is None else min(tokens, self.reach)

    def live(self, tokens: int) -> slice:
        """Return the columns of a row of so many tokens."""
        return slice(self.end - self.kept(tokens), self.end)


class _Layer(DynamicLayer):  # type: ignore[misc]
    """One layer's buffers, shape ``(rows, heads, columns, size)``, and a view of the window."""

    def __init__(self, window: _Window, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.window = window
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        self.is_sliding = window.reach is not None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write what is new behind the window. Repeated for one token, it changes nothing."""
        rows, start, end = self.window.rows, self.window.start, self.window.end
        new = end + key_states.shape[-2]
        self.keys[:rows, :, end:new] = key_states
        self.values[:rows, :, end:new] = value_states
        return self.keys[:rows, :, start:new], self.values[:rows, :, start:new]

    def get_seq_length(self) -> int:
        return self.window.width

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        kept = self.window.kept(self.window.width)
        return kept + query_length, self.window.width - kept


class RollingCache:
    """Keys and values of all running rows.

    Attributes:
        lengths: Tokens of each row, of which a sliding window keeps the last.
    """

    def __init__(self) -> None:
        self.lengths: list[int]
        # The mask's, and that of layers that look back to the beginning.
        self._all: _Window
        self._windows: dict[int | None, _Window]
        self._layers: list[Any]
        self._mask: torch.Tensor
        self._drop_all()

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
            prefilled: Of transformers, with layers that `is_rolling` holds for.
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
        for number, layer in enumerate(prefilled.layers):
            if len(self._layers) <= number:
                self._layers.append(self._new_layer(layer))
            into = self._layers[number]
            if not isinstance(into, _Layer):
                continue
            live = into.window.live(width)
            keeps_all = len(keep) == layer.keys.shape[0]
            for buffer, source in ((into.keys, layer.keys), (into.values, layer.values)):
                own = source[..., source.shape[-2] - (live.stop - live.start) :, :]
                buffer[first:rows, :, live] = own if keeps_all else own[indices(own.device)]
            layer.keys = layer.values = None
        self._mask[first:rows] = 0
        for row, length in enumerate(lengths, first):
            self._mask[row, self._all.live(length)] = 1
        self.lengths += lengths
        self._refit()

    def keep(self, order: Sequence[int]) -> None:
        """Keep these rows, in that order, which `remaining` gives; drop the others."""
        for into, source in _runs(order):
            longest = max(self.lengths[source])
            for layer in self._buffers():
                live = layer.window.live(longest)
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
        for layer in self._buffers():
            layer.keys[index] = 0
            layer.values[index] = 0

    def opened(self) -> tuple[Cache, torch.Tensor | None]:
        """Make room for one more token per row.

        Returns:
            What the model is given: the cache, and an attention mask of shape
            ``(rows, width + 1)``; None where no row is padded.
        """
        for window in self._windows.values():
            if window.end == window.columns:
                room = window.room if len(self) > window.room // 2 else len(self)
                self._move(window, room, self.width)
        rows, start, end = len(self), self._all.start, self._all.end
        padded = min(self.lengths) < self.width
        self._mask[:rows, end] = 1
        return Cache(layers=self._layers), self._mask[:rows, start : end + 1] if padded else None

    def advance(self) -> None:
        """Count the token that was written."""
        self.lengths = [length + 1 for length in self.lengths]
        for window in self._windows.values():
            window.end += 1
            window.width += 1

    def _drop_all(self) -> None:
        self.lengths = []
        self._all = _Window(reach=None)
        self._windows = {None: self._all}
        self._layers = []
        self._mask = torch.empty(0, 0, dtype=torch.long)

    def _refit(self) -> None:
        for window in self._windows.values():
            window.rows, window.width = len(self), self.width

    def _buffers(self) -> list[_Layer]:
        return [layer for layer in self._layers if isinstance(layer, _Layer)]

    def _make_room(self, prefilled: Cache, rows: int, width: int) -> None:
        """Plan the first buffers, for rows like those of ``prefilled``."""
        layers = [layer for layer in prefilled.layers if isinstance(layer, DynamicLayer)]
        for layer in layers:
            self._windows.setdefault(_reach(layer), _Window(_reach(layer)))
        for window in self._windows.values():
            window.end = window.kept(width)
            window.room, window.columns = rows, window.end + _spare(window.end)
        self._mask = torch.zeros(
            rows, self._all.columns, dtype=torch.long, device=layers[0].keys.device
        )

    def _new_layer(self, like: Any) -> Any:
        if not isinstance(like, DynamicLayer):
            return like
        window = self._windows[_reach(like)]
        keys, values = (
            _zeros(part, window.room, window.columns) for part in (like.keys, like.values)
        )
        return _Layer(window, keys, values)

    def _move(self, window: _Window, rows: int, width: int) -> None:
        """Copy what is in use into new buffers, of ``rows`` rows and columns for ``width`` tokens.

        If that fails, nothing is left: some layers are in their new place and some are not.
        """
        try:
            self._copy(window, rows, window.kept(width))
        except Exception:
            self._drop_all()
            raise

    def _copy(self, window: _Window, rows: int, end: int) -> None:
        columns, used = end + _spare(end), len(self)
        source = slice(window.start, window.end)
        into = slice(end - window.kept(self.width), end)
        for layer in self._buffers():
            if layer.window is not window:
                continue
            # One tensor at a time, so that no more than one is there twice.
            for name in ("keys", "values"):
                old = getattr(layer, name)
                new = _zeros(old, rows, columns)
                new[:used, :, into] = old[:used, :, source]
                setattr(layer, name, new)
        if window is self._all:
            mask = self._mask.new_zeros(rows, columns)
            mask[:used, into] = self._mask[:used, source]
            self._mask = mask
        window.room, window.columns, window.end = rows, columns, end


def is_rolling(layer: Any) -> bool:
    """Tell whether rows may join and leave a layer of transformers' cache."""
    return type(layer) in (DynamicLayer, DynamicSlidingWindowLayer, _NOTHING)


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


def _reach(layer: DynamicLayer) -> int | None:
    # A new token counts to its own window.
    is_sliding = isinstance(layer, DynamicSlidingWindowLayer)
    return layer.sliding_window - 1 if is_sliding else None


def _zeros(like: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    # Zeros, because what is masked is still multiplied, and chance bits may be no number.
    _, heads, _, size = like.shape
    return like.new_zeros(rows, heads, columns, size)


def _spare(width: int) -> int:
    return _SPARE + width // _SHARE
