"""Generators, callbacks and callers that misbehave: nothing hangs, is lost, or passes silently."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rigging as rg
from rigging.error import (
    CheckpointError,
    InvalidGeneratorError,
    NotSupportedError,
    RateLimitError,
    ResponseError,
)
from rigging.testing import EchoGenerator, ScriptedGenerator


class Panic(BaseException):
    """As extensions in other languages raise it: no Exception."""


class Faulty(EchoGenerator):
    """Does what it was told to when it meets the prompt "bad"."""

    batch_size: int | None = None
    max_calls: int | None = None
    fault: Any = None

    _calls: int = 0

    async def generate_messages(self, messages: Any, params: Any) -> Any:
        self._calls += 1
        await asyncio.sleep(0)
        if any(conversation[-1].text == "bad" for conversation in messages):
            return await self.fault(await super().generate_messages(messages, params))
        return await super().generate_messages(messages, params)


async def raise_cancelled(results: Any) -> Any:
    raise asyncio.CancelledError


async def raise_panic(results: Any) -> Any:
    raise Panic("unwrap on None")


async def give_cancelled(results: Any) -> Any:
    return [asyncio.CancelledError()] * len(results)


async def give_stop(results: Any) -> Any:
    return [StopIteration()] * len(results)


async def give_none(results: Any) -> Any:
    return None


async def give_text(results: Any) -> Any:
    return "x" * len(results)


SIZES = pytest.mark.parametrize("size", [None, 1, 3])
INPUTS = ["a", "bad", "c", "d"]


def within(seconds: float, awaitable: Any) -> Any:
    async def main() -> Any:
        return await asyncio.wait_for(awaitable(), seconds)

    return asyncio.run(main())


@SIZES
@pytest.mark.parametrize("fault", [raise_cancelled, give_cancelled, give_stop])
def test_a_cancellation_that_nobody_ordered_is_a_failure(size: int | None, fault: Any) -> None:
    pipeline = Faulty(model="x", batch_size=size, fault=fault).chat()

    with pytest.raises(ResponseError, match="from inside Faulty"):
        within(5, lambda: pipeline.run_batch(INPUTS))
    with pytest.raises(ResponseError, match="from inside Faulty"):
        within(5, lambda: pipeline.add("bad").run())
    chats = within(5, lambda: pipeline.run_batch(INPUTS, on_failed="include"))
    assert chats[1].failed
    assert len(chats) == 4


@SIZES
@pytest.mark.parametrize("fault", [give_none, give_text])
def test_a_result_that_is_no_list_is_told_so(size: int | None, fault: Any) -> None:
    pipeline = Faulty(model="x", batch_size=size, fault=fault).chat("bad")

    with pytest.raises(ResponseError, match="a generator returns a list"):
        within(5, pipeline.run)


@SIZES
def test_a_generate_method_without_async_is_told_so(size: int | None) -> None:
    class Plain(rg.Generator):
        batch_size: int | None = size

        def generate_texts(self, texts: Any, params: Any) -> Any:
            return [rg.GeneratedText.from_text(text) for text in texts]

    with pytest.raises(ResponseError, match="write `async def`"):
        Plain(model="x").complete("Hi").run_sync()


@SIZES
@pytest.mark.parametrize("max_calls", [None, 1])
def test_a_base_exception_of_an_engine_reaches_its_callers(
    size: int | None, max_calls: int | None
) -> None:
    generator = Faulty(model="x", batch_size=size, max_calls=max_calls, fault=raise_panic)

    async def main() -> None:
        with pytest.raises(Panic, match="unwrap"):
            await asyncio.wait_for(generator.chat().run_batch(INPUTS), 5)
        assert (await generator.chat("fine").run()).last.text == "fine"

    asyncio.run(main())


def test_callbacks_that_cancel_themselves_fail_their_item_only() -> None:
    def cancel(chat: rg.Chat) -> None:
        if chat.last.text == "bad":
            raise asyncio.CancelledError

    pipeline = EchoGenerator(model="x").chat().then(cancel)

    with pytest.raises(ResponseError, match="CancelledError of its own"):
        within(5, lambda: pipeline.run_batch(INPUTS))
    chats = within(5, lambda: pipeline.run_batch(INPUTS, on_failed="skip"))
    assert [chat.last.text for chat in chats] == ["a", "c", "d"]
    with pytest.warns(rg.error.RiggingWarning, match="CancelledError"):
        chats = within(5, lambda: EchoGenerator(model="x").chat().watch(cancel).run_batch(INPUTS))
    assert len(chats) == 4


def test_a_source_that_cancels_itself_fails_the_run() -> None:
    def source() -> Iterator[str]:
        yield "a"
        raise asyncio.CancelledError

    async def collect() -> None:
        async for _ in EchoGenerator(model="x").chat().iter_batch(source()):
            pass

    with pytest.raises(asyncio.CancelledError):
        within(5, collect)


def test_a_warning_of_a_watcher_harms_no_run_even_as_an_error() -> None:
    def broken(chat: rg.Chat) -> None:
        raise KeyError("oops")

    # Warnings are errors in these tests: it is raised, and goes no further.
    assert len(EchoGenerator(model="x").chat("Hi").watch(broken).run_many_sync(2)) == 2


def test_closing_early_ends_a_generator_that_ignores_cancellation() -> None:
    calls = 0

    class Stubborn(EchoGenerator):
        batch_size: int | None = 1

        async def generate_messages(self, messages: Any, params: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > 1:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(60)
            return await super().generate_messages(messages, params)

    async def main() -> None:
        stream = Stubborn(model="x").chat().iter_batch(map(str, range(1000)), window=8)
        await anext(stream)
        await stream.aclose()
        sent = calls
        await asyncio.sleep(0.01)
        assert calls == sent <= 9

    within(5, main)


def test_a_call_that_is_cancelled_before_it_begins_blocks_nobody() -> None:
    async def main() -> None:
        generator = EchoGeneratorWithOneCall(model="x")
        run = asyncio.create_task(generator.chat("a").run())
        for _ in range(3):
            await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.wait([run])
        again = asyncio.wait_for(generator.chat("b").run(), 5)
        assert (await again).last.text == "b"

    asyncio.run(main())


class EchoGeneratorWithOneCall(EchoGenerator):
    max_calls = 1


def test_a_copied_generator_answers_for_itself() -> None:
    class Named(EchoGenerator):
        batch_size: int | None = None

        async def generate_messages(self, messages: Any, params: Any) -> Any:
            return [rg.GeneratedMessage.from_text(self.model) for _ in messages]

    async def main() -> None:
        one = Named(model="one")
        await one.chat("x").run()
        two = one.model_copy(update={"model": "two"})
        assert (await two.chat("x").run()).last.text == "two"
        assert (await one.chat("x").run()).last.text == "one"

    asyncio.run(main())


def test_one_failure_of_many_is_an_error_of_its_own_for_each() -> None:
    async def limited(results: Any) -> Any:
        raise RateLimitError("slow down", retry_after=2)

    pipeline = Faulty(model="x", fault=limited).chat("bad")
    chats = pipeline.run_many_sync(3, on_failed="include")

    assert len({id(chat.error) for chat in chats}) == 3
    assert [chat.error.retry_after for chat in chats] == [2, 2, 2]  # type: ignore[union-attr]
    with pytest.raises(RateLimitError) as caught:
        pipeline.run_many_sync(3)
    assert len(caught.value.__notes__) == 1


# -- Pipelines within pipelines ----------------------------------------------------------


def test_a_pipeline_of_another_generator_keeps_its_own_callbacks() -> None:
    seen: list[str] = []
    failing = ScriptedGenerator([RateLimitError("slow down")]).chat("z")
    inner = failing.catch(on_failed="include").watch(lambda chat: seen.append("inner"))
    outer = EchoGenerator(model="x").chat("Hi").watch(lambda chat: seen.append("outer"))

    chat = outer.then(lambda chat: inner).run_sync()

    assert chat.failed
    assert seen == ["inner", "outer"]


def test_a_nested_failure_keeps_its_last_round_as_any_failure_does() -> None:
    inner = ScriptedGenerator(["a", "b"]).chat("z").catch(on_failed="include")
    inner = inner.until(lambda chat: "More!", max_rounds=1)

    chat = EchoGenerator(model="x").chat("Hi").then(lambda chat: inner).run_sync()

    assert chat.failed
    assert [message.text for message in chat.generated] == ["a", "More!", "b"]


def test_a_chat_that_goes_on_is_shown_once() -> None:
    seen: list[int] = []
    pipeline = EchoGenerator(model="x").chat("Hi").watch(lambda chat: seen.append(len(chat)))

    pipeline.then(lambda chat: chat.continue_("more") if len(chat) == 2 else None).run_sync()

    assert seen == [4]


def test_then_refuses_the_other_kind_of_pipeline() -> None:
    echo = EchoGenerator(model="x")

    with pytest.raises(TypeError, match="a Chat or a ChatPipeline, got CompletionPipeline"):
        echo.chat("Hi").then(lambda chat: echo.complete("x")).run_sync()


def test_a_chat_goes_on_with_its_own_params_and_notes() -> None:
    scripted = ScriptedGenerator("abcd")
    params = [rg.GenerateParams(temperature=t) for t in (0.1, 0.9)]
    more = scripted.chat().then(lambda chat: chat.continue_("more") if len(chat) == 2 else None)

    chats = more.run_batch_sync(["x", "y"], params=params)

    sent = [own.temperature for call in scripted.calls for own in call.params]
    assert sent == [0.1, 0.9, 0.1, 0.9]
    assert chats[0].meta(a=1).restart().metadata == {"a": 1}


def test_a_run_that_a_callback_starts_is_no_deeper_for_that() -> None:
    echo = EchoGenerator(model="x")

    async def ask(chat: rg.Chat) -> rg.Chat:
        inner = echo.chat("x").then(
            lambda chat: chat.continue_("more") if len(chat) == 2 else None, max_depth=1
        )
        return await inner.run()

    def once(chat: rg.Chat) -> rg.ChatPipeline | None:
        return echo.chat("y").then(ask)

    assert len(echo.chat("Hi").then(once, max_depth=1).run_sync()) == 4


def test_notes_of_a_pipeline_are_not_shared_by_its_chats() -> None:
    pipeline = EchoGenerator(model="x").chat("Hi").meta(tags=[])

    one, two = pipeline.run_many_sync(2)
    one.metadata["tags"].append("a")

    assert (two.metadata, pipeline.metadata) == ({"tags": []}, {"tags": []})


@pytest.mark.parametrize("kind", ["chat", "complete"])
@pytest.mark.parametrize("has_own", [True, False], ids=["own-params", "the-pipelines"])
def test_params_of_a_run_are_not_shared_by_its_items(kind: str, has_own: bool) -> None:
    given = rg.GenerateParams(extra={"user": "bob"}, stop="x")
    pipeline = getattr(EchoGenerator(model="x"), kind)("Hi")
    if not has_own:
        pipeline = pipeline.with_(given)

    one, two = pipeline.run_many_sync(2, params=[given] * 2 if has_own else None)
    one.params.extra.clear()
    one.params.stop.clear()

    assert two.params == given == rg.GenerateParams(extra={"user": "bob"}, stop=["x"])
    assert pipeline.params == (rg.GenerateParams() if has_own else given)


# -- Streams -----------------------------------------------------------------------------


def test_a_stream_is_transformed_as_a_run_is() -> None:
    scripted = ScriptedGenerator(["a"])

    def add(messages: list[rg.Message], params: rg.GenerateParams) -> Any:
        return [rg.Message("system", "s"), *messages], params, lambda chat: chat.meta(post=True)

    *_, chat = scripted.chat("Hi").transform(add).stream_sync()

    assert [message.role for message in scripted.calls[0].inputs[0]] == ["system", "user"]  # type: ignore[union-attr]
    assert isinstance(chat, rg.Chat)
    assert chat.metadata == {"post": True}


def test_streams_are_calls_and_are_bounded_as_calls_are() -> None:
    running = peak = 0

    class Streaming(EchoGenerator):
        max_calls = 2

        async def stream_messages(self, messages: Any, params: Any) -> Any:
            nonlocal running, peak
            running += 1
            peak = max(peak, running)
            try:
                for piece in "abc":
                    await asyncio.sleep(0)
                    yield piece
                yield rg.GeneratedMessage.from_text("abc")
            finally:
                running -= 1

    async def one(generator: rg.Generator) -> str:
        return "".join([p async for p in generator.chat("Hi").stream() if isinstance(p, str)])

    async def main() -> list[str]:
        generator = Streaming(model="x")
        left = generator.chat("Hi").stream()
        await anext(left)
        await left.aclose()
        assert running == 0
        runs = [one(generator) for _ in range(10)]
        return await asyncio.gather(*runs, generator.chat("Hi").run())  # type: ignore[arg-type]

    *texts, chat = within(5, main)
    assert texts == ["abc"] * 10
    assert chat.last.text == "Hi"
    assert peak == 2


def test_a_stream_without_its_result_is_told_so() -> None:
    class Endless(EchoGenerator):
        async def stream_messages(self, messages: Any, params: Any) -> Any:
            yield "a"

    with pytest.raises(ResponseError, match="ended without its result"):
        list(Endless(model="x").chat("Hi").stream_sync())


@pytest.mark.parametrize(
    ("transform", "reason"),
    [
        (lambda messages, params: None, "returns .messages, params.*got NoneType"),
        (
            lambda messages, params: (messages, params, lambda chat: None),
            "returns a Chat, got None",
        ),
    ],
)
def test_a_transform_that_returns_something_else_is_told_so(transform: Any, reason: str) -> None:
    with pytest.raises(TypeError, match=reason):
        EchoGenerator(model="x").chat("Hi").transform(transform).run_sync()


# -- Inputs and generators that do not fit -----------------------------------------------


def test_one_malformed_input_of_a_stream_is_that_items_failure() -> None:
    pipeline = EchoGenerator(model="x").chat("Hi")

    async def collect(on_failed: Any) -> list[rg.Chat]:
        stream = pipeline.iter_batch(["a", 5, "b"], ordered=True, on_failed=on_failed)
        return [chat async for chat in stream]

    assert [chat.last.text for chat in asyncio.run(collect("skip"))] == ["a", "b"]
    assert [chat.failed for chat in asyncio.run(collect("include"))] == [False, True, False]
    with pytest.raises(rg.error.InvalidMessageError, match="got int") as caught:
        asyncio.run(collect("raise"))
    assert "item 1" in caught.value.__notes__[0]


def test_run_over_isolates_generators_that_cannot_be_had_or_used() -> None:
    class OnlyTexts(rg.Generator):
        pass

    pipeline = EchoGenerator(model="x").chat("Hi")

    chats = pipeline.run_over_sync(OnlyTexts(model="y"), "nowhere!m", 5, on_failed="include")

    assert [type(chat.error) for chat in chats] == [
        type(None),
        NotSupportedError,
        rg.error.UnknownProviderError,
        InvalidGeneratorError,
    ]
    with pytest.raises(InvalidGeneratorError, match="expected a generator or an identifier"):
        pipeline.run_over_sync(5)


def test_a_generator_whose_fields_cannot_be_written_runs_without_a_name() -> None:
    class WithCallback(EchoGenerator):
        callback: Any = None

    with rg.register_generator("callback", WithCallback):
        chat = WithCallback(model="x", callback=lambda: None).chat("Hi").run_sync()

    assert chat.generator_id is None


# -- Checkpoints -------------------------------------------------------------------------


def test_a_result_without_a_form_in_json_is_kept_all_the_same(tmp_path: Path) -> None:
    replies = [
        rg.GeneratedMessage.from_text("a", extra={"raw": object(), "logprob": float("-inf")})
    ]
    scripted = ScriptedGenerator(replies)

    scripted.chat("Hi").run_many_sync(1, checkpoint=tmp_path / "run.db")
    (chat,) = scripted.chat("Hi").run_many_sync(1, checkpoint=tmp_path / "run.db")

    assert len(scripted.calls) == 1
    assert chat.extra["raw"].startswith("<object")
    assert chat.extra["logprob"] == float("-inf")


def test_what_a_transform_sends_is_what_is_looked_up(tmp_path: Path) -> None:
    scripted = ScriptedGenerator("ab")

    def saying(text: str) -> Any:
        return lambda messages, params: ([rg.Message("system", text), *messages], params)

    for text in ("A", "B", "A"):
        pipeline = scripted.chat("Hi").transform(saying(text))
        pipeline.run_many_sync(1, checkpoint=tmp_path / "run.db")

    assert len(scripted.calls) == 2


def test_a_writer_that_fails_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, questions: Any) -> Any:
        raise MemoryError("no memory")

    monkeypatch.setattr("rigging._checkpoint.Checkpoint._answer", broken)
    pipeline = EchoGenerator(model="x").chat("Hi")

    with pytest.raises(CheckpointError, match="no memory"):
        within(5, lambda: pipeline.run_many(3, checkpoint=tmp_path / "run.db"))


def test_another_generators_chat_is_not_given_to_this_one_when_it_is_read_back(
    tmp_path: Path,
) -> None:
    with (
        rg.register_generator("echo", EchoGenerator),
        rg.register_generator("other", EchoGenerator),
    ):
        other = EchoGenerator(model="y")
        pipeline = rg.get_generator("echo!x").chat("Hi").then(lambda chat: other.chat("z"))
        for _ in range(2):
            (chat,) = pipeline.run_many_sync(1, checkpoint=tmp_path / "run.db")
            assert chat.restart().generator == other


def test_what_was_answered_is_finished_and_kept_when_another_item_fails(tmp_path: Path) -> None:
    sent: list[str] = []

    class Noting(EchoGenerator):
        async def generate_messages(self, messages: Any, params: Any) -> Any:
            sent.extend(conversation[-1].text for conversation in messages)
            results = list(await super().generate_messages(messages, params))
            if sent[0] == "bad":
                results[0] = RateLimitError("slow down")
            return results

    async def slowly(chat: rg.Chat) -> None:
        await asyncio.sleep(0.02)

    pipeline = Noting(model="x").chat().then(slowly)
    with pytest.raises(RateLimitError):
        pipeline.run_batch_sync(["bad", "a", "b", "c"], checkpoint=tmp_path / "run.db")
    sent.clear()
    pipeline.run_batch_sync(["d", "a", "b", "c"], checkpoint=tmp_path / "run.db")

    assert sent == ["d"]


# -- The end of a program ----------------------------------------------------------------

ENDINGS = {
    "a-sync-stream-of-items-left-open": "it = echo.chat().iter_batch_sync(['a', 'b']); next(it)",
    "a-sync-stream-left-open": "it = echo.chat('a').stream_sync(); next(it)",
    "a-loop-left-early": """
        async def main():
            async for chat in echo.chat().iter_batch(['a', 'b', 'c'], window=1):
                break
        asyncio.run(main())
    """,
    "a-checkpoint-left-open": """
        async def main():
            async for chat in echo.chat().iter_batch(['a', 'b'], window=1, checkpoint=sys.argv[1]):
                break
        asyncio.run(main())
    """,
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_that_leaves_things_open_ends_quietly(ending: str, tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        import asyncio, logging, sys, rigging as rg
        # How long a step took, a warning of the development mode, says how busy the machine is.
        logging.getLogger("asyncio").setLevel(logging.ERROR)
        echo = rg.testing.EchoGenerator(model='x')
        """
    ) + textwrap.dedent(ENDINGS[ending])
    command = [sys.executable, "-X", "dev", "-c", code, str(tmp_path / "run.db")]

    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_printing_a_chat_fits_a_screen() -> None:
    echo = EchoGenerator(model="x")
    pipeline = echo.chat("long " * 5_000)

    assert len(str(pipeline.run_sync())) < 200
    assert len(repr(pipeline)) < 300
    assert len(repr(echo.complete("long " * 5_000))) < 300


def test_the_text_of_an_error_stays_the_same_from_file_to_file() -> None:
    chat = ScriptedGenerator([RateLimitError("slow")]).chat("Hi").run_sync(on_failed="include")

    once = rg.Chat.model_validate_json(chat.model_dump_json())
    twice = rg.Chat.model_validate_json(once.model_dump_json())

    assert str(twice.error) == str(once.error) == "RateLimitError: slow"
