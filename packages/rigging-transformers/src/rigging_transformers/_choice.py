"""The choice of each row's next token. Imports torch: import this module late.

Rows of one batch have their own parameters: penalties come first, then rows that have the
same filters are filtered and drawn together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rigging_transformers._filters import Filters, kind
from rigging_transformers._penalties import penalties
from rigging_transformers._row import NO_TOKEN

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from rigging_transformers._row import Row

__all__ = ["Choice"]


class Choice:
    """Chooses the next token of each row.

    Args:
        rows: Of one batch, in order.
        scores: Of some step: for how many tokens there are, and where.
    """

    def __init__(self, rows: Sequence[Row], scores: torch.Tensor) -> None:
        self._penalties = penalties(rows, scores)
        alike: dict[Hashable, list[int]] = {}
        for index, row in enumerate(rows):
            if row.plan.sampling.sampled:
                alike.setdefault(kind(row.plan.sampling), []).append(index)
        self._drawn = [_Drawn(rows, indices, scores) for indices in alike.values()]
        self._last: torch.Tensor | None = None

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the tokens, shape ``(rows,)``; `NO_TOKEN` for a row with a score that is NaN.

        Whatever is as large as the scores is there before the first random number is used: if
        memory does not suffice for that, the next try draws the same.

        Args:
            scores: What the model says of each token, shape ``(rows, vocabulary)``; changed
                in place. Each row has taken the token that was chosen for it before.
        """
        for penalty in self._penalties:
            if self._last is not None:
                penalty.add(self._last)
            penalty(scores)
        chosen = _chosen(scores, scores.argmax(dim=-1))
        chances = [group.chances(scores) for group in self._drawn]
        noises = [torch.empty_like(own) for own in chances]
        for group, own, noise in zip(self._drawn, chances, noises, strict=True):
            chosen[group.indices] = group.draw(own, noise)
        # Nothing may fail any more. So the penalties take these with the next scores.
        self._last = chosen
        return chosen


class _Drawn:
    """Rows that have the same filters. A seeded one has random numbers of its own.

    Attributes:
        indices: Which rows of the batch; those without a seed come first.
    """

    def __init__(self, rows: Sequence[Row], indices: Sequence[int], scores: torch.Tensor) -> None:
        shared = [index for index in indices if rows[index].plan.sampling.seed is None]
        seeded = [index for index in indices if rows[index].plan.sampling.seed is not None]
        self.indices = torch.tensor([*shared, *seeded], device=scores.device)
        self._shared = len(shared)
        self._own = [_random_numbers(rows[index], scores.device) for index in seeded]
        ordered = [rows[index].plan.sampling for index in (*shared, *seeded)]
        self._filters = Filters(ordered, scores)

    def chances(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the probability of each token, shape ``(indices, vocabulary)``."""
        return self._filters(scores[self.indices]).softmax(dim=-1)

    def draw(self, chances: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Draw a token per row as ``torch.multinomial`` does, shape ``(indices,)``.

        Args:
            chances: Of `chances`.
            noise: Memory of the same shape.
        """
        # The least of exponential variates with these rates. That is a comparison of the
        # best two, so rounding tips it only where they are equal to the last bits.
        if self._shared:
            noise[: self._shared].exponential_()
        for row, own in zip(noise[self._shared :], self._own, strict=True):
            row.exponential_(generator=own)
        return _chosen(chances, torch.div(chances, noise, out=noise).argmax(dim=-1))


def _chosen(scores: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    # NaN is the greatest of all to argmax, so it is found where it was chosen.
    best = scores.gather(1, tokens[:, None])[:, 0]
    return tokens.masked_fill(best.isnan(), NO_TOKEN)


def _random_numbers(row: Row, device: torch.device) -> torch.Generator:
    """Return a seeded row's own, so that nobody else's draws move them, nor they theirs."""
    if row.random_numbers is None:
        # Any integer is a seed; torch takes 64 bits.
        seed = (row.plan.sampling.seed or 0) % 2**63
        row.random_numbers = torch.Generator(device).manual_seed(seed)
    generator: torch.Generator = row.random_numbers
    return generator
