"""The choice of each row's next token. Imports torch: import this module late.

Rows of one batch have their own parameters: each row's penalties come first, then rows
that are sampled alike are filtered and drawn together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
import transformers

from rigging_transformers._row import NO_TOKEN

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from rigging_transformers._row import Row
    from rigging_transformers._sampling import Sampling

__all__ = ["Choice", "check"]

# Processor -> transformers' class.
_PROCESSORS: Final = {
    "repetition_penalty": "RepetitionPenaltyLogitsProcessor",
    "no_repeat_ngram_size": "NoRepeatNGramLogitsProcessor",
}
# Filter -> transformers' class and the name of its argument.
_FILTERS: Final = {
    "temperature": ("TemperatureLogitsWarper", "temperature"),
    "top_h": ("TopHLogitsWarper", "top_h"),
    "top_k": ("TopKLogitsWarper", "top_k"),
    "top_p": ("TopPLogitsWarper", "top_p"),
    "min_p": ("MinPLogitsWarper", "min_p"),
    "typical_p": ("TypicalLogitsWarper", "mass"),
    "epsilon_cutoff": ("EpsilonLogitsWarper", "epsilon"),
    "eta_cutoff": ("EtaLogitsWarper", "epsilon"),
}


class Choice:
    """Chooses the next token of each row.

    Args:
        rows: Of one batch, in order.
        device: Of the scores.
    """

    def __init__(self, rows: Sequence[Row], device: torch.device) -> None:
        # The tokens that a row has generated grow while it runs.
        self._processed = [
            (index, row, _processors(row.plan.sampling))
            for index, row in enumerate(rows)
            if row.plan.sampling.processors
        ]
        self._penalized = [
            (index, row.tokens, row.plan.sampling)
            for index, row in enumerate(rows)
            if row.plan.sampling.presence_penalty or row.plan.sampling.frequency_penalty
        ]
        alike: dict[Hashable, list[int]] = {}
        for index, row in enumerate(rows):
            if row.plan.sampling.sampled:
                alike.setdefault(row.plan.sampling.filters, []).append(index)
        self._drawn = [_Drawn(rows, indices, device) for indices in alike.values()]

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the tokens, shape ``(rows,)``; `NO_TOKEN` for a row with a score that is NaN.

        Where memory does not suffice, no random number has been used.

        Args:
            scores: What the model says of each token, shape ``(rows, vocabulary)``; changed
                in place.
        """
        for index, row, processors in self._processed:
            tokens = torch.tensor([[*row.prompt, *row.tokens]], device=scores.device)
            for processor in processors:
                scores[index] = processor(tokens, scores[index : index + 1])[0]
        for index, generated, sampling in self._penalized:
            seen, counts = torch.tensor(generated, dtype=torch.long, device=scores.device).unique(
                return_counts=True
            )
            penalty = sampling.presence_penalty + sampling.frequency_penalty * counts
            scores[index, seen] -= penalty
        chosen = _chosen(scores, scores.argmax(dim=-1))
        chances = [group.chances(scores) for group in self._drawn]
        noises = [torch.empty_like(own) for own in chances]
        for group, own, noise in zip(self._drawn, chances, noises, strict=True):
            chosen[group.indices] = group.draw(own, noise)
        return chosen


class _Drawn:
    """Rows that are filtered alike. A seeded one has random numbers of its own.

    Attributes:
        indices: Which rows of the batch; those without a seed come first.
    """

    def __init__(self, rows: Sequence[Row], indices: Sequence[int], device: torch.device) -> None:
        shared = [index for index in indices if rows[index].plan.sampling.seed is None]
        seeded = [index for index in indices if rows[index].plan.sampling.seed is not None]
        self.indices = torch.tensor([*shared, *seeded], device=device)
        self._shared = len(shared)
        self._own = [_random_numbers(rows[index], device) for index in seeded]
        self._warpers = _warpers(rows[indices[0]].plan.sampling, device)

    def chances(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the probability of each token, shape ``(indices, vocabulary)``."""
        logits = scores[self.indices]
        for warper in self._warpers:
            logits = warper(None, logits)
        return logits.softmax(dim=-1)

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


def check(sampling: Sampling) -> None:
    """Check that transformers takes the values of filters and penalties.

    Raises:
        ValueError: If it refuses one; or `TypeError`.
    """
    _processors(sampling)
    _warpers(sampling, torch.device("cpu"))


def _processors(sampling: Sampling) -> list[Any]:
    return [getattr(transformers, _PROCESSORS[name])(value) for name, value in sampling.processors]


def _warpers(sampling: Sampling, device: torch.device) -> list[Any]:
    warpers = []
    for name, value in sampling.filters:
        class_name, argument = _FILTERS[name]
        options: dict[str, Any] = {argument: value if name == "top_k" else float(value)}
        if name == "eta_cutoff":
            options["device"] = device
        warpers.append(getattr(transformers, class_name)(**options))
    return warpers


def _random_numbers(row: Row, device: torch.device) -> torch.Generator:
    """Return a seeded row's own, so that nobody else's draws move them, nor they theirs."""
    if row.random_numbers is None:
        # Any integer is a seed; torch takes 64 bits.
        seed = (row.plan.sampling.seed or 0) % 2**63
        row.random_numbers = torch.Generator(device).manual_seed(seed)
    generator: torch.Generator = row.random_numbers
    return generator
