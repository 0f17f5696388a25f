"""The choice of each row's next token. Imports torch: import this module late.

Rows of one batch have their own parameters: each row's penalties come first, then rows
that are sampled alike are filtered and drawn together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
import transformers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rigging_transformers._row import Row
    from rigging_transformers._sampling import Sampling

__all__ = ["Choice"]

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
    """Makes the likeliest token of each row the one that is to be taken.

    That is what a logits processor of transformers does, too: a drawn token is left as
    the only possible one, so that taking the likeliest takes it.

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
        # Rows that are sampled alike are drawn together; a seeded row draws by itself.
        alike: dict[tuple[Sampling, int | None], list[int]] = {}
        for index, row in enumerate(rows):
            sampling = row.plan.sampling
            if sampling.sampled:
                alone = None if sampling.seed is None else index
                alike.setdefault((sampling, alone), []).append(index)
        self._drawn = [
            (indices, _warpers(sampling, device), _random_numbers(sampling, device))
            for (sampling, _), indices in alike.items()
        ]

    def __bool__(self) -> bool:
        return bool(self._processed or self._penalized or self._drawn)

    def __call__(self, input_ids: torch.Tensor | None, scores: torch.Tensor) -> torch.Tensor:
        """Change scores of shape ``(rows, vocabulary)`` in place, and return them.

        Args:
            input_ids: Not looked at; generate() passes them to a logits processor.
            scores: What the model says of each token.
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
        for indices, warpers, generator in self._drawn:
            everything = len(indices) == len(scores)
            logits = scores if everything else scores[indices]
            for warper in warpers:
                logits = warper(input_ids, logits)
            drawn = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)
            chosen = torch.full_like(logits, -torch.inf).scatter_(1, drawn, 0.0)
            if everything:
                return chosen
            scores[indices] = chosen
        return scores


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


def _random_numbers(sampling: Sampling, device: torch.device) -> torch.Generator | None:
    """Return the row's own generator, so that nobody else's draws move it, nor it theirs."""
    if sampling.seed is None:
        return None
    # Any integer is a seed; torch takes 64 bits.
    return torch.Generator(device).manual_seed(sampling.seed % 2**63)
