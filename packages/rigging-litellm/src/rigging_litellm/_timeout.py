"""How long one request may keep its caller waiting."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

from rigging.error import ProviderTimeoutError
from rigging_litellm._errors import PROVIDER

if TYPE_CHECKING:
    from collections.abc import Awaitable

__all__ = ["RequestTimeout"]

_T = TypeVar("_T")

# litellm limits each read from the socket. What comes in small pieces for ever is stopped
# this many seconds after its time, so that litellm's own timeout, which says more, is first.
_GRACE_S: Final = 1.0


class RequestTimeout:
    """Limits the time that an endpoint takes for one request, over all waits for it.

    What happens between two waits does not count: whoever reads a stream may take their time.
    """

    def __init__(self, limit_s: float | None, model: str) -> None:
        self._limit_s = limit_s
        self._left_s = None if limit_s is None else limit_s + _GRACE_S
        self._model = model

    async def wait(self, coming: Awaitable[_T]) -> _T:
        """Wait for ``coming``.

        Raises:
            ProviderTimeoutError: If no time is left.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with asyncio.timeout(self._left_s) as limit:
                return await coming
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise ProviderTimeoutError(
                f"the answer was not complete after {self._limit_s:g} s",
                provider=PROVIDER,
                model=self._model,
            ) from error
        finally:
            if self._left_s is not None:
                self._left_s -= loop.time() - started
