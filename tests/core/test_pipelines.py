"""Chat and completion pipelines: immutable, in order, honest about failures."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

import rigging as rg
from rigging.error import InvalidGeneratorError, InvalidParamsError, RateLimitError, ResponseError
from rigging.testing import EchoGenerator, ScriptedGenerator


class Counting(EchoGenerator):
    """Notes the size of each call, and how many calls run at once."""

    batch_size: int | None = None
    sizes: list[int] = []
    running: int = 0
    peak: int = 0

    async def generate_messages(
        self, messages: Sequence[Sequence[rg.Message]], params: Sequence[rg.GenerateParams]
    ) -> Sequence[rg.GeneratedMessage | BaseException]:
        self.sizes.append(len(messages))
        self.running += 1
        self.peak = max(self.peak, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        return await super().generate_messages(messages, params)


class Returning(rg.Generator):
    """Returns whatever it was told to return."""

    returned: Any = None

    async def generate_messages(
        self, messages: Sequence[Sequence[rg.Message]], params: Sequence[rg.GenerateParams]
    ) -> Any:
        return self.returned

    async def generate_texts(
        self, texts: Sequence[str], params: Sequence[rg.GenerateParams]
    ) -> Any:
        return self.returned


def test_a_chat_holds_what_was_sent_and_what_came_back() -> None:
    with rg.register_generator("echo", EchoGenerator):
        generator = rg.get_generator("echo!x,api_key=hunter2")
        pipeline = generator.chat(["Be brief.", {"role": "user", "content": "Hi you"}])

        chat = asyncio.run(pipeline.with_(max_tokens=1).run())

    assert [message.content for message in chat.all] == ["Be brief.", "Hi you", "Hi"]
    assert (chat.prev, chat.next) == (chat.messages, chat.generated)
    assert (chat.last.role, chat.last.content) == ("assistant", "Hi")
    assert chat.conversation == "[user]: Be brief.\n\n[user]: Hi you\n\n[assistant]: Hi"
    assert (chat.stop_reason, len(chat)) == ("length", 3)
    assert chat.usage == rg.Usage(input_tokens=4, output_tokens=1)
    assert chat.params == rg.GenerateParams(max_tokens=1)
    assert chat.generator_id == "echo!x"
    assert chat.timestamp.utcoffset() == timedelta(0)
    assert "hunter2" not in repr(chat) + chat.model_dump_json() + repr(pipeline)
    assert rg.Chat.model_validate_json(chat.model_dump_json()) == chat


def test_a_completion_holds_the_prompt_and_what_followed() -> None:
    completion = asyncio.run(EchoGenerator(model="x").complete(" a b").with_(max_tokens=1).run())

    assert (completion.text, completion.generated, completion.all) == (" a b", " a", " a b a")
    assert (completion.stop_reason, completion.generator_id) == ("length", None)
    assert completion.usage == rg.Usage(input_tokens=2, output_tokens=1)
    assert rg.Completion.model_validate_json(completion.model_dump_json()) == completion


def test_every_method_of_a_pipeline_returns_a_new_one() -> None:
    generator = EchoGenerator(model="x", params=rg.GenerateParams(seed=1))
    for pipeline in (generator.chat("Hi"), generator.complete("Hi")):
        before = copy.deepcopy(pipeline)

        other = pipeline.with_(temperature=1)
        asyncio.run(other.run())

        assert other is not pipeline
        assert other.params == rg.GenerateParams(temperature=1)
        assert pipeline == before
        assert generator.params == rg.GenerateParams(seed=1)
        with pytest.raises(AttributeError, match="cannot assign"):
            pipeline.params = rg.GenerateParams()  # type: ignore[misc]


def test_params_of_pipeline_and_call_are_laid_over_each_other() -> None:
    generator = ScriptedGenerator("abc")
    base = rg.GenerateParams(temperature=0.1, seed=1, extra={"a": 1})
    own = [rg.GenerateParams(temperature=t, extra={"b": 2}) for t in (0.2, 0.3)]

    pipeline = generator.chat("Hi", base).with_(rg.GenerateParams(top_p=0.5), seed=2)
    asyncio.run(pipeline.run_many(2, params=own))

    (call,) = generator.calls
    assert call.params == tuple(
        rg.GenerateParams(temperature=t, seed=2, top_p=0.5, extra={"a": 1, "b": 2})
        for t in (0.2, 0.3)
    )


def test_with_refuses_what_is_no_parameter() -> None:
    for pipeline in (EchoGenerator(model="x").chat("Hi"), EchoGenerator(model="x").complete("Hi")):
        with pytest.raises(InvalidParamsError, match="did you mean 'temperature'"):
            pipeline.with_(temprature=1)


@pytest.mark.parametrize(("size", "sizes"), [(None, [5]), (1, [1] * 5), (2, [2, 2, 1]), (9, [5])])
def test_requests_go_out_in_groups_of_batch_size(size: int | None, sizes: list[int]) -> None:
    generator = Counting(model="x", batch_size=size, sizes=[])

    chats = asyncio.run(generator.chat("Hi").run_many(5))

    assert generator.sizes == sizes
    assert generator.peak == len(sizes)
    assert [chat.last.content for chat in chats] == ["Hi"] * 5


def test_results_come_in_order() -> None:
    generator = ScriptedGenerator(["a", "b", "c"])

    chats = asyncio.run(generator.chat("Hi").run_many(3))

    assert [chat.last.content for chat in chats] == ["a", "b", "c"]
    assert len({chat.uuid for chat in chats}) == 3


def test_usage_of_a_list_is_that_of_its_chats() -> None:
    chats = asyncio.run(EchoGenerator(model="x").chat("one two").run_many(3))

    assert chats.usage == rg.Usage(input_tokens=6, output_tokens=6)
    assert rg.ChatList().usage == rg.Usage()


def test_nothing_asked_gives_nothing() -> None:
    assert asyncio.run(EchoGenerator(model="x").chat("Hi").run_many(0)) == []
    assert asyncio.run(EchoGenerator(model="x").complete("Hi").run_many(0)) == []


@pytest.mark.parametrize("count", [-1, 1.5, "3", True, None])
def test_count_that_is_none_is_refused(count: Any) -> None:
    with pytest.raises(InvalidParamsError, match="how many to generate"):
        asyncio.run(EchoGenerator(model="x").chat("Hi").run_many(count))


def test_params_of_another_length_are_refused() -> None:
    with pytest.raises(InvalidParamsError, match="got 1 params for 2 generations"):
        asyncio.run(
            EchoGenerator(model="x").complete("a").run_many(2, params=[rg.GenerateParams()])
        )


def test_one_params_object_for_many_is_refused_with_a_hint() -> None:
    with pytest.raises(InvalidParamsError, match="use with_"):
        asyncio.run(
            EchoGenerator(model="x").chat("a").run_many(2, params=rg.GenerateParams())  # type: ignore[arg-type]
        )


def test_the_first_failure_is_raised_as_it_is() -> None:
    failure = RateLimitError("slow down", status=429)
    generator = ScriptedGenerator(["a", failure, "c"])

    with pytest.raises(RateLimitError) as caught:
        asyncio.run(generator.chat("Hi").run_many(3))
    assert caught.value is failure


def test_a_failure_stops_the_calls_that_are_still_running() -> None:
    events: list[str] = []

    class SlowOrBroken(EchoGenerator):
        batch_size: int | None = 1

        async def generate_texts(
            self, texts: Sequence[str], params: Sequence[rg.GenerateParams]
        ) -> Sequence[rg.GeneratedText | BaseException]:
            if params[0].seed == 1:
                raise ValueError("broken")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                events.append("cancelled")
                raise
            return []

    params = [rg.GenerateParams(seed=seed) for seed in (0, 1)]
    with pytest.raises(ValueError, match="broken"):
        asyncio.run(SlowOrBroken(model="x").complete("a").run_many(2, params=params))
    assert events == ["cancelled"]


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ([], "returned 0 results for 1 requests"),
        (["text"], "returned a str where a GeneratedMessage"),
        ([rg.GeneratedText.from_text("x")], "returned a GeneratedText where a GeneratedMessage"),
    ],
)
def test_a_generator_that_breaks_the_contract_is_told_so(returned: Any, reason: str) -> None:
    with pytest.raises(ResponseError, match=reason):
        asyncio.run(Returning(model="x", returned=returned).chat("Hi").run())


@pytest.mark.parametrize("size", [0, -1, "2"])
def test_a_batch_size_that_is_none_is_refused(size: Any) -> None:
    class Odd(EchoGenerator):
        batch_size = size  # as an attribute; `Counting` has it as a field

    with pytest.raises(InvalidGeneratorError, match="expected None or at least 1"):
        asyncio.run(Odd(model="x").chat("Hi").run())


def test_a_pipeline_runs_in_one_event_loop_after_another() -> None:
    pipeline = EchoGenerator(model="x").chat("Hi")

    assert [asyncio.run(pipeline.run()).last.content for _ in range(2)] == ["Hi", "Hi"]


def test_a_repr_fits_a_screen() -> None:
    generator = EchoGenerator(model="x")

    assert len(repr(asyncio.run(generator.chat("long " * 500).run()))) < 200
    assert len(repr(asyncio.run(generator.complete("long " * 500).run()))) < 300
    assert "2 messages" in repr(asyncio.run(generator.chat("Hi").run()))


def test_chats_and_completions_hash() -> None:
    generator = EchoGenerator(model="x")

    assert len({asyncio.run(generator.chat("Hi").run()) for _ in range(2)}) == 2
    assert len({asyncio.run(generator.complete("Hi").run()) for _ in range(2)}) == 2
