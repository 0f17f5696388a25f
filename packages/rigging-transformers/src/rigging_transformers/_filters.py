"""Filters of distributions, for many rows at once. Imports torch: import this module late.

Most take a value per row, as a column, and do to each row what transformers' do to rows of
one value. The others are transformers'. None of them raises, so that a row whose scores are
no numbers disturbs no other, and none waits for the device.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import torch
import transformers

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from rigging_transformers._sampling import Sampling

    #: Logits in, logits out, shape ``(rows, vocabulary)``.
    _Filter: TypeAlias = Callable[[torch.Tensor], torch.Tensor]

__all__ = ["Filters", "check", "kind"]

# Filter -> transformers' class and the name of its argument.
_CLASSES: Final = {
    "temperature": ("TemperatureLogitsWarper", "temperature"),
    "top_h": ("TopHLogitsWarper", "top_h"),
    "top_k": ("TopKLogitsWarper", "top_k"),
    "top_p": ("TopPLogitsWarper", "top_p"),
    "min_p": ("MinPLogitsWarper", "min_p"),
    "typical_p": ("TypicalLogitsWarper", "mass"),
    "epsilon_cutoff": ("EpsilonLogitsWarper", "epsilon"),
    "eta_cutoff": ("EtaLogitsWarper", "epsilon"),
}

# transformers' top-h looks at no more tokens, the likeliest.
_MOST: Final = 100


class Filters:
    """The filters of rows of one kind, in order.

    Args:
        samplings: Of the rows; see `kind`.
        scores: Of some step: for how many tokens there are, and where.
    """

    def __init__(self, samplings: Sequence[Sampling], scores: torch.Tensor) -> None:
        self._filters: list[_Filter] = []
        for column in zip(*(sampling.filters for sampling in samplings), strict=True):
            name, first = column[0]
            if name in _BY_ROW:
                made = _BY_ROW[name]([value for _, value in column], scores)
            else:
                made = partial(_warper(name, first), None)
            self._filters.append(made)

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Return logits, shape ``(rows, vocabulary)``: minus infinity where none is left."""
        for own in self._filters:
            logits = own(logits)
        return logits


def kind(sampling: Sampling) -> Hashable:
    """Return what must be equal for rows to go through `Filters` together."""
    return tuple((name, None if name in _BY_ROW else value) for name, value in sampling.filters)


def check(sampling: Sampling) -> None:
    """Check that transformers takes the values of the filters.

    Raises:
        ValueError: If it refuses one; or `TypeError`.
    """
    for name, value in sampling.filters:
        _warper(name, value)


def _warper(name: str, value: float) -> Any:
    class_name, argument = _CLASSES[name]
    given = value if name == "top_k" else float(value)
    return getattr(transformers, class_name)(**{argument: given})


# -- With a value per row ----------------------------------------------------------------


def _temperature(values: Sequence[float], scores: torch.Tensor) -> _Filter:
    temperature = _column(values, scores)
    return lambda logits: logits / temperature


# Not transformers', which asks the device at each step whether all scores are numbers, and
# raises where those of one row are none.
def _top_h(values: Sequence[float], scores: torch.Tensor) -> _Filter:
    share = _column(values, scores)
    count = min(_MOST, scores.shape[-1])

    def top_h(logits: torch.Tensor) -> torch.Tensor:
        best, tokens = logits.topk(count)
        # The entropy of the first, of the first two, and so on.
        entropies = torch.special.entr(best.softmax(dim=-1)).cumsum(dim=-1)
        kept = entropies <= share * entropies[:, -1:]
        kept[:, 0] = True  # the likeliest stays
        removed = torch.ones_like(logits, dtype=torch.bool).scatter(1, tokens, ~kept)
        return logits.masked_fill(removed, -torch.inf)

    return top_h


def _top_k(values: Sequence[float], scores: torch.Tensor) -> _Filter:
    counts = [min(int(value), scores.shape[-1]) for value in values]
    most = max(counts)
    last = torch.tensor(counts, device=scores.device)[:, None] - 1

    def top_k(logits: torch.Tensor) -> torch.Tensor:
        least = logits.topk(most).values.gather(1, last)
        return logits.masked_fill(logits < least, -torch.inf)

    return top_k


def _top_p(values: Sequence[float], scores: torch.Tensor) -> _Filter:
    # Subtracted before it is rounded, as transformers does.
    rest = _column([1 - float(value) for value in values], scores)

    def top_p(logits: torch.Tensor) -> torch.Tensor:
        ascending, tokens = logits.sort(dim=-1)
        removed = ascending.softmax(dim=-1).cumsum(dim=-1) <= rest
        removed[:, -1] = False  # the likeliest stays
        return logits.masked_fill(removed.scatter(1, tokens, removed), -torch.inf)

    return top_p


def _min_p(values: Sequence[float], scores: torch.Tensor) -> _Filter:
    share = _column(values, scores)

    def min_p(logits: torch.Tensor) -> torch.Tensor:
        chances = logits.softmax(dim=-1)
        least = share * chances.amax(dim=-1, keepdim=True)
        return logits.masked_fill(chances < least, -torch.inf)

    return min_p


# Not transformers', for the reasons of top-h.
def _eta_cutoff(values: Sequence[float], scores: torch.Tensor) -> _Filter:
    epsilon = _column(values, scores)

    def eta_cutoff(logits: torch.Tensor) -> torch.Tensor:
        chances = logits.softmax(dim=-1)
        entropy = torch.special.entr(chances).sum(dim=-1, keepdim=True)
        least = torch.minimum(epsilon, epsilon.sqrt() * torch.exp(-entropy))
        # The likeliest stays.
        removed = (chances < least) & (logits < logits.amax(dim=-1, keepdim=True))
        return logits.masked_fill(removed, -torch.inf)

    return eta_cutoff


_BY_ROW: Final[Mapping[str, Callable[[Sequence[float], torch.Tensor], _Filter]]] = {
    "temperature": _temperature,
    "top_h": _top_h,
    "top_k": _top_k,
    "top_p": _top_p,
    "min_p": _min_p,
    "eta_cutoff": _eta_cutoff,
}


def _column(values: Sequence[float], scores: torch.Tensor) -> torch.Tensor:
    return scores.new_tensor([[float(value)] for value in values])
