"""The layers of a rolling cache: buffers with room to spare, of which models see what is in use.

Imports torch: import this module late.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from transformers import cache_utils
from transformers.cache_utils import (
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

__all__ = [
    "HAS_POSITIONS",
    "RollingLayer",
    "Window",
    "device",
    "looks_back",
    "may_roll",
    "new_layer",
    "reach",
]

# Of layers that keep nothing; not in all versions of transformers.
_NOTHING: Final = getattr(cache_utils, "DummyLayer", None)

# What layers of transformers hold of each token, shape ``(rows, …, columns, size)``, and of
# all tokens together, by number, shape ``(rows, …)``.
_TOKENS: Final = ("keys", "values", "indexer_keys")
_STATES: Final = ("conv_states", "recurrent_states")
# Shape ``(axes, rows, columns)``.
_POSITIONS: Final = "indexer_position_ids"

#: Whether layers are where models keep their positions; before transformers 5.21, not.
HAS_POSITIONS: Final = hasattr(DynamicIndexedLayer(), _POSITIONS)


@dataclass
class Window:
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


class RollingLayer:
    """Buffers for what one layer holds of each row.

    Args:
        window: What of them is in use.
        like: A layer of transformers that is filled.
    """

    def __init__(self, window: Window, like: Any) -> None:
        # What there is, and that it is filled.
        self.__dict__.update(vars(like))
        for name in (*_TOKENS, _POSITIONS):
            self.__dict__.pop(name, None)
        self.__dict__.update({name: {} for name in _STATES if hasattr(like, name)})
        self.window = window
        self.tokens = {
            name: _zeros(part, window.room, window.columns) for name, part in _tokens(like).items()
        }
        self.states = {
            place: _zero_rows(part, window.room) for place, part in _states(like).items()
        }

    def take(
        self, like: Any, rows: slice, width: int, pick: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        """Take over, into ``rows``, what ``pick`` picks of a layer of transformers; empty that."""
        live = self.window.live(width)
        kept = live.stop - live.start
        for name, part in _tokens(like).items():
            first = part.shape[-2] - kept
            self.tokens[name][rows, ..., live, :] = pick(part[..., first:, :])
        for place, part in _states(like).items():
            self.states[place][rows] = pick(part)
        vars(like).clear()

    def keep(self, into: slice, source: slice, longest: int) -> None:
        """Let rows, of at most ``longest`` tokens, take the places of others."""
        live = self.window.live(longest)
        for buffer in self.tokens.values():
            buffer[into, ..., live, :] = buffer[source, ..., live, :]
        for buffer in self.states.values():
            buffer[into] = buffer[source]

    def blank(self, index: int) -> None:
        """Forget what a row holds."""
        for buffer in (*self.tokens.values(), *self.states.values()):
            buffer[index] = 0

    def move(self, rows: int, columns: int, into: slice) -> None:
        """Copy what is in use into new buffers, at the columns ``into``."""
        used, source = self.window.rows, slice(self.window.start, self.window.end)
        # One tensor at a time, so that no more than one is there twice.
        for name, old in self.tokens.items():
            new = _zeros(old, rows, columns)
            new[:used, ..., into, :] = old[:used, ..., source, :]
            self.tokens[name] = new
        if rows == self.window.room:
            return
        for place, old in self.states.items():
            new = _zero_rows(old, rows)
            new[:used] = old[:used]
            self.states[place] = new
        self.refit()

    def refit(self) -> None:
        """Let the model write into the states of the rows that are in use now."""
        for (name, number), buffer in self.states.items():
            getattr(self, name)[number] = buffer[: self.window.rows]

    def _write(self, name: str, new: torch.Tensor) -> torch.Tensor:
        """Put what is new behind what is in use, and return both. Repeated, it changes nothing."""
        rows, start, end = self.window.rows, self.window.start, self.window.end
        stop = end + new.shape[-2]
        buffer = self.tokens[name]
        buffer[:rows, ..., end:stop, :] = new
        return buffer[:rows, ..., start:stop, :]


# What follows is what models call.


class _AttentionLayer(RollingLayer, DynamicLayer):  # type: ignore[misc]
    def __init__(self, window: Window, like: DynamicLayer) -> None:
        super().__init__(window, like)
        self.is_sliding = window.reach is not None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._write("keys", key_states), self._write("values", value_states)

    def get_seq_length(self) -> int:
        return self.window.width

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        kept = self.window.kept(self.window.width)
        return kept + query_length, self.window.width - kept


class _StateLayer(RollingLayer, LinearAttentionLayer):  # type: ignore[misc]
    pass


class _HybridLayer(_AttentionLayer, _StateLayer):
    pass


class _IndexedLayer(_AttentionLayer):
    """Sparse attention: an indexer, with keys of its own, picks what is looked at."""

    def update_indexer(self, indexer_key_states: torch.Tensor) -> torch.Tensor:
        return self._write("indexer_keys", indexer_key_states)

    @property
    def indexer_position_ids(self) -> torch.Tensor | None:
        """Where the tokens stand; models set them with those of the new ones behind."""
        if _POSITIONS not in self.tokens:
            return None
        window = self.window
        used = self.tokens[_POSITIONS][: window.rows, window.start : window.end]
        return used.permute(2, 0, 1)

    @indexer_position_ids.setter
    def indexer_position_ids(self, ids: torch.Tensor) -> None:
        new = ids.shape[-1] - (self.window.end - self.window.start)
        self._write(_POSITIONS, ids[..., -new:].permute(1, 2, 0))


_ROLLING: Final = {
    DynamicIndexedLayer: _IndexedLayer,
    DynamicLayer: _AttentionLayer,
    DynamicSlidingWindowLayer: _AttentionLayer,
    LinearAttentionAndFullAttentionLayer: _HybridLayer,
    LinearAttentionAndSlidingWindowAttentionLayer: _HybridLayer,
    LinearAttentionLayer: _StateLayer,
}


def may_roll(layers: Sequence[Any]) -> bool:
    """Tell whether rows may join and leave a cache of transformers with such layers."""
    return all(type(layer) in _ROLLING or type(layer) is _NOTHING for layer in layers)


def new_layer(window: Window, like: Any) -> Any:
    """Return a layer for rows like those of a layer of transformers, or that if it is empty."""
    return _ROLLING[type(like)](window, like) if _tokens(like) or _states(like) else like


def looks_back(layer: Any) -> bool:
    """Tell whether a layer has attention, so a mask."""
    return isinstance(layer, DynamicLayer)


def reach(layer: Any) -> int | None:
    """Return how many tokens before a new one a layer looks at; None if at all."""
    # A new token counts to its own window.
    is_sliding = isinstance(layer, DynamicSlidingWindowLayer)
    return layer.sliding_window - 1 if is_sliding else None


def device(layers: Sequence[Any]) -> torch.device:
    """Return where the first of filled layers of transformers is."""
    parts = ((*_tokens(layer).values(), *_states(layer).values()) for layer in layers)
    return next(itertools.chain.from_iterable(parts)).device


def _tokens(layer: Any) -> dict[str, torch.Tensor]:
    """Return what a layer of transformers holds of each token, in the shape of `_TOKENS`."""
    found = {name: getattr(layer, name, None) for name in _TOKENS}
    positions = getattr(layer, _POSITIONS, None)
    if positions is not None:
        found[_POSITIONS] = positions.permute(1, 2, 0)
    return {name: part for name, part in found.items() if part is not None}


def _states(layer: Any) -> dict[tuple[str, int], torch.Tensor]:
    """Return the recurrent states that a layer of transformers holds."""
    return {
        (name, number): state
        for name in _STATES
        for number, state in getattr(layer, name, {}).items()
        if state is not None
    }


def _zeros(like: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    # Zeros, because what is masked is still multiplied, and chance bits may be no number.
    return like.new_zeros(rows, *like.shape[1:-2], columns, like.shape[-1])


def _zero_rows(like: torch.Tensor, rows: int) -> torch.Tensor:
    return like.new_zeros(rows, *like.shape[1:])
