"""Headers that say what is left."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from rigging.limits import Quota
from rigging_openai._quotas import quotas_of
from tests.support.openai_server import Reply

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


@pytest.mark.parametrize("streamed", [False, True])
def test_requests_wait_for_what_is_left_before_the_first_is_refused(
    make: Make, server: OpenAIServer, streamed: bool
) -> None:
    server.prepare(Reply(headers=left("1", "0.8s")), Reply(headers=left("0", "800ms")))
    generator = make(max_connections=1, max_retries=1)

    async def three() -> None:
        for _ in range(3):
            if streamed:
                async for _ in generator.chat("Hi").stream():
                    pass
            else:
                await generator.chat("Hi").run()

    asyncio.run(three())

    first, second, third = (request.at for request in server.requests)
    assert second - first < third - second
    assert third - second >= 0.75
