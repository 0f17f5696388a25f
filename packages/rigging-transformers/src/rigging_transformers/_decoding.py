"""Batched decoding by transformers' ``generate``. Imports torch: import this module late.

``generate`` takes one configuration for all rows, and one set of random numbers. Both are
given to each row by way of two documented hooks: a logits processor that draws the row's
next token and leaves only that one possible, and a stopping criterion that ends each row
by its own rules. So greedy and sampled rows, short and long ones, share one batch.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import torch
import transformers

from rigging.error import BadRequestError, ProviderServerError
from rigging_transformers._padding import left_pad

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rigging_transformers._loaded import Loaded
    from rigging_transformers._row import Row
    from rigging_transformers._sampling import Sampling

__all__ = ["decode", "generate_options"]

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


def generate_options() -> frozenset[str]:
    """Return the names that ``generate`` takes, as its configuration lists them."""
    return frozenset(n for n in vars(transformers.GenerationConfig()) if not n.startswith("_"))


def decode(loaded: Loaded, rows: Sequence[Row], cancelled: Callable[[], bool]) -> None:
    """Generate for all rows at once, until each has ended.

    Args:
        loaded: The model.
        rows: Rows of equal ``plan.kwargs``; one only if its plan says alone. They take
            their tokens and ends.
        cancelled: Asked once per step; True ends the batch at once.

    Raises:
        BadRequestError: If ``generate`` refuses what ``extra`` asks for.
        ProviderServerError: If it fails otherwise.
    """
    try:
        _decode(loaded, rows, cancelled)
    except torch.OutOfMemoryError as error:
        raise ProviderServerError(
            f"out of memory with {len(rows)} prompts at once: set batch_size to fewer"
        ) from error
    except Exception as error:
        extra = ", ".join(rows[0].plan.kwargs)
        if extra and isinstance(error, (ValueError, TypeError, NotImplementedError)):
            raise BadRequestError(f"generate() refuses {extra}: {error}") from error
        raise ProviderServerError(
            f"generate() failed: {type(error).__name__}: {error}", retryable=False
        ) from error


def _decode(loaded: Loaded, rows: Sequence[Row], cancelled: Callable[[], bool]) -> None:
    ids, mask = left_pad([row.prompt for row in rows], loaded.pad_id)
    kwargs: dict[str, Any] = {
        "max_new_tokens": max(row.max_tokens for row in rows),
        "pad_token_id": loaded.pad_id,
        "eos_token_id": sorted(loaded.end_ids) or None,
        **rows[0].plan.kwargs,
    }
    alone = rows[0].plan.alone
    if not alone:
        kwargs["do_sample"] = False  # `_Choice` draws
        choice = _Choice(rows, loaded.model.device)
        kwargs["logits_processor"] = transformers.LogitsProcessorList([choice] if choice else [])
    watch = _Watch(rows, cancelled) if alone else _Ends(rows, cancelled)
    with torch.inference_mode():
        output = loaded.model.generate(
            input_ids=torch.tensor(ids, device=loaded.model.device),
            **(
                {"attention_mask": torch.tensor(mask, device=loaded.model.device)}
                if loaded.masks
                else {}
            ),
            stopping_criteria=transformers.StoppingCriteriaList([watch]),
            **kwargs,
        )
    if alone:
        _read_back(rows[0], output[0, len(ids[0]) :].tolist())


def _read_back(row: Row, tokens: list[int]) -> None:
    """Hand a finished row its tokens one by one, as if they fell only now."""
    for token in tokens:
        if row.end is not None:
            return
        row.add(token, now=0.0)
    # A loop may give up early, by a rule of its own.
    row.end = row.end or "length"


class _Ends:
    """Stopping criterion: each row takes its token and says whether it has ended."""

    def __init__(self, rows: Sequence[Row], cancelled: Callable[[], bool]) -> None:
        self._rows = rows
        self._cancelled = cancelled

    def __call__(self, input_ids: torch.Tensor, _scores: object, **_: object) -> torch.Tensor:
        now = time.monotonic()
        for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
            if row.end is None:
                row.add(token, now)
        everything = self._cancelled()
        return torch.tensor(
            [everything or row.end is not None for row in self._rows], device=input_ids.device
        )


class _Watch:
    """Stopping criterion for transformers' other loops, whose rows are not ours: time only."""

    def __init__(self, rows: Sequence[Row], cancelled: Callable[[], bool]) -> None:
        self._row = rows[0]
        self._cancelled = cancelled

    def __call__(self, input_ids: torch.Tensor, _scores: object, **_: object) -> torch.Tensor:
        if self._row.is_late(time.monotonic()):
            self._row.end = "timeout"
        over = self._cancelled() or self._row.end is not None
        return torch.full((input_ids.shape[0],), over, device=input_ids.device)


class _Choice:
    """Logits processor: applies each row's penalties and draws for those that are sampled.

    A drawn token is left as the only possible one, so that the greedy loop takes it.
    """

    def __init__(self, rows: Sequence[Row], device: torch.device) -> None:
        # The tokens that a row has generated grow while it runs.
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
        return bool(self._penalized or self._drawn)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for index, tokens, sampling in self._penalized:
            seen, counts = torch.tensor(tokens, dtype=torch.long, device=scores.device).unique(
                return_counts=True
            )
            penalty = sampling.presence_penalty + sampling.frequency_penalty * counts
            scores[index, seen] -= penalty
        for indices, warpers, generator in self._drawn:
            logits = scores[indices]
            for warper in warpers:
                logits = warper(input_ids[indices], logits)
            drawn = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)
            scores[indices] = torch.full_like(logits, -torch.inf).scatter(1, drawn, 0.0)
        return scores


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
