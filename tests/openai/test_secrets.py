"""Keys go into the request, and nowhere else."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

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


NAMES = [
    "Ocp-Apim-Subscription-Key",
    "subscription-key",
    "Helicone-Auth",
    "x-functions-key",
    "X-Amz-Security-Token",
    "cf-aig-authorization",
    "Cookie",
    "sig",
    "X-Nobody-Knows",
]


@pytest.mark.parametrize("field", ["headers", "query"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_known_to_be_harmless_is_sent_and_not_shown(
    make: Make, server: OpenAIServer, name: str, field: str
) -> None:
    generator = make(**{field: {name: f"Bearer {OWN}", "api-version": "1"}})
    server.prepare(Reply(), Reply(error_body(f"not {OWN}, sorry"), 403))

    chat = asyncio.run(generator.chat("Hi").run())
    with pytest.raises(rg.error.PermissionDeniedError, match=r"not \*\*\*, sorry") as caught:
        asyncio.run(ask(generator, "chat"))

    assert getattr(server.requests[0], field)[name] == f"Bearer {OWN}"
    for text in (
        repr(generator),
        repr(generator.model_dump()),
        generator.model_dump_json(),
        generator.to_identifier(),
        repr(pickle.dumps(generator)),
        repr(pickle.dumps(chat)),
        chat.model_dump_json(),
        shown(caught.value),
    ):
        assert OWN not in text
    again = rg.get_generator(generator.to_identifier())
    assert again == generator
    assert getattr(again, field) == {"api-version": "1"}


@pytest.mark.parametrize(
    ("header", "value", "repeated"),
    [
        ("Authorization", "Basic abcd", "abcd"),
        ("Cookie", "session=0123456789; theme=dark", "0123456789"),
        ("Authorization", "AWS4-HMAC-SHA256 Credential=0123456789, Signature=9", "0123456789"),
    ],
)
def test_a_part_of_a_header_that_an_endpoint_repeats_reaches_no_error(
    make: Make, server: OpenAIServer, header: str, value: str, repeated: str
) -> None:
    server.usual = Reply(error_body(f"not {repeated}, sorry"), 403)

    with pytest.raises(rg.error.PermissionDeniedError, match=r"not \*\*\*, sorry"):
        asyncio.run(ask(make(headers={header: value}), "chat"))


def test_a_short_value_of_a_header_does_not_garble_errors(make: Make, server: OpenAIServer) -> None:
    server.usual = Reply(error_body("no such product in the eu"), 400)
    headers = {"X-Environment": "prod", "X-Where": "eu", "X-Provider": "openai"}

    with pytest.raises(rg.error.BadRequestError, match=r"no such product in the eu \[openai!tiny"):
        asyncio.run(ask(make(headers=headers), "chat"))


BASES = [
    "{0}?key={1}",
    "{0}?api-version=1&subscription-key={1}",
    "{0}?{1}",
    "http://me:{1}@x.invalid/v1",
    "me:{1}@x.invalid/v1",
    "http://me:{1}@[x/v1",
]


@pytest.mark.parametrize("base", BASES)
def test_an_address_that_would_show_a_secret_makes_no_generator(
    make: Make, server: OpenAIServer, base: str
) -> None:
    address = base.format(server.url, KEY)
    generator = make()

    for refused in (
        lambda: make(api_base=address),
        lambda: rg.get_generator(f"openai!tiny,api_base={address}"),
        lambda: setattr(generator, "params", rg.GenerateParams(api_base=address)),
    ):
        with pytest.raises(ValueError, match=r"it would be shown\. Give the ") as caught:
            refused()
        assert KEY not in shown(caught.value)
    assert generator.params.api_base == server.url


@pytest.mark.parametrize("way", ["whole", "streamed"])
@pytest.mark.parametrize("base", BASES)
def test_an_address_that_would_show_a_secret_is_not_asked(
    make: Make, server: OpenAIServer, base: str, way: str
) -> None:
    pipeline = make().chat("Hi").with_(api_base=base.format(server.url, KEY))

    async def run() -> None:
        if way == "whole":
            await pipeline.run()
        async for _ in pipeline.stream():
            pass

    with pytest.raises(rg.error.BadRequestError, match=r"it would be shown\. Give the ") as caught:
        asyncio.run(run())

    assert server.requests == []
    assert KEY not in shown(caught.value)


def test_the_environments_address_may_hold_a_key(
    make: Make, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}?key={KEY}-2")
    server.prepare(Reply(), Reply(error_body(f"not {KEY}-2"), 401))
    generator = make(api_base=None)

    chat = asyncio.run(generator.chat("Hi").run())
    with pytest.raises(rg.error.AuthenticationError, match="openai!tiny") as caught:
        asyncio.run(ask(generator, "chat"))

    assert server.requests[0].query == {"key": f"{KEY}-2"}
    assert KEY not in f"{chat!r} {chat.generator_id} {generator!r} {shown(caught.value)}"


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


def test_a_secret_that_an_address_encodes_reaches_no_error(
    make: Make, server: OpenAIServer
) -> None:
    server.usual = Reply(raw=b"no http")
    secret = "p@ss w/o+r%d&1=é"

    with pytest.raises(rg.error.ProviderConnectionError, match=r"code=\*\*\*'") as caught:
        asyncio.run(ask(make(query={"code": secret}), "chat"))

    assert server.requests[0].query == {"code": secret}
    assert "code=p" not in shown(caught.value)


@pytest.mark.parametrize("spell", [quote, quote_plus, json.dumps])
def test_a_secret_that_an_endpoint_encodes_reaches_no_error(
    make: Make, server: OpenAIServer, spell: Callable[[str], str]
) -> None:
    secret = 'p@ss w"o+r%d&1'
    server.usual = Reply(error_body(f"no such page: /?code={spell(secret)}"), 404)

    with pytest.raises(rg.error.ModelNotFoundError, match=r'code="?\*\*\*"? \[') as caught:
        asyncio.run(ask(make(query={"code": secret}), "chat"))

    assert spell(secret) not in shown(caught.value)


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
