"""What a real engine answers."""

from __future__ import annotations

import asyncio
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

import pytest

import rigging as rg
from rigging.error import UnsupportedParameterWarning
from tests.vllm.conftest import MAX_MODEL_LEN

if TYPE_CHECKING:
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


def test_structured_outputs_are_honoured(generator: VLLMGenerator) -> None:
    params = rg.GenerateParams(extra={"structured_outputs": {"choice": ["yes", "no"]}})

    assert texts_of(generator, ["Well?"], params)[0].text in {"yes", "no"}


@pytest.mark.filterwarnings("error:max_rollback_tokens is deprecated")
def test_a_request_that_vllm_gives_up_on_is_a_failure(generator: VLLMGenerator) -> None:
    # The warning breaks the compilation of the grammar.
    params = rg.GenerateParams(extra={"structured_outputs": {"choice": ["left", "right"]}})

    bad, good = texts_of(generator, ["Well?", "One"], params, GREEDY)

    assert isinstance(bad, rg.error.ProviderServerError)
    assert "vLLM gave up on the request" in str(bad)
    assert isinstance(good, rg.GeneratedText)


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
    mine: VLLMGenerator, params: dict[str, Any], names: list[str]
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UnsupportedParameterWarning)
        for _ in range(2):
            asyncio.run(mine.chat("Hi").with_(GREEDY).with_(**params).run_many(2))

    told = [str(w.message) for w in caught if issubclass(w.category, UnsupportedParameterWarning)]
    assert told == [f"vllm!mine does not take {name!r}: it is left out" for name in names]


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
