"""Engines start, end, die, and make room for others."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import shutil
import signal
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pydantic
import pytest

import rigging as rg
from rigging_vllm import VLLMGenerator
from rigging_vllm._request import Request
from rigging_vllm._ticket import Ticket
from tests.support.lora_adapter import make_lora_adapter
from tests.vllm.conftest import SMALL, engine_processes, in_forked_child

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GREEDY = rg.GenerateParams(temperature=0, max_tokens=4)
ENDLESS = rg.GenerateParams(temperature=0, extra={"ignore_eos": True})


def ask(generator: VLLMGenerator, text: str = "One two", **params: Any) -> Any:
    own = GREEDY.merge_with(rg.GenerateParams(**params))
    (result,) = asyncio.run(generator.generate_texts([text], [own]))
    return result


class Told:
    """A plugin that keeps what it is told of models."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def rigging_model_loaded(self, event: rg.events.ModelLoaded) -> None:
        self.events.append(event)

    def rigging_model_unloaded(self, event: rg.events.ModelUnloaded) -> None:
        self.events.append(event)


def test_a_plugin_that_is_told_of_a_model_cannot_wait_for_its_engine(
    generator: VLLMGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator.unload()
    refused: list[str] = []

    class Meddles:
        def rigging_model_loaded(self, event: rg.events.ModelLoaded) -> None:
            for call in (generator.load, generator.unload):
                with pytest.raises(rg.error.RiggingError) as caught:
                    call()
                refused.append(str(caught.value))

        rigging_model_unloaded = rigging_model_loaded

    with rg.plugins.manager.register(Meddles()):
        generator.load()
        monkeypatch.setattr(generator, "max_num_seqs", 2)  # the next one waits for this one's end
        generator.load()

    assert len(refused) == 3 * 2
    assert all("start a thread" in text for text in refused)
    assert ask(generator).text


def test_threads_that_load_at_once_start_one_engine(generator: VLLMGenerator) -> None:
    loaded = []
    threads = [threading.Thread(target=lambda: loaded.append(generator.load())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert loaded == [generator] * 4
    assert len(engine_processes()) == 1
    assert generator.load() is generator


def test_an_engine_that_is_killed_fails_what_waits_and_is_replaced(
    generator: VLLMGenerator,
) -> None:
    generator.load()
    borrower = VLLMGenerator.from_obj("borrowed", generator._engine._worker._llm)  # type: ignore[attr-defined]
    (process,) = engine_processes()
    before = ask(generator).text

    async def kill() -> list[Any]:
        stream = generator.stream_texts("One", ENDLESS)
        await anext(stream)
        others = asyncio.create_task(generator.generate_texts(["Two"] * 32, [ENDLESS] * 32))
        await asyncio.sleep(0)
        os.kill(process.pid or 0, signal.SIGKILL)
        with pytest.raises(rg.error.ProviderServerError, match="engine has died"):
            async for _ in stream:
                pass
        return list(await others)

    # More waits than the engine advances at once, so some must still wait when it dies.
    lost = [result for result in asyncio.run(kill()) if isinstance(result, Exception)]

    assert lost
    for error in lost:
        assert isinstance(error, rg.error.ProviderServerError)
        assert error.retryable
        assert (error.provider, error.model) == ("vllm", generator.model)
    # Who has only borrowed it cannot start another.
    told = ask(borrower)
    assert isinstance(told, rg.error.ProviderServerError)
    assert "given to from_obj() has died" in str(told)
    assert not told.retryable
    assert ask(generator).text == before
    assert [child.pid for child in engine_processes()] != [process.pid]


@pytest.fixture
def adapting(shared: VLLMGenerator, tiny_model: Path, tmp_path: Path) -> Iterator[VLLMGenerator]:
    """An engine that holds one adapter at a time, and is the only one."""
    shared.unload()
    adapters = {name: str(make_lora_adapter(tmp_path / name)) for name in ("one", "two")}
    room = {"max_loras": 1, "max_cpu_loras": 1}
    generator = VLLMGenerator(model=str(tiny_model), lora_modules=adapters, **room, **SMALL)
    yield generator
    generator.unload()


def test_an_adapter_that_made_room_and_is_gone_fails_its_request_only(
    adapting: VLLMGenerator,
) -> None:
    for name in ("one", "two"):
        assert ask(adapting, extra={"lora": name}).text
    shutil.rmtree(adapting.lora_modules["one"])
    lost = GREEDY.merge_with(rg.GenerateParams(extra={"lora": "one"}))

    bad, good = asyncio.run(adapting.generate_texts(["One", "Two"], [lost, GREEDY]))

    assert isinstance(bad, rg.error.BadRequestError)
    assert isinstance(good, rg.GeneratedText)


def test_an_engine_that_dies_while_it_reads_an_adapter_is_replaced(
    adapting: VLLMGenerator,
) -> None:
    before = ask(adapting, extra={"lora": "one"}).text
    (process,) = engine_processes()

    async def kill() -> list[Any]:
        os.kill(process.pid or 0, signal.SIGSTOP)  # so that it does not answer before it dies
        params = GREEDY.merge_with(rg.GenerateParams(extra={"lora": "two"}))
        asked = asyncio.create_task(adapting.generate_texts(["One"], [params]))
        await asyncio.sleep(0.5)
        os.kill(process.pid or 0, signal.SIGKILL)
        return list(await asyncio.wait_for(asked, 30))

    (lost,) = asyncio.run(kill())

    assert isinstance(lost, rg.error.ProviderServerError)
    assert "has died" in str(lost)
    assert ask(adapting, extra={"lora": "one"}).text == before


def test_code_that_leaves_the_engines_thread_fails_its_own_request(
    generator: VLLMGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator.load()

    async def leave(_: object) -> None:
        raise SystemExit(3)

    with monkeypatch.context() as patched:
        prompts = generator._engine._worker._responder._prompts  # type: ignore[attr-defined]
        patched.setattr(prompts, "render", leave)
        failed = ask(generator)

    assert isinstance(failed, rg.error.ProviderServerError)
    assert "SystemExit: 3" in str(failed)
    assert ask(generator).text


def test_a_field_that_is_assigned_makes_another_engine_once_the_old_one_has_answered(
    generator: VLLMGenerator,
) -> None:
    async def assign() -> list[Any]:
        old = asyncio.create_task(generator.generate_texts(["One"], [ENDLESS]))
        await asyncio.sleep(0.05)
        generator.max_model_len = 32
        new = asyncio.create_task(generator.generate_texts(["One"], [ENDLESS]))
        return [*await old, *await new]

    generator.load()
    try:
        old, new = asyncio.run(assign())
    finally:
        generator.max_model_len = SMALL["max_model_len"]

    assert old.usage.total_tokens == SMALL["max_model_len"]
    assert new.usage.total_tokens == 32
    assert len(engine_processes()) == 1


def test_unloading_ends_the_engine_once_it_has_answered_and_the_next_use_starts_another(
    generator: VLLMGenerator,
) -> None:
    before = ask(generator).text
    borrower = VLLMGenerator.from_obj("borrowed", generator._engine._worker._llm)  # type: ignore[attr-defined]
    answered = []

    async def endless() -> None:
        answered.extend(await generator.generate_texts(["One"] * 16, [ENDLESS] * 16))

    thread = threading.Thread(target=lambda: asyncio.run(endless()))
    thread.start()
    while not generator._engine._worker._responder._tasks:  # type: ignore[attr-defined]
        time.sleep(0.001)
    told = Told()
    with rg.plugins.manager.register(told):
        assert generator.unload().unload() is generator
        thread.join()

        assert engine_processes() == []
        assert told.events == [rg.events.ModelUnloaded("vllm", generator.model)]
    lost = ask(borrower)
    assert isinstance(lost, rg.error.ProviderServerError)
    assert "does not run any more" in str(lost)
    assert not lost.retryable
    assert [result.usage.total_tokens for result in answered] == [SMALL["max_model_len"]] * 16

    # Time runs while the engine loads, and what has run out does not hold up the others.
    started = time.monotonic()
    late = ask(generator, timeout=0.2)
    assert time.monotonic() - started < 10
    assert isinstance(late, rg.error.ProviderTimeoutError)
    with rg.plugins.manager.register(told):
        assert ask(generator).text == before
    assert told.events[1][:2] == ("vllm", generator.model)
    assert told.events[1].duration_s > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_child_is_told_that_the_engine_is_its_parents(
    generator: VLLMGenerator, tiny_model: Path
) -> None:
    generator.load()

    assert in_forked_child(generator).startswith("this process was forked from the one that has")
    # One that has not been used yet starts an engine of its own there.
    assert in_forked_child(VLLMGenerator(model="./nowhere")).startswith("no such file")
    assert in_forked_child(copy.copy(VLLMGenerator(model="./nowhere"))).startswith("no such file")
    assert isinstance(ask(generator), rg.GeneratedText)


def test_a_request_that_is_aborted_before_it_begins_is_told_so(generator: VLLMGenerator) -> None:
    worker = generator.load()._engine._worker  # type: ignore[attr-defined]

    async def abort() -> Any:
        ticket = Ticket(Request.now("One", GREEDY), worker.spec)

        def come_and_go() -> None:
            worker._responder.accept([ticket])
            worker._responder.abort()

        worker._loop.call_soon_threadsafe(come_and_go)
        return await asyncio.wait_for(ticket.answer, 60)

    error = asyncio.run(abort())

    assert isinstance(error, rg.error.ProviderServerError)
    assert "shut down before it answered" in str(error)


def test_an_engine_that_nobody_can_use_any_more_ends(generator: VLLMGenerator) -> None:
    generator.load()
    worker = generator._engine._worker  # type: ignore[attr-defined]
    llm = weakref.ref(worker._llm)
    refused = [ask(generator, top_p=0.0), ask(generator, "x" * 1000), ask(generator, seed=2**64)]
    assert all(isinstance(error, rg.error.BadRequestError) for error in refused)

    generator._engine = copy.deepcopy(generator._engine)
    gc.collect()
    worker.join()

    assert engine_processes() == []
    assert llm() is None
    assert refused  # errors that are kept do not keep it


# -- What cannot be loaded ---------------------------------------------------------------


def test_what_vllm_refuses_to_load_is_an_error_of_the_generator(tiny_model: Path) -> None:
    generator = VLLMGenerator(model=str(tiny_model), **{**SMALL, "max_model_len": 10**6})

    with pytest.raises(rg.error.InvalidGeneratorError, match="max_model_len") as caught:
        generator.load()
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_hub_token_that_cannot_be_sent_is_refused_before_anybody_shows_it(
    tiny_model: Path,
) -> None:
    generator = VLLMGenerator(model=str(tiny_model), api_key="hf_planted_51c7\n", **SMALL)

    with pytest.raises(rg.error.AuthenticationError, match="a line break") as caught:
        generator.load()
    assert "planted" not in str(caught.value)


def test_what_vllm_says_of_a_refusal_holds_no_hub_token(tiny_model: Path) -> None:
    token = "hf_planted_51c7"
    options = {**SMALL, "max_model_len": 10**6}
    generator = VLLMGenerator(model=str(tiny_model), api_key=token, **options)

    with pytest.raises(rg.error.InvalidGeneratorError, match="max_model_len") as caught:
        generator.load()

    chain = list(exceptions_of(caught.value))
    assert any(isinstance(error, pydantic.ValidationError) for error in chain)
    for error in chain:
        assert token not in repr((error, str(error), error.args, vars(error)))
        if isinstance(error, pydantic.ValidationError):
            assert token not in repr(error.errors())


def exceptions_of(error: BaseException | None) -> Iterator[BaseException]:
    if error is not None:
        yield error
        yield from exceptions_of(error.__cause__)
        yield from exceptions_of(error.__context__)


def test_a_model_that_the_hub_does_not_have_fails_each_request() -> None:
    generator = VLLMGenerator(model="nobody/has-such-a-model", **SMALL)

    results = asyncio.run(generator.generate_texts(["One", "Two"], [GREEDY] * 2))

    for result in results:
        assert isinstance(result, rg.error.ModelNotFoundError)
        assert isinstance(result.__cause__, OSError)
        assert "vLLM cannot get the model" in str(result)
    assert results[0] is not results[1]


def test_no_request_loads_nothing(tiny_model: Path) -> None:
    generator = VLLMGenerator(model=str(tiny_model))
    threads = set(threading.enumerate())

    assert asyncio.run(generator.generate_texts([], [])) == []
    assert generator.unload() is generator
    # Threads of earlier tests may end meanwhile; none has begun.
    assert set(threading.enumerate()) <= threads
