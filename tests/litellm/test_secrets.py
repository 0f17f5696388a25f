"""The key goes into the request's header, and nowhere else."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import traceback
from typing import TYPE_CHECKING

import pytest

import rigging as rg
from tests.litellm.conftest import KEY
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
        headers = dict(request.headers)
        assert headers.pop("Authorization") == f"Bearer {KEY}"
        assert KEY not in repr((request.path, headers, request.body))


def test_no_result_holds_the_key(make: Make) -> None:
    chat = asyncio.run(make().chat("Hi").run())

    for shown in (repr(chat), chat.model_dump_json(), repr(pickle.dumps(chat))):
        assert KEY not in shown


def test_a_used_generator_shows_and_pickles_no_key(make: Make) -> None:
    generator = make()
    asyncio.run(generator.chat("Hi").run())

    for shown in (
        repr(generator),
        str(generator),
        repr(generator.model_dump()),
        generator.to_identifier(),
        repr(pickle.dumps(generator)),
    ):
        assert KEY not in shown
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
    shown = [
        repr(caught.value),
        repr(pickle.dumps(caught.value)),
        "".join(traceback.format_exception(caught.value)),
    ]
    for text in shown:
        assert KEY not in text


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
