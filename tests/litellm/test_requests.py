"""What reaches the endpoint."""

from __future__ import annotations

import asyncio
import warnings
from typing import TYPE_CHECKING, Any

import pydantic
import pytest

import rigging as rg
from rigging.error import UnsupportedParameterWarning
from tests.support.faults import KEY
from tests.support.openai_server import Reply

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

NAMED_TOOL = {"type": "function", "function": {"name": "add"}}

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

ANTHROPIC: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 10, "output_tokens": 5},
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
        "tool_choice": NAMED_TOOL,
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
        pytest.param(
            "openai/gpt-4o", "chat", {"extra": {"user": "bob", "strange": 1}}, set(), id="user"
        ),
        pytest.param(
            "mistral/mistral-large-latest",
            "chat",
            {"tools": [TOOL], "tool_choice": NAMED_TOOL, "temperature": 0.5},
            set(),
            id="mistral-named-tool",
        ),
        pytest.param(
            "deepseek/deepseek-chat",
            "chat",
            {"seed": 1, "extra": {"user": "bob", "top_a": 1}},
            {"user"},
            id="deepseek",
        ),
        pytest.param(
            "together_ai/tiny",
            "chat",
            {"top_k": 1, "extra": {"user": "bob"}},
            {"user"},
            id="together",
        ),
        pytest.param(
            "hosted_vllm/tiny",
            "chat",
            {"top_k": 1, "seed": 2, "extra": {"min_p": 0.1, "verbosity": "low"}},
            {"verbosity"},
            id="vllm",
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


def test_anthropic_is_told_what_it_takes_and_the_rest_is_warned_about(
    make: Make, server: OpenAIServer
) -> None:
    server.prepare(Reply(ANTHROPIC))
    params = {**SAMPLING, "tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False}
    extra = {"user": "bob", "response_format": {"type": "json_object"}}
    generator = make("anthropic/claude-sonnet-4-5", api_base=server.url.removesuffix("/v1"))
    del params["top_p"]  # with this model, not beside a temperature

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UnsupportedParameterWarning)
        asyncio.run(generator.chat("Hi").with_(**params, extra=extra).run())

    left_out = {"presence_penalty", "frequency_penalty", "seed", "response_format"}
    assert {str(w.message).split("'")[1] for w in caught} == left_out
    body = server.requests[0].body
    assert (body["temperature"], body["max_tokens"], body["top_k"]) == (0.25, 7, 5)
    assert body["stop_sequences"] == ["a", "\n\n"]
    assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert body["metadata"] == {"user_id": "bob"}


def test_a_parameter_that_is_refused_for_one_value_is_sent_with_another(
    make: Make, server: OpenAIServer
) -> None:
    generator = make("openai/gpt-5")

    async def both() -> None:
        with pytest.warns(UnsupportedParameterWarning, match="'temperature'"):
            await generator.chat("Hi").with_(temperature=0.5).run()
        await generator.chat("Hi").with_(temperature=1).run()

    asyncio.run(both())

    assert [request.body.get("temperature") for request in server.requests] == [None, 1]


def test_two_generators_do_not_see_each_other(make: Make, server: OpenAIServer) -> None:
    first = make("openai/o1", api_key="sk-first", temperature=0.5, max_connections=1)
    second = make(
        "openai/gpt-4o",
        api_key="sk-second",
        temperature=0.25,
        extra={"extra_headers": {"X-A": "b"}},
    )

    async def both() -> None:
        await asyncio.gather(
            *(generator.chat("Hi").run_many(3) for generator in (first, second, first, second))
        )

    with pytest.warns(UnsupportedParameterWarning, match="openai/o1 does not take 'temperature'"):
        asyncio.run(both())

    seen = {
        (
            request.body["model"],
            request.body.get("temperature"),
            request.headers["Authorization"],
            {name.lower(): value for name, value in request.headers.items()}.get("x-a"),
        )
        for request in server.requests
    }
    assert seen == {
        ("o1", None, "Bearer sk-first", None),
        ("gpt-4o", 0.25, "Bearer sk-second", "b"),
    }
    assert len(server.requests) == 12


def test_a_schema_of_the_answer_is_sent(make: Make, server: OpenAIServer) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    given = {"type": "json_schema", "json_schema": {"name": "A", "schema": schema}}

    asyncio.run(make().chat("Hi").with_(extra={"response_format": given}).run())

    assert server.requests[0].body["response_format"] == given


def test_a_class_is_no_schema_of_the_answer(make: Make, server: OpenAIServer) -> None:
    class Answer(pydantic.BaseModel):
        a: int

    with pytest.raises(rg.error.BadRequestError, match=r"Answer\.model_json_schema\(\)"):
        asyncio.run(make().chat("Hi").with_(extra={"response_format": Answer}).run())
    assert server.requests == []


def test_images_and_sound_are_sent(make: Make, server: OpenAIServer) -> None:
    png = b"\x89PNG\r\n\x1a\n"
    message = rg.Message(
        "user",
        ["See ", rg.ImagePart.from_bytes(png), rg.AudioPart.from_bytes(b"RIFF", transcript="hm")],
    )

    asyncio.run(make().chat([message]).run())

    assert server.requests[0].body["messages"][0]["content"] == [
        {"type": "text", "text": "See "},
        {
            "type": "image_url",
            "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "auto"},
        },
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
    ]


@pytest.mark.parametrize(
    "name", ["stream", "drop_params", "n", "num_retries", "api_key", "messages"]
)
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


def test_a_parameter_is_sent_or_left_out_by_its_value(make: Make, server: OpenAIServer) -> None:
    generator = make("anthropic/claude-sonnet-4-20250514", api_base=server.root)
    server.usual = Reply(ANTHROPIC)

    async def ask(**params: Any) -> None:
        await generator.chat("Hi").with_(**params).run()

    with pytest.warns(UnsupportedParameterWarning, match="'stop'"):
        asyncio.run(ask(stop=[]))
    asyncio.run(ask(stop=["END"]))

    assert server.requests[-1].body["stop_sequences"] == ["END"]


def test_another_model_is_warned_about_anew(make: Make, server: OpenAIServer) -> None:
    generator = make("openai/o3")

    for model in ["openai/o3", "openai/o1"]:
        generator.model = model
        with pytest.warns(UnsupportedParameterWarning, match=f"{model} does not take 'top_p'"):
            asyncio.run(generator.chat("Hi").with_(top_p=0.5).run())


def test_what_only_chats_take_is_left_out_of_a_text(make: Make, server: OpenAIServer) -> None:
    extra = {"response_format": {"type": "json_object"}, "reasoning_effort": "low"}

    with pytest.warns(UnsupportedParameterWarning, match="is left out") as caught:
        asyncio.run(make().complete("Hi").with_(extra=extra).run())

    assert sorted(str(w.message).split("'")[1] for w in caught) == sorted(extra)
    assert not extra.keys() & server.requests[0].body.keys()
