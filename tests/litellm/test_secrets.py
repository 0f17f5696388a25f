"""The key goes into the request's header, and nowhere else."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
from typing import TYPE_CHECKING

import pytest

import rigging as rg
from tests.support.exposure import shown
from tests.support.faults import KEY
from tests.support.openai_server import Reply, error_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from rigging_litellm import LiteLLMGenerator
    from tests.support.openai_server import OpenAIServer

    Make = Callable[..., LiteLLMGenerator]


def test_the_key_is_sent_in_the_authorization_header_only(make: Make, server: OpenAIServer) -> None:
    asyncio.run(make().chat("Hi").run())
    asyncio.run(make().complete("Hi").run())

    for request in server.requests:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        others = [value for value in request.headers.values() if value != f"Bearer {KEY}"]
        assert KEY not in repr((request.path, others, request.body))


def test_no_result_holds_the_key(make: Make) -> None:
    chat = asyncio.run(make().chat("Hi").run())

    for text in (repr(chat), chat.model_dump_json(), repr(pickle.dumps(chat))):
        assert KEY not in text


def test_a_used_generator_shows_and_pickles_no_key(make: Make) -> None:
    generator = make()
    asyncio.run(generator.chat("Hi").run())

    for text in (
        repr(generator),
        str(generator),
        repr(generator.model_dump()),
        generator.to_identifier(),
        repr(pickle.dumps(generator)),
    ):
        assert KEY not in text
    assert pickle.loads(pickle.dumps(generator)) == generator
    assert copy.deepcopy(generator) == generator


@pytest.mark.parametrize("by_environment", [False, True])
@pytest.mark.parametrize("status", [400, 401, 403, 429, 500])
def test_an_endpoint_that_repeats_the_key_reaches_no_error(
    make: Make,
    server: OpenAIServer,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    by_environment: bool,
) -> None:
    server.usual = Reply(error_body(f"Incorrect API key provided: {KEY}, sorry"), status)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    generator = make(api_key=None if by_environment else KEY)

    with pytest.raises(rg.error.GenerationError, match=r"provided: \*\*\*, sorry") as caught:
        asyncio.run(generator.chat("Hi").run())

    assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in shown(caught.value)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        pytest.param(f"wrong: {KEY[:6]}***{KEY[-4:]}.", r"wrong: \*\*\*\. ", id="masked"),
        pytest.param(f"wrong: {KEY[:9]}...{KEY[-4:]}", r"wrong: \*\*\* ", id="cut"),
        pytest.param("wrong: sk-other-****1234", r"wrong: \*\*\* ", id="masked-other"),
        pytest.param(f"GET /m?alt=1&key={KEY[3:]}&x=1", r"alt=1&key=\*\*\*&x=1 ", id="address"),
        pytest.param("waiting... for it", r"waiting\.\.\. for it ", id="no-key"),
    ],
)
def test_a_part_of_a_key_reaches_no_error(
    make: Make, server: OpenAIServer, said: str, text: str
) -> None:
    server.usual = Reply(error_body(said), 401)

    with pytest.raises(rg.error.AuthenticationError, match=text) as caught:
        asyncio.run(make().chat("Hi").run())

    for part in (KEY[3:], KEY[-4:], KEY[:9], "****1234"):
        assert part not in shown(caught.value)


def test_credentials_in_an_address_reach_no_error(make: Make, server: OpenAIServer) -> None:
    server.usual = Reply(error_body("no"), 403)
    generator = make(api_base=server.url.replace("http://", "http://me:s3cret-word@"))

    async def run() -> None:
        # The one way of asking in which litellm takes such an address.
        async for _ in generator.stream_texts("Hi", rg.GenerateParams()):
            pass

    with pytest.raises(rg.error.PermissionDeniedError, match="no") as caught:
        asyncio.run(run())

    assert len(server.requests) == 1
    assert "http://***@" in shown(caught.value)
    assert "s3cret-word" not in shown(caught.value)


@pytest.mark.parametrize("way", ["whole", "streamed"])
def test_a_key_with_a_line_break_is_refused_and_not_shown(
    make: Make, server: OpenAIServer, way: str
) -> None:
    generator = make(api_key=f"{KEY}\n")

    async def run() -> None:
        if way == "whole":
            await generator.chat("Hi").run()
        async for _ in generator.stream_texts("Hi", rg.GenerateParams()):
            pass

    with pytest.raises(rg.error.BadRequestError, match="header") as caught:
        asyncio.run(run())

    assert server.requests == []
    assert KEY not in shown(caught.value)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Authorization", "Basic abcd1234"),
        ("Helicone-Auth", "Bearer abcd1234"),
        ("Ocp-Apim-Subscription-Key", "abcd1234"),
        ("X-Nobody-Knows", "abcd1234"),
    ],
)
def test_a_key_in_a_header_of_the_callers_own_reaches_no_error(
    make: Make, server: OpenAIServer, header: str, value: str
) -> None:
    server.usual = Reply(error_body("not abcd1234"), 401)

    with pytest.raises(rg.error.AuthenticationError, match=r"not \*\*\*") as caught:
        asyncio.run(make(extra={"extra_headers": {header: value}}).chat("Hi").run())

    sent = {name.lower(): text for name, text in server.requests[0].headers.items()}
    assert sent[header.lower()] == value
    assert "abcd1234" not in shown(caught.value)


def test_headers_of_the_callers_own_are_not_shown(make: Make, server: OpenAIServer) -> None:
    headers = {"Helicone-Auth": f"Bearer {KEY}", "X-Nobody-Knows": KEY, "X-Title": "Mine"}
    generator = make(api_key="sk-another", extra={"extra_headers": headers})

    asyncio.run(generator.chat("Hi").run())

    sent = {name.lower(): value for name, value in server.requests[0].headers.items()}
    assert sent["x-nobody-knows"] == KEY
    for text in (
        repr(generator),
        repr(generator.model_dump()),
        generator.to_identifier(),
        repr(pickle.dumps(generator)),
    ):
        assert KEY not in text
        assert "Mine" in text


def test_a_long_word_in_an_error_takes_no_longer_than_others(
    make: Make, server: OpenAIServer
) -> None:
    # Tried from each of its letters anew, it would take hours.
    server.usual = Reply(error_body("a" * 300_000), 400)

    with pytest.raises(rg.error.BadRequestError, match=r"a{300}"):
        asyncio.run(asyncio.wait_for(make().chat("Hi").run(), 60))


def test_no_log_record_holds_the_key(
    make: Make, server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    import litellm  # noqa: F401 (its loggers exist from here on)

    server.prepare(Reply(), Reply(error_body(f"no: {KEY}"), 401))
    loggers = [logging.getLogger(name) for name in ("", "LiteLLM", "openai", "httpx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.DEBUG)
        results = asyncio.run(
            make(max_connections=1, min_delay_between_requests=1).generate_messages(
                [[rg.Message("user", "Hi")]] * 2, [rg.GenerateParams()] * 2
            )
        )
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

    assert [isinstance(result, Exception) for result in results] == [False, True]
    assert len(caplog.records) > 10
    assert [r for r in caplog.records if KEY in f"{r.getMessage()}{r.exc_text}{r.exc_info}"] == []
