"""An event loop that does not wait for ever."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self, TypeVar

import pytest

from rigging.testing._contract._kinds import errors_of_ours

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

__all__ = ["Runner"]

_T = TypeVar("_T")


class Runner:
    """Runs one coroutine after another on one event loop.

    Args:
        patience_s: Seconds after which a coroutine counts as stuck, and fails the test.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._runner = asyncio.Runner()

    def run(self, coroutine: Coroutine[object, object, _T]) -> _T:
        """Run a coroutine to its end.

        Raises:
            RiggingError: As the coroutine does.
            AssertionError: If it raises what is no error of rigging's.
        """
        with errors_of_ours("a request"):
            return self._runner.run(self._in_time(coroutine))

    async def _in_time(self, coroutine: Coroutine[object, object, _T]) -> _T:
        try:
            async with asyncio.timeout(self._patience_s) as limit:
                return await coroutine
        except TimeoutError:
            if not limit.expired():
                raise
        pytest.fail(f"every request ends: there was no answer for {self._patience_s:g} s")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._runner.close()
