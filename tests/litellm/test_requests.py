"""What reaches the endpoint."""

from __future__ import annotations

import asyncio
import warnings
from typing import TYPE_CHECKING, Any

import pytest

import rigging as rg
from rigging.error import UnsupportedParameterWarning
from tests.litellm.conftest import KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from rigging_litellm import LiteLLMGenerator
    from tests.support.openai_server import OpenAIServer

    Make = Callable[..., LiteLLMGenerator]

TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add numbers",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}

SAMPLING: dict[str, Any] = {
    "temperature": 0.25,
    "max_tokens": 7,
    "top_k": 5,
    "top_p": 0.5,
    "stop": ["a", "\n\n"],
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "seed": 3,
}


def test_a_chat_is_sent_as_it_is(make: Make, server: OpenAIServer) -> None:
    messages = [
        rg.Message("system", "  Be brief.\n"),
        rg.Message("user", [rg.TextPart(text="Hi "), rg.ImagePart.from_url("http://x/y.png")]),
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "content": "3", "tool_call_id": "c1"},
    ]

    asyncio.run(make().chat(messages).run())

    (request,) = server.requests
    assert request.path == "chat/completions"
    assert request.body == {
        "model": "tiny",
        "messages": [message.to_openai() for message in rg.Message.fit_as_list(messages)],
    }


def test_a_text_is_sent_as_it_is(make: Make, server: OpenAIServer) -> None:
    asyncio.run(make().complete("  Once\n").run())

    (request,) = server.requests
    assert request.path == "completions"
    assert request.body == {"model": "tiny", "prompt": "  Once\n"}


def test_every_parameter_of_a_chat_arrives_as_it_is_set(make: Make, server: OpenAIServer) -> None:
    params: dict[str, Any] = {
        **SAMPLING,
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "add"}},
        "parallel_tool_calls": False,
        "modalities": ["text"],
        "audio": {"voice": "alloy", "format": "wav"},
    }
    extra = {"logit_bias": {"7": 1}, "logprobs": True, "guided_json": {"type": "object"}}

    asyncio.run(make().chat("Hi").with_(**params, timeout=30, extra=extra).run())

    (request,) = server.requests
    del request.body["messages"]
    assert request.body == {"model": "tiny", **params, **extra}
    unsent = rg.GenerateParams.model_fields.keys() - request.body.keys()
    assert unsent == {"api_base", "timeout", "extra"}


def test_every_parameter_of_a_text_arrives_as_it_is_set(make: Make, server: OpenAIServer) -> None:
    extra = {"user": "bob", "echo": True}

    asyncio.run(make().complete("Once").with_(**SAMPLING, timeout=30, extra=extra).run())

    (request,) = server.requests
    assert request.body == {"model": "tiny", "prompt": "Once", **SAMPLING, **extra}


def test_params_are_per_item_and_win_over_the_generators(make: Make, server: OpenAIServer) -> None:
    generator = make(temperature=0.5, max_tokens=9)
    texts = [f"text {number}" for number in range(3)]
    params = [
        rg.GenerateParams(),
        rg.GenerateParams(temperature=1.0),
        rg.GenerateParams(max_tokens=1, seed=4),
    ]

    asyncio.run(generator.generate_texts(texts, params))

    sent = {request.body.pop("prompt"): request.body for request in server.requests}
    assert sent == {
        "text 0": {"model": "tiny", "temperature": 0.5, "max_tokens": 9},
        "text 1": {"model": "tiny", "temperature": 1.0, "max_tokens": 9},
        "text 2": {"model": "tiny", "temperature": 0.5, "max_tokens": 1, "seed": 4},
    }


def test_each_request_of_a_pipeline_is_a_call_of_its_own(make: Make, server: OpenAIServer) -> None:
    chats = asyncio.run(make().chat("Hi").run_many(3))

    assert [chat.last.text for chat in chats] == ["You said: Hi"] * 3
    assert len(server.requests) == 3


def test_one_string_is_enough(server: OpenAIServer) -> None:
    generator = rg.get_generator(f"openai/gpt-x,api_base={server.url},api_key={KEY}")

    chat = asyncio.run(generator.chat("Hi").run())

    assert chat.last.content == "You said: Hi"
    assert chat.generator_id == f"litellm!openai/gpt-x,api_base={server.url}"
    assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"


def test_without_a_key_litellm_reads_the_environment(
    make: Make, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")

    asyncio.run(make(api_key=None).chat("Hi").run())

    assert server.requests[0].headers["Authorization"] == "Bearer sk-from-the-environment"


@pytest.mark.parametrize(
    ("model", "kind", "params", "left_out"),
    [
        pytest.param(
            "openai/o1",
            "chat",
            {"presence_penalty": 0.5, "top_k": 3},
            {"presence_penalty"},
            id="o1",
        ),
        pytest.param("openai/gpt-5", "chat", {"temperature": 0.5}, {"temperature"}, id="by-value"),
        pytest.param(
            "openai/tiny",
            "complete",
            {"tools": [TOOL], "modalities": ["text"], "seed": 1},
            {"tools", "modalities"},
            id="texts",
        ),
        pytest.param(
            "openai/tiny", "chat", {"extra": {"user": "bob", "strange": 1}}, {"user"}, id="extra"
        ),
    ],
)
def test_what_a_model_does_not_take_is_left_out_with_a_warning_once(
    make: Make,
    server: OpenAIServer,
    model: str,
    kind: str,
    params: dict[str, Any],
    left_out: set[str],
) -> None:
    generator = make(model, **params)
    start = generator.chat if kind == "chat" else generator.complete

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UnsupportedParameterWarning)
        asyncio.run(start("Hi").run_many(3))

    assert all(issubclass(warning.category, UnsupportedParameterWarning) for warning in caught)
    told = sorted(str(warning.message) for warning in caught)
    assert told == [
        f"litellm!{model} does not take {n!r}: it is left out" for n in sorted(left_out)
    ]
    given = rg.GenerateParams(**params).to_dict()
    for request in server.requests:
        assert given.keys() & request.body.keys() == given.keys() - left_out


@pytest.mark.parametrize("name", ["stream", "n", "num_retries", "api_key", "messages"])
def test_what_the_generator_sets_itself_cannot_be_set_by_extra(
    make: Make, server: OpenAIServer, name: str
) -> None:
    with pytest.raises(rg.error.BadRequestError, match=rf"extra\.{name} cannot be set: "):
        asyncio.run(make().chat("Hi").with_(extra={name: 2}).run())
    assert server.requests == []


def test_an_empty_conversation_is_refused_before_anything_is_sent(
    make: Make, server: OpenAIServer
) -> None:
    messages = [[], [rg.Message("user", "Hi")]]

    bad, good = asyncio.run(make().generate_messages(messages, [rg.GenerateParams()] * 2))

    assert isinstance(bad, rg.error.InvalidMessageError)
    assert str(good) == "You said: Hi"
    assert len(server.requests) == 1


def test_litellms_switches_are_left_alone(make: Make, server: OpenAIServer) -> None:
    import litellm

    def switches() -> dict[str, str]:
        plain = (bool, int, float, str, list, dict, type(None))
        return {
            name: repr(value)
            for name, value in vars(litellm).items()
            if isinstance(value, plain) and not name.startswith("_")
        }

    asyncio.run(make().chat("Hi").run())
    before = switches()
    with pytest.warns(UnsupportedParameterWarning):
        asyncio.run(make("openai/o1", presence_penalty=0.5).chat("Hi").run())
    asyncio.run(make(min_delay_between_requests=1, max_connections=1).complete("Hi").run_many(2))

    assert switches() == before
