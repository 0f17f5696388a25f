"""How long an event loop was kept from doing anything else.

On a busy machine, and while any thread keeps the interpreter to itself, as the import of a
library does, everything stands still. So a thread beats beside the loop: where that stands
still, too, the loop is not to blame, unless it was its own thread that worked.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator, Sequence

__all__ = ["listen"]

_T = TypeVar("_T")

_BEAT_S: Final = 0.005
_INSTANT_S: Final = 0.05


class _Stall(NamedTuple):
    """A time without a beat, in seconds; ``cpu_s`` of it the thread worked."""

    started: float
    ended: float
    cpu_s: float = 0.0


async def listen(work: Awaitable[_T]) -> tuple[_T, float]:
    """Await something, and listen to the loop that runs it.

    Returns:
        What came of it, and the longest time that it let nothing else run, in seconds.
    """
    of_loop: list[_Stall] = []
    with _beside() as of_thread:
        beating = asyncio.create_task(_beat(of_loop))
        await asyncio.sleep(0)  # so that it sleeps when the work begins
        try:
            result = await work
            # A stall at the very end is heard when the loop comes round again.
            await asyncio.sleep(2 * _BEAT_S)
        finally:
            beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beating
    return result, max((_blame_s(stall, of_thread) for stall in of_loop), default=0.0)


async def _beat(stalls: list[_Stall]) -> None:
    while True:
        started, worked = time.monotonic(), time.thread_time()
        await asyncio.sleep(_BEAT_S)
        ended = time.monotonic()
        if ended - started > _INSTANT_S:
            stalls.append(_Stall(started, ended, time.thread_time() - worked))


@contextlib.contextmanager
def _beside() -> Iterator[Sequence[_Stall]]:
    """Beat in a thread, and give the times when it could not."""
    stalls: list[_Stall] = []
    over = threading.Event()

    def beat() -> None:
        ended = time.monotonic()
        while not over.is_set():
            started = ended
            over.wait(_BEAT_S)
            ended = time.monotonic()
            if ended - started > _INSTANT_S:
                stalls.append(_Stall(started, ended))

    thread = threading.Thread(target=beat, name="rigging-heartbeat", daemon=True)
    thread.start()
    try:
        yield stalls
    finally:
        over.set()
        thread.join()


def _blame_s(stall: _Stall, beside: Sequence[_Stall]) -> float:
    """Return for how much of a stall nothing but the loop stood still, or worked itself."""
    shared_s = sum(
        max(0.0, min(stall.ended, other.ended) - max(stall.started, other.started))
        for other in beside
    )
    return max(stall.ended - stall.started - shared_s, stall.cpu_s)
