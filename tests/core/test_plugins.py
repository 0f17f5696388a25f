"""Plugins registered in process: what they are told, in which order, and whom they cannot hurt."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import json
import operator
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any, ClassVar

import pluggy
import pytest

import rigging as rg
from rigging.error import (
    InvalidPluginError,
    RateLimitError,
    ResponseError,
    RiggingWarning,
    UnknownProviderError,
)
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


def test_no_listener_can_change_what_another_is_told() -> None:
    refused: list[str] = []

    class Changes:
        def rigging_request_started(self, event: RequestStarted) -> None:
            changes: list[Callable[[Any], Any]] = [
                lambda sampling: sampling.update(seed=1),
                lambda sampling: sampling.clear(),
                lambda sampling: sampling.pop("temperature"),
                lambda sampling: operator.setitem(sampling, "seed", 1),
                lambda sampling: operator.delitem(sampling, "temperature"),
                lambda sampling: operator.ior(sampling, {"seed": 1}),
            ]
            for change in changes:
                with pytest.raises(TypeError, match="change a copy") as refusal:
                    change(event.sampling)
                refused.append(str(refusal.value))

    recorder = Recorder()
    with manager.register(recorder), manager.register(Changes()):
        EchoGenerator(model="x").chat().with_(temperature=0.5).run_batch_sync(["a", "b"])

    assert len(refused) == 2 * 6
    for event in recorder.of(RequestStarted):
        for kept in (event.sampling, copy.deepcopy(event).sampling):
            assert kept == {"temperature": 0.5}
        again = pickle.loads(pickle.dumps(event))
        assert json.loads(json.dumps(again.sampling)) == {"temperature": 0.5}
        with pytest.raises(TypeError, match="change a copy"):
            again.sampling["seed"] = 1


def test_events_hold_no_password_of_an_address() -> None:
    recorder = Recorder()
    address = f"https://me:{KEY}@host/v1?api_key={KEY}"
    params = rg.GenerateParams(api_base=address, extra={"user": "a@b"}, seed=1)
    with rg.register_generator("echo", EchoGenerator), manager.register(recorder):
        generator = EchoGenerator(model="x", params=params)
        generator.chat("a").run_sync()
        identifier = generator.to_identifier()

    origin = recorder.events[0].origin
    shown = "https://***@host/v1?api_key=***"
    assert origin.generator_id == identifier.replace(address, shown)
    assert KEY not in origin.generator_id
    assert "a@b" in origin.generator_id


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


def test_a_listener_that_raises_is_warned_about_once_whoever_comes_and_goes() -> None:
    class Raises:
        def rigging_request_started(self) -> None:
            raise ValueError("mine")

    def run() -> None:
        with manager.register(Recorder()):
            EchoGenerator(model="x").chat("a").run_sync()

    with warnings.catch_warnings(record=True, action="always") as told:
        with manager.register(Raises(), name="raises"):
            run()
            run()
        assert ["mine" in str(one.message) for one in told] == [True]
        with manager.register(Raises(), name="raises"):  # another
            run()
    assert len(told) == 2


@pytest.mark.parametrize("hook", ["started", "finished", "content"])
def test_a_listener_cannot_cancel_a_run(hook: str) -> None:
    def cancels() -> None:
        raise asyncio.CancelledError

    plugin = ModuleType("cancels")
    setattr(plugin, f"rigging_request_{hook}", cancels)
    recorder = Recorder()
    with (
        manager.register(recorder),
        manager.register(plugin),
        pytest.warns(RiggingWarning, match=f"raised CancelledError in rigging_request_{hook}"),
    ):
        assert EchoGenerator(model="x").chat("a").run_sync().last.text == "a"

    assert [type(event) for event in recorder.events] == [RequestStarted, RequestFinished]


@pytest.mark.parametrize(
    ("hook", "end"),
    [("started", RequestFailed), ("content", RequestFailed), ("finished", RequestFinished)],
)
@pytest.mark.parametrize("streams", [False, True])
def test_what_was_told_to_start_ends_even_where_ctrl_c_comes_in_a_hook(
    hook: str, end: type, streams: bool
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    plugin = ModuleType("interrupted")
    setattr(plugin, f"rigging_request_{hook}", interrupted)
    before, after = Recorder(), Recorder()

    pipeline = EchoGenerator(model="x").chat("a")

    async def read() -> None:
        async for _ in pipeline.stream():
            pass

    with (
        manager.register(before),
        manager.register(plugin),
        manager.register(after),
        pytest.raises(KeyboardInterrupt),
    ):
        asyncio.run(read() if streams else pipeline.run())

    for recorder in (before, after):
        assert [type(event) for event in recorder.events] == [RequestStarted, end]


class Pieces(EchoGenerator):
    """Streams what it is told to, as an iterator that cannot be closed."""

    def stream_messages(self, messages: Any, params: Any) -> Any:
        return map_async(lambda name: PIECES[name], messages[-1].text.split())


PIECES: dict[str, Any] = {
    "text": "a",
    "bytes": b"a",
    "result": rg.GeneratedMessage.from_text("a"),
    "other": rg.GeneratedText.from_text("a"),
}


class map_async:  # noqa: N801 (named like `map`)
    def __init__(self, function: Callable[[Any], Any], given: Iterable[Any]) -> None:
        self._given = map(function, given)

    def __aiter__(self) -> map_async:
        return self

    async def __anext__(self) -> Any:
        for piece in self._given:
            return piece
        raise StopAsyncIteration


@pytest.mark.parametrize("listened", [False, True])
@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ("text", "the stream of Pieces ended without its result: a stream gives pieces of text"),
        ("text bytes", "ended without its result, but with a bytes: .* a finished GeneratedMes"),
        ("text other", "ended without its result, but with a GeneratedText"),
    ],
)
def test_a_stream_without_its_result_fails_alike_with_and_without_a_listener(
    pieces: str, reason: str, listened: bool
) -> None:
    recorder = Recorder()
    with contextlib.ExitStack() as stack:
        if listened:
            stack.enter_context(manager.register(recorder))
        with pytest.raises(ResponseError, match=reason):
            list(Pieces(model="x").chat(pieces).stream_sync())

    if listened:
        _, failed = recorder.events
        assert (failed.error_type, failed.is_cancelled) == ("ResponseError", False)


@pytest.mark.parametrize("listened", [False, True])
def test_a_stream_need_not_be_one_that_can_be_closed(listened: bool) -> None:
    with contextlib.ExitStack() as stack:
        if listened:
            stack.enter_context(manager.register(Recorder()))
        *texts, chat = Pieces(model="x").chat("text text result").stream_sync()

    assert texts == ["a", "a"]
    assert chat.last.text == "a"


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


def test_the_end_of_a_request_is_told_in_the_reverse_order_of_its_start() -> None:
    order: list[str] = []
    hooks = ("started", "content", "finished", "failed")

    def plugin(name: str) -> ModuleType:
        module = ModuleType(name)
        for hook in hooks:
            note = functools.partial(order.append, f"{hook} {name}")
            setattr(module, f"rigging_request_{hook}", lambda note=note: note())
        return module

    with manager.register(plugin("one")), manager.register(plugin("two")):
        EchoGenerator(model="x").chat("a").run_sync()
        answered, order[:] = order[:], []
        Failing(model="x").chat("a").run_sync(on_failed="include")

    assert answered == [
        *("started two", "started one"),
        *("content one", "content two"),
        *("finished one", "finished two"),
    ]
    assert order == ["started two", "started one", "failed one", "failed two"]


def test_a_run_tells_those_who_listened_when_it_began() -> None:
    early, late = Recorder(), Recorder()

    async def main() -> None:
        registration = manager.register(early)
        pipeline = EchoGenerator(model="x").chat()
        async for _ in pipeline.iter_batch(iter("abcd"), window=1):
            registration.undo()
            if "late" not in manager.names:
                manager.register(late, name="late")

    asyncio.run(main())

    assert (len(early.events), len(late.events)) == (8, 0)


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


# In a process of its own: if it hangs, so does everything that asks for plugins.
RUNS_WHILE_ASKED = """
import asyncio
import rigging as rg
from rigging.testing import EchoGenerator

class Listens:
    def rigging_request_finished(self): pass

class Runs:
    def rigging_register_generators(self, register):
        # Where a loop runs, this goes through another thread, which asks for listeners.
        print(EchoGenerator(model="x").chat("an answer").run_sync().last.text)
        register("brought", EchoGenerator)

async def main():
    rg.plugins.manager.register(Listens())
    with rg.register_generator("echo", EchoGenerator):
        rg.get_generator("echo!x")
    rg.plugins.manager.register(Runs())

asyncio.run(main())
print(rg.get_generator("brought!x").model)
"""


def test_a_plugin_may_run_a_generator_while_it_is_asked_for_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUNS_WHILE_ASKED], check=True, capture_output=True, timeout=60
    )

    assert done.stdout.split(b"\n") == [b"an answer", b"x", b""]


def test_a_plugin_that_is_unregistered_while_it_is_asked_leaves_nothing() -> None:
    class Leaves:
        def rigging_register_generators(self, register: Any) -> None:
            manager.unregister(self)
            register("late", EchoGenerator)

    with rg.register_generator("echo", EchoGenerator):
        rg.get_generator("echo!x")
    manager.register(Leaves())
    with pytest.raises(UnknownProviderError, match="late"):
        rg.get_generator("late!x")


def test_a_registration_that_is_interrupted_leaves_nothing() -> None:
    class Interrupted:
        is_ready = False

        def rigging_register_generators(self, register: Any) -> None:
            register("halfway", EchoGenerator)
            if not self.is_ready:
                raise KeyboardInterrupt

    plugin = Interrupted()
    with rg.register_generator("echo", EchoGenerator):
        rg.get_generator("echo!x")
    with pytest.raises(KeyboardInterrupt):
        manager.register(plugin)
    assert manager.names == []
    with pytest.raises(UnknownProviderError, match="halfway"):
        rg.get_generator("halfway!x")

    plugin.is_ready = True
    manager.register(plugin)
    assert rg.get_generator("halfway!x").model == "x"


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


class Yields:
    def rigging_request_started(self, event: RequestStarted) -> Iterator[None]:
        yield


class YieldsLater:
    async def rigging_request_started(self, event: RequestStarted) -> AsyncIterator[None]:
        yield


class Defaults:
    def rigging_request_started(self, event: RequestStarted | None = None) -> None:
        pass


class ByName:
    def rigging_request_started(self, *, event: RequestStarted) -> None:
        pass


class NeedsMoreByName:
    def rigging_request_started(self, event: RequestStarted, *, text: str) -> None:
        pass


class TakesAny:
    def rigging_request_started(self, *arguments: Any, **more: Any) -> None:
        pass


class Partial:
    rigging_request_started = functools.partial(print)

    def rigging_request_finished(self, event: RequestFinished) -> None:
        pass


class Builtin:
    def __init__(self) -> None:
        self.rigging_request_started = [].append


@pytest.mark.parametrize(
    ("plugin", "reason"),
    [
        (Empty, "has no hook: expected functions such as rigging_"),
        (Misspelt, "'rigging_request_startet', which is no hook; did you mean 'rigging_request_st"),
        (Wraps, "wraps 'rigging_request_started'"),
        (Waits, "has `async def rigging_request_started`: hooks are called at once"),
        (TakesMore, "cannot be registered: .*text"),
        (Yields, "has a `yield` in 'rigging_request_started': it would make a generator"),
        (YieldsLater, "has `async def rigging_request_started`: hooks are called at once"),
        (Defaults, r"'event' as an argument of .*never given: .* \(event\), without a default"),
        (ByName, "has 'event' as an argument of 'rigging_request_started', which it is never g"),
        (NeedsMoreByName, "has 'text' as an argument of 'rigging_request_started'"),
        (TakesAny, r"has '\*arguments' as an argument of 'rigging_request_started'"),
        (Partial, "has a partial as 'rigging_request_started', whose arguments cannot be told"),
        (Builtin, "has a builtin_function_or_method as 'rigging_request_started', whose arguments"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_plugin_that_cannot_be_called_is_refused(plugin: type, reason: str) -> None:
    with pytest.raises(InvalidPluginError, match=reason):
        manager.register(plugin())
    assert manager.names == []


def test_a_class_is_no_plugin_but_its_objects_are() -> None:
    with pytest.raises(InvalidPluginError, match=r"'Recorder' is a class: .* `Recorder\(\)`"):
        manager.register(Recorder)
    assert manager.names == []


def test_a_hook_may_have_arguments_of_its_own_and_be_switched_off() -> None:
    class Odd:
        rigging_request_failed = None
        seen: ClassVar[list[int]] = []

        def rigging_request_started(self, event: RequestStarted, *rest: Any, more: int = 7) -> None:
            self.seen.append(more)

    with manager.register(Odd()):
        EchoGenerator(model="x").chat("a").run_sync()

    assert Odd.seen == [7]


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
