"""The retries that users have: the same one, as three libraries write it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import backoff
import stamina
import tenacity

if TYPE_CHECKING:
    import pytest

__all__ = ["LIBRARIES", "note_sleeping", "retry"]

LIBRARIES = ("backoff", "stamina", "tenacity")

WAIT_S = 0.01


def retry(library: str, error: type[Exception]) -> Any:
    """Return a decorator that tries up to five times, and waits `WAIT_S` or more between."""
    if library == "backoff":
        return backoff.on_exception(
            backoff.constant, error, interval=WAIT_S, jitter=None, max_tries=5
        )
    if library == "stamina":
        return stamina.retry(on=error, attempts=5, wait_initial=WAIT_S, wait_jitter=0)
    return tenacity.retry(
        retry=tenacity.retry_if_exception_type(error),
        wait=tenacity.wait_fixed(WAIT_S),
        stop=tenacity.stop_after_attempt(5),
    )


def note_sleeping(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note how long is slept between attempts, and really sleep."""
    slept: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float, *args: Any) -> Any:
        if seconds >= WAIT_S:
            slept.append(seconds)
        return await sleep(seconds, *args)

    monkeypatch.setattr(asyncio, "sleep", noted)
    return slept
