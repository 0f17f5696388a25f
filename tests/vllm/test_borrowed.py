"""Engines of the caller's own."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import threading
from typing import TYPE_CHECKING, Any

import pytest

import rigging as rg
from rigging.error import UnsupportedParameterWarning
from rigging_vllm import VLLMGenerator, _batch
from rigging_vllm._batch import Batch
from tests.support.tiny_model import CHAT_TEMPLATE
from tests.vllm.conftest import MAX_MODEL_LEN, SMALL, check_variables_of_templates, in_forked_child

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GREEDY = rg.GenerateParams(temperature=0, max_tokens=8)
ENDLESS = rg.GenerateParams(extra={"ignore_eos": True})
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


class Panic(BaseException):
    """What a panic of Rust code arrives as: no `Exception`."""


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> Any:
    """A `vllm.LLM` of the caller's own, which can have adapters."""
    import vllm

    # One slot stays free: without an adapter, a CPU computes with the last slot.
    return vllm.LLM(str(tiny_model), enable_lora=True, max_loras=2, **SMALL)


@pytest.fixture(params=["AsyncLLM", "LLM"])
def mine(request: pytest.FixtureRequest, shared: VLLMGenerator, llm: Any) -> VLLMGenerator:
    """A generator around an engine that exists already."""
    if request.param == "AsyncLLM":
        llm = shared.load()._engine._worker._llm  # type: ignore[attr-defined]
    return VLLMGenerator.from_obj("mine", llm, params=rg.GenerateParams(temperature=0))


def raising(error: BaseException) -> Callable[..., Any]:
    """Return a function that does nothing but raise."""

    def fail(*_args: object, **_kwargs: object) -> Any:
        raise error

    return fail


def ask(generator: VLLMGenerator, *texts: str, params: rg.GenerateParams = GREEDY) -> list[Any]:
    return list(asyncio.run(generator.generate_texts(texts, [params] * len(texts))))


def test_it_answers_as_an_engine_of_ones_own(mine: VLLMGenerator, shared: VLLMGenerator) -> None:
    texts = [f"Number {number}" for number in range(20)]

    assert ask(mine, *texts) == ask(shared, *texts)
    chats = [asyncio.run(one.chat("Hi").with_(GREEDY).run()) for one in (mine, shared)]
    assert chats[0].last.text == chats[1].last.text


def test_it_is_left_alone(mine: VLLMGenerator) -> None:
    before = ask(mine, "One")

    assert mine.load().unload().unload() is mine
    assert ask(mine, "One") == before
    assert mine.to_identifier() == "vllm!mine,temperature=0.0"


def test_a_stream_gives_what_a_call_gives(mine: VLLMGenerator) -> None:
    async def pieces() -> list[Any]:
        return [piece async for piece in mine.stream_texts("One two", GREEDY)]

    *texts, last = asyncio.run(pieces())

    assert "".join(texts) == last.text
    assert [last] == ask(mine, "One two")


def test_a_timeout_aborts_its_request_only(mine: VLLMGenerator) -> None:
    late = ENDLESS.merge_with(rg.GenerateParams(timeout=0.02))

    first, second = asyncio.run(mine.generate_texts(["One", "Two"], [late, ENDLESS]))

    assert isinstance(first, rg.error.ProviderTimeoutError)
    assert isinstance(second, rg.GeneratedText)
    assert second.usage is not None
    assert second.usage.total_tokens == MAX_MODEL_LEN


def test_a_failure_is_one_requests_own(mine: VLLMGenerator) -> None:
    long, good, empty = asyncio.run(
        mine.generate_messages(
            [[rg.Message("user", "x" * 999)], [rg.Message("user", "Hi")], []], [GREEDY] * 3
        )
    )

    assert isinstance(long, rg.error.ContextLengthError)
    assert isinstance(good, rg.GeneratedMessage)
    assert isinstance(empty, rg.error.InvalidMessageError)


def test_tools_that_go_nowhere_are_named(mine: VLLMGenerator) -> None:
    with pytest.warns(UnsupportedParameterWarning, match="'tools'"):
        asyncio.run(mine.chat("Hi").with_(GREEDY).with_(tools=[TOOL]).run())


def test_extra_sets_variables_of_the_chat_template(
    mine: VLLMGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = mine._engine._llm  # type: ignore[attr-defined]

    check_variables_of_templates(mine, llm.get_tokenizer(), monkeypatch)


def test_tools_and_parts_go_through_the_chat_template(
    mine: VLLMGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = mine._engine._llm  # type: ignore[attr-defined]
    template = "{% for tool in tools or [] %}{{ tool.function.name }};{% endfor %}" + CHAT_TEMPLATE
    monkeypatch.setattr(llm.get_tokenizer(), "chat_template", template)
    # One that looks at the template for the first time.
    mine = VLLMGenerator.from_obj("mine", llm)
    parts = rg.Message("user", [rg.TextPart(text="One"), rg.TextPart(text="two")])
    prompt = "f;<|start|>user\nOne\ntwo<|end|>\n<|start|>assistant\n"

    chat = asyncio.run(mine.chat(parts).with_(GREEDY).with_(tools=[TOOL]).run())

    (text,) = ask(mine, prompt)
    assert chat.last.text == text.text
    assert chat.usage is not None
    assert chat.usage.input_tokens == text.usage.input_tokens


def test_a_copy_shares_it(mine: VLLMGenerator) -> None:
    assert ask(copy.deepcopy(mine), "One") == ask(mine, "One")


def test_it_does_not_pickle(mine: VLLMGenerator) -> None:
    with pytest.raises(rg.RiggingError, match=r"from_obj\), which cannot be pickled"):
        pickle.dumps(mine)


@pytest.mark.parametrize("llm", [None, "a path", object, VLLMGenerator])
def test_something_else_than_an_engine_is_refused(llm: object) -> None:
    with pytest.raises(rg.error.InvalidGeneratorError, match=r"takes a vllm\.LLM or an AsyncLLM"):
        VLLMGenerator.from_obj("mine", llm)


def test_an_adapter_is_known_by_its_path_whoever_has_loaded_others(
    mine: VLLMGenerator, shared: VLLMGenerator
) -> None:
    noisy = GREEDY.merge_with(rg.GenerateParams(extra={"lora": "noisy"}))
    other = GREEDY.merge_with(rg.GenerateParams(extra={"lora": "other"}))
    assert isinstance(ask(shared, "One", params=noisy)[0], rg.GeneratedText)
    mine.lora_modules = {"other": "/no/where"}

    (result,) = ask(mine, "One", params=other)

    assert isinstance(result, rg.error.RiggingError)


def test_an_adapter_that_cannot_be_loaded_fails_its_own_request(
    mine: VLLMGenerator, shared: VLLMGenerator
) -> None:
    mine.lora_modules = shared.lora_modules
    gone = GREEDY.merge_with(rg.GenerateParams(extra={"lora": "gone"}))
    noisy = GREEDY.merge_with(rg.GenerateParams(extra={"lora": "noisy"}))

    good, bad = asyncio.run(mine.generate_texts(["One", "One"], [GREEDY, gone]))

    assert isinstance(bad, rg.error.BadRequestError)
    assert "the LoRA adapter 'gone' cannot be loaded from" in str(bad)
    assert [good] == ask(shared, "One")
    assert ask(mine, "One", params=noisy) == ask(shared, "One", params=noisy) != [good]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_child_is_told_that_the_engine_is_not_its_own(mine: VLLMGenerator) -> None:
    assert in_forked_child(mine).startswith("this process was forked from the one that has the")
    assert isinstance(ask(mine, "One")[0], rg.GeneratedText)


# -- An engine in this process -----------------------------------------------------------


@pytest.mark.filterwarnings("error:max_rollback_tokens is deprecated")
def test_a_request_that_vllm_gives_up_on_is_a_failure(llm: Any) -> None:
    # The warning breaks the compilation of the grammar.
    params = rg.GenerateParams(extra={"structured_outputs": {"choice": ["left", "right"]}})
    mine = VLLMGenerator.from_obj("mine", llm)

    bad, good = asyncio.run(mine.generate_texts(["Well?", "One"], [params, GREEDY]))

    assert isinstance(bad, rg.error.ProviderServerError)
    assert "vLLM gave up on the request" in str(bad)
    assert isinstance(good, rg.GeneratedText)


@pytest.mark.parametrize("kind", [RuntimeError, ValueError])
def test_a_step_that_fails_fails_all_requests(
    llm: Any, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    mine = VLLMGenerator.from_obj("mine", llm)
    with monkeypatch.context() as patch:
        patch.setattr(llm.llm_engine, "step", raising(kind("out of luck")))
        results = ask(mine, "One", "Two")

    for result in results:
        assert isinstance(result, rg.error.ProviderServerError)
        assert "out of luck" in str(result)
        assert isinstance(result.__cause__, kind)
    assert results[0] is not results[1]
    assert isinstance(ask(mine, "One")[0], rg.GeneratedText)


def test_a_model_that_fails_leaves_its_owner_a_free_engine(
    llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm import SamplingParams

    mine = VLLMGenerator.from_obj("mine", llm)
    (before,) = ask(mine, "One")
    with monkeypatch.context() as patch:
        executor = llm.llm_engine.model_executor
        patch.setattr(executor, "execute_model", raising(ValueError("out of luck")))
        ask(mine, "One", "Two")

    assert not llm.llm_engine.has_unfinished_requests()
    (output,) = llm.generate(["One"], SamplingParams(temperature=0, max_tokens=8), use_tqdm=False)
    assert output.outputs[0].text == before.text


def test_a_dead_engine_is_not_taken_for_a_bad_adapter(
    llm: Any, shared: VLLMGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    mine = VLLMGenerator.from_obj("mine", llm, lora_modules=shared.lora_modules)
    noisy = GREEDY.merge_with(rg.GenerateParams(extra={"lora": "noisy"}))
    with monkeypatch.context() as patch:
        patch.setattr(llm.llm_engine, "add_lora", raising(EngineDeadError()))
        (result,) = ask(mine, "One", params=noisy)

    assert isinstance(result, rg.error.ProviderServerError)
    assert "engine has died" in str(result)


def test_a_request_that_vllm_refuses_late_leaves_nothing_in_the_engine(
    llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = VLLMGenerator.from_obj("mine", llm)
    with monkeypatch.context() as patch:
        core = llm.llm_engine.engine_core
        patch.setattr(core, "add_request", raising(RuntimeError("cannot be sent")))
        (result,) = ask(mine, "One")

    assert isinstance(result, rg.error.ProviderServerError)
    assert isinstance(result.__cause__, RuntimeError)
    assert not llm.llm_engine.has_unfinished_requests()


@pytest.mark.parametrize("kind", [Panic, SystemExit, RuntimeError])
@pytest.mark.parametrize("where", ["making", "adding", "stepping", "reading"])
def test_whatever_is_raised_is_told_and_the_next_request_answered(
    llm: Any, monkeypatch: pytest.MonkeyPatch, where: str, kind: type[BaseException]
) -> None:
    places: dict[str, tuple[Any, str]] = {
        "making": (llm, "get_tokenizer"),
        "adding": (llm, "enqueue"),
        "stepping": (llm.llm_engine, "step"),
        "reading": (_batch, "failure_of"),
    }
    mine = VLLMGenerator.from_obj("mine", llm)
    # An error, rather than a test that hangs.
    params = GREEDY.merge_with(rg.GenerateParams(timeout=5))
    with monkeypatch.context() as patch:
        patch.setattr(*places[where], raising(kind("out of luck")))
        results = ask(mine, "One", "Two", params=params)

    for result in results:
        assert isinstance(result, rg.error.ProviderServerError)
        assert isinstance(result.__cause__, kind)
    assert isinstance(ask(mine, "One", params=params)[0], rg.GeneratedText)
    assert not llm.llm_engine.has_unfinished_requests()


def test_what_waits_goes_out_as_one_batch(llm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    has_begun = threading.Event()

    class Counted(Batch):
        def run(self, tickets: Any, *args: Any) -> None:
            batches.append(len(tickets))
            has_begun.set()
            super().run(tickets, *args)

    monkeypatch.setattr("rigging_vllm._borrowed.Batch", Counted)
    mine = VLLMGenerator.from_obj("mine", llm)

    async def ask_one_by_one() -> list[Any]:
        first = asyncio.create_task(mine.complete("One").with_(ENDLESS).run())
        await asyncio.to_thread(has_begun.wait)
        calls = [mine.complete(f"Number {number}").with_(GREEDY).run() for number in range(20)]
        return [await first, *await asyncio.gather(*calls)]

    assert len(asyncio.run(ask_one_by_one())) == 21
    assert batches == [1, 20]


def test_a_thread_that_cannot_be_started_fails_its_requests(
    llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = VLLMGenerator.from_obj("mine", llm)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", raising(RuntimeError("can't start new thread")))
        lost = ask(mine, "One", "Two")

    assert [type(one) for one in lost] == [rg.error.ProviderServerError] * 2
    assert "can't start new thread" in str(lost[0])
    assert all(isinstance(one, rg.GeneratedText) for one in ask(mine, "One", "Two"))


def test_a_batch_that_cannot_be_made_fails_its_requests(
    llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = VLLMGenerator.from_obj("mine", llm)
    with monkeypatch.context() as patch:
        patch.setattr(llm, "get_tokenizer", lambda: 1 / 0)
        results = ask(mine, "One", "Two")

    for result in results:
        assert isinstance(result, rg.error.ProviderServerError)
        assert isinstance(result.__cause__, ZeroDivisionError)
    assert isinstance(ask(mine, "One")[0], rg.GeneratedText)


# -- An engine on its own event loop -----------------------------------------------------


def test_it_may_be_asked_on_its_own_event_loop(shared: VLLMGenerator) -> None:
    worker = shared.load()._engine._worker  # type: ignore[attr-defined]
    mine = VLLMGenerator.from_obj("mine", worker._llm)

    asked = asyncio.run_coroutine_threadsafe(
        _collect(mine.generate_texts(["One"], [GREEDY])), worker._loop
    )

    assert asked.result(60) == ask(shared, "One")


async def _collect(results: Any) -> list[Any]:
    return list(await results)
