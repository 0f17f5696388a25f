"""Headers that say what is left."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from rigging.error import BadRequestError
from rigging.limits import Quota
from rigging_openai._quotas import quotas_of
from tests.support.openai_server import Reply, error_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from rigging_openai import OpenAIGenerator
    from tests.support.openai_server import OpenAIServer

    Make = Callable[..., OpenAIGenerator]


def left(
    remaining: str, reset: str, limit: str | None = None, of: str = "requests"
) -> dict[str, str]:
    headers = {f"x-ratelimit-remaining-{of}": remaining, f"x-ratelimit-reset-{of}": reset}
    return headers | ({f"x-ratelimit-limit-{of}": limit} if limit else {})


@pytest.mark.parametrize(
    ("headers", "quotas"),
    [
        ({}, []),
        (left("59", "1s", "60"), [Quota(59, 1.0, 60)]),
        (left("0", "6m0s"), [Quota(0, 360.0)]),
        (left("0", "20ms"), [Quota(0, 0.02)]),
        (left("0", "2m59.56s"), [Quota(0, 179.56)]),
        (left("0", "1h2m3s"), [Quota(0, 3723.0)]),
        (left("0", "7"), [Quota(0, 7.0)]),
        (left("0", "soon"), []),
        (left("few", "1s"), []),
        (left("-1", "1s"), []),
        (left("nan", "1s"), []),
        (left("250", "1s", "1000", of="tokens"), [Quota(2, 1.0, 10.0)]),
        (left("99", "1s", of="tokens"), [Quota(0, 1.0)]),
    ],
)
def test_headers_are_read_as_requests_that_are_left(
    headers: dict[str, str], quotas: list[Quota]
) -> None:
    assert list(quotas_of(headers, tokens=100)) == quotas


def test_tokens_say_nothing_where_it_is_not_known_what_a_request_takes() -> None:
    assert list(quotas_of(left("0", "1s", of="tokens"))) == []


@pytest.mark.parametrize("tokens", [0, -1, -(10**30)])
def test_a_usage_that_is_none_says_nothing_of_what_a_request_takes(tokens: int) -> None:
    assert list(quotas_of(left("0", "1s", of="tokens"), tokens)) == []


async def ask_one(generator: OpenAIGenerator, streamed: bool) -> None:
    if streamed:
        async for _ in generator.chat("Hi").stream():
            pass
    else:
        await generator.chat("Hi").run()


USED_UP = left("0", "800ms", of="tokens")


@pytest.mark.parametrize("streamed", [False, True])
def test_an_endpoint_may_tell_of_tokens_only(
    make: Make, server: OpenAIServer, streamed: bool
) -> None:
    server.prepare(Reply(), Reply(headers=USED_UP))
    generator = make(max_connections=1, max_retries=1)

    async def three() -> None:
        for _ in range(3):
            await ask_one(generator, streamed)

    asyncio.run(three())

    first, second, third = (request.at for request in server.requests)
    assert second - first < third - second
    assert third - second >= 0.75


@pytest.mark.parametrize("of", ["requests", "tokens"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_refusal_tells_what_is_left_as_well(
    make: Make, server: OpenAIServer, streamed: bool, of: str
) -> None:
    refused = Reply(error_body("no"), 400, left("0", "800ms", of=of))
    server.prepare(Reply(), refused)
    generator = make(max_connections=1, max_retries=1)

    async def three() -> None:
        await ask_one(generator, streamed)
        with pytest.raises(BadRequestError, match="no"):
            await ask_one(generator, streamed)
        await ask_one(generator, streamed)

    asyncio.run(three())

    _, second, third = (request.at for request in server.requests)
    assert third - second >= 0.75


@pytest.mark.parametrize("reset", ["9" * 400, "9" * 400 + "s", "90000h", "1e300"])
def test_an_absurd_reset_holds_no_batch_up(make: Make, server: OpenAIServer, reset: str) -> None:
    server.usual = Reply(headers=left("0", reset))
    generator = make(max_connections=1, max_retries=1)

    asyncio.run(asyncio.wait_for(generator.chat("Hi").run_many(5), 30))

    assert len(server.requests) == 5


@pytest.mark.parametrize("streamed", [False, True])
def test_requests_wait_for_what_is_left_before_the_first_is_refused(
    make: Make, server: OpenAIServer, streamed: bool
) -> None:
    server.prepare(Reply(headers=left("1", "0.8s")), Reply(headers=left("0", "800ms")))
    generator = make(max_connections=1, max_retries=1)

    async def three() -> None:
        for _ in range(3):
            await ask_one(generator, streamed)

    asyncio.run(three())

    first, second, third = (request.at for request in server.requests)
    assert second - first < third - second
    assert third - second >= 0.75
