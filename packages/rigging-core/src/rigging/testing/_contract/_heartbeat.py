"""How long an event loop was kept from doing anything else."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable

__all__ = ["Heartbeat", "listen"]

_BEAT_S: Final = 0.005
_INSTANT_S: Final = 0.05


@dataclass
class Heartbeat:
    """What was heard of a loop.

    Attributes:
        longest_stall_s: The longest time that nothing else could run, in seconds.
        stalled_s: All such times together, those of an instant left out.
        total_s: The time of the whole, in seconds.
    """

    longest_stall_s: float = 0.0
    stalled_s: float = 0.0
    total_s: float = 0.0

    def is_steady(self, max_stall_s: float) -> bool:
        """Tell whether the loop went on meanwhile.

        A busy machine makes any loop wait, now and then. What blocks it does so for most
        of the time that it takes: only that counts.
        """
        return self.longest_stall_s <= max_stall_s or self.stalled_s <= self.total_s / 2


async def listen(work: Awaitable[Any]) -> Heartbeat:
    """Await something, and listen to the loop that runs it."""
    loop = asyncio.get_running_loop()
    heard = Heartbeat()

    async def beat() -> None:
        while True:
            asleep = loop.time()
            await asyncio.sleep(_BEAT_S)
            stall_s = loop.time() - asleep - _BEAT_S
            heard.longest_stall_s = max(heard.longest_stall_s, stall_s)
            if stall_s > _INSTANT_S:
                heard.stalled_s += stall_s

    beating = asyncio.create_task(beat())
    await asyncio.sleep(0)  # so that it sleeps when the work begins
    started = loop.time()
    try:
        await work
        # A stall at the very end is heard when the loop comes round again.
        await asyncio.sleep(2 * _BEAT_S)
    finally:
        heard.total_s = loop.time() - started
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating
    return heard
