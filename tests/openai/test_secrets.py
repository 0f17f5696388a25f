"""Keys go into the request, and nowhere else."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
from typing import TYPE_CHECKING, Any

import pytest

import rigging as rg
from rigging_openai import OpenAIGenerator
from tests.support.exposure import shown
from tests.support.faults import KEY, STREAMED, WHOLE, ask
from tests.support.openai_server import Reply, error_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.openai_server import OpenAIServer

    Make = Callable[..., OpenAIGenerator]

OWN = "hunter2-of-a-header"
SECRETS: dict[str, Any] = {
    "headers": {"api-key": OWN, "X-Title": "Mine"},
    "query": {"key": f"{OWN}-too", "api-version": "1"},
}


def test_a_key_is_sent_and_a_used_generator_shows_and_pickles_none(
    make: Make, server: OpenAIServer
) -> None:
    generator = make(**SECRETS)
    asyncio.run(generator.chat("Hi").run())

    (request,) = server.requests
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.headers["api-key"] == OWN
    assert request.query["key"] == f"{OWN}-too"
    for text in (
        repr(generator),
        str(generator),
        repr(generator.model_dump()),
        generator.model_dump_json(),
        generator.to_identifier(),
        repr(pickle.dumps(generator)),
    ):
        assert KEY not in text
        assert OWN not in text
    assert "Mine" in repr(generator)


def test_what_is_no_secret_leads_back_to_the_generator(make: Make) -> None:
    generator = make(**SECRETS, organization="o", ca_file="/a,b", read_timeout=None)

    again = rg.get_generator(generator.to_identifier())

    assert again == generator
    assert isinstance(again, OpenAIGenerator)
    assert again.headers == {"X-Title": "Mine"}
    assert again.query == {"api-version": "1"}
    assert pickle.loads(pickle.dumps(generator)) == generator
    assert copy.deepcopy(generator) == copy.copy(generator) == generator


def test_a_generator_with_nothing_but_secrets_is_written_without_them(make: Make) -> None:
    text = make(api_base=None, max_retries=5, headers={"api-key": OWN}).to_identifier()

    assert text == "openai!tiny"


def test_a_copy_asks_as_the_original_does(make: Make, server: OpenAIServer) -> None:
    generator = make(**SECRETS)

    async def each() -> None:
        for one in (generator, copy.copy(generator), copy.deepcopy(generator)):
            await one.chat("Hi").run()

    asyncio.run(each())

    assert {request.headers["api-key"] for request in server.requests} == {OWN}


def test_no_result_holds_a_key(make: Make) -> None:
    chat = asyncio.run(make(**SECRETS).chat("Hi").run())

    for text in (repr(chat), chat.model_dump_json(), repr(pickle.dumps(chat))):
        assert KEY not in text
        assert OWN not in text


@pytest.mark.parametrize("way", [*WHOLE, *STREAMED])
@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(error_body(f"wrong: {KEY} {OWN}!"), 401), id="refused"),
        pytest.param(Reply(f"<html>{KEY} {OWN}", 500), id="page"),
        pytest.param(Reply({"error": {"message": f"no: {KEY} {OWN}", "code": 400}}), id="ok"),
        pytest.param(Reply(events=[error_body(f"no: {KEY} {OWN}")]), id="event"),
        pytest.param(Reply("", 307, {"Location": f"http://x.invalid/{KEY}"}), id="redirect"),
    ],
)
def test_what_an_endpoint_repeats_of_a_key_reaches_no_error(
    make: Make, server: OpenAIServer, way: str, reply: Reply
) -> None:
    if reply.events is not None and way in WHOLE:
        reply = Reply(reply.events[0])
    server.usual = reply

    with pytest.raises(rg.error.GenerationError, match="openai!tiny") as caught:
        asyncio.run(ask(make(**SECRETS), way))

    assert len(server.requests) == 1
    for secret in (KEY, OWN):
        assert secret not in shown(caught.value)


def test_a_part_of_a_key_reaches_no_error(make: Make, server: OpenAIServer) -> None:
    server.usual = Reply(error_body(f"wrong: {KEY[:9]}...{KEY[-4:]}, or sk-other-****1234"), 401)

    with pytest.raises(rg.error.AuthenticationError, match=r"wrong: \*\*\*, or \*\*\* ") as caught:
        asyncio.run(ask(make(), "chat"))

    for part in (KEY[3:], KEY[-4:], KEY[:9], "****1234"):
        assert part not in shown(caught.value)


def test_a_failed_connection_shows_no_key_of_the_query(make: Make) -> None:
    generator = make(api_base="http://127.0.0.1:9/v1", **SECRETS)

    with pytest.raises(rg.error.ProviderConnectionError, match="onnect") as caught:
        asyncio.run(ask(generator, "chat"))

    assert OWN not in shown(caught.value)
    assert KEY not in shown(caught.value)


def test_no_log_record_holds_a_key(
    make: Make, server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.prepare(Reply(), Reply(error_body(f"no: {KEY}"), 500))
    caplog.set_level(logging.DEBUG)

    asyncio.run(make(max_retries=1, max_connections=1, **SECRETS).chat("Hi").run_many(2))

    assert any("retry 1 of 1" in record.getMessage() for record in caplog.records)
    assert KEY not in caplog.text
    assert OWN not in caplog.text
