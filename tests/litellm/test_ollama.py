"""Models of Ollama: where requests go, what arrives there, and what a cut prompt shows."""

from __future__ import annotations

import asyncio
import json
import warnings
from typing import TYPE_CHECKING, Any, Final, Literal

import pytest

import rigging as rg
from rigging.error import ResponseError, TruncationWarning, UnsupportedParameterWarning
from rigging_litellm._ollama import sign_of_truncation
from tests.support.ollama_server import OllamaServer
from tests.support.openai_server import OpenAIServer, Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

BOTH_NAMES: Final = ["ollama/tiny", "ollama_chat/tiny"]
DEFAULT_PORT: Final = 11434

TOOL: Final = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
PIXEL: Final = (  # a PNG
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module")
def running_ollama() -> Iterator[OllamaServer]:
    with OllamaServer() as server:
        yield server


@pytest.fixture
def ollama(running_ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> OllamaServer:
    """A server on loopback that nobody has asked anything yet, by the environment."""
    running_ollama.reset()
    monkeypatch.setenv("OLLAMA_API_BASE", running_ollama.url)
    return running_ollama


def words(count: int) -> str:
    """Return a text of so many words, which are the server's tokens; five letters each."""
    return " ".join(f"w{number:04}" for number in range(count))


def ask(text: str, model: str = "ollama/tiny", **params: Any) -> rg.Chat:
    return asyncio.run(rg.get_generator(model).chat(text).with_(**params).run())


def without_retries(identifier: str) -> rg.Generator:
    """Make a generator that gives an error at once."""
    return rg.get_generator(f"{identifier},max_retries=0")


async def gather(stream: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in stream]


# -- Where requests go -------------------------------------------------------------------


def test_api_base_in_the_identifier_says_where(
    ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OLLAMA_API_BASE")
    generator = rg.get_generator(f"ollama/tiny,api_base={ollama.url}")

    asyncio.run(generator.chat("Hi").run())
    asyncio.run(generator.complete("Hi").run())

    assert [request.path for request in ollama.requests] == ["chat", "generate"]
    assert generator.to_identifier() == f"litellm!ollama/tiny,api_base={ollama.url}"


def test_api_base_wins_over_the_environment(
    ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_API_BASE", "http://127.0.0.1:9")

    ask("Hi", api_base=ollama.url)

    assert len(ollama.requests) == 1


def test_the_environment_says_where(ollama: OllamaServer) -> None:
    generator = rg.get_generator("ollama/tiny")

    asyncio.run(generator.chat("Hi").run())
    asyncio.run(generator.complete("Hi").run())

    assert [request.path for request in ollama.requests] == ["chat", "generate"]


def test_without_either_it_is_ollamas_own_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_API_BASE", raising=False)
    try:
        server = OllamaServer(DEFAULT_PORT).__enter__()
    except OSError as error:
        pytest.fail(f"this test needs port {DEFAULT_PORT}; stop what listens there: {error}")
    try:
        chat = ask("Hi")
    finally:
        server.__exit__(None, None, None)

    assert chat.last.text == "I read: <user> Hi <assistant>"


def test_a_key_for_a_proxy_in_front_goes_into_the_header(ollama: OllamaServer) -> None:
    ask("Hi", "ollama/tiny,api_key=sk-proxy")

    assert ollama.requests[0].headers["Authorization"] == "Bearer sk-proxy"


# -- Chats -------------------------------------------------------------------------------


@pytest.mark.parametrize("model", BOTH_NAMES)
def test_a_chat_arrives_as_messages(ollama: OllamaServer, model: str) -> None:
    generator = rg.get_generator(model)
    start = generator.chat([{"role": "system", "content": "Be brief."}, rg.Message("user", "Hi")])

    first = asyncio.run(start.run())
    second = asyncio.run(first.continue_("Why?").run())

    assert first.last.text == "I read: <system> Be brief. <user> Hi <assistant>"
    request = ollama.requests[-1]
    assert request.path == "chat"
    assert [(m["role"], m["content"]) for m in request.body["messages"]] == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", first.last.text),
        ("user", "Why?"),
    ]
    assert second.last.text.endswith("<user> Why? <assistant>")


def test_parameters_arrive_under_ollamas_names(ollama: OllamaServer) -> None:
    ask(
        "Hi",
        temperature=0.5,
        top_p=0.9,
        top_k=5,
        seed=3,
        stop=["END", "---"],
        max_tokens=7,
        presence_penalty=0.25,
        extra={"num_ctx": 1024, "keep_alive": "1m", "truncate": False},
    )

    (request,) = ollama.requests
    assert request.body.pop("options") == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "seed": 3,
        "stop": ["END", "---"],
        "num_predict": 7,
        "presence_penalty": 0.25,
        "num_ctx": 1024,
    }
    del request.body["messages"]
    assert request.body == {
        "model": "tiny",
        "stream": False,
        "keep_alive": "1m",
        "truncate": False,
    }


def test_a_chat_ends_at_the_limit_or_by_itself(ollama: OllamaServer) -> None:
    cut = ask("one two three", max_tokens=3)
    whole = ask("one two three")
    stopped = ask("one two three", stop=["two"])

    assert (cut.last.text, cut.stop_reason) == ("I read: <user>", rg.StopReason.length)
    assert whole.stop_reason is rg.StopReason.stop
    assert (stopped.last.text, stopped.stop_reason) == (
        "I read: <user> one",
        rg.StopReason.stop,
    )


def test_a_chat_reports_its_usage(ollama: OllamaServer) -> None:
    usage = ask("one two three").usage

    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (5, 7, 12)


def test_tools_can_be_called_and_answered(ollama: OllamaServer) -> None:
    import litellm

    generator = rg.get_generator("ollama/tiny")
    chat = asyncio.run(generator.chat("Add 1").with_(tools=[TOOL]).run())

    assert chat.stop_reason is rg.StopReason.tool_calls
    (call,) = chat.last.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("add", {"a": 1})

    answer = {"role": "tool", "content": "2", "tool_call_id": call.id}
    second = asyncio.run(generator.chat([*chat.all, answer]).with_(tools=[TOOL]).run())

    assert second.last.text == "I read: <user> Add 1 <assistant> <tool> 2 <assistant>"
    assert ollama.requests[-1].body["tools"] == [TOOL]
    # Under the name `ollama/`, litellm would set it, for all models of the process.
    assert litellm.add_function_to_prompt is False


def test_an_image_arrives_in_its_message(ollama: OllamaServer) -> None:
    message = rg.Message(
        "user",
        [
            rg.TextPart(text="What is this?"),
            rg.ImagePart.from_url(f"data:image/png;base64,{PIXEL}"),
        ],
    )

    chat = asyncio.run(rg.get_generator("ollama/tiny").chat(message).run())

    assert chat.last.text == "I read: <user> What is this? <image> <assistant>"
    assert ollama.requests[0].body["messages"][0]["images"] == [PIXEL]


def test_a_response_format_becomes_ollamas_format(ollama: OllamaServer) -> None:
    schema = {"type": "object", "properties": {"read": {"type": "integer"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}

    chat = ask("Hi", extra={"response_format": wanted})

    assert json.loads(chat.last.text) == {"read": 3}
    assert ollama.requests[0].body["format"] == schema


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("tool_choice", {"tools": [TOOL], "tool_choice": "auto"}),
        ("frequency_penalty", {"frequency_penalty": 0.5}),
        ("parallel_tool_calls", {"tools": [TOOL], "parallel_tool_calls": True}),
    ],
)
def test_what_ollama_cannot_be_given_is_left_out_with_a_warning(
    ollama: OllamaServer, name: str, params: dict[str, Any]
) -> None:
    with pytest.warns(UnsupportedParameterWarning, match=f"does not take '{name}'"):
        ask("Hi", **params)

    assert ollama.requests[0].body["options"] == {}
    assert name not in ollama.requests[0].body


# -- Texts -------------------------------------------------------------------------------


@pytest.mark.parametrize("model", BOTH_NAMES)
def test_a_text_arrives_as_it_is_without_a_template(ollama: OllamaServer, model: str) -> None:
    completion = asyncio.run(rg.get_generator(model).complete("  Once upon\n").run())

    assert completion.generated == "I read: Once upon"
    (request,) = ollama.requests
    assert request.path == "generate"
    assert request.body == {
        "model": "tiny",
        "prompt": "  Once upon\n",
        "raw": True,
        "options": {},
        "stream": False,
    }


def test_the_template_can_be_asked_for(ollama: OllamaServer) -> None:
    completion = asyncio.run(
        rg.get_generator("ollama/tiny,extra.raw=false").complete("Once upon").run()
    )

    assert completion.generated == "I read: <user> Once upon <assistant>"


def test_a_text_ends_at_the_limit_or_by_itself(ollama: OllamaServer) -> None:
    start = rg.get_generator("ollama/tiny").complete("one two three")

    cut = asyncio.run(start.with_(max_tokens=3, frequency_penalty=0.5).run())
    whole = asyncio.run(start.with_(max_tokens=30).run())

    assert (cut.generated, cut.stop_reason) == ("I read: one", rg.StopReason.length)
    assert cut.usage is not None
    assert (cut.usage.input_tokens, cut.usage.output_tokens) == (3, 3)
    assert ollama.requests[0].body["options"] == {"num_predict": 3, "frequency_penalty": 0.5}
    assert whole.stop_reason is rg.StopReason.stop


# -- Streams -----------------------------------------------------------------------------


def test_a_chat_streams_as_it_is_written(ollama: OllamaServer) -> None:
    start = rg.get_generator("ollama/tiny,max_tokens=4").chat("one two three")

    *pieces, chat = asyncio.run(gather(start.stream()))

    assert pieces == ["I", " read:", " <user>", " one"]
    assert chat.last.text == "I read: <user> one"
    assert chat.stop_reason is rg.StopReason.length
    assert (chat.usage.input_tokens, chat.usage.output_tokens) == (5, 4)
    assert (ollama.requests[0].path, ollama.requests[0].body["stream"]) == ("chat", True)


def test_a_text_streams_as_it_is_written(ollama: OllamaServer) -> None:
    start = rg.get_generator("ollama/tiny,max_tokens=4").complete("one two three")

    *pieces, completion = asyncio.run(gather(start.stream()))

    assert pieces == ["I", " read:", " one", " two"]
    assert completion.generated == "I read: one two"
    assert completion.stop_reason is rg.StopReason.length
    assert (completion.usage.input_tokens, completion.usage.output_tokens) == (3, 4)
    assert (ollama.requests[0].path, ollama.requests[0].body["stream"]) == ("generate", True)


def test_tool_calls_come_at_the_end_of_a_stream(ollama: OllamaServer) -> None:
    start = rg.get_generator("ollama/tiny").chat("Add 1").with_(tools=[TOOL])

    (chat,) = asyncio.run(gather(start.stream()))

    assert chat.stop_reason is rg.StopReason.tool_calls
    assert [call.function.name for call in chat.last.tool_calls] == ["add"]


# -- Failures ----------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", ["chat", "complete"])
def test_a_model_that_is_not_there_is_to_be_pulled(
    ollama: OllamaServer, kind: str, streamed: bool
) -> None:
    generator = rg.get_generator("ollama/llama9:70b")
    start = generator.chat("Hi") if kind == "chat" else generator.complete("Hi")

    with pytest.raises(
        rg.error.ModelNotFoundError, match=r"'llama9:70b' not found.*`ollama pull llama9:70b`"
    ) as caught:
        asyncio.run(gather(start.stream()) if streamed else start.run())

    assert (caught.value.status, caught.value.retryable) == (404, False)
    assert caught.value.model == "ollama/llama9:70b"


@pytest.mark.parametrize("kind", ["chat", "complete"])
def test_a_server_that_is_not_running_is_to_be_started(kind: str) -> None:
    with OllamaServer() as gone:
        address = gone.url
    generator = without_retries(f"ollama/tiny,api_base={address}")
    start = generator.chat("Hi") if kind == "chat" else generator.complete("Hi")

    with pytest.raises(
        rg.error.ProviderConnectionError, match=r"`ollama serve`.*OLLAMA_API_BASE.*api_base"
    ) as caught:
        asyncio.run(start.run())

    assert (caught.value.status, caught.value.retryable) == (None, True)


def test_a_prompt_that_may_not_be_cut_does_not_fit(ollama: OllamaServer) -> None:
    with pytest.raises(rg.error.ContextLengthError, match=r"\(52 tokens\) exceeds.*num_ctx"):
        ask(words(50), extra={"num_ctx": 20, "truncate": False})


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", ["chat", "complete"])
def test_a_model_that_breaks_down_is_the_servers_failure(
    ollama: OllamaServer, kind: str, streamed: bool
) -> None:
    ollama.breaks = "the model runner has stopped"
    generator = without_retries("ollama/tiny")
    start = generator.chat("Hi") if kind == "chat" else generator.complete("Hi")

    with pytest.raises(rg.error.ProviderServerError, match="model runner has stopped") as caught:
        asyncio.run(gather(start.stream()) if streamed else start.run())

    assert caught.value.retryable


# -- Prompts that were cut ---------------------------------------------------------------


@pytest.mark.parametrize("cut", ["window", "half"])
@pytest.mark.parametrize("window", [None, 512])
@pytest.mark.parametrize("kind", ["chat", "complete"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_prompt_that_was_cut_is_warned_about(
    ollama: OllamaServer,
    cut: Literal["window", "half"],
    window: int | None,
    kind: str,
    streamed: bool,
) -> None:
    ollama.cut = cut
    text = words(3 * (window or ollama.context_length))
    generator = rg.get_generator("ollama/tiny,max_tokens=2")
    start = generator.chat(text) if kind == "chat" else generator.complete(text)
    if window:
        start = start.with_(extra={"num_ctx": window})

    with pytest.warns(TruncationWarning, match=r"litellm!ollama/tiny .* cut a prompt.*num_ctx"):
        asyncio.run(gather(start.stream()) if streamed else start.run())


def test_old_messages_that_were_left_out_are_warned_about(ollama: OllamaServer) -> None:
    history = [rg.Message("user", words(3000)), rg.Message("assistant", words(1000))] * 3

    with pytest.warns(TruncationWarning, match=r"it read 2003 tokens of 77993 characters"):
        asyncio.run(
            rg.get_generator("ollama/tiny,max_tokens=1")
            .chat([*history, rg.Message("user", words(1000))])
            .run()
        )


def test_the_warning_comes_once_per_generator(ollama: OllamaServer) -> None:
    start = rg.get_generator("ollama/tiny,extra.num_ctx=64,max_tokens=1").chat(words(500))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(start.run_many(3))
        asyncio.run(start.run())

    assert [warning.category for warning in caught] == [TruncationWarning]


def test_the_warning_can_be_made_an_error_of_the_item(ollama: OllamaServer) -> None:
    start = rg.get_generator("ollama/tiny,extra.num_ctx=64,max_tokens=1").chat(words(500))

    with warnings.catch_warnings():
        warnings.simplefilter("error", TruncationWarning)
        with pytest.raises(TruncationWarning, match="cut a prompt"):
            asyncio.run(start.run())


def result(tokens: int) -> rg.GeneratedText:
    return rg.GeneratedText.from_text("x", usage=rg.Usage(input_tokens=tokens))


@pytest.mark.parametrize(
    ("characters", "tokens", "num_ctx", "cut"),
    [
        pytest.param(40_000, 4096, None, True, id="all-of-a-usual-window"),
        pytest.param(40_000, 4095, None, False, id="nearly-all-of-it"),
        pytest.param(17_000, 2050, None, True, id="half-of-a-usual-window"),
        pytest.param(17_000, 2051, None, True, id="half-of-it-and-a-first-token"),
        pytest.param(17_000, 2052, None, False, id="another-number"),
        pytest.param(40_000, 16_386, None, False, id="half-a-window-in-code"),
        pytest.param(9_000, 2050, None, False, id="half-a-window-in-prose"),
        pytest.param(40_000, 5_000, 8192, False, id="it-fits"),
        pytest.param(20_000, 4096, 8192, False, id="another-window-is-set"),
        pytest.param(40_000, 6_000, 6_000, True, id="the-window-that-is-set"),
        pytest.param(25_000, 3_002, 6_000, True, id="half-of-the-one-that-is-set"),
        pytest.param(40_000, 1_000, None, True, id="much-is-missing"),
        pytest.param(1_900, 100, None, False, id="too-short-to-be-cut"),
    ],
)
def test_what_counts_as_a_sign(
    characters: int, tokens: int, num_ctx: int | None, cut: bool
) -> None:
    arguments = {} if num_ctx is None else {"num_ctx": num_ctx}

    sign = sign_of_truncation({"prompt": "x" * characters}, arguments, result(tokens))

    assert (sign is not None) is cut


def test_a_prompt_of_another_provider_is_not_judged(
    ollama: OllamaServer, make: Any, server: Any
) -> None:
    with warnings.catch_warnings():
        # Not any warning: litellm's own of connections left open come whenever they like.
        warnings.simplefilter("error", TruncationWarning)
        asyncio.run(make(extra={"num_ctx": 2}).complete("Hi").run())

    assert server.requests[0].body["num_ctx"] == 2


def test_json_without_a_text_is_no_answer(server: OpenAIServer) -> None:
    server.usual = Reply({"error": "boom"})
    generator = without_retries(f"ollama/tiny,api_base={server.root}")

    with pytest.raises(ResponseError, match="no text"):
        asyncio.run(generator.complete("Hi").run())
