"""A batch that rolls: one forward pass per step, rows leave and join between two.

Imports torch: import this module late.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers.cache_utils import DynamicCache

from rigging_transformers._cache import RollingCache, remaining
from rigging_transformers._choice import Choice
from rigging_transformers._padding import left_pad

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rigging_transformers._loaded import Loaded
    from rigging_transformers._row import Row

__all__ = ["RollingBatch"]

# Of a mask at most: tokens of a part times those before. Some kernels want two bytes of each,
# for each row.
_CELLS: Final = 1 << 28


class RollingBatch:
    """The rows that are running, and their cache.

    A step that fails changes no row, so it may be repeated with fewer: with those that
    `drop_lost` returns once they have been read again.

    Attributes:
        rows: In the order of the cache, which changes as rows leave.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.rows: list[Row] = []
        self._model = loaded.model
        self._device = torch.device(loaded.device)
        self._pad_id = loaded.pad_id
        self._cache = RollingCache()
        self._choice: Choice | None = None
        # The last tokens and where they stand: on the device, where the next come from.
        self._input: tuple[torch.Tensor, torch.Tensor] | None = None
        self._cache_name = loaded.cache_name
        self._takes_positions = "position_ids" in loaded.takes
        # Only the last token's logits are looked at; those of a long prompt fill gigabytes.
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in loaded.takes else {}

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each row that are in the cache."""
        return self._cache.lengths

    @property
    def room(self) -> int:
        """Rows that the cache has buffers for."""
        return self._cache.room

    def join(self, rows: Sequence[Row], *, more: int = 0) -> None:
        """Read the prompts of new rows, and generate the first token of each.

        Args:
            rows: Of similar length, because they are padded to the longest. One that has
                generated before goes on where it was.
            more: How many will join soon after, for which room is made at once.
        """
        read = [[*row.prompt, *row.tokens] for row in rows]
        lengths = [len(tokens) for tokens in read]
        ids, mask = left_pad(read, self._pad_id)
        width = max(lengths)
        cache = DynamicCache(config=self._model.config)
        starts = self._tensor([[width - length] for length in lengths])
        positions = torch.arange(width, device=self._device) - starts
        scores = self._forward(
            self._tensor(ids),
            self._tensor(mask) if min(lengths) < width else None,
            positions.clamp(min=0),
            cache,
        )
        self._let_in(rows, lengths, scores, cache, more)

    def join_in_parts(self, row: Row, size: int, *, more: int = 0) -> Iterator[None]:
        """Let one row join whose prompt is long: it is read in parts, between which it yields.

        Args:
            row: As for `join`.
            size: Tokens of a part; fewer where it looks back to so many that the mask would
                take much memory.
            more: As for `join`.
        """
        read = [*row.prompt, *row.tokens]
        cache = DynamicCache(config=self._model.config)
        end = 0
        while end < len(read):
            if end:
                yield
            most = max(1, min(size, _CELLS // max(end, 1)))
            start, end = end, min(end + most, len(read))
            positions = torch.arange(start, end, device=self._device)
            scores = self._forward(self._tensor([read[start:end]]), None, positions[None], cache)
        self._let_in([row], [len(read)], scores, cache, more)

    def _let_in(
        self,
        rows: Sequence[Row],
        lengths: Sequence[int],
        scores: torch.Tensor,
        cache: DynamicCache,
        more: int,
    ) -> None:
        """Take over rows that have been read."""
        _add(rows, Choice(rows, scores)(scores))
        keep = [index for index, row in enumerate(rows) if row.end is None]
        if keep:
            self._cache.add(cache, keep, [lengths[index] for index in keep], more=more)
            self.rows += [rows[index] for index in keep]
            self._choice = self._input = None

    def step(self) -> None:
        """Generate the next token of each row."""
        try:
            tokens = self._next()
        except Exception:
            self._cache.give_up()
            raise
        _add(self.rows, tokens)

    def _next(self) -> torch.Tensor:
        """Return the next token of each row, shape ``(rows,)``."""
        cache, mask = self._cache.opened()
        if self._input is None:
            self._input = (
                self._tensor([row.tokens[-1:] for row in self.rows]),
                self._tensor([[length] for length in self._cache.lengths]),
            )
        ids, positions = self._input
        scores = self._forward(ids, mask, positions, cache)
        if self._choice is None:
            self._choice = Choice(self.rows, scores)
        tokens = self._choice(scores)
        ids = tokens[:, None].to(self._device)
        self._cache.advance()
        self._input = ids, positions.add_(1)
        return tokens

    def drop_ended(self) -> None:
        """Let rows leave that have ended."""
        ended = [index for index, row in enumerate(self.rows) if row.end is not None]
        for index in ended:
            # NaN would spread to the next row in its place, masked or not.
            if self.rows[index].end == "invalid":
                self._cache.blank(index)
        self.drop(ended)

    def drop(self, indices: Sequence[int]) -> list[Row]:
        """Let rows leave, and return them; ``indices`` ascend."""
        gone = [self.rows[index] for index in indices]
        if gone:
            order = remaining(len(self), indices)
            if self._cache:
                self._cache.keep(order)
            self.rows = [self.rows[row] for row in order]
            self._choice = self._input = None
        return gone

    def shrink(self) -> None:
        """Give back what the cache has to spare.

        If memory does not suffice even for that, the rows are lost.
        """
        self._cache.shrink()

    def drop_lost(self) -> list[Row]:
        """Let rows leave whose keys and values are gone, and return them."""
        return [] if self._cache else self.drop(range(len(self.rows)))

    def _forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor | None,
        positions: torch.Tensor,
        cache: Any,
    ) -> torch.Tensor:
        """Return the scores of each row's next token, shape ``(rows, vocabulary)``."""
        inputs = {"attention_mask": mask, self._cache_name: cache, **self._options}
        if self._takes_positions:
            inputs["position_ids"] = positions
        output = self._model(input_ids=ids, use_cache=True, **inputs)
        scores: torch.Tensor = output.logits[:, -1].to(torch.float32, copy=True)
        return scores

    def _tensor(self, values: Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)


def _add(rows: Sequence[Row], tokens: torch.Tensor) -> None:
    now = time.monotonic()
    for row, token in zip(rows, tokens.tolist(), strict=True):
        row.add(token, now)
