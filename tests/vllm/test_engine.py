"""What needs no engine that runs: models that cannot be had, and faults of the machine."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
import traceback
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter, ValidationError

import rigging as rg
from rigging_vllm import VLLMGenerator
from rigging_vllm._borrowed import BorrowedAsyncLLM
from rigging_vllm._errors import load_error
from rigging_vllm._request import Request
from rigging_vllm._secrecy import without
from rigging_vllm._spawning import note_of_spawned
from rigging_vllm._spec import EngineSpec
from rigging_vllm._ticket import Ticket
from rigging_vllm._worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PARAMS = rg.GenerateParams()


def ask(generator: VLLMGenerator, *texts: str) -> list[Any]:
    return list(asyncio.run(generator.generate_texts(texts, [PARAMS] * len(texts))))


@pytest.mark.parametrize("fault", [KeyError("odd"), MemoryError("none left"), SystemExit(3)])
def test_whatever_fails_while_loading_fails_the_requests(
    fault: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: object) -> None:
        raise fault

    monkeypatch.setattr("rigging_vllm._worker.build", build)
    generator = VLLMGenerator(model="m")

    for result in ask(generator, "One", "Two"):
        assert isinstance(result, rg.error.ProviderServerError)
        assert result.__cause__ is fault
    with pytest.raises(rg.error.ProviderServerError, match=f"{type(fault).__name__}: "):
        generator.load()


def test_an_engine_that_cannot_be_asked_is_shut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    shut_down: list[float] = []
    llm = SimpleNamespace(shutdown=shut_down.append)
    monkeypatch.setattr("rigging_vllm._worker.build", lambda *_: llm)

    def leave(*_: object) -> None:
        raise SystemExit(3)

    monkeypatch.setattr("rigging_vllm._worker.Responder", leave)

    generator = VLLMGenerator(model="m")

    (result,) = ask(generator, "One")
    generator.unload()  # waits for the worker's end

    assert isinstance(result, rg.error.ProviderServerError)
    assert len(shut_down) == 1


def test_an_engine_that_does_not_start_is_not_tried_again_for_nothing() -> None:
    said = RuntimeError("Engine core initialization failed. Failed core proc(s): {}")

    error = load_error(said, EngineSpec("m"))

    assert isinstance(error, rg.error.ProviderServerError)
    assert not error.retryable
    assert "too little memory" in str(error)


def test_who_gave_up_with_a_closed_loop_is_aborted_all_the_same() -> None:
    aborted: list[str] = []

    async def make() -> Ticket:
        ticket = Ticket(Request.now("One", PARAMS), EngineSpec("m"), streams=True)
        ticket.answer.add_done_callback(lambda _: None)  # as one has that is awaited
        return ticket

    ticket = asyncio.run(make())
    ticket.abort = lambda: aborted.append("aborted")

    ticket.close()

    assert aborted == ["aborted"]


def test_unloading_waits_for_what_was_asked_in_the_same_turn_of_the_loop() -> None:
    generator = VLLMGenerator(model="./nowhere")

    async def unload() -> list[Any]:
        asked = asyncio.create_task(generator.generate_texts(["One"], [PARAMS]))
        await asyncio.sleep(0)
        generator.unload()
        return list(await asked)

    (result,) = asyncio.run(unload())

    assert isinstance(result, rg.error.ModelNotFoundError)
    assert generator._engine._worker is None  # type: ignore[attr-defined]


def test_a_finalizer_may_come_while_the_worker_is_busy() -> None:
    worker = Worker(EngineSpec("./nowhere"), None)

    def retire() -> None:
        with worker._lock:
            worker.retire()

    thread = threading.Thread(target=retire, daemon=True)
    thread.start()
    thread.join(10)

    assert not thread.is_alive()
    worker.join()


# -- Fields that change ------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda g: g.lora_modules.update(law="./law"), id="adapters"),
        pytest.param(lambda g: g.compilation_config["pass_config"].clear(), id="nested"),
        pytest.param(lambda g: g.cudagraph_capture_sizes.append(4), id="list"),
        pytest.param(lambda g: setattr(g, "max_model_len", 8), id="assigned"),
        pytest.param(lambda g: setattr(g, "api_key", "hf_other"), id="key"),
    ],
)
def test_a_change_also_in_place_asks_for_another_engine(
    change: Callable[[VLLMGenerator], None],
) -> None:
    generator = VLLMGenerator(
        model="m",
        lora_modules={"sql": "./sql"},
        compilation_config={"pass_config": {"fuse": True}},
        cudagraph_capture_sizes=[1, 2],
    )
    before = generator._spec()
    assert generator._spec() == before

    change(generator)

    assert generator._spec() != before
    assert before.adapters == {"sql": "./sql"}
    assert before.arguments["compilation_config"] == {"pass_config": {"fuse": True}}


def test_an_argument_that_equals_no_copy_of_it_asks_for_one_engine() -> None:
    generator = VLLMGenerator(model="m", hf_overrides={"by": object()})

    assert generator._spec() is generator._spec()


# -- Notes of spawned processes ----------------------------------------------------------


def test_notes_are_left_where_nobody_else_can_write() -> None:
    before = dict(os.environ)
    with note_of_spawned() as first, note_of_spawned() as second:
        for note in (first, second):
            assert not note.exists()
            assert stat.S_IMODE(note.parent.stat().st_mode) == 0o700
        told = set(os.environ.items()) - set(before.items())
        assert {value for _, value in told} == {str(first.parent), str(second.parent)}

    assert dict(os.environ) == before
    assert not first.parent.exists()


# -- An event loop that stops ------------------------------------------------------------


@pytest.fixture
def other_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread until somebody stops it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_requests_end_with_the_loop_of_a_borrowed_engine(
    other_loop: asyncio.AbstractEventLoop,
) -> None:
    class Silent:
        def accept(self, tickets: object) -> None:
            other_loop.stop()

    engine = BorrowedAsyncLLM(SimpleNamespace(errored=False))
    engine._loop, engine._responder = other_loop, Silent()  # type: ignore[assignment]
    generator = VLLMGenerator(model="mine")
    generator._engine = engine

    (result,) = ask(generator, "One")

    assert isinstance(result, rg.error.ProviderServerError)
    assert "does not run any more" in str(result)


def test_a_borrowed_engine_that_cannot_be_used_fails_the_requests() -> None:
    generator = VLLMGenerator(model="mine")
    generator._engine = BorrowedAsyncLLM(None)

    (result,) = ask(generator, "One")

    assert isinstance(result, rg.error.RiggingError)
    assert isinstance(result.__cause__, AttributeError)


# -- Secrets -----------------------------------------------------------------------------


def test_an_exception_loses_its_secrets_wherever_they_stand() -> None:
    secret = "hf_planted_51c7"
    os_error = OSError(f"refused {secret}")
    os_error.add_note(f"with {secret}")
    os_error.url = f"http://x/?token={secret}"  # type: ignore[attr-defined]
    value_error = ValueError({"hf_token": secret})
    value_error.__cause__ = os_error
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(dict[str, int]).validate_python({"hf_token": secret})
    caught.value.__context__ = value_error
    error = RuntimeError("cannot load")
    error.__cause__ = caught.value

    assert without([secret], error) is error

    refusal = error.__cause__
    assert isinstance(refusal, ValidationError)
    (fault,) = refusal.errors()
    assert (fault["loc"], fault["input"]) == (("hf_token",), None)
    assert "valid integer" in fault["msg"]
    assert refusal.__context__ is value_error
    assert value_error.__cause__ is os_error
    for one in (error, refusal, value_error, os_error):
        assert secret not in repr((one, str(one), vars(one)))
        assert secret not in "".join(traceback.format_exception(one))


def test_an_exception_without_secrets_stays_as_it_is() -> None:
    error = ValueError("odd")
    assert without([], error) is error
    assert without(["hf_planted_51c7"], error) is error
