"""Penalties: what the tokens of rows do to their scores, for all rows at once.

The tokens stay beside the scores, as a list of places in these. It grows there by one per row
and step, so that no step sends it to the device again; only n-grams are looked up in Python.
Imports torch: import this module late.
"""

from __future__ import annotations

import sys
from array import array
from collections import defaultdict, deque
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
        for row in rows.values():
            # It has them from its last batch, if its neighbours have changed.
            row.distinct = row.distinct or _Distinct(row)
        tokens = {index: row.distinct.of(row) for index, row in rows.items()}
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


class _Distinct:
    """The tokens of a row and its prompt, each once.

    Each token is looked at once, however long the row is.
    """

    def __init__(self, row: Row) -> None:
        self._taken = 0  # of the tokens that were generated
        self._known = {*row.prompt}
        self._tokens = array("q", self._known)

    def of(self, row: Row) -> array[int]:
        """Return them all."""
        new = {*row.tokens[self._taken :]} - self._known
        self._taken = len(row.tokens)
        self._known |= new
        self._tokens.extend(new)
        return self._tokens


class _NGrams:
    """As transformers' ``NoRepeatNGramLogitsProcessor``."""

    def __init__(self, rows: Mapping[int, Row]) -> None:
        self._rows = rows
        for row in rows.values():
            # It has them from its last batch, if its neighbours have changed.
            row.followers = row.followers or _Followers(row)

    def __call__(self, scores: torch.Tensor) -> None:
        places = [
            (index, token)
            for index, row in self._rows.items()
            for token in row.followers.of_last(row)
            if token < scores.shape[-1]
        ]
        if places:
            where = torch.tensor(places, device=scores.device).unbind(1)
            scores[where] = -torch.inf

    def add(self, tokens: torch.Tensor) -> None:
        """Do nothing: the rows know their tokens."""


class _Followers:
    """What has followed each run of tokens of a row, of one token less than an n-gram has.

    Each token is looked at once, however long the row is.
    """

    def __init__(self, row: Row) -> None:
        self._taken = 0  # of the tokens that were generated
        size = min(row.plan.sampling.no_repeat_ngram_size, sys.maxsize)
        self._last: deque[int] = deque(maxlen=size - 1)
        self._followers: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
        self._take(row.prompt)

    def of_last(self, row: Row) -> Collection[int]:
        """Return what has followed the row's last such run."""
        self._take(row.tokens[self._taken :])
        self._taken = len(row.tokens)
        return self._followers.get(tuple(self._last), ())

    def _take(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            # The first few runs are shorter. Nobody asks for these.
            self._followers[tuple(self._last)].add(token)
            self._last.append(token)


class _Occurrence:
    """The presence and the frequency penalty: of generated tokens only."""

    def __init__(self, rows: Mapping[int, Row], scores: torch.Tensor) -> None:
        tokens = {index: array("q", row.tokens) for index, row in rows.items()}
        self._places = _Places(tokens, scores)
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
        tokens: Which token, for each place.
        numbers: Which of the given rows, counted from 0.
        rows: The same row's index in the batch.
    """

    def __init__(self, tokens: Mapping[int, array[int]], scores: torch.Tensor) -> None:
        device = scores.device
        self._indices = torch.tensor(list(tokens), device=device)
        self._each = torch.arange(len(tokens), device=device)
        # There may be a hundred thousand, for which lists would take a tenth of a second.
        parts = [torch.frombuffer(own, dtype=torch.long) for own in tokens.values() if own]
        all_tokens = torch.cat([torch.empty(0, dtype=torch.long), *parts])
        counts = torch.tensor([len(own) for own in tokens.values()])
        numbers = torch.arange(len(tokens)).repeat_interleave(counts)
        # Some models have more embeddings than scores.
        scored = all_tokens < scores.shape[-1]
        self.tokens = all_tokens[scored].to(device)
        self.numbers = numbers[scored].to(device)
        self.rows = self._indices[self.numbers]

    def add(self, tokens: torch.Tensor) -> None:
        # `NO_TOKEN` counts from the end, which is of no consequence: its row has ended.
        self.tokens = torch.cat([self.tokens, tokens[self._indices]])
        self.numbers = torch.cat([self.numbers, self._each])
        self.rows = torch.cat([self.rows, self._indices])
