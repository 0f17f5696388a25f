"""The way from pipelines to a generator: grouping into calls, checking what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypeVar

from rigging.error import InvalidGeneratorError, ResponseError
from rigging.params import GenerateParams

__all__ = ["Call", "dispatch"]

InputT = TypeVar("InputT")
ResultT = TypeVar("ResultT")

Call: TypeAlias = Callable[
    [Sequence[InputT], Sequence[GenerateParams]], Awaitable[Sequence[ResultT | BaseException]]
]


async def dispatch(
    generator: object,
    call: Call[InputT, ResultT],
    inputs: Sequence[InputT],
    params: Sequence[GenerateParams],
    expected: type[ResultT],
) -> list[ResultT]:
    """Send requests through ``call`` in groups of the generator's ``batch_size``.

    Args:
        generator: Whose ``batch_size`` counts: None (or no such attribute) sends all
            requests as one call, n sends groups of up to n that run concurrently.
        call: The generator's method.
        inputs: One conversation or prompt per request.
        params: One per input.
        expected: The type of a result.

    Returns:
        One result per input, in order.

    Raises:
        BaseException: The first failure, as the generator returned or raised it; the
            calls that are still running are cancelled.
        ResponseError: If the generator breaks its contract.
    """
    size = _batch_size(generator) or max(len(inputs), 1)
    groups = [slice(start, start + size) for start in range(0, len(inputs), size)]
    tasks = [
        asyncio.ensure_future(_call(generator, call, inputs[group], params[group], expected))
        for group in groups
    ]
    try:
        return [result for group in await asyncio.gather(*tasks) for result in group]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _call(
    generator: object,
    call: Call[InputT, ResultT],
    inputs: Sequence[InputT],
    params: Sequence[GenerateParams],
    expected: type[ResultT],
) -> list[ResultT]:
    results = await call(inputs, params)
    name = type(generator).__name__
    if len(results) != len(inputs):
        raise ResponseError(
            f"{name} returned {len(results)} results for {len(inputs)} requests: "
            f"a generator returns one result per input, in order"
        )
    checked: list[ResultT] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        if not isinstance(result, expected):
            raise ResponseError(
                f"{name} returned a {type(result).__name__} where a {expected.__name__} or an "
                f"exception was expected"
            )
        checked.append(result)
    return checked


def _batch_size(generator: object) -> int | None:
    size = getattr(generator, "batch_size", None)
    if size is not None and (not isinstance(size, int) or size < 1):
        raise InvalidGeneratorError(
            f"{type(generator).__name__}.batch_size is {size!r}: expected None or at least 1"
        )
    return size
