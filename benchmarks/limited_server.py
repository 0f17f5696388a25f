"""An OpenAI-compatible server that enforces a rate limit and fails now and then.

It runs in a process of its own, so that its CPU time is not counted with the clients'.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Counts", "Settings", "counts", "running"]


@dataclass(frozen=True)
class Settings:
    """How a server behaves.

    Attributes:
        rate: Requests per second that it lets through; 0 for no limit.
        burst: How many it lets through at once.
        answer_s: Seconds that an answer takes.
        retry_after: Whether a refusal says how long to wait, in whole seconds.
        faults: Answer 5% with status 500, drop 5%, and answer 10% with status 429.
    """

    rate: float = 0.0
    burst: int = 10
    answer_s: float = 0.0
    retry_after: bool = True
    faults: bool = False


@dataclass(frozen=True)
class Counts:
    """What came of the requests.

    Attributes:
        answered: How many were answered.
        refused: How many were answered with 429.
        failed: How many met another fault.
        twice: How many prompts were answered more than once.
        last_s: Seconds from the first request to the last answer.
    """

    answered: int
    refused: int
    failed: int
    twice: int
    last_s: float


@contextlib.contextmanager
def running(settings: Settings) -> Iterator[str]:
    """Run a server; give its ``api_base``."""
    command = [sys.executable, str(Path(__file__)), json.dumps(asdict(settings))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.terminate()


def counts(address: str) -> Counts:
    """Ask a server what came of the requests so far."""
    with urllib.request.urlopen(f"{address}/counts") as answer:  # noqa: S310 (on loopback)
        return Counts(**json.load(answer))


class _Bucket:
    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._filled_at = time.monotonic()

    def wait_s(self) -> float:
        """Take a token and return 0, or return how long it takes until there is one."""
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + self._rate * (now - self._filled_at))
        self._filled_at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0


async def _serve(settings: Settings) -> None:
    from aiohttp import web  # noqa: PLC0415 (who starts the server need not have it)

    bucket = _Bucket(settings.rate, settings.burst) if settings.rate else None
    chance = random.Random(7)  # noqa: S311 (a benchmark)
    answered: Counter[str] = Counter()
    tally: Counter[str] = Counter()
    started_at = ended_at = 0.0

    def refusal(wait_s: float) -> web.Response:
        tally["refused"] += 1
        headers = {"Retry-After": str(math.ceil(wait_s))} if settings.retry_after else {}
        body = {"error": {"message": "slow down", "type": "requests", "code": "rate_limit"}}
        return web.json_response(body, status=429, headers=headers)

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal started_at, ended_at
        started_at = started_at or time.monotonic()
        body: dict[str, Any] = await request.json()
        fault = chance.random() if settings.faults else 1.0
        if fault < 0.05:
            tally["failed"] += 1
            return web.json_response({"error": {"message": "oops"}}, status=500)
        if fault < 0.10:
            tally["failed"] += 1
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if fault < 0.20:
            return refusal(1.0)
        if bucket is not None and (wait_s := bucket.wait_s()):
            return refusal(wait_s)
        await asyncio.sleep(settings.answer_s)
        prompt = body["messages"][-1]["content"]
        answered[prompt] += 1
        ended_at = time.monotonic()
        message = {"role": "assistant", "content": f"You said: {prompt}"}
        return web.json_response(
            {
                "id": "reply",
                "object": "chat.completion",
                "created": 1_700_000_000,
                "model": body["model"],
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18},
            }
        )

    async def tell(request: web.Request) -> web.Response:
        return web.json_response(
            {
                "answered": answered.total(),
                "refused": tally["refused"],
                "failed": tally["failed"],
                "twice": sum(count > 1 for count in answered.values()),
                "last_s": ended_at - started_at,
            }
        )

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    app.router.add_get("/v1/counts", tell)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(Settings(**json.loads(sys.argv[1]))))
