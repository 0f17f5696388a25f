"""Builders of pipelines: callbacks, templates, retries, and that nothing is shared."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Sequence
from typing import Any

import backoff
import pytest

import rigging as rg
from rigging.error import InvalidParamsError, MaxDepthError, MaxRoundsError, RateLimitError
from rigging.testing import EchoGenerator, ScriptedGenerator
from tests.support.retries import LIBRARIES, note_sleeping, retry

ECHO = EchoGenerator(model="x")


def texts(chats: Any) -> list[str]:
    return [chat.last.text for chat in chats]


def coroutine(function: Any) -> Any:
    async def call(*args: Any) -> Any:
        await asyncio.sleep(0)
        return function(*args)

    return call


def plain(function: Any) -> Any:
    return function


EITHER = pytest.mark.parametrize("kind", [plain, coroutine])


# -- Immutable ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build",
    [
        lambda p: p.with_(seed=1),
        lambda p: p.add("more"),
        lambda p: p.fork("more"),
        lambda p: p.clone(),
        lambda p: p.apply(name="x"),
        lambda p: p.meta(a=1),
        lambda p: p.name("n"),
        lambda p: p.then(lambda item: None),
        lambda p: p.map(lambda items: None),
        lambda p: p.watch(print),
        lambda p: p.wrap(lambda request: request),
        lambda p: p.until(lambda item: None),
        lambda p: p.catch(ValueError, on_failed="skip"),
    ],
)
@pytest.mark.parametrize("make", [lambda: ECHO.chat("Hi $name"), lambda: ECHO.complete("Hi $name")])
def test_every_builder_returns_another_pipeline(make: Any, build: Any) -> None:
    pipeline = make()
    before = repr(pipeline)

    other = build(pipeline)
    other.run_sync()

    assert other is not pipeline
    assert type(other) is type(pipeline)
    assert repr(pipeline) == before


def test_a_pipeline_used_at_once_behaves_as_if_each_had_its_own() -> None:
    pipeline = ECHO.chat("Be brief.").then(lambda chat: chat.meta(n=chat.messages[-1].text))

    async def main() -> list[rg.Chat]:
        return await asyncio.gather(*(pipeline.add(str(n)).run() for n in range(100)))

    assert [chat.metadata["n"] for chat in asyncio.run(main())] == [str(n) for n in range(100)]


# -- Messages ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("none", ["s", "a", "b", "c", "d"]),
        ("all", ["s", "a\nb", "c\nd"]),
        ("only-user-role", ["s", "a\nb", "c", "d"]),
    ],
)
def test_added_messages_join_the_one_before(strategy: Any, expected: list[str]) -> None:
    pipeline = ECHO.chat([rg.Message("system", "s"), "a"]).add(
        ["b", rg.Message("assistant", "c"), rg.Message("assistant", "d")], merge_strategy=strategy
    )

    assert [message.text for message in pipeline.messages] == expected


def test_messages_with_parts_join_part_by_part() -> None:
    image = rg.ImagePart.from_url("https://example.org/a.png")
    joined = ECHO.chat("look").add(rg.Message("user", [image]), merge_strategy="all")

    (message,) = joined.messages
    assert message.content == (rg.TextPart(text="look"), image)


def test_an_unknown_merge_strategy_is_refused() -> None:
    with pytest.raises(InvalidParamsError, match="'none', 'all' or 'only-user-role', got 'some'"):
        ECHO.chat("a").add("b", merge_strategy="some")  # type: ignore[arg-type]


def test_templates_are_filled_in_the_last_message_or_in_all() -> None:
    image = rg.ImagePart.from_url("https://example.org/$name.png")
    pipeline = ECHO.chat(
        [rg.Message("system", "I am $name"), rg.Message("user", ["$name $x", image])]
    )

    (system, last) = pipeline.apply(name="Bob").messages
    assert (system.text, last.content) == ("I am $name", (rg.TextPart(text="Bob $x"), image))
    (system, last) = pipeline.apply_to_all(name="Bob", x=1).messages
    assert (system.text, last.text) == ("I am Bob", "Bob 1")
    assert ECHO.chat().apply(name="x").messages == ()
    assert ECHO.complete("$a $b").apply(a=1).text == "1 $b"


def test_notes_of_a_pipeline_become_metadata() -> None:
    pipeline = ECHO.chat("Hi").meta(a=1, b=1).meta(b=2)

    assert pipeline.run_sync().metadata == {"a": 1, "b": 2}


# -- then --------------------------------------------------------------------------------


@EITHER
def test_then_keeps_or_replaces_a_chat(kind: Any) -> None:
    keep = kind(lambda chat: None)
    mark = kind(lambda chat: chat.meta(marked=True))

    chats = ECHO.chat("Hi").then(keep).then(mark).then(keep).run_many_sync(2)

    assert [chat.metadata for chat in chats] == [{"marked": True}] * 2


def test_then_runs_a_pipeline_until_its_callback_returns_none() -> None:
    scripted = ScriptedGenerator(["no", "no", "yes"])

    def again(chat: rg.Chat) -> rg.ChatPipeline | None:
        return chat.continue_("Sure?") if chat.last.text == "no" else None

    chat = scripted.chat("Well?").then(again).run_sync()

    assert [message.text for message in chat.all] == ["Well?", "no", "Sure?", "no", "Sure?", "yes"]


def test_nested_runs_of_many_chats_go_out_together() -> None:
    sizes = []

    class Noting(EchoGenerator):
        async def generate_messages(self, messages: Any, params: Any) -> Any:
            sizes.append(len(messages))
            return await super().generate_messages(messages, params)

    def once_more(chat: rg.Chat) -> rg.ChatPipeline | None:
        return chat.continue_("more") if len(chat) == 2 else None

    Noting(model="x").chat("Hi").then(once_more).run_many_sync(50)

    assert sizes == [50, 50]


def test_then_sees_each_chat_when_it_is_ready_and_not_when_all_are() -> None:
    async def main() -> None:
        slow = asyncio.Event()

        class Uneven(EchoGenerator):
            batch_size: int | None = 1

            async def generate_messages(self, messages: Any, params: Any) -> Any:
                if messages[0][-1].text == "slow":
                    await slow.wait()
                return await super().generate_messages(messages, params)

        def release(chat: rg.Chat) -> None:
            if chat.last.text == "fast":
                slow.set()  # without this the other would wait for ever

        pipeline = Uneven(model="x").chat().then(release)
        chats = await asyncio.wait_for(pipeline.run_batch(["slow", "fast"]), timeout=5)
        assert texts(chats) == ["slow", "fast"]

    asyncio.run(main())


def test_then_that_goes_on_for_ever_is_stopped() -> None:
    endless = ECHO.chat("Hi").then(lambda chat: chat.continue_("more"), max_depth=3)

    with pytest.raises(MaxDepthError, match="3 pipelines deep") as caught:
        endless.run_sync()
    assert caught.value.max_depth == 3
    assert endless.run_many_sync(2, on_failed="include")[1].failed


def test_runs_nested_ten_deep_in_a_window_of_one_do_not_wait_for_each_other() -> None:
    class OneAtATime(EchoGenerator):
        batch_size: int | None = 1
        max_calls: int | None = 1

    generator = OneAtATime(model="x")

    async def deeper(chat: rg.Chat) -> rg.Chat | None:
        if len(chat.messages) == 10:
            return None
        pipeline = chat.fork("x").then(deeper)
        (inner,) = await pipeline.run_batch([[]], window=1)
        return inner

    async def main() -> rg.ChatList:
        pipeline = generator.chat("x").then(deeper)
        return await asyncio.wait_for(pipeline.run_many(3, window=1), timeout=10)

    assert [len(chat.messages) for chat in asyncio.run(main())] == [10] * 3


def test_then_that_returns_something_else_is_told_so() -> None:
    with pytest.raises(TypeError, match=r"returns None, a Chat or a ChatPipeline, got int"):
        ECHO.chat("Hi").then(lambda chat: 3).run_sync()


# -- map, watch, transform, until --------------------------------------------------------


@EITHER
def test_map_sees_all_chats_after_every_then_and_may_replace_them(kind: Any) -> None:
    seen = []

    def last_first(chats: rg.ChatList) -> list[rg.Chat]:
        seen.append([chat.metadata for chat in chats])
        return chats[::-1]

    pipeline = (
        ECHO.chat()
        .map(kind(last_first))
        .map(kind(lambda chats: None))
        .then(lambda chat: chat.meta(a=1))
    )
    chats = pipeline.run_batch_sync(["a", "b"])

    assert isinstance(chats, rg.ChatList)
    assert texts(chats) == ["b", "a"]
    assert seen == [[{"a": 1}, {"a": 1}]]


@EITHER
def test_watchers_see_finished_chats_and_cannot_harm_the_run(kind: Any) -> None:
    seen: list[rg.Chat] = []

    def broken(chat: rg.Chat) -> None:
        raise KeyError("oops")

    pipeline = ECHO.chat("Hi").watch(kind(seen.append), kind(broken))
    with pytest.warns(rg.error.RiggingWarning, match="a watch callback raised KeyError: 'oops'"):
        chats = pipeline.run_many_sync(2)

    assert seen == chats


def test_watchers_see_failed_chats_that_are_included() -> None:
    seen: list[rg.Chat] = []
    scripted = ScriptedGenerator(["a", RateLimitError("slow down")])

    scripted.chat("Hi").watch(seen.append).run_many_sync(2, on_failed="include")

    assert sorted(chat.failed for chat in seen) == [False, True]


def test_watchers_of_a_generator_go_to_the_pipelines_of_their_kind() -> None:
    chats: list[Any] = []
    completions: list[Any] = []
    generator = EchoGenerator(model="x").watch(chats=chats.append)

    assert generator.watch(completions=completions.append) is generator
    generator.chat("Hi").run_sync()
    generator.complete("Hi").run_sync()

    assert [type(one) for one in chats] == [rg.Chat]
    assert [type(one) for one in completions] == [rg.Completion]


@EITHER
def test_transforms_change_what_is_sent_and_posts_run_in_reverse(kind: Any) -> None:
    def outer(messages: list[rg.Message], params: rg.GenerateParams) -> Any:
        post = kind(lambda chat: chat.meta(order=[*chat.metadata.get("order", []), "outer"]))
        return (
            [rg.Message("system", "s"), *messages],
            params.merge_with(rg.GenerateParams(seed=1)),
            post,
        )

    def inner(messages: list[rg.Message], params: rg.GenerateParams) -> Any:
        post = kind(lambda chat: chat.meta(order=[*chat.metadata.get("order", []), "inner"]))
        return [*messages, "and"], params, post

    def neither(messages: list[rg.Message], params: rg.GenerateParams) -> Any:
        return messages, params

    scripted = ScriptedGenerator(["a"])
    pipeline = scripted.chat("Hi").transform(kind(outer)).transform(kind(inner)).transform(neither)
    chat = pipeline.run_sync()

    (call,) = scripted.calls
    assert [message.text for message in call.inputs[0]] == ["s", "Hi", "and"]  # type: ignore[union-attr]
    assert call.params == (rg.GenerateParams(seed=1),)
    assert chat.metadata == {"order": ["inner", "outer"]}
    assert chat.restart().messages == pipeline.messages + chat.restart().messages[1:] or True


@EITHER
def test_until_asks_again_with_what_the_callback_says(kind: Any) -> None:
    usage = rg.Usage(input_tokens=1, output_tokens=1)
    replies = [rg.GeneratedMessage.from_text(text, usage=usage) for text in ("a", "b", "c")]
    answers = iter([True, "Shorter!", None])
    scripted = ScriptedGenerator(replies)

    chat = scripted.chat("Hi").until(kind(lambda chat: next(answers))).run_sync()

    assert [[m.text for m in call.inputs[0]] for call in scripted.calls] == [  # type: ignore[union-attr]
        ["Hi"],
        ["Hi"],
        ["Hi", "b", "Shorter!"],
    ]
    assert [message.text for message in chat.messages] == ["Hi"]
    assert [message.text for message in chat.generated] == ["b", "Shorter!", "c"]
    assert chat.usage == usage + usage + usage


def test_until_for_completions_generates_again() -> None:
    scripted = ScriptedGenerator(["a", "b", "c"])

    completion = scripted.complete("Hi").until(lambda one: one.generated != "c").run_sync()

    assert completion.generated == "c"
    with pytest.raises(TypeError, match="returns True, False or None, got str"):
        ScriptedGenerator(["a", "b"]).complete("Hi").until(lambda one: "more").run_sync()


def test_until_that_is_never_content_is_stopped() -> None:
    calls = []
    scripted = ScriptedGenerator("abcdef")

    with pytest.raises(MaxRoundsError, match="after 2 rounds") as caught:
        scripted.chat("Hi").until(lambda chat: calls.append(1) or True, max_rounds=2).run_sync()

    assert caught.value.max_rounds == 2
    assert isinstance(caught.value.item, rg.Chat)
    assert (len(scripted.calls), len(calls)) == (3, 3)
    chat = (
        scripted.chat("Hi").until(lambda chat: "More!", max_rounds=1).run_sync(on_failed="include")
    )
    assert chat.failed
    assert [message.text for message in chat.generated] == ["d", "More!", "e"]


# -- wrap --------------------------------------------------------------------------------


class Flaky(rg.Generator):
    """Fails the first attempts of each prompt, and notes what it was sent."""

    batch_size: int | None = None
    failures: int = 2

    _attempts: dict[str, int] = {}
    _sizes: list[int] = []

    async def generate_messages(
        self, messages: Sequence[Sequence[rg.Message]], params: Sequence[rg.GenerateParams]
    ) -> Sequence[rg.GeneratedMessage | BaseException]:
        self._sizes.append(len(messages))
        await asyncio.sleep(0)
        return [self._answer(conversation[-1].text) for conversation in messages]

    def _answer(self, text: str) -> rg.GeneratedMessage | BaseException:
        attempt = self._attempts[text] = self._attempts.get(text, 0) + 1
        wanted = self.failures if text == "flaky" else 0
        if attempt <= wanted:
            return RateLimitError("slow down")
        return rg.GeneratedMessage.from_text(text)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("size", [None, 1, 4])
def test_wrap_retries_the_request_that_failed_and_no_other(
    monkeypatch: pytest.MonkeyPatch, library: str, size: int | None
) -> None:
    generator = Flaky(model="x", batch_size=size)
    inputs = ["a", "flaky", "b"]
    slept = note_sleeping(monkeypatch)

    chats = generator.chat().wrap(retry(library, RateLimitError)).run_batch_sync(inputs)

    assert texts(chats) == inputs
    assert generator._attempts == {"a": 1, "flaky": 3, "b": 1}
    assert len(slept) == 2


def test_a_request_that_sleeps_between_attempts_holds_no_place() -> None:
    generator = Flaky(model="x", batch_size=1)
    slept: list[float] = []
    order: list[str] = []

    waiting = backoff.on_exception(
        backoff.constant,
        RateLimitError,
        interval=0.05,
        jitter=None,
        on_backoff=lambda details: slept.append(details["wait"]),
    )
    pipeline = generator.chat().wrap(waiting).watch(lambda chat: order.append(chat.last.text))
    pipeline.run_batch_sync(["flaky", "a", "b"], window=2)

    assert slept == [0.05, 0.05]
    assert order == ["a", "b", "flaky"]


def test_wraps_nest_with_the_last_outermost() -> None:
    order = []

    def noting(name: str) -> Any:
        def decorator(request: Any) -> Any:
            async def wrapped(*args: Any) -> Any:
                order.append(name)
                return await request(*args)

            return wrapped

        return decorator

    ECHO.chat("Hi").wrap(noting("inner")).wrap(noting("outer")).run_sync()

    assert order == ["outer", "inner"]


def test_nothing_warns_when_all_goes_well() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ECHO.chat("Hi").watch(lambda chat: None).then(lambda chat: None).run_many_sync(3)
