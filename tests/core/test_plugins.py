"""Plugins registered in process: what they are told, in which order, and whom they cannot hurt."""

from __future__ import annotations

import asyncio
import pickle
import threading
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, ClassVar

import pluggy
import pytest

import rigging as rg
from rigging.error import InvalidPluginError, RateLimitError, RiggingWarning, UnknownProviderError
from rigging.events import (
    ModelLoaded,
    Origin,
    RequestFailed,
    RequestFinished,
    RequestStarted,
)
from rigging.plugins import Hooks, manager
from rigging.testing import EchoGenerator

KEY = "sk-planted-8d1f"
SECRET_TEXT = "nobody else's business"


@pytest.fixture(autouse=True)
def no_plugins() -> Iterator[None]:
    manager.reset()
    yield
    manager.reset()


class Recorder:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.threads: set[str] = set()

    def rigging_request_started(self, event: RequestStarted) -> None:
        self.events.append(event)
        self.threads.add(threading.current_thread().name)

    def rigging_request_finished(self, event: RequestFinished) -> None:
        self.events.append(event)

    def rigging_request_failed(self, event: RequestFailed) -> None:
        self.events.append(event)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if type(event) is kind]


class Failing(rg.Generator):
    batch_size: ClassVar[int | None] = 1

    async def generate_messages(
        self, messages: Sequence[Sequence[rg.Message]], params: Sequence[rg.GenerateParams]
    ) -> Sequence[rg.GeneratedMessage | BaseException]:
        if messages[0][-1].text == "wait":
            await asyncio.sleep(60)
        return [RateLimitError(SECRET_TEXT, status=429) for _ in messages]


# -- What is told ------------------------------------------------------------------------


def test_a_request_is_told_of_when_it_starts_and_when_it_is_answered() -> None:
    recorder = Recorder()
    with (
        rg.register_generator("echo", EchoGenerator),
        rg.plugins.manager.register(recorder),
    ):
        generator = rg.get_generator("echo!tiny,temperature=0.5,max_tokens=9")
        pipeline = generator.chat([rg.Message("system", "Be"), rg.Message("user", "brief")])
        chat = pipeline.with_(temperature=1.0).name("trial").run_sync()

    started, finished = recorder.events
    assert started.origin == Origin(
        "chat", "tiny", "echo", "echo!tiny,temperature=0.5,max_tokens=9", "trial"
    )
    assert (started.messages, started.characters, started.streams) == (2, 7, False)
    assert started.sampling == {"temperature": 1.0, "max_tokens": 9}
    assert finished.request is started
    assert finished.usage == chat.usage
    assert finished.stop_reason == chat.stop_reason
    assert finished.characters == len(chat.last.text)
    assert finished.first_piece_s is None
    assert 0 <= finished.duration_s < 60


def test_texts_and_streams_are_told_of_too() -> None:
    recorder = Recorder()
    echo = EchoGenerator(model="x")
    with manager.register(recorder):
        echo.complete("four").run_sync()
        *_, last = echo.chat("stream me").stream_sync()

    text, stream = recorder.of(RequestStarted)
    assert (text.origin.operation, text.messages, text.characters) == ("completion", 1, 4)
    assert text.origin.provider is None
    assert text.origin.generator_id is None
    assert stream.streams
    finished = recorder.of(RequestFinished)[1]
    assert finished.request is stream
    assert finished.first_piece_s is not None
    assert finished.characters == len(last.last.text)


def test_each_item_each_attempt_and_each_round_is_a_request() -> None:
    recorder = Recorder()
    rounds = iter([True, True])

    def twice(request: Any) -> Any:
        async def both(given: Any, params: Any) -> Any:
            await request(given, params)
            return await request(given, params)

        return both

    echo = EchoGenerator(model="x")
    with manager.register(recorder):
        echo.chat().run_batch_sync(["a", "b", "c"])
        echo.chat("a").wrap(twice).run_sync()
        echo.chat("a").until(lambda chat: next(rounds, False)).run_sync()

    assert len(recorder.of(RequestStarted)) == 3 + 2 + 3
    assert len(recorder.of(RequestFinished)) == 8
    assert len({event.id for event in recorder.of(RequestStarted)}) == 8


def test_failures_and_cancellations_are_told_of_by_their_type() -> None:
    recorder = Recorder()
    generator = Failing(model="x")

    async def cancelled() -> None:
        task = asyncio.create_task(generator.chat("wait").run())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])

    async def left_early() -> None:
        async for _ in EchoGenerator(model="x").chat("a b").stream():
            break

    with manager.register(recorder):
        generator.chat("fail").run_sync(on_failed="include")
        asyncio.run(cancelled())
        asyncio.run(left_early())

    failed, gone, left = recorder.of(RequestFailed)
    assert (failed.error_type, failed.status, failed.retryable) == ("RateLimitError", 429, True)
    assert not failed.is_cancelled
    assert (gone.error_type, gone.is_cancelled) == ("CancelledError", True)
    assert left.is_cancelled
    assert recorder.of(RequestFinished) == []


def test_events_hold_no_text_and_no_key_and_can_be_kept() -> None:
    recorder = Recorder()
    with rg.register_generator("failing", Failing), manager.register(recorder):
        generator = Failing(model="x", api_key=KEY)
        params = rg.GenerateParams(stop=[SECRET_TEXT], extra={"api_key": KEY, "user": SECRET_TEXT})
        generator.chat(SECRET_TEXT).with_(params).run_sync(on_failed="include")
        EchoGenerator(model="x", api_key=KEY).chat(SECRET_TEXT).with_(params).run_sync()

    assert len(recorder.events) == 4
    for event in recorder.events:
        shown = repr(event) + repr(pickle.dumps(event))
        assert KEY not in shown
        assert SECRET_TEXT not in shown
        assert pickle.loads(pickle.dumps(event)) == event


def test_content_is_shown_only_to_those_who_ask_for_it() -> None:
    class Curious:
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def rigging_request_content(self, event: RequestStarted, given: Any, result: Any) -> None:
            self.seen.append((event.id, given[-1].text, result.message.text))

        def rigging_request_finished(self, event: RequestFinished) -> None:
            self.seen.append(event.request.id)

    curious = Curious()
    with manager.register(curious):
        EchoGenerator(model="x").chat("hello").run_sync()

    (request, given, came), finished = curious.seen
    assert (given, came) == ("hello", "hello")
    assert request == finished, "just before the end is told"


def test_listeners_are_called_on_the_loops_thread_in_the_requests_context() -> None:
    recorder = Recorder()

    async def main() -> None:
        await EchoGenerator(model="x").chat("a").run()

    with manager.register(recorder):
        asyncio.run(main())

    assert recorder.threads == {threading.current_thread().name}


def test_any_thread_may_tell_of_models() -> None:
    loaded: list[ModelLoaded] = []

    class Loads:
        def rigging_model_loaded(self, event: ModelLoaded) -> None:
            loaded.append(event)

    with manager.register(Loads()):
        event = ModelLoaded("vllm", "org/name", 1.5)
        thread = threading.Thread(target=manager.tell, args=["rigging_model_loaded", event])
        thread.start()
        thread.join()

    assert loaded == [ModelLoaded("vllm", "org/name", 1.5)]


# -- Whom a listener cannot hurt ---------------------------------------------------------


def test_a_listener_that_raises_is_warned_about_once_and_hurts_nobody() -> None:
    class Raises:
        def rigging_request_started(self, event: RequestStarted) -> None:
            raise ValueError("mine")

    before, after = Recorder(), Recorder()
    with (
        manager.register(before),
        manager.register(Raises(), name="raises"),
        manager.register(after),
        pytest.warns(
            RiggingWarning, match=r"plugin 'raises' raised ValueError in .*started: mine"
        ) as told,
    ):
        chats = EchoGenerator(model="x").chat().run_batch_sync(["a", "b", "c"])

    assert len(chats) == 3
    assert len(told) == 1
    assert len(before.events) == len(after.events) == 6


def test_a_listener_that_raises_ends_no_run_where_warnings_are_errors() -> None:
    class Raises:
        def rigging_request_finished(self) -> None:
            raise ValueError("mine")

    with manager.register(Raises()), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert EchoGenerator(model="x").chat("a").run_sync().last.text == "a"


def test_who_comes_last_is_called_first_unless_they_say_otherwise() -> None:
    order: list[str] = []
    mark = pluggy.HookimplMarker("rigging")

    def plugin(name: str, **options: bool) -> ModuleType:
        module = ModuleType(name)

        def rigging_request_started() -> None:  # takes no arguments
            order.append(name)

        function = mark(rigging_request_started, **options) if options else rigging_request_started
        module.rigging_request_started = function  # type: ignore[attr-defined]
        return module

    for each in (plugin("first", tryfirst=True), plugin("one"), plugin("two")):
        manager.register(each)
    EchoGenerator(model="x").chat("a").run_sync()

    assert order == ["first", "two", "one"]


def test_a_plugin_that_was_unregistered_is_told_nothing() -> None:
    recorder = Recorder()
    registration = manager.register(recorder, name="gone")
    assert manager.names == ["gone"]
    registration.undo()
    registration.undo()
    EchoGenerator(model="x").chat("a").run_sync()

    assert recorder.events == []
    assert manager.names == []


# -- Generators of a plugin --------------------------------------------------------------


@pytest.mark.parametrize("made_before", [True, False])
def test_a_plugin_registers_generators_until_it_is_unregistered(made_before: bool) -> None:
    class Brings:
        def rigging_register_generators(self, register: Any) -> None:
            register("brought", EchoGenerator)

    if made_before:
        with rg.register_generator("other", EchoGenerator):
            rg.get_generator("other!x")
    with manager.register(Brings()):
        assert rg.get_generator("brought!x").to_identifier() == "brought!x"
    with pytest.raises(UnknownProviderError, match="brought"):
        rg.get_generator("brought!x")


def test_a_plugin_that_registers_nonsense_is_warned_about() -> None:
    class Brings:
        def rigging_register_generators(self, register: Any) -> None:
            register("no name", EchoGenerator)

    manager.register(Brings(), name="brings")
    with (
        rg.register_generator("echo", EchoGenerator),
        pytest.warns(RiggingWarning, match="plugin 'brings' raised InvalidGeneratorError"),
    ):
        rg.get_generator("echo!x")


# -- What is refused ---------------------------------------------------------------------


class Empty:
    pass


class Misspelt:
    def rigging_request_startet(self, event: RequestStarted) -> None:
        pass


class Later:
    @pluggy.HookimplMarker("rigging")(optionalhook=True)
    def rigging_of_a_later_version(self) -> None:
        pass


class Wraps:
    @pluggy.HookimplMarker("rigging")(wrapper=True)
    def rigging_request_started(self, event: RequestStarted) -> Iterator[None]:
        yield


class Waits:
    async def rigging_request_started(self, event: RequestStarted) -> None:
        pass


class TakesMore:
    def rigging_request_started(self, event: RequestStarted, text: str) -> None:
        pass


@pytest.mark.parametrize(
    ("plugin", "reason"),
    [
        (Empty, "has no hook: expected functions such as rigging_"),
        (Misspelt, "'rigging_request_startet', which is no hook; did you mean 'rigging_request_st"),
        (Wraps, "wraps 'rigging_request_started'"),
        (Waits, "has `async def rigging_request_started`: hooks are called at once"),
        (TakesMore, "cannot be registered: .*text"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_plugin_that_cannot_be_called_is_refused(plugin: type, reason: str) -> None:
    with pytest.raises(InvalidPluginError, match=reason):
        manager.register(plugin())
    assert manager.names == []


def test_a_plugin_is_registered_once() -> None:
    recorder = Recorder()
    with manager.register(recorder), pytest.raises(InvalidPluginError, match="cannot be regist"):
        manager.register(recorder)


def test_a_hook_of_a_later_version_is_passed_over_where_it_is_optional() -> None:
    with manager.register(Later(), name="later"):
        assert manager.names == ["later"]


def test_every_hook_is_documented() -> None:
    hooks = {name: hook for name, hook in vars(Hooks).items() if name.startswith("rigging_")}
    assert len(hooks) == 8
    for hook in hooks.values():
        assert hook.__doc__
