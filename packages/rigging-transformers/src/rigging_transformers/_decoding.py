"""Decoding by transformers' ``generate``, for what the rolling batch does not take.

Imports torch: import this module late.

``generate`` takes one configuration for all rows, and one set of random numbers. Both are
given to each row by way of two documented hooks: a logits processor that draws the row's
next token and leaves only that one possible, and a stopping criterion that ends each row
by its own rules. So greedy and sampled rows, short and long ones, share one batch.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any, Final

import torch
import transformers

from rigging.error import BadRequestError, ProviderServerError
from rigging_transformers._choice import Choice
from rigging_transformers._memory import is_out_of_memory
from rigging_transformers._padding import left_pad
from rigging_transformers._row import NO_TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rigging_transformers._loaded import Loaded
    from rigging_transformers._row import Row

__all__ = ["decode", "generate_options"]

# What `generate` raises for options that do not fit.
_MISFITS: Final = (ArithmeticError, LookupError, NotImplementedError, TypeError, ValueError)


def generate_options() -> frozenset[str]:
    """Return the names that ``generate`` takes, as its configuration lists them."""
    return frozenset(n for n in vars(transformers.GenerationConfig()) if not n.startswith("_"))


def decode(loaded: Loaded, rows: Sequence[Row], after_step: Callable[[], None]) -> None:
    """Generate for all rows at once, until each has ended.

    Args:
        loaded: The model.
        rows: Rows of equal ``plan.kwargs``; one only if its plan says alone. They take
            their tokens and ends.
        after_step: Called after each step.

    Raises:
        BadRequestError: If ``generate`` refuses what ``extra`` asks for.
        ProviderServerError: If it fails otherwise.
    """
    try:
        _decode(loaded, rows, after_step)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        extra = ", ".join(rows[0].plan.kwargs)
        if extra and isinstance(error, _MISFITS):
            raise BadRequestError(f"generate() refuses {extra}: {error}") from error
        raise ProviderServerError(
            f"generate() failed: {type(error).__name__}: {error}", retryable=False
        ) from error


def _decode(loaded: Loaded, rows: Sequence[Row], after_step: Callable[[], None]) -> None:
    # Options may count tokens from where the prompt ends. So that is where it begins, also for
    # a row that has generated before: it is led along its tokens, and goes on from there.
    ids, mask = left_pad([row.prompt for row in rows], loaded.pad_id)
    kwargs: dict[str, Any] = {
        "max_new_tokens": max(row.max_tokens for row in rows),
        "pad_token_id": loaded.pad_id,
        "eos_token_id": sorted(loaded.end_ids) or None,
        # Whatever the model's own config says.
        "num_return_sequences": 1,
        "return_dict_in_generate": False,
        "stop_strings": None,  # each row knows them
        # It would, for each length anew, where the model's config asks for a static cache.
        "disable_compile": True,
        "tokenizer": loaded.tokenizer,
        **rows[0].plan.kwargs,
    }
    alone = rows[0].plan.alone
    device = torch.device(loaded.device)
    before = [len(row.tokens) for row in rows]
    if not alone:
        for row in rows:
            row.random_numbers = None  # on the way they are drawn again
        # `Choice` draws, and does what the model's own config may ask for, too.
        kwargs |= {"do_sample": False, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
        kwargs["logits_processor"] = transformers.LogitsProcessorList(
            [_Chosen(rows, before, len(ids[0]))]
        )
    between = functools.partial(_as_before, loaded.model, _experts(loaded.model), after_step)
    watch = _Watch(rows, between) if alone else _Ends(rows, before, between)
    if loaded.remembers:
        # A short row makes it forget.
        loaded.model(input_ids=torch.tensor([ids[0][-1:]], device=device), use_cache=False)
    if loaded.masks:
        kwargs["attention_mask"] = torch.tensor(mask, device=device)
    output = loaded.model.generate(
        input_ids=torch.tensor(ids, device=device),
        stopping_criteria=transformers.StoppingCriteriaList([watch]),
        **kwargs,
    )
    if alone:
        _read_back(rows[0], output[0, len(ids[0]) :].tolist())
    for row in rows:
        # A model may give up early, by a rule of its own.
        row.end = row.end or "length"


def _experts(model: Any) -> Any:
    """Return how a model of experts multiplies; None where somebody wraps one of transformers."""
    get = getattr(model, "get_experts_implementation", None)
    return None if get is None else get()


def _as_before(model: Any, experts: Any, call: Callable[[], None]) -> None:
    """Call something while experts multiply as they did before ``generate`` was called.

    Off the CPU it lets them copy weights for each token, which is fast for few: the prompts
    of others would take all memory that there is.
    """
    meanwhile = _experts(model)
    if meanwhile == experts:
        call()
        return
    model.set_experts_implementation(experts)
    try:
        call()
    finally:
        model.set_experts_implementation(meanwhile)


def _read_back(row: Row, tokens: list[int]) -> None:
    """Hand a finished row its tokens one by one, as if they fell only now."""
    for token in tokens:
        if row.end is not None:
            return
        row.add(token, now=0.0)


class _Chosen:
    """Logits processor: leaves the chosen token of each row as the only possible one."""

    def __init__(self, rows: Sequence[Row], before: Sequence[int], width: int) -> None:
        self._rows = rows
        self._before = before
        self._width = width
        self._choice: Choice | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self._width
        # A row that is led along takes other tokens than those chosen for it.
        if self._choice is None or step <= max(self._before):
            self._choice = Choice(self._rows, scores)
        tokens = self._choice(scores).tolist()
        for index, (row, before) in enumerate(zip(self._rows, self._before, strict=True)):
            if step < before:
                tokens[index] = row.tokens[step]
            elif tokens[index] == NO_TOKEN and row.end is None:
                row.end = "invalid"
        only = torch.tensor(tokens, device=scores.device)[:, None].clamp(min=0)
        return torch.full_like(scores, -torch.inf).scatter_(1, only, 0.0)


class _Ends:
    """Stopping criterion: each row takes its token and says whether it has ended."""

    def __init__(
        self, rows: Sequence[Row], before: Sequence[int], after_step: Callable[[], None]
    ) -> None:
        self._rows = rows
        self._before = before
        self._after_step = after_step
        self._steps = 0

    def __call__(self, input_ids: torch.Tensor, _scores: object, **_: object) -> torch.Tensor:
        now = time.monotonic()
        self._steps += 1
        last = input_ids[:, -1].tolist()
        for row, before, token in zip(self._rows, self._before, last, strict=True):
            if row.end is not None:
                continue
            if self._steps > before:
                row.add(token, now)
            else:
                row.watch(now)
        self._after_step()
        return torch.tensor([row.end is not None for row in self._rows], device=input_ids.device)


class _Watch:
    """Stopping criterion for transformers' other loops, whose rows are not ours: time only."""

    def __init__(self, rows: Sequence[Row], after_step: Callable[[], None]) -> None:
        self._row = rows[0]
        self._after_step = after_step

    def __call__(self, input_ids: torch.Tensor, _scores: object, **_: object) -> torch.Tensor:
        self._row.watch(time.monotonic())
        self._after_step()
        return torch.full((input_ids.shape[0],), self._row.end is not None, device=input_ids.device)
