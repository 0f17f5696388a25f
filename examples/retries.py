"""Retries of your own: any decorator for coroutine functions, around one request.

    python examples/retries.py [IDENTIFIER]

backoff, tenacity and stamina have such decorators ready; this one shows how little it is.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import rigging as rg
from rigging.error import GenerationError
from rigging.testing import FlakyGenerator


def retry(request: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Try a request up to four times, as long as its failures may pass."""

    @functools.wraps(request)
    async def again(*args: Any) -> Any:
        for attempt in range(1, 4):
            try:
                return await request(*args)
            except GenerationError as error:
                if not error.retryable:
                    raise
                print(f"attempt {attempt} failed: {error}")
                await asyncio.sleep(error.retry_after or 0.01 * 2**attempt)
        return await request(*args)

    return again


async def main(generator: rg.Generator) -> None:
    """Ask a generator that fails twice before it answers."""
    chat = await generator.chat("Name a colour.").wrap(retry).run()
    print("answer:", chat.last.text)


if __name__ == "__main__":
    generator = rg.get_generator(sys.argv[1]) if sys.argv[1:] else FlakyGenerator(failures=2)
    asyncio.run(main(generator))
