"""What a real engine answers."""

from __future__ import annotations

import asyncio
import re
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

import pytest

import rigging as rg
from rigging.error import UnsupportedParameterWarning
from tests.vllm.conftest import MAX_MODEL_LEN, check_variables_of_templates

if TYPE_CHECKING:
    from collections.abc import Callable

    from rigging_vllm import VLLMGenerator

GREEDY = rg.GenerateParams(temperature=0, max_tokens=8)
TOO_LONG = "x" * 3 * MAX_MODEL_LEN
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def texts_of(generator: VLLMGenerator, texts: list[str], *params: rg.GenerateParams) -> list[Any]:
    if len(params) == 1:
        params *= len(texts)
    return list(asyncio.run(generator.generate_texts(texts, params)))


# -- Texts and conversations -------------------------------------------------------------


def test_a_conversation_goes_through_the_chat_template(generator: VLLMGenerator) -> None:
    chat = asyncio.run(generator.chat("Hi").with_(GREEDY).run())

    # The same prompt, written by hand.
    prompt = "<|start|>user\nHi<|end|>\n<|start|>assistant\n"
    (text,) = texts_of(generator, [prompt], GREEDY)
    assert chat.last.role == "assistant"
    assert chat.last.content == text.text
    assert chat.usage is not None
    assert chat.usage.input_tokens == text.usage.input_tokens


def test_extra_sets_variables_of_the_chat_template(
    generator: VLLMGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = generator.load()._engine._worker._llm  # type: ignore[attr-defined]

    check_variables_of_templates(generator, llm.tokenizer, monkeypatch)


def test_a_completion_continues_its_prompt(generator: VLLMGenerator) -> None:
    completion = asyncio.run(generator.complete("One two").with_(GREEDY).run())

    assert completion.text == "One two"
    assert completion.generated == texts_of(generator, ["One two"], GREEDY)[0].text
    assert completion.generated != ""


def test_a_batch_has_params_per_item(generator: VLLMGenerator) -> None:
    params = [
        rg.GenerateParams(temperature=0, max_tokens=3),
        rg.GenerateParams(temperature=0, max_tokens=9),
        rg.GenerateParams(temperature=1.5, seed=4, max_tokens=6),
    ]

    batch = texts_of(generator, ["One two"] * 3, *params)
    alone = [texts_of(generator, ["One two"], own)[0] for own in params]

    assert [result.usage.output_tokens for result in batch] == [3, 9, 6]
    assert [result.text for result in batch] == [result.text for result in alone]
    assert batch[1].text.startswith(batch[0].text.rstrip("\ufffd"))


def test_a_seed_repeats_and_another_does_not(generator: VLLMGenerator) -> None:
    def sample(seed: int) -> str:
        params = rg.GenerateParams(temperature=1, seed=seed, max_tokens=12)
        text: str = texts_of(generator, ["Once"], params)[0].text
        return text

    assert sample(7) == sample(7)
    assert sample(7) != sample(8)


def test_text_ends_before_a_stop(generator: VLLMGenerator) -> None:
    whole = texts_of(generator, ["One two"], GREEDY)[0].text
    stop = whole[3:5]

    (result,) = texts_of(generator, ["One two"], GREEDY.merge_with(rg.GenerateParams(stop=stop)))

    assert result.text == whole.partition(stop)[0]
    assert result.stop_reason is rg.StopReason.stop
    assert result.extra["stop_reason"] == stop


def test_usage_counts_tokens_and_the_limit_is_a_stop_reason(generator: VLLMGenerator) -> None:
    (result,) = texts_of(generator, ["One two"], rg.GenerateParams(max_tokens=5, temperature=0))

    assert result.stop_reason is rg.StopReason.length
    assert result.usage.output_tokens == 5
    assert 0 < result.usage.input_tokens <= len("One two")
    assert result.usage.total_tokens == result.usage.input_tokens + 5


def test_without_a_limit_an_answer_may_fill_the_context(generator: VLLMGenerator) -> None:
    params = rg.GenerateParams(temperature=0, extra={"ignore_eos": True})

    (result,) = texts_of(generator, ["One two"], params)

    assert result.stop_reason is rg.StopReason.length
    assert result.usage.total_tokens == MAX_MODEL_LEN


# -- Parameters of vLLM's own ------------------------------------------------------------


def test_log_probabilities_are_kept(generator: VLLMGenerator) -> None:
    params = GREEDY.merge_with(rg.GenerateParams(max_tokens=2, extra={"logprobs": 3}))

    (result,) = texts_of(generator, ["One two"], params)

    positions = result.extra["logprobs"]
    assert len(positions) == 2
    for candidates in positions:
        assert len(candidates) == 3
        assert candidates[0]["rank"] == 1
        assert candidates[0]["logprob"] >= candidates[1]["logprob"]
    assert result.extra["cumulative_logprob"] < 0


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        ({"choice": ["yes", "no"]}, "yes|no"),
        ({"regex": "[ab]{3}c"}, "[ab]{3}c"),
        ({"grammar": 'root ::= "x" | "y"'}, "x|y"),
        (
            {"json": {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}},
            r'\{\s*"n"\s*:\s*[12]\s*\}',
        ),
    ],
    ids=["choice", "regex", "grammar", "json"],
)
def test_structured_outputs_are_honoured(
    generator: VLLMGenerator, wanted: dict[str, Any], matches: str
) -> None:
    params = rg.GenerateParams(extra={"structured_outputs": wanted})

    assert re.fullmatch(matches, texts_of(generator, ["Well?"], params)[0].text)


def test_a_prompt_that_was_read_before_is_counted(generator: VLLMGenerator) -> None:
    prompt = "Sixteen tokens make a block, and whole blocks are kept: " * 2

    first, again = (texts_of(generator, [prompt], GREEDY)[0].usage for _ in range(2))

    assert first.cached_tokens == 0
    assert 0 < again.cached_tokens < again.input_tokens


@pytest.mark.parametrize(
    ("params", "names"),
    [
        (
            {"api_base": "http://x", "parallel_tool_calls": True},
            ["api_base", "parallel_tool_calls"],
        ),
        ({"tools": [TOOL]}, ["tools"]),  # which the template knows nothing of
    ],
)
def test_what_cannot_be_honoured_is_named_once(
    generator: VLLMGenerator, params: dict[str, Any], names: list[str]
) -> None:
    generator._warned.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UnsupportedParameterWarning)
        for _ in range(2):
            asyncio.run(generator.chat("Hi").with_(GREEDY).with_(**params).run_many(2))

    told = [str(w.message) for w in caught if issubclass(w.category, UnsupportedParameterWarning)]
    assert told == [
        f"vllm!{generator.model} does not take {name!r}: it is left out" for name in names
    ]


# -- LoRA adapters -----------------------------------------------------------------------


def test_each_request_chooses_its_adapter(generator: VLLMGenerator) -> None:
    noisy = GREEDY.merge_with(rg.GenerateParams(extra={"lora": "noisy"}))

    mixed = texts_of(generator, ["One two"] * 4, GREEDY, noisy, GREEDY, noisy)
    (plain,), (adapted,) = (texts_of(generator, ["One two"], own) for own in (GREEDY, noisy))

    assert plain.text != adapted.text
    assert [result.text for result in mixed] == [plain.text, adapted.text] * 2


@pytest.mark.parametrize(
    ("name", "why"),
    [
        pytest.param("nosy", "no LoRA adapter is named 'nosy'", id="unknown"),
        pytest.param("gone", "'gone' cannot be loaded from", id="not-there"),
    ],
)
def test_an_adapter_that_cannot_be_had_fails_its_request_only(
    generator: VLLMGenerator, name: str, why: str
) -> None:
    lost = GREEDY.merge_with(rg.GenerateParams(extra={"lora": name}))

    bad, good = texts_of(generator, ["One", "Two"], lost, GREEDY)

    assert isinstance(good, rg.GeneratedText)
    with pytest.raises(rg.error.BadRequestError, match=why):
        raise bad


# -- Streams -----------------------------------------------------------------------------


def stream_of(generator: VLLMGenerator, text: str, params: rg.GenerateParams) -> list[Any]:
    async def pieces() -> list[Any]:
        return [piece async for piece in generator.stream_texts(text, params)]

    return asyncio.run(pieces())


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param({}, id="plain"),
        pytest.param({"logprobs": 2}, id="with-log-probabilities"),
        pytest.param({"stream_interval": 4}, id="in-larger-pieces"),
    ],
)
def test_the_pieces_of_a_stream_add_up_to_what_a_call_gives(
    generator: VLLMGenerator, extra: dict[str, Any]
) -> None:
    params = rg.GenerateParams(temperature=0, max_tokens=40, extra=extra)
    texts_of(generator, ["One two"], params)  # so that both find the prompt in the cache

    *pieces, last = stream_of(generator, "One two", params)

    assert len(pieces) > 2
    assert "".join(pieces) == last.text
    assert [last] == texts_of(generator, ["One two"], params)


def test_a_stream_gives_nothing_of_a_stop_text(generator: VLLMGenerator) -> None:
    whole = texts_of(generator, ["One two"], GREEDY)[0].text
    stop = whole[3:5]

    *pieces, last = stream_of(generator, "One two", GREEDY.merge_with(rg.GenerateParams(stop=stop)))

    assert "".join(pieces) == last.text == whole.partition(stop)[0]
    assert last.stop_reason is rg.StopReason.stop


def test_a_conversation_is_streamed(generator: VLLMGenerator) -> None:
    async def stream() -> str:
        chunks = generator.chat("Hi").with_(GREEDY).stream()
        return "".join([chunk async for chunk in chunks if isinstance(chunk, str)])

    assert asyncio.run(stream()) == asyncio.run(generator.chat("Hi").with_(GREEDY).run()).last.text


def test_a_stream_that_fails_raises(generator: VLLMGenerator) -> None:
    with pytest.raises(rg.error.ContextLengthError, match=f"{MAX_MODEL_LEN} tokens"):
        stream_of(generator, TOO_LONG, GREEDY)
    with pytest.raises(rg.error.ProviderTimeoutError, match="no answer within"):
        stream_of(generator, "One", rg.GenerateParams(timeout=0.05, extra={"ignore_eos": True}))


def test_a_stream_that_is_left_is_aborted(generator: VLLMGenerator) -> None:
    async def leave() -> None:
        stream = generator.stream_texts("One", rg.GenerateParams(extra={"ignore_eos": True}))
        await anext(stream)
        await stream.aclose()

    asyncio.run(leave())

    llm = generator._engine._worker._llm  # type: ignore[attr-defined]
    wait_until(lambda: llm.get_num_unfinished_requests() == 0, 5)


def wait_until(holds: Callable[[], bool], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {limit_s} s"
        time.sleep(0.005)


# -- One item's failure ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "params", "cls", "why"),
    [
        pytest.param(
            TOO_LONG, {}, rg.error.ContextLengthError, f"{MAX_MODEL_LEN} tokens", id="too-long"
        ),
        pytest.param("Hi", {"top_p": 0.0}, rg.error.BadRequestError, "top_p must be", id="value"),
        pytest.param(
            "Hi",
            {"extra": {"logprobs": 500}},
            rg.error.BadRequestError,
            "greater than max",
            id="more-than-the-engine-allows",
        ),
        pytest.param(
            "Hi", {"extra": {"min_p": "x"}}, rg.error.BadRequestError, "min_p|'str'", id="type"
        ),
        pytest.param(
            "Hi", {"extra": {"min_toks": 1}}, rg.error.BadRequestError, "min_tokens", id="name"
        ),
        # These would stop the engine's process for all, or never be answered.
        *[
            pytest.param("Hi", params, rg.error.BadRequestError, why, id=str(params))
            for params, why in (
                (
                    {"extra": {"ignore_eos": "yes"}},
                    r"got `str` - at `\$.ignore_eos",
                ),
                ({"extra": {"include_stop_str_in_output": 1}}, "Expected `bool`, got `int`"),
                ({"extra": {"min_tokens": 2.0}}, "Expected `int`, got `float`"),
                ({"extra": {"stop_token_ids": [True]}}, "Expected `int`, got `bool`"),
                ({"seed": 2**64}, "ints"),
                ({"stop": ["\ud800"]}, "surrogates not allowed"),
            )
        ],
        pytest.param("", {}, rg.error.BadRequestError, "cannot be empty", id="empty"),
        pytest.param(
            "Hi", {"timeout": 1e-9}, rg.error.ProviderTimeoutError, "no answer within", id="late"
        ),
    ],
)
def test_one_items_failure_is_nobody_elses(
    generator: VLLMGenerator, text: str, params: dict[str, Any], cls: type[Exception], why: str
) -> None:
    own = GREEDY.merge_with(rg.GenerateParams(**params))

    first, bad, last = texts_of(generator, ["One", text, "Two"], GREEDY, own, GREEDY)

    assert type(bad) is cls
    with pytest.raises(cls, match=why):
        raise bad
    assert (bad.provider, bad.model) == ("vllm", generator.model)
    assert [first.text, last.text] == [
        result.text for result in texts_of(generator, ["One", "Two"], GREEDY)
    ]


def test_a_conversation_that_is_empty_or_too_long_fails_alone(generator: VLLMGenerator) -> None:
    messages = [[], [rg.Message("user", TOO_LONG)], [rg.Message("user", "Hi")]]

    empty, long, good = asyncio.run(generator.generate_messages(messages, [GREEDY] * 3))

    assert isinstance(empty, rg.error.InvalidMessageError)
    assert isinstance(long, rg.error.ContextLengthError)
    lengths = rf"{MAX_MODEL_LEN} tokens.* contains (at least )?\d{{3,}} (input tokens|characters)"
    assert re.search(lengths, str(long))
    assert isinstance(good, rg.GeneratedMessage)


def test_an_image_is_refused_by_a_model_of_text(generator: VLLMGenerator) -> None:
    image = rg.ImagePart.from_bytes(b"\x89PNG\r\n\x1a\n")

    with pytest.raises(rg.error.BadRequestError, match="vLLM refuses the request"):
        asyncio.run(generator.chat(rg.Message("user", [image])).with_(GREEDY).run())


# -- Time --------------------------------------------------------------------------------


def test_a_timeout_aborts_its_request_only(generator: VLLMGenerator) -> None:
    endless = {"extra": {"ignore_eos": True}, "temperature": 0}
    generator.load()
    started = time.monotonic()

    late, good = texts_of(
        generator,
        ["One", "Two"],
        rg.GenerateParams(timeout=0.05, **endless),
        rg.GenerateParams(**endless),
    )

    assert isinstance(late, rg.error.ProviderTimeoutError)
    assert late.retryable
    assert good.usage.total_tokens == MAX_MODEL_LEN
    assert time.monotonic() - started < 30


def test_a_caller_that_is_cancelled_gives_way(generator: VLLMGenerator) -> None:
    params = [rg.GenerateParams(extra={"ignore_eos": True})] * 64
    generator.load()

    async def cancel() -> float:
        running = asyncio.create_task(generator.generate_texts(["One"] * 64, params))
        queued = asyncio.create_task(generator.generate_texts(["Two"] * 64, params))
        await asyncio.sleep(0.2)
        for task in (running, queued):
            task.cancel()
        await asyncio.gather(running, queued, return_exceptions=True)
        assert running.cancelled()
        started = time.monotonic()
        await generator.generate_texts(["Three"], [GREEDY])
        return time.monotonic() - started

    whole = time.monotonic()
    texts_of(generator, ["One"] * 64, params[0])
    whole = time.monotonic() - whole
    assert asyncio.run(cancel()) < whole / 2


def test_the_event_loop_is_not_blocked(generator: VLLMGenerator) -> None:
    params = [rg.GenerateParams(extra={"ignore_eos": True})] * 16

    async def longest_pause() -> float:
        task = asyncio.create_task(generator.generate_texts(["One"] * 16, params))
        pauses = []
        while not task.done():
            before = time.monotonic()
            await asyncio.sleep(0.005)
            pauses.append(time.monotonic() - before)
        await task
        assert len(pauses) > 10
        return sorted(pauses)[len(pauses) // 2]

    assert asyncio.run(longest_pause()) < 0.1


def test_many_requests_with_params_of_their_own_run_at_once(generator: VLLMGenerator) -> None:
    lengths = [1 + number % 7 for number in range(200)]

    async def ask_all() -> list[rg.Completion]:
        calls = [
            generator.complete(f"Number {number}")
            .with_(max_tokens=length, temperature=number % 2, seed=number)
            .with_(extra={"ignore_eos": True})
            .run()
            for number, length in enumerate(lengths)
        ]
        return await asyncio.gather(*calls)

    completions = asyncio.run(ask_all())

    counted = [completion.usage.output_tokens for completion in completions if completion.usage]
    assert counted == lengths
    again = asyncio.run(ask_all())
    assert [one.generated for one in completions] == [one.generated for one in again]


def test_callers_on_several_event_loops_share_the_engine(generator: VLLMGenerator) -> None:
    texts: dict[int, str] = {}

    def ask(number: int) -> None:
        texts[number] = texts_of(generator, [f"Number {number}"], GREEDY)[0].text

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    alone = {
        number: texts_of(generator, [f"Number {number}"], GREEDY)[0].text for number in range(4)
    }
    assert texts == alone
