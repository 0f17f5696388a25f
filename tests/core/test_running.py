"""Running pipelines: many, batches, streams of items, over generators, and synchronously."""

from __future__ import annotations

import asyncio
import io
import itertools
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rigging as rg
from rigging.error import (
    InvalidIdentifierError,
    InvalidMessageError,
    InvalidParamsError,
    RateLimitError,
)
from rigging.testing import EchoGenerator, ScriptedGenerator


class Uneven(rg.Generator):
    """Answers after as many turns of the loop as the prompt says; fails at "bad"."""

    batch_size: int | None = 1

    _running: int = 0
    _peak: int = 0
    _sent: list[str] = []

    async def generate_messages(
        self, messages: Sequence[Sequence[rg.Message]], params: Sequence[rg.GenerateParams]
    ) -> Sequence[rg.GeneratedMessage | BaseException]:
        (conversation,) = messages
        text = conversation[-1].text
        self._sent.append(text)
        self._running += 1
        self._peak = max(self._peak, self._running)
        try:
            if text == "bad":
                return [RateLimitError("slow down")]
            for _ in range(int(text) % 7):
                await asyncio.sleep(0)
        finally:
            self._running -= 1
        return [rg.GeneratedMessage.from_text(text)]


def texts(chats: Any) -> list[str]:
    return [chat.last.text for chat in chats]


# -- run_batch ---------------------------------------------------------------------------


@given(st.lists(st.integers(0, 99).map(str), max_size=30), st.integers(1, 8))
def test_results_come_in_the_order_of_inputs(inputs: list[str], window: int) -> None:
    generator = Uneven(model="x")

    chats = asyncio.run(generator.chat().run_batch(inputs, window=window))

    assert texts(chats) == inputs
    assert generator._peak <= window


def test_each_input_is_added_to_the_pipelines_messages_once() -> None:
    generator = ScriptedGenerator("abc")

    chats = asyncio.run(generator.chat("Be brief.").run_batch(["x", ["y", "z"]]))

    (call,) = generator.calls
    assert [[m.text for m in sent] for sent in call.inputs] == [
        ["Be brief.", "x"],
        ["Be brief.", "y", "z"],
    ]
    assert [[m.text for m in chat.messages] for chat in chats] == [
        ["Be brief.", "x"],
        ["Be brief.", "y", "z"],
    ]


def test_a_completion_batch_continues_the_pipelines_text() -> None:
    completions = asyncio.run(EchoGenerator(model="x").complete("a ").run_batch(["b", "c"]))

    assert [one.text for one in completions] == ["a b", "a c"]


SEEDS = [rg.GenerateParams(seed=seed) for seed in range(3)]


@pytest.mark.parametrize(
    ("inputs", "params", "sent"),
    [
        pytest.param(["a"], SEEDS, [("a", 0), ("a", 1), ("a", 2)], id="one-input"),
        pytest.param(["a", "b"], SEEDS[1:2], [("a", 1), ("b", 1)], id="one-params"),
        pytest.param(["a", "b"], SEEDS[:2], [("a", 0), ("b", 1)], id="pairwise"),
        pytest.param(["a", "b"], None, [("a", 9), ("b", 9)], id="none"),
        pytest.param([], None, [], id="nothing"),
    ],
)
def test_inputs_and_params_are_paired(inputs: Any, params: Any, sent: Any) -> None:
    pipeline = EchoGenerator(model="x").chat().with_(seed=9)

    chats = asyncio.run(pipeline.run_batch(inputs, params=params))

    assert [(chat.messages[-1].text, chat.params.seed) for chat in chats] == sent


@pytest.mark.parametrize(
    ("inputs", "params", "reason"),
    [
        ("a bare text", None, "takes a list of inputs, got str: put it into a list"),
        ({"role": "user", "content": "x"}, None, "got dict: put it into a list"),
        (iter(["a"]), None, "iter_batch for iterators"),
        (["a", "b"], SEEDS, "got 3 params for 2 inputs: give one for all, or one each"),
        (["a"], SEEDS[0], "use with_"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(inputs: Any, params: Any, reason: str) -> None:
    with pytest.raises(InvalidParamsError, match=reason):
        asyncio.run(EchoGenerator(model="x").chat().run_batch(inputs, params=params))


def test_an_input_that_is_no_message_is_refused_before_anything_is_sent() -> None:
    generator = ScriptedGenerator("abc")

    with pytest.raises(InvalidMessageError, match="got int"):
        asyncio.run(generator.chat().run_batch(["a", 3]))
    with pytest.raises(InvalidMessageError, match="conversation is empty"):
        asyncio.run(generator.chat().run_batch(["a", []]))
    with pytest.raises(InvalidMessageError, match="continues a str, got Message"):
        asyncio.run(generator.complete("").run_batch([rg.Message("user", "x")]))
    assert generator.calls == ()


@pytest.mark.parametrize("window", [0, -1, "3"])
def test_a_window_that_is_none_is_refused(window: Any) -> None:
    with pytest.raises(InvalidParamsError, match="window is at least 1"):
        asyncio.run(EchoGenerator(model="x").chat().run_batch(["a"], window=window))


# -- Failures ----------------------------------------------------------------------------


def test_the_first_failure_is_raised_with_a_note_and_stops_the_rest() -> None:
    generator = Uneven(model="x")

    with pytest.raises(RateLimitError) as caught:
        asyncio.run(generator.chat().name("numbers").run_batch(["1", "bad", *["6"] * 50], window=2))

    (note,) = caught.value.__notes__
    assert "item 1 of 'numbers' failed" in note
    assert "checkpoint=PATH" in note
    assert generator._sent.count("6") < 50


def test_failed_items_are_skipped_or_included() -> None:
    pipeline = Uneven(model="x").chat()
    inputs = ["1", "bad", "3"]

    skipped = asyncio.run(pipeline.run_batch(inputs, on_failed="skip"))
    included = asyncio.run(pipeline.run_batch(inputs, on_failed="include"))

    assert texts(skipped) == ["1", "3"]
    assert [chat.failed for chat in included] == [False, True, False]
    assert isinstance(included[1].error, RateLimitError)
    assert included.failed == [included[1]]
    assert "failed, slow down" in repr(included[1])


def test_errors_of_programming_are_raised_unless_caught_by_name() -> None:
    pipeline = ScriptedGenerator([KeyError("x")] * 3).chat("Hi")

    with pytest.raises(KeyError, match="x"):
        asyncio.run(pipeline.run_many(1, on_failed="include"))
    caught = pipeline.catch(LookupError, on_failed="include")
    assert asyncio.run(caught.run()).failed
    with pytest.raises(KeyError, match="x"):
        asyncio.run(caught.catch(exclude=[KeyError]).run())


def test_one_run_that_may_skip_includes_its_failure() -> None:
    pipeline = ScriptedGenerator([RateLimitError("slow down")] * 2).chat("Hi")

    assert asyncio.run(pipeline.catch(on_failed="skip").run()).failed
    assert asyncio.run(pipeline.run(on_failed="include")).failed


def test_on_failed_that_is_none_of_the_three_is_refused() -> None:
    with pytest.raises(InvalidParamsError, match="'raise', 'skip' or 'include', got 'ignore'"):
        asyncio.run(EchoGenerator(model="x").chat("Hi").run(on_failed="ignore"))  # type: ignore[arg-type]


def test_one_slow_item_of_a_batch_holds_up_none_of_the_others() -> None:
    async def main() -> None:
        others = asyncio.Event()

        async def wait_or_count(chat: rg.Chat) -> None:
            if chat.last.text == "0":
                await others.wait()
            elif chat.last.text == "49":
                others.set()

        pipeline = EchoGenerator(model="x").chat().then(wait_or_count)
        batch = pipeline.run_batch([str(n) for n in range(50)], window=2)
        chats = await asyncio.wait_for(batch, timeout=5)
        assert texts(chats) == [str(n) for n in range(50)]

    asyncio.run(main())


# -- iter_batch --------------------------------------------------------------------------


def test_results_are_given_as_they_finish_or_in_order() -> None:
    pipeline = Uneven(model="x").chat()

    async def collect(**options: Any) -> list[str]:
        return [chat.last.text async for chat in pipeline.iter_batch(["6", "0", "3"], **options)]

    assert asyncio.run(collect()) == ["0", "3", "6"]
    assert asyncio.run(collect(ordered=True)) == ["6", "0", "3"]


@pytest.mark.parametrize("ordered", [True, False])
def test_an_endless_source_is_taken_as_far_as_the_window(ordered: bool) -> None:
    taken = 0

    async def numbers() -> AsyncIterator[str]:
        nonlocal taken
        for number in itertools.count():
            taken += 1
            yield str(number)

    async def main() -> None:
        stream = Uneven(model="x").chat().iter_batch(numbers(), ordered=ordered, window=4)
        count = 0
        async for _ in stream:
            count += 1
            for _ in range(20):
                await asyncio.sleep(0)  # a slow consumer
            assert taken <= count + 2 * 4
            if count == 50:
                break
        await stream.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_plain_iterator_is_taken_as_far_as_the_window() -> None:
    source = itertools.count()

    async def main() -> None:
        stream = Uneven(model="x").chat().iter_batch(map(str, source), window=3)
        async for _ in stream:
            break
        await stream.aclose()

    asyncio.run(main())
    assert next(source) <= 7


def test_a_source_that_fails_fails_the_run_after_what_was_ready() -> None:
    def source() -> Iterator[str]:
        yield "0"
        raise OSError("disk gone")

    async def main() -> None:
        stream = EchoGenerator(model="x").chat().iter_batch(source(), window=1)
        assert (await anext(stream)).last.text == "0"
        with pytest.raises(OSError, match="disk gone"):
            await anext(stream)

    asyncio.run(main())


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stream_of_items_takes_params_one_by_one(asynchronous: bool) -> None:
    async def inputs() -> AsyncIterator[str]:
        for number in itertools.count():
            yield str(number)

    async def collect() -> list[tuple[str, int | None]]:
        source: Any = inputs() if asynchronous else ["0", "1", "2", "3"]
        params = (rg.GenerateParams(seed=seed) for seed in (7, 8, 9))
        stream = EchoGenerator(model="x").chat().iter_batch(source, params=params, ordered=True)
        return [(chat.last.text, chat.params.seed) async for chat in stream]

    assert asyncio.run(collect()) == [("0", 7), ("1", 8), ("2", 9)]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stream_of_items_takes_notes_one_by_one(asynchronous: bool) -> None:
    async def inputs() -> AsyncIterator[str]:
        for text in ("1", "bad", "3"):
            yield text

    async def collect() -> list[dict[str, Any]]:
        source: Any = inputs() if asynchronous else ["1", "bad", "3"]
        notes = ({"line": line} for line in itertools.count())
        pipeline = Uneven(model="x").chat().meta(run="first")
        stream = pipeline.iter_batch(source, metadata=notes, on_failed="include")
        return sorted([chat.metadata async for chat in stream], key=lambda note: note["line"])

    found = asyncio.run(collect())

    assert found == [{"run": "first", "line": line} for line in range(3)]


def test_notes_of_a_batch_are_each_items_own() -> None:
    notes = [{"tags": ["one"]}, {"tags": ["two"]}]
    pipeline = EchoGenerator(model="x").complete("")

    items = pipeline.run_batch_sync(["a", "b"], metadata=notes)
    items[0].metadata["tags"].append("more")

    assert [item.metadata for item in items] == [{"tags": ["one", "more"]}, {"tags": ["two"]}]
    assert notes[0] == {"tags": ["one"]}
    with pytest.raises(InvalidParamsError, match="got 1 metadata for 2 items: give one each"):
        pipeline.run_batch_sync(["a", "b"], metadata=notes[:1])


def test_skipped_items_are_not_given() -> None:
    async def main() -> list[str]:
        stream = Uneven(model="x").chat().iter_batch(["1", "bad"], on_failed="skip")
        return [chat.last.text async for chat in stream]

    assert asyncio.run(main()) == ["1"]


def test_iter_batch_refuses_what_it_cannot_do() -> None:
    async def first(pipeline: rg.ChatPipeline, inputs: Any) -> None:
        await anext(pipeline.iter_batch(inputs))

    pipeline = EchoGenerator(model="x").chat()
    with pytest.raises(InvalidParamsError, match="put it into a list"):
        asyncio.run(first(pipeline, "text"))
    with pytest.raises(InvalidParamsError, match="use run_batch"):
        asyncio.run(first(pipeline.map(lambda chats: None), ["text"]))


# -- run_over ----------------------------------------------------------------------------


def test_one_pipeline_runs_over_several_generators() -> None:
    one, two = ScriptedGenerator(["one"]), ScriptedGenerator(["two"])

    with rg.register_generator("echo", EchoGenerator):
        chats = asyncio.run(one.chat("Hi").run_over(two, "echo!x,max_tokens=5"))
        without = asyncio.run(one.chat("Hi").run_over("echo!x", include_original=False))

    assert texts(chats) == ["one", "two", "Hi"]
    assert texts(without) == ["Hi"]
    assert without[0].generator_id == "echo!x"


def test_a_generator_that_fails_fails_its_own_item() -> None:
    broken, fine = ScriptedGenerator([RateLimitError("slow down")] * 2), EchoGenerator(model="x")

    included = asyncio.run(broken.chat("Hi").run_over(fine, on_failed="include"))
    skipped = asyncio.run(broken.chat("Hi").run_over(fine, on_failed="skip"))

    assert [chat.failed for chat in included] == [True, False]
    assert texts(skipped) == ["Hi"]


def test_run_over_refuses_a_malformed_identifier() -> None:
    with pytest.raises(InvalidIdentifierError, match="empty provider"):
        asyncio.run(EchoGenerator(model="x").chat("Hi").run_over("!m"))


# -- stream ------------------------------------------------------------------------------


def test_a_stream_gives_pieces_and_then_the_finished_item() -> None:
    seen: list[rg.Chat] = []
    pipeline = (
        EchoGenerator(model="x").chat("Hi").then(lambda chat: chat.meta(a=1)).watch(seen.append)
    )

    async def main() -> list[Any]:
        return [piece async for piece in pipeline.stream()]

    piece, chat = asyncio.run(main())
    assert piece == "Hi"
    assert chat.metadata == {"a": 1}
    assert seen == [chat]


def test_a_stream_refuses_what_would_generate_twice() -> None:
    pipeline = EchoGenerator(model="x").chat("Hi")
    for one in (pipeline.until(lambda chat: None), pipeline.wrap(lambda request: request)):
        with pytest.raises(InvalidParamsError, match="use run"):
            one.stream_sync().__next__()


# -- Synchronous callers -----------------------------------------------------------------


def check_sync_twins() -> None:
    pipeline = EchoGenerator(model="x").chat("a")
    completions = EchoGenerator(model="x").complete("a")

    assert pipeline.run_sync().last.text == "a"
    assert texts(pipeline.run_many_sync(2)) == ["a", "a"]
    assert texts(pipeline.run_batch_sync(["b", "c"])) == ["b", "c"]
    assert texts(pipeline.run_over_sync(EchoGenerator(model="y"))) == ["a", "a"]
    assert texts(pipeline.iter_batch_sync(["b", "c"], ordered=True)) == ["b", "c"]
    assert [str(type(piece).__name__) for piece in pipeline.stream_sync()] == ["str", "Chat"]
    assert completions.run_sync().generated == "a"
    assert [one.text for one in completions.run_batch_sync(["b"])] == ["ab"]
    assert [str(type(piece).__name__) for piece in completions.stream_sync()] == [
        "str",
        "Completion",
    ]


def test_sync_twins_work_where_no_loop_runs() -> None:
    check_sync_twins()


def test_sync_twins_work_where_a_loop_runs() -> None:
    async def notebook() -> None:
        check_sync_twins()

    asyncio.run(notebook())


def test_a_sync_failure_is_raised_and_leaves_no_thread() -> None:
    pipeline = ScriptedGenerator([RateLimitError("slow down")] * 2).chat("Hi")

    async def notebook() -> None:
        with pytest.raises(RateLimitError, match="slow down"):
            pipeline.run_sync()
        with pytest.raises(RateLimitError, match="slow down"):
            next(pipeline.iter_batch_sync([[]]))

    asyncio.run(notebook())
    assert [t.name for t in threading.enumerate() if t.name.startswith("rigging")] == []


def test_a_sync_stream_may_be_left_early() -> None:
    numbers = map(str, itertools.count())
    stream = EchoGenerator(model="x").chat().iter_batch_sync(numbers, window=2)

    assert next(stream).last.text == "0"
    stream.close()  # type: ignore[attr-defined]

    assert [t.name for t in threading.enumerate() if t.name.startswith("rigging")] == []


# -- Interrupted -------------------------------------------------------------------------

INTERRUPTED = textwrap.dedent(
    """
    import asyncio, signal
    import rigging as rg

    # A shell starts what it puts into the background deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    class Slow(rg.Generator):
        batch_size: int | None = BATCH

        async def generate_messages(self, messages, params):
            try:
                await asyncio.sleep(0.001 if messages[0][-1].text == "quick" else 60)
            except asyncio.CancelledError:
                print("cancelled", flush=True)
                raise
            return [rg.GeneratedMessage.from_text("done") for _ in messages]

    def started(chat):
        print("started", flush=True)

    pipeline = Slow(model="x").chat().watch(started)
    RUN
    """
)
RUNS = {
    "asyncio": "asyncio.run(pipeline.run_batch(['quick', 'slow', 'slow']))",
    "sync": "pipeline.run_batch_sync(['quick', 'slow', 'slow'])",
    "iterator": "list(pipeline.iter_batch_sync(['quick', 'slow', 'slow']))",
    "notebook": (
        "async def main():\n    pipeline.run_batch_sync(['quick', 'slow', 'slow'])\n"
        "asyncio.run(main())"
    ),
}


@pytest.mark.parametrize("run", RUNS)
def test_ctrl_c_in_a_batch_cancels_it_and_leaves_no_task_and_no_warning(run: str) -> None:
    code = INTERRUPTED.replace("BATCH", "1").replace("RUN", RUNS[run])
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()

    assert out.splitlines() == ["cancelled"] * 2
    assert err.rstrip().endswith("KeyboardInterrupt")
    for complaint in ("never retrieved", "was destroyed", "never awaited", "Warning"):
        assert complaint not in err


# -- Progress ----------------------------------------------------------------------------


def test_a_bar_counts_items_failures_and_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    import tqdm.auto

    bars: list[Any] = []

    class Noted(tqdm.auto.tqdm):  # the real one, as in a terminal, written into memory
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            assert kwargs.pop("disable") is None
            super().__init__(*args, **kwargs, file=io.StringIO())
            bars.append(self)

    monkeypatch.setattr(tqdm.auto, "tqdm", Noted)
    usage = rg.Usage(input_tokens=1, output_tokens=2)
    replies = [rg.GeneratedMessage.from_text("a", usage=usage)] * 2
    scripted = ScriptedGenerator([*replies, RateLimitError("slow down")])

    scripted.chat("Hi").name("colours").run_many_sync(3, progress=True, on_failed="skip")

    (bar,) = bars
    assert (bar.n, bar.total, bar.desc) == (3, 3, "colours")
    assert bar.postfix == "failed=1, tokens=6"


def test_a_bar_is_silent_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    EchoGenerator(model="x").chat("Hi").run_many_sync(3, progress=True)

    assert capfd.readouterr() == ("", "")


def test_a_bar_without_tqdm_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)

    with pytest.raises(ImportError, match=r"pip install 'rigging-core\[progress\]'"):
        EchoGenerator(model="x").chat("Hi").run_many_sync(3, progress=True)


@pytest.mark.parametrize(("connections", "most"), [(0, 256), (3, 64), (200, 400)])
def test_items_in_progress_are_enough_for_the_connections(connections: int, most: int) -> None:
    class Remote(Uneven):
        max_connections: int = connections

    generator = Remote(model="x")

    asyncio.run(generator.chat().run_batch(["6"] * 500))

    assert generator._peak == most
