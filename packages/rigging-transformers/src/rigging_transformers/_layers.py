"""The layers of a rolling cache: buffers with room to spare, of which models see what is in use.

Imports torch: import this module late.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from transformers import cache_utils
from transformers.cache_utils import (
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

__all__ = ["AttentionLayer", "StateLayer", "Window", "may_roll", "reach", "states"]

# Of layers that keep nothing; not in all versions of transformers.
_NOTHING: Final = getattr(cache_utils, "DummyLayer", None)

_STATES: Final = ("conv_states", "recurrent_states")


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


class AttentionLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, shape ``(rows, heads, columns, size)``.

    Args:
        window: What is in use.
        like: A layer of transformers that is filled.
    """

    def __init__(self, window: Window, like: DynamicLayer) -> None:
        super().__init__()
        self.window = window
        self.keys, self.values = (
            _zeros(part, window.room, window.columns) for part in (like.keys, like.values)
        )
        self.dtype, self.device = self.keys.dtype, self.keys.device
        self.is_initialized = True
        self.is_sliding = window.reach is not None

    # -- For the model -------------------------------------------------------------------

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

    # -- For the rolling cache -----------------------------------------------------------

    def take(
        self, like: Any, rows: slice, width: int, pick: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        """Take over, into ``rows``, what ``pick`` picks of a layer of transformers; empty that."""
        live = self.window.live(width)
        for buffer, source in ((self.keys, like.keys), (self.values, like.values)):
            buffer[rows, :, live] = pick(
                source[..., source.shape[-2] - (live.stop - live.start) :, :]
            )
        like.keys = like.values = None

    def keep(self, into: slice, source: slice, longest: int) -> None:
        """Let rows, of at most ``longest`` tokens, take the places of others."""
        live = self.window.live(longest)
        self.keys[into, :, live] = self.keys[source, :, live]
        self.values[into, :, live] = self.values[source, :, live]

    def blank(self, index: int) -> None:
        """Forget what a row holds."""
        self.keys[index] = 0
        self.values[index] = 0

    def move(self, rows: int, columns: int, into: slice) -> None:
        """Copy what is in use into new buffers, at the columns ``into``."""
        used, source = self.window.rows, slice(self.window.start, self.window.end)
        # One tensor at a time, so that no more than one is there twice.
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = _zeros(old, rows, columns)
            new[:used, :, into] = old[:used, :, source]
            setattr(self, name, new)

    def refit(self) -> None:
        """Show the model the rows that are in use now."""


class StateLayer(LinearAttentionLayer):  # type: ignore[misc]
    """States of one recurrent layer, shape ``(rows, …)``, which each token changes.

    Args:
        window: Whose rows are in use.
        like: A layer of transformers that is filled.
    """

    def __init__(self, window: Window, like: LinearAttentionLayer) -> None:
        super().__init__()
        # Which states there are, and that they are filled.
        self.__dict__.update(vars(like), **{name: {} for name in _STATES})
        self.window = window
        self._buffers = {
            place: _zero_rows(state, window.room) for place, state in states(like).items()
        }

    def take(
        self, like: Any, rows: slice, _width: int, pick: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        """Take over, into ``rows``, what ``pick`` picks of a layer of transformers; empty that."""
        for place, state in states(like).items():
            self._buffers[place][rows] = pick(state)
        for name in _STATES:
            getattr(like, name).clear()

    def keep(self, into: slice, source: slice, _longest: int) -> None:
        """Let rows take the places of others."""
        for buffer in self._buffers.values():
            buffer[into] = buffer[source]

    def blank(self, index: int) -> None:
        """Forget what a row holds."""
        for buffer in self._buffers.values():
            buffer[index] = 0

    def move(self, rows: int, _columns: int, _into: slice) -> None:
        """Copy what is in use into new buffers, if there are to be more rows, or fewer."""
        if rows == self.window.room:
            return
        used = self.window.rows
        for place, old in self._buffers.items():
            new = _zero_rows(old, rows)
            new[:used] = old[:used]
            self._buffers[place] = new
        self.refit()

    def refit(self) -> None:
        """Show the model the rows that are in use now: it writes into them."""
        for (name, number), buffer in self._buffers.items():
            getattr(self, name)[number] = buffer[: self.window.rows]


def may_roll(layers: Sequence[Any]) -> bool:
    """Tell whether rows may join and leave a cache of transformers with such layers."""
    kinds = (DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer, _NOTHING)
    # Only those with attention know how many tokens there are.
    has_attention = any(isinstance(layer, DynamicLayer) for layer in layers)
    return has_attention and all(type(layer) in kinds for layer in layers)


def states(layer: Any) -> dict[tuple[str, int], torch.Tensor]:
    """Return the recurrent states that a layer holds, by attribute and number."""
    return {
        (name, number): state
        for name in _STATES
        for number, state in getattr(layer, name, {}).items()
        if state is not None
    }


def reach(layer: DynamicLayer) -> int | None:
    """Return how many tokens before a new one a layer looks at; None if at all."""
    # A new token counts to its own window.
    is_sliding = isinstance(layer, DynamicSlidingWindowLayer)
    return layer.sliding_window - 1 if is_sliding else None


def _zeros(like: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    # Zeros, because what is masked is still multiplied, and chance bits may be no number.
    _, heads, _, size = like.shape
    return like.new_zeros(rows, heads, columns, size)


def _zero_rows(like: torch.Tensor, rows: int) -> torch.Tensor:
    return like.new_zeros(rows, *like.shape[1:])
