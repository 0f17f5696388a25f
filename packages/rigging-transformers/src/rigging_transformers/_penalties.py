"""Penalties: what the tokens of rows do to their scores, for all rows at once.

The tokens stay beside the scores, as a list of places in these that grows by one per row
and step: no step copies them. Imports torch: import this module late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from rigging_transformers._row import Row

__all__ = ["Penalty", "penalties"]


class Penalty(Protocol):
    """One penalty of all rows that have it."""

    def __call__(self, scores: torch.Tensor) -> None:
        """Change scores in place, shape ``(rows, vocabulary)``."""

    def add(self, tokens: torch.Tensor) -> None:
        """Take the next token of each row of the batch, shape ``(rows,)``."""


def penalties(rows: Sequence[Row], scores: torch.Tensor) -> list[Penalty]:
    """Return the penalties of rows, in the order in which transformers applies them.

    Args:
        rows: Of one batch, in order.
        scores: Of some step: for how many tokens there are, and where.
    """
    samplings = [row.plan.sampling for row in rows]
    repeating = {i: rows[i] for i, own in enumerate(samplings) if own.repetition_penalty != 1}
    banning = {i: rows[i] for i, own in enumerate(samplings) if own.no_repeat_ngram_size}
    counting = {
        i: rows[i]
        for i, own in enumerate(samplings)
        if own.presence_penalty or own.frequency_penalty
    }
    found: list[Penalty] = []
    if repeating:
        found.append(_Repetition(repeating, scores))
    if banning:
        found.append(_NGrams(banning))
    if counting:
        found.append(_Occurrence(counting, scores))
    return found


class _Repetition:
    """As transformers' ``RepetitionPenaltyLogitsProcessor``: of the prompt's tokens, too."""

    def __init__(self, rows: Mapping[int, Row], scores: torch.Tensor) -> None:
        tokens = {index: {*row.prompt, *row.tokens} for index, row in rows.items()}
        self._places = _Places(tokens, scores)
        self._values = scores.new_tensor(
            [row.plan.sampling.repetition_penalty for row in rows.values()]
        )

    def __call__(self, scores: torch.Tensor) -> None:
        where = self._places.rows, self._places.tokens
        own, value = scores[where], self._values[self._places.numbers]
        scores[where] = torch.where(own < 0, own * value, own / value)

    def add(self, tokens: torch.Tensor) -> None:
        self._places.add(tokens)


class _NGrams:
    """As transformers' ``NoRepeatNGramLogitsProcessor``; found by comparing lists."""

    def __init__(self, rows: Mapping[int, Row]) -> None:
        self._rows = rows

    def __call__(self, scores: torch.Tensor) -> None:
        places = [
            (index, token)
            for index, row in self._rows.items()
            for token in _banned([*row.prompt, *row.tokens], row.plan.sampling.no_repeat_ngram_size)
            if token < scores.shape[-1]
        ]
        if places:
            where = torch.tensor(places, device=scores.device).unbind(1)
            scores[where] = -torch.inf

    def add(self, tokens: torch.Tensor) -> None:
        """Do nothing: the rows know their tokens."""


class _Occurrence:
    """The presence and the frequency penalty: of generated tokens only."""

    def __init__(self, rows: Mapping[int, Row], scores: torch.Tensor) -> None:
        self._places = _Places({index: row.tokens for index, row in rows.items()}, scores)
        samplings = [row.plan.sampling for row in rows.values()]
        self._presence = scores.new_tensor([own.presence_penalty for own in samplings])
        self._frequency = scores.new_tensor([own.frequency_penalty for own in samplings])
        self._counts = scores.new_zeros(len(rows), scores.shape[-1])
        self._count(self._places.numbers, self._places.tokens)

    def __call__(self, scores: torch.Tensor) -> None:
        numbers, tokens = self._places.numbers, self._places.tokens
        count = self._counts[numbers, tokens]
        penalty = self._presence[numbers] + self._frequency[numbers] * count
        # The same for each occurrence of a token, so it is taken once.
        scores[self._places.rows, tokens] -= penalty

    def add(self, tokens: torch.Tensor) -> None:
        self._places.add(tokens)
        new = slice(-len(self._counts), None)
        self._count(self._places.numbers[new], self._places.tokens[new])

    def _count(self, numbers: torch.Tensor, tokens: torch.Tensor) -> None:
        one = self._counts.new_ones(())
        self._counts.index_put_((numbers, tokens), one, accumulate=True)


class _Places:
    """Where tokens of some rows are: ``scores[places.rows, places.tokens]``.

    A token may be there twice, so the same must be written to both.

    Args:
        tokens: By the row's index in the batch.
        scores: As of `penalties`.

    Attributes:
        numbers: Which of the given rows it is, counted from 0, for each place.
        tokens: Which token.
    """

    def __init__(self, tokens: Mapping[int, Collection[int]], scores: torch.Tensor) -> None:
        # Some models have more embeddings than scores.
        places = [
            (number, token)
            for number, own in enumerate(tokens.values())
            for token in own
            if token < scores.shape[-1]
        ]
        self.indices = torch.tensor(list(tokens), device=scores.device)
        self._each = torch.arange(len(tokens), device=scores.device)
        self.numbers, self.tokens = (
            torch.tensor(places, dtype=torch.long, device=scores.device).reshape(-1, 2).unbind(1)
        )

    @property
    def rows(self) -> torch.Tensor:
        """The row's index in the batch, for each place."""
        return self.indices[self.numbers]

    def add(self, tokens: torch.Tensor) -> None:
        # `NO_TOKEN` counts from the end, which is of no consequence: its row has ended.
        self.numbers = torch.cat([self.numbers, self._each])
        self.tokens = torch.cat([self.tokens, tokens[self.indices]])


def _banned(tokens: Sequence[int], size: int) -> set[int]:
    """Return the tokens that end an n-gram, of those that begin as the next one does."""
    begin = len(tokens) + 1 - size
    return {
        tokens[at + size - 1] for at in range(begin) if tokens[at : at + size - 1] == tokens[begin:]
    }
