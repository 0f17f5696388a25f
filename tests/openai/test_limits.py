"""Limits and retries, measured at the server; the limiter itself is tested with core."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import rigging as rg
from rigging.error import ProviderConnectionError, RateLimitError
from tests.support.faults import BEGINNINGS, NOT_BEGUN
from tests.support.openai_server import Reply, error_body

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rigging_openai import OpenAIGenerator
    from tests.support.openai_server import OpenAIServer

    Make = Callable[..., OpenAIGenerator]

HI = [rg.Message("user", "Hi")]


@pytest.mark.parametrize(("limit", "peak"), [(1, 1), (3, 3), (0, 12)])
def test_no_more_than_max_connections_are_in_flight(
    make: Make, server: OpenAIServer, limit: int, peak: int
) -> None:
    server.usual = Reply(delay_s=0.2)
    generator = make(max_connections=limit)

    async def callers() -> None:
        # Two pipelines and a direct call at once share the limit.
        await asyncio.gather(
            generator.chat("Hi").run_many(4),
            generator.complete("Hi").run_many(4),
            generator.generate_messages([HI] * 4, [rg.GenerateParams()] * 4),
        )

    asyncio.run(callers())

    assert len(server.requests) == 12
    assert server.peak == peak


def test_requests_follow_each_other_no_closer_than_the_delay(
    make: Make, server: OpenAIServer
) -> None:
    server.usual = Reply(delay_s=0.1)
    generator = make(min_delay_between_requests=40, max_connections=0)

    asyncio.run(generator.chat("Hi").run_many(12))

    first, *others = (request.at for request in server.requests)
    # The delay is between departures: each arrives as much later, but for the time that a
    # busy machine takes to hand it over.
    late_s = 0.03
    for number, at in enumerate(others, start=1):
        assert at - first >= number * 0.040 - late_s
    assert server.peak > 1, "the delay is between starts, and does not wait for answers"


@pytest.mark.parametrize("retries", [0, 2])
def test_a_request_reaches_the_server_once_and_once_more_for_each_retry(
    make: Make, server: OpenAIServer, retries: int
) -> None:
    server.usual = Reply(error_body("slow down"), 429, {"Retry-After": "0"})

    with pytest.raises(RateLimitError, match="slow down"):
        asyncio.run(make(max_retries=retries).chat("Hi").run())

    assert len(server.requests) == 1 + retries


def test_faults_in_between_are_made_good_and_nothing_is_sent_twice(
    make: Make, server: OpenAIServer, tmp_path: Path
) -> None:
    faults = [Reply(drop=True), Reply(error_body("oops"), 500), Reply(error_body("no"), 429)]
    replies = [reply for fault in faults for reply in [fault, *[Reply(delay_s=0.02)] * 6]] * 3
    server.prepare(*replies)
    prompts = [f"number {n}" for n in range(60)]
    pipeline = make(max_retries=5, max_connections=4).chat()

    chats = asyncio.run(pipeline.run_batch(prompts, checkpoint=tmp_path / "run.db"))

    assert [chat.last.text for chat in chats] == [f"You said: {prompt}" for prompt in prompts]
    assert len(server.requests) == len(prompts) + 3 * len(faults)
    assert server.peak <= 4


@pytest.mark.parametrize("kind", ["chat", "complete"])
def test_a_stream_that_is_refused_goes_again(make: Make, server: OpenAIServer, kind: str) -> None:
    server.prepare(Reply(error_body("slow down"), 429), Reply(status=503))
    generator = make(max_retries=2)
    start = generator.chat if kind == "chat" else generator.complete

    async def collect() -> list[str]:
        return [piece async for piece in start("Hi").stream() if isinstance(piece, str)]

    assert "".join(asyncio.run(collect())) == "You said: Hi"
    assert len(server.requests) == 3


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_stream_that_breaks_after_its_first_piece_is_not_sent_again(
    make: Make, server: OpenAIServer, beginning: str
) -> None:
    server.prepare(BEGINNINGS[beginning])

    async def collect() -> None:
        async for piece in make(max_retries=3).chat("Hi").stream():
            assert piece == "a"

    with pytest.raises(ProviderConnectionError, match="openai!tiny"):
        asyncio.run(collect())
    assert len(server.requests) == 1


def test_a_stream_that_breaks_before_its_first_piece_is_sent_again(
    make: Make, server: OpenAIServer
) -> None:
    server.prepare(NOT_BEGUN)

    async def collect() -> list[str]:
        pieces = make(max_retries=3).chat("Hi").stream()
        return [piece async for piece in pieces if isinstance(piece, str)]

    assert "".join(asyncio.run(collect())) == "You said: Hi"
    assert len(server.requests) == 2
