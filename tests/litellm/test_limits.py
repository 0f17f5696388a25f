"""Limits, measured at the server."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from typing import TYPE_CHECKING

import pytest

import rigging as rg
from rigging.error import ProviderConnectionError, RateLimitError
from tests.support.faults import BEGINNINGS, NOT_BEGUN
from tests.support.openai_server import Reply, error_body

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rigging_litellm import LiteLLMGenerator
    from tests.support.openai_server import OpenAIServer

    Make = Callable[..., LiteLLMGenerator]

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


def test_retry_after_keeps_all_requests_away(make: Make, server: OpenAIServer) -> None:
    server.prepare(Reply(error_body("slow down"), 429, {"Retry-After": "1"}))
    generator = make(max_retries=1, max_connections=1)

    async def callers() -> None:
        await asyncio.gather(
            generator.chat("Hi").run_many(3),
            generator.complete("Hi").run_many(3),
            generator.generate_messages([HI] * 3, [rg.GenerateParams()] * 3),
        )

    asyncio.run(callers())

    first, *others = (request.at for request in server.requests)
    assert len(others) == 9
    assert min(others) - first > 1.0


@pytest.mark.parametrize("kind", ["chat", "complete"])
def test_a_stream_that_is_refused_goes_again(make: Make, server: OpenAIServer, kind: str) -> None:
    server.prepare(Reply(error_body("slow down"), 429), Reply(status=503))
    generator = make(max_retries=2)
    start = generator.chat if kind == "chat" else generator.complete

    async def collect() -> list[str]:
        return [piece async for piece in start("Hi").stream() if isinstance(piece, str)]

    assert "".join(asyncio.run(collect())) == "You said: Hi"
    assert len(server.requests) == 3


# litellm leaves a refusal out of a stream, so nothing has come then.
@pytest.mark.parametrize("beginning", sorted(BEGINNINGS.keys() - {"a-refusal"}))
def test_a_stream_that_breaks_after_its_first_piece_is_not_sent_again(
    make: Make, server: OpenAIServer, beginning: str
) -> None:
    server.prepare(BEGINNINGS[beginning])

    async def collect() -> None:
        async for piece in make(max_retries=3).chat("Hi").stream():
            assert piece == "a"

    with pytest.raises(ProviderConnectionError, match="litellm!openai/tiny"):
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


def test_faults_in_between_are_made_good_and_nothing_is_sent_twice(
    make: Make, server: OpenAIServer
) -> None:
    faults = [Reply(drop=True), Reply(error_body("oops"), 500), Reply(error_body("no"), 429)]
    replies = [reply for fault in faults for reply in [fault, *[Reply(delay_s=0.02)] * 6]] * 3
    server.prepare(*replies)
    prompts = [f"number {n}" for n in range(60)]
    generator = make(max_retries=5, max_connections=4)

    chats = asyncio.run(generator.chat().run_batch(prompts))

    assert [chat.last.text for chat in chats] == [f"You said: {prompt}" for prompt in prompts]
    assert len(server.requests) == len(prompts) + 3 * len(faults)
    assert server.peak <= 4


def test_a_batch_against_a_dead_endpoint_ends_and_keeps_what_it_has(
    make: Make, server: OpenAIServer, tmp_path: Path
) -> None:
    server.prepare(*[Reply()] * 5)
    server.usual = Reply(error_body("down"), 503)
    prompts = [f"number {n}" for n in range(500)]
    options = {"max_retries": 1, "max_connections": 5}
    file = tmp_path / "run.db"

    chats = asyncio.run(
        make(**options).chat().run_batch(prompts, on_failed="skip", checkpoint=file)
    )

    assert len(chats) == 5
    server.reset()
    chats = asyncio.run(make(**options).chat().run_batch(prompts, checkpoint=file))
    assert len(chats) == 500
    assert len(server.requests) == 495


def test_a_request_that_fails_does_not_hold_up_the_next(make: Make, server: OpenAIServer) -> None:
    server.prepare(Reply(status=400), Reply(status=500))
    generator = make(min_delay_between_requests=10, max_connections=1)

    results = asyncio.run(generator.generate_messages([HI] * 4, [rg.GenerateParams()] * 4))

    assert [isinstance(result, Exception) for result in results] == [True, True, False, False]


def test_a_caller_that_is_cancelled_frees_its_slot(make: Make, server: OpenAIServer) -> None:
    server.prepare(Reply(delay_s=30))
    generator = make(min_delay_between_requests=1, max_connections=1)

    async def cancel_one() -> rg.Chat:
        waiting = asyncio.create_task(generator.chat("first").run())
        await server.received(1)
        queued = asyncio.create_task(generator.chat("second").run())
        await asyncio.sleep(0.05)
        waiting.cancel()
        queued.cancel()
        await asyncio.gather(waiting, queued, return_exceptions=True)
        async with asyncio.timeout(10):
            return await generator.chat("third").run()

    assert asyncio.run(cancel_one()).last.text == "You said: third"
    assert len(server.requests) == 2


def test_a_generator_works_on_one_loop_after_another_and_on_two_at_once(
    make: Make, server: OpenAIServer
) -> None:
    generator = make(max_connections=1, min_delay_between_requests=5)
    texts: list[str] = []

    def ask() -> None:
        texts.extend(chat.last.text for chat in asyncio.run(generator.chat("Hi").run_many(2)))

    ask()
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert texts == ["You said: Hi"] * 6


def test_a_limit_can_be_assigned(make: Make, server: OpenAIServer) -> None:
    server.usual = Reply(delay_s=0.1)
    generator = make(max_connections=1)

    async def twice() -> None:
        await generator.chat("Hi").run_many(3)
        generator.max_connections = 3
        await generator.chat("Hi").run_many(3)

    asyncio.run(twice())

    assert server.peak == 3


def test_the_event_loop_goes_on_while_litellm_is_imported(
    make: Make, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import litellm

    def slow(name: str) -> object:
        assert name == "litellm"
        time.sleep(0.5)
        return litellm

    monkeypatch.setattr("rigging_litellm._library.importlib.import_module", slow)

    async def ticks() -> int:
        count = 0
        request = asyncio.create_task(make().chat("Hi").run())
        while not request.done():
            await asyncio.sleep(0.01)
            count += 1
        return count

    assert asyncio.run(ticks()) > 20


def test_a_copy_has_limits_of_its_own(make: Make, server: OpenAIServer) -> None:
    server.usual = Reply(delay_s=0.2)
    generator = make(max_connections=1)
    copied = copy.copy(generator)
    copied.max_connections = 2

    async def both() -> None:
        await asyncio.gather(generator.chat("Hi").run_many(4), copied.chat("Hi").run_many(4))

    asyncio.run(both())

    assert server.peak == 3
