"""Generators that break one rule each, and the contract on each of them.

This file is collected by a pytest of its own, which `test_testing_contract.py` starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, ClassVar

import pytest
from pydantic import ConfigDict, PrivateAttr

import rigging as rg
from rigging.error import (
    ContextLengthError,
    NotSupportedError,
    ProviderServerError,
    ProviderTimeoutError,
)
from rigging.testing import Fault, GeneratorContract, SlowRequest
from tests.core.testing_kit import broken_values
from tests.core.testing_kit.careful import TOO_LONG, UNSUPPORTED, WAIT, Careful
from tests.core.testing_kit.costly import Costly
from tests.core.testing_kit.heavy import HEAVY, Heavy

#: By rule: the broken generators, and a part of the sentence that each must fail with.
BROKEN: dict[str, list[tuple[type[Careful], str]]] = {}

#: What else a generator cannot help failing, by its name; None: any other rule.
ALSO: dict[str, Collection[str] | None] = {}


class TestCareful(GeneratorContract):
    breaks = ""
    made_by: ClassVar[Any] = Careful

    supports_tools = True
    unsupported_params = UNSUPPORTED
    callers = 20
    patience_s = 5.0

    @pytest.fixture
    def generator(self) -> Iterator[rg.Generator]:
        with rg.register_generator("careful", self.made_by):
            yield self.made_by(model="any")

    @pytest.fixture
    def faults(self) -> Sequence[Fault]:
        return [Fault(error=ContextLengthError, prompt=TOO_LONG, retry_after=7.0)]

    @pytest.fixture
    def slow(self) -> SlowRequest:
        return SlowRequest(prompt=WAIT, params=rg.GenerateParams(), after_s=0.02)


def breaks(
    rule: str, sentence: str, *, also: Collection[str] | None = (), **switches: Any
) -> Callable[[type[Careful]], type[Careful]]:
    """Say which rule a generator breaks: the contract is tested on it, too.

    Args:
        rule: The test that fails.
        sentence: A part of what it fails with.
        also: Other tests that see the same; None for whatever they are.
        switches: Of the contract.
    """

    def register(cls: type[Careful]) -> type[Careful]:
        name = f"Test{cls.__name__}"
        assert name not in globals(), name
        BROKEN.setdefault(rule, []).append((cls, sentence))
        ALSO[cls.__name__] = also
        members = {"breaks": rule, "made_by": cls, "__module__": __name__, **switches}
        globals()[name] = type(name, (TestCareful,), members)
        return cls

    return register


def _text_of(given: Any) -> str:
    return given if isinstance(given, str) else given[-1].text


# -- Batches -----------------------------------------------------------------------------
# Some show only in the batches of one test, by their size.


@breaks("test_every_input_has_its_result", "7 inputs give 7 results, not 6")
class Losing(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        results = await super().all_of(inputs, params)
        return results[:-1] if len(inputs) == 7 else results


@breaks("test_every_input_has_its_result", "20 inputs give 20 results, not 8")
class LosingBeyondEight(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        return (await super().all_of(inputs, params))[:8]


@breaks("test_every_input_has_its_result", "is a GeneratedMessage, not 'You said")
class Shortening(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        results = await super().all_of(inputs, params)
        return list(map(str, results)) if len(inputs) == 7 else results


@breaks("test_every_input_has_its_result", "have one object in common")
class Remembering(Careful):
    _answers: dict[Any, Any] = PrivateAttr(default_factory=dict)

    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        told = str(given) if isinstance(given, str) else repr([(m.role, m.text) for m in given])
        key = type(given), told, repr(params)
        if key not in self._answers:
            self._answers[key] = super().answer(given, prompt, params)
        return self._answers[key]


@breaks("test_every_input_has_its_result", "have one dict `extra` in common")
class SharingItsExtra(Careful):
    _extra: dict[str, Any] = PrivateAttr(default_factory=dict)

    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        result = super().answer(given, prompt, params)
        return result.model_copy(update={"extra": self._extra})


@breaks("test_results_come_in_the_order_of_inputs", "and do not depend on their neighbours")
class Shuffling(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        results = await super().all_of(inputs, params)
        return sorted(results, key=str) if len(inputs) == 4 else results


@breaks("test_results_come_in_the_order_of_inputs", "also of 20: ")
class MixingChunks(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        results = await super().all_of(inputs, params)
        chunks = [results[start : start + 8] for start in range(0, len(results), 8)]
        return [result for chunk in reversed(chunks) for result in chunk]


@breaks("test_an_empty_batch_gives_no_results", "here came ValueError('nothing to do')")
class NeverIdle(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        if not inputs:
            raise ValueError("nothing to do")
        return await super().all_of(inputs, params)


@breaks("test_any_text_gives_a_result_or_its_own_error", "the whole call raised ValueError('emp")
class Fussy(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        if not all(map(_text_of, inputs)):
            raise ValueError("empty")
        return await super().all_of(inputs, params)


@breaks("test_any_text_gives_a_result_or_its_own_error", "7 came for 8 of them")
class LeavingOutEmptyTexts(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        kept = [(given, own) for given, own in zip(inputs, params, strict=True) if _text_of(given)]
        return await super().all_of(*zip(*kept, strict=True)) if kept else []


@breaks("test_any_text_gives_a_result_or_its_own_error", "or an exception, not None")
class SilentOfEmptyTexts(Careful):
    async def one(self, given: Any, own: Any) -> Any:
        return await super().one(given, own) if _text_of(given) else None


@breaks("test_any_text_gives_a_result_or_its_own_error", "beside it came ContextLengthError(")
class FailingAllBesideOdd(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        if not all(map(_text_of, inputs)):
            return [self.failure() for _ in inputs]
        return await super().all_of(inputs, params)


@breaks(
    "test_any_conversation_gives_a_result_or_its_own_error", "the whole call raised KeyError('sy"
)
class WithoutSystem(Careful):
    async def generate_messages(self, messages: Any, params: Any) -> Any:
        for conversation in messages:
            if conversation[0].role == "system":
                raise KeyError("system")
        return await super().generate_messages(messages, params)


@breaks("test_any_conversation_gives_a_result_or_its_own_error", "result of a tool gives a Gener")
class WithoutTools(Careful):
    async def one(self, given: Any, own: Any) -> Any:
        if given and not isinstance(given, str) and given[-1].role == "tool":
            raise KeyError("tool")
        return await super().one(given, own)


@breaks("test_any_conversation_gives_a_result_or_its_own_error", "several turns is continued: he")
class OfOneTurn(Careful):
    async def one(self, given: Any, own: Any) -> Any:
        if not isinstance(given, str) and len(given) > 1:
            raise self.failure()
        return await super().one(given, own)


@breaks("test_a_failure_is_that_of_its_item_only", "the whole call raised ContextLengthError(")
class AllOrNothing(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        results = await super().all_of(inputs, params)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results


@breaks("test_a_failure_is_that_of_its_item_only", "neighbours are answered; these failed: [Con")
class FailingTogether(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        results = await super().all_of(inputs, params)
        failed = [result for result in results if isinstance(result, BaseException)]
        return [failed[0] for _ in results] if failed else results


@breaks(
    "test_what_it_cannot_do_it_says",
    "generate_messages is not supported, and so it raises NotImplementedError",
    supports_messages=False,
)
class Evasive(Careful):
    async def generate_messages(self, messages: Any, params: Any) -> Any:
        return [None for _ in messages]


@breaks(
    "test_what_it_cannot_do_it_says",
    "stream_texts is not supported, and so it raises NotImplementedError, as that of rigging.Gen"
    "erator does; here came []",
    supports_texts=False,
)
class StreamingNothing(Careful):
    async def generate_texts(self, texts: Any, params: Any) -> Any:
        raise NotSupportedError("no texts here")

    async def stream_texts(self, text: Any, params: Any) -> Any:
        for nothing in ():
            yield nothing


# -- Parameters --------------------------------------------------------------------------


@breaks("test_each_item_has_its_own_params", "each item has its own params: ")
class FirstParamsForAll(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        return await super().all_of(inputs, [*params[:1]] * len(params))


@breaks("test_params_of_a_call_override_the_generators", "a call with max_tokens=1 went by")
class Stubborn(Careful):
    def merged(self, own: Any) -> rg.GenerateParams:
        return own.merge_with(self.params)


@breaks("test_nothing_is_changed", "the inputs differ now")
class Meddling(Careful):
    async def generate_messages(self, messages: Any, params: Any) -> Any:
        for conversation in messages:
            if isinstance(conversation, list):
                conversation.insert(0, rg.Message("system", "Be careful."))
        return await super().generate_messages(messages, params)


@breaks("test_a_stop_text_ends_an_answer", "an answer ends before a stop text: ")
class Unstoppable(Careful):
    def merged(self, own: Any) -> rg.GenerateParams:
        return super().merged(own).model_copy(update={"stop": None})


@breaks("test_a_seed_makes_answers_repeatable", "equal seeds give equal answers: ")
class Moody(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        mood = random.randbytes(4).hex() if params.temperature else ""  # noqa: S311
        return super().answer(given, mood + prompt, params)


@breaks("test_a_parameter_is_honoured_or_warned_about", "audio (in messages) is unsupported")
class Silent(Careful):
    def warn(self, params: rg.GenerateParams) -> None:
        super().warn(params.model_copy(update={"audio": None}))


# -- Results -----------------------------------------------------------------------------


def _with_usage(result: Any, **tokens: int) -> Any:
    return result.model_copy(update={"usage": result.usage.model_copy(update=tokens)})


class _EndingOtherwise(Careful):
    """Changes the results at the end of streams of so many tokens, which one rule asks for."""

    asked: ClassVar[int]

    def end(self, result: Any) -> Any:
        raise NotImplementedError

    async def pieces_of(self, given: Any, params: Any) -> Any:
        async for item in super().pieces_of(given, params):
            changes = not isinstance(item, str) and params.max_tokens == self.asked
            yield self.end(item) if changes else item


@breaks("test_usage_is_counted", "`input_tokens` of a call is 0")
class Uncounted(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        results = await super().all_of(inputs, params)
        short = all(own.max_tokens == 4 for own in params)
        for result in results if short else ():
            if not isinstance(result, BaseException):
                object.__setattr__(result, "usage", rg.Usage(output_tokens=4))
        return results


@breaks("test_usage_is_counted", "`input_tokens` of a stream is 0")
class UncountedStreams(_EndingOtherwise):
    asked: ClassVar[int] = 4

    def end(self, result: Any) -> Any:
        return _with_usage(result, input_tokens=0)


@breaks("test_usage_is_counted", "`output_tokens` of a stream is 0")
class UncountedAnswers(_EndingOtherwise):
    asked: ClassVar[int] = 4

    def end(self, result: Any) -> Any:
        return _with_usage(result, output_tokens=0)


@breaks("test_usage_is_counted", "total_tokens counts both: ")
class Subtracting(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        return _with_usage(super().answer(given, prompt, params), total_tokens=1)


@breaks("test_usage_is_counted", "the tokens of each prompt, and no padding: [5, 5, 7, 7] alone")
class Padding(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        results = await super().all_of(inputs, params)
        answered = [one for one in results if not isinstance(one, BaseException)]
        most = max((one.usage.input_tokens for one in answered), default=0)
        return [_with_usage(one, input_tokens=most) if one in answered else one for one in results]


@breaks("test_usage_is_counted", "a result says what it took: `usage` is filled", also=None)
class Careless(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        return super().answer(given, prompt, params).model_copy(update={"usage": None})


@breaks("test_usage_is_counted", "a request that has to succeed gave ContextLengthE", also=None)
class AtMostThree(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        results = await super().all_of(inputs, params)
        return [*results[:3], *(self.failure() for _ in results[3:])]


@breaks("test_the_stop_reason_is_told", "ended by 'length', not 'stop' (a call)")
class NeverCut(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        result = super().answer(given, prompt, params)
        cut = result.stop_reason is rg.StopReason.length
        return result.model_copy(update={"stop_reason": rg.StopReason.stop}) if cut else result


@breaks("test_the_stop_reason_is_told", "`stop_reason` of a stream is not filled")
class StreamingWithoutReason(_EndingOtherwise):
    asked: ClassVar[int] = 1

    def end(self, result: Any) -> Any:
        return result.model_copy(update={"stop_reason": rg.StopReason.unknown})


@breaks("test_pipelines_run_it", "an assistant says: ['user', 'user', 'user']")
class Impersonating(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        result = super().answer(given, prompt, params)
        if isinstance(given, str) or result.message.tool_calls:
            return result
        return result.model_copy(update={"message": rg.Message("user", str(result))})


@breaks("test_pipelines_run_it", "a pipeline streams it, too: stream() raised KeyError(")
class StreamingListsOnly(Careful):
    async def stream_messages(self, messages: Any, params: Any) -> Any:
        if not isinstance(messages, list):
            raise KeyError(type(messages))
        async for item in super().stream_messages(messages, params):
            yield item


@breaks("test_a_stream_gives_what_a_call_gives", "the pieces of a stream add up to its result: ")
class TwoFaced(Careful):
    async def pieces_of(self, given: Any, params: Any) -> Any:
        async for item in super().pieces_of(given, params):
            yield f"{item} " if isinstance(item, str) else item


@breaks("test_a_stream_gives_what_a_call_gives", "the pieces of a stream add up to its result: ")
class CuttingCharacters(Careful):
    async def pieces_of(self, given: Any, params: Any) -> Any:
        async for item in super().pieces_of(given, params):
            text = item.encode() if isinstance(item, str) else b""
            for start in range(0, len(text), 3):
                yield text[start : start + 3].decode(errors="ignore")
        yield item


@breaks("test_a_stream_gives_what_a_call_gives", "all items of a stream but the last are text: ")
class StreamingBytes(Careful):
    async def pieces_of(self, given: Any, params: Any) -> Any:
        async for item in super().pieces_of(given, params):
            yield item.encode() if isinstance(item, str) else item


@breaks("test_a_stream_gives_what_a_call_gives", "the tokens of its prompt as a call does: 0, not")
class StreamingUncountedPrompts(_EndingOtherwise):
    asked: ClassVar[int] = 12

    def end(self, result: Any) -> Any:
        return _with_usage(result, input_tokens=0)


@breaks("test_a_stream_gives_what_a_call_gives", "the tokens of its answer as a call does: 0, not")
class StreamingUncountedAnswers(_EndingOtherwise):
    asked: ClassVar[int] = 12

    def end(self, result: Any) -> Any:
        return _with_usage(result, output_tokens=0)


@breaks("test_a_stream_gives_what_a_call_gives", "for the reason that a call does: 'length', not")
class StreamingAlwaysCut(_EndingOtherwise):
    asked: ClassVar[int] = 12

    def end(self, result: Any) -> Any:
        return result.model_copy(update={"stop_reason": rg.StopReason.length})


@breaks(
    "test_a_stream_gives_what_a_call_gives", "a stream gives what a call gives: 'You said: naive f"
)
class StreamingElse(Careful):
    async def pieces_of(self, given: Any, params: Any) -> Any:
        text = _text_of(given).replace("naïve", "naive")
        other = text if isinstance(given, str) else [*given[:-1], rg.Message("user", text)]
        async for item in super().pieces_of(other, params):
            yield item


@breaks("test_a_stream_comes_in_pieces", "the whole answer came as ['You said: ")
class AtOnce(Careful):
    async def pieces_of(self, given: Any, params: Any) -> Any:
        result = await self.one(given, params)
        yield str(result)
        yield result


def _calling(result: Any, name: str, arguments: str, reason: str) -> Any:
    if not getattr(result, "message", None) or not result.message.tool_calls:
        return result
    function = rg.message.FunctionCall(name=name, arguments=arguments)
    calls = [rg.message.ToolCall(id="1", function=function)]
    message = rg.Message("assistant", tool_calls=calls)
    return result.model_copy(
        update={"message": message, "stop_reason": rg.StopReason(reason)},
    )


@breaks("test_a_tool_call_comes_back_as_one", "a call gives `tool_calls`: ")
class Writing(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        plain = params.model_copy(update={"tool_choice": None})
        return super().answer(given, prompt, plain)


@breaks("test_a_tool_call_comes_back_as_one", "a call names the tool that was offered")
class CallingAnother(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        return _calling(super().answer(given, prompt, params), "other", "{}", "tool_calls")


@breaks("test_a_tool_call_comes_back_as_one", "a call gives the arguments as JSON: '[]'")
class CallingWithAList(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        return _calling(super().answer(given, prompt, params), "look_up", "[]", "tool_calls")


@breaks("test_a_tool_call_comes_back_as_one", "a stream gives the arguments as JSON: '{\"te'")
class CuttingArguments(Careful):
    async def pieces_of(self, given: Any, params: Any) -> Any:
        async for item in super().pieces_of(given, params):
            yield _calling(item, "look_up", '{"te', "tool_calls")


@breaks("test_a_tool_call_comes_back_as_one", "ended by 'tool_calls', not 'stop'")
class CallingInPassing(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        return _calling(super().answer(given, prompt, params), "look_up", "{}", "stop")


# -- What is no answer at all: several rules see it --------------------------------------


@breaks("test_every_input_has_its_result", "it returned a list at once", also=None)
class Synchronous(Careful):
    def generate_messages(self, messages: Any, params: Any) -> Any:
        return [rg.GeneratedMessage.from_text("Yes.") for _ in messages]


@breaks("test_every_input_has_its_result", "here it returned a NoneType", also=None)
class ReturningNone(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        await super().all_of(inputs, params)


@breaks("test_every_input_has_its_result", "here it returned a list_iterator", also=None)
class ReturningAnIterator(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        return iter(await super().all_of(inputs, params))


@breaks("test_every_input_has_its_result", "raised KeyError('choices'): a failure is", also=None)
class Raising(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        raise KeyError("choices")


@breaks("test_usage_is_counted", "failed with KeyError('choices'): a failure is", also=None)
class FailingOddly(Careful):
    async def one(self, given: Any, own: Any) -> Any:
        raise KeyError("choices")


@breaks("test_usage_is_counted", "failed with CancelledError(): a failure is", also=None)
class GivingUp(Careful):
    async def one(self, given: Any, own: Any) -> Any:
        return asyncio.CancelledError()


@breaks("test_usage_is_counted", "one request gives one result, not 2", also=None)
class Doubling(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        results = await super().all_of(inputs, params)
        return results * 2 if len(inputs) == 1 else results


@breaks("test_usage_is_counted", "is a GeneratedMessage, not 'You said:", also=None)
class AnsweringInText(Careful):
    async def generate_messages(self, messages: Any, params: Any) -> Any:
        return [str(result) for result in await super().generate_messages(messages, params)]


@breaks("test_usage_is_counted", "here it returned a coroutine", also=None)
class ReturningAStream(Careful):
    async def stream_messages(self, messages: Any, params: Any) -> Any:
        return super().stream_messages(messages, params)


@breaks("test_usage_is_counted", "here a stream ended with 'nothing'", also=None)
class StreamingEmptiness(Careful):
    async def pieces_of(self, given: Any, params: Any) -> Any:
        for nothing in ():
            yield nothing


@breaks("test_usage_is_counted", "here a stream ended with '", also=None)
class StreamingNoResult(Careful):
    async def pieces_of(self, given: Any, params: Any) -> Any:
        async for item in super().pieces_of(given, params):
            if isinstance(item, str):
                yield item


# -- Callers -----------------------------------------------------------------------------


@breaks("test_many_callers_at_once", "answer to a call: 9 failed, the first with RuntimeError('po")
class Crowded(Careful):
    _crowd: int = 0

    async def all_of(self, inputs: Any, params: Any) -> Any:
        self._crowd += 1
        try:
            if self._crowd > 11:
                raise RuntimeError("pool of 11 is exhausted")
            return await super().all_of(inputs, params)
        finally:
            self._crowd -= 1


@breaks("test_many_callers_at_once", "answer to a stream: 9 failed, the first with RuntimeError('")
class CrowdedStreams(Careful):
    _crowd: int = 0

    async def pieces_of(self, given: Any, params: Any) -> Any:
        self._crowd += 1
        try:
            if self._crowd > 11:
                raise RuntimeError("pool of 11 is exhausted")
            async for item in super().pieces_of(given, params):
                yield item
        finally:
            self._crowd -= 1


class _Confused(Careful):
    """Answers whoever came last, once there are many."""

    _last: Any = None
    _crowd: int = 0

    async def confused(self, given: Any) -> Any:
        self._crowd += 1
        self._last = given
        await asyncio.sleep(0)
        given = self._last if self._crowd > 10 else given
        self._crowd -= 1
        return given


@breaks(
    "test_many_callers_at_once", "and here came {'You said: Four of them, and one more.'} of a c"
)
class MixingUpCallers(_Confused):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        if len(inputs) == 1:
            inputs = [await self.confused(inputs[0])]
        return await super().all_of(inputs, params)


@breaks(
    "test_many_callers_at_once", "and here came {'You said: Four of them, and one more.'} of a s"
)
class MixingUpStreams(_Confused):
    async def pieces_of(self, given: Any, params: Any) -> Any:
        async for item in super().pieces_of(await self.confused(given), params):
            yield item


@breaks("test_many_callers_at_once", "all of 4 gave 'You said: Well, it may be that it")
class Monotonous(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        result = super().answer(given, "Well, it may be that it is not.", params)
        return _with_usage(result, input_tokens=len(prompt.split()) + 1)


# It lasts neither when it is to be late.
@breaks(
    "test_a_cancelled_request_frees_its_place",
    "the fixture `slow` gives a request that lasts: this one had ended after 0.02 s",
    also=None,
)
class Hasty(Careful):
    async def wait(self, prompt: str, params: rg.GenerateParams) -> None:
        pass


# What waits for a place behind a cancelled request notices, too.
_CANCELLING = ("test_a_cancelled_request_fails_no_other",)


@breaks(
    "test_a_cancelled_request_frees_its_place",
    "a request that is cancelled frees its place: the next one was not answered within 0.5 s",
    also=(*_CANCELLING, "test_a_timeout_ends_a_request"),
    patience_s=0.5,
)
class Leaking(Careful):
    @contextlib.asynccontextmanager
    async def place(self) -> Any:
        await self.slots().acquire()
        yield
        self.slots().release()


@breaks(
    "test_a_cancelled_request_frees_its_place",
    "a request that is cancelled ends: it went on for 0.5 s",
    also=(*_CANCELLING, "test_each_item_has_its_own_params"),
    patience_s=0.5,
)
class Unstirred(Careful):
    async def wait(self, prompt: str, params: rg.GenerateParams) -> None:
        try:
            await super().wait(prompt, params)
        except asyncio.CancelledError:
            await asyncio.sleep(3600)


@breaks(
    "test_a_cancelled_request_frees_its_place",
    "raises CancelledError: here came ProviderTimeoutError(",
    also=_CANCELLING,
)
class LateWhenCancelled(Careful):
    async def wait(self, prompt: str, params: rg.GenerateParams) -> None:
        try:
            await super().wait(prompt, params)
        except asyncio.CancelledError:
            raise ProviderTimeoutError("cancelled", provider="careful", model="any") from None


class _Together(Careful):
    """Knows all of its requests that are under way."""

    _tasks: set[Any] = PrivateAttr(default_factory=set)

    async def all_of(self, inputs: Any, params: Any) -> Any:
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            return await super().all_of(inputs, params)
        except asyncio.CancelledError:
            self.cancelled(self._tasks - {task})
            raise
        finally:
            self._tasks.discard(task)

    def cancelled(self, others: set[Any]) -> None:
        for other in others:
            other.cancel()


@breaks("test_a_cancelled_request_fails_no_other", "one beside it ended with CancelledError()")
class CancellingAll(_Together):
    pass


@breaks("test_a_cancelled_request_fails_no_other", "one beside it ended with CancelledError('')")
class CancellingAllInside(_Together):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        return await Careful.all_of(self, inputs, params)

    async def one(self, given: Any, own: Any) -> Any:
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            return await super().one(given, own)
        except asyncio.CancelledError:
            self.cancelled(self._tasks - {task})
            raise
        finally:
            self._tasks.discard(task)


@breaks(
    "test_a_cancelled_request_fails_no_other",
    "4 of 4 calls beside it had no answer within 1 s",
    patience_s=1.0,
)
class LeavingOthersToWait(_Together):
    _deaf: bool = False

    async def all_of(self, inputs: Any, params: Any) -> Any:
        deaf = self._deaf
        results = await super().all_of(inputs, params)
        if self._deaf and not deaf:
            await asyncio.sleep(3600)
        return results

    def cancelled(self, others: set[Any]) -> None:
        self._deaf = len(others) > 1


@breaks(
    "test_a_stream_that_is_left_frees_its_place",
    "of 10 in a row, one ended with TimeoutError() (within 1 s)",
    patience_s=1.0,
)
class LeakingStreams(Careful):
    """As `Leaking`, where only the reader goes away."""

    _left: int = 0

    async def pieces_of(self, given: Any, params: Any) -> Any:
        if self._left == 5:
            await asyncio.sleep(3600)
        try:
            async for item in super().pieces_of(given, params):
                yield item
        except GeneratorExit:
            self._left += 1
            raise


@breaks(
    "test_a_stream_that_is_left_frees_its_place",
    "a stream that is left after its first piece frees its place: the next one was not answered",
    patience_s=1.0,
)
class SlowlyLeakingStreams(Careful):
    _left: int = 0

    async def pieces_of(self, given: Any, params: Any) -> Any:
        try:
            async for item in super().pieces_of(given, params):
                yield item
        except GeneratorExit:
            self._left += 1
            raise

    async def all_of(self, inputs: Any, params: Any) -> Any:
        if self._left > 5:
            await asyncio.sleep(3600)
        return await super().all_of(inputs, params)


@breaks("test_a_timeout_ends_a_request", "after 1.0 s came TimeoutError()", patience_s=1.0)
class Timeless(Careful):
    async def wait(self, prompt: str, params: rg.GenerateParams) -> None:
        await super().wait(prompt, params.model_copy(update={"timeout": None}))


@breaks("test_a_timeout_ends_a_request", "a call that takes longer than", patience_s=1.0)
class TakingSecondsForMinutes(Careful):
    async def wait(self, prompt: str, params: rg.GenerateParams) -> None:
        minutes = params.timeout and 60 * params.timeout
        await super().wait(prompt, params.model_copy(update={"timeout": minutes}))


@breaks("test_a_timeout_ends_a_request", "a stream that takes longer than", patience_s=1.0)
class TimelessStreams(Careful):
    async def pieces_of(self, given: Any, params: Any) -> Any:
        timeless = params.model_copy(update={"timeout": None})
        async for item in super().pieces_of(given, timeless):
            yield item


@breaks("test_a_timeout_ends_a_request", "came TimeoutError('late') (or say")
class LateInPython(Careful):
    async def pieces_of(self, given: Any, params: Any) -> Any:
        try:
            async for item in super().pieces_of(given, params):
                yield item
        except ProviderTimeoutError as error:
            raise TimeoutError("late") from error


# -- Event loops -------------------------------------------------------------------------


class _OfALoop(Careful):
    """Keeps what belongs to a loop."""

    _loop: Any = None

    def check_loop(self) -> None:
        self._loop = self._loop or asyncio.get_running_loop()
        if self._loop.is_closed():
            raise RuntimeError("Event loop is closed")

    def check_only_loop(self) -> None:
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.get_running_loop()
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("attached to a different loop")


@breaks("test_one_event_loop_after_another", "the second call raised RuntimeError('Event loop is")
class OfOneLoop(_OfALoop):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        self.check_loop()
        return await super().all_of(inputs, params)


@breaks("test_one_event_loop_after_another", "the second stream raised RuntimeError('Event loop i")
class StreamingOnOneLoop(_OfALoop):
    async def pieces_of(self, given: Any, params: Any) -> Any:
        self.check_loop()
        async for item in super().pieces_of(given, params):
            yield item


@breaks("test_two_event_loops_at_once", "here came RuntimeError('attached to a different loop')")
class OfOneLoopAtATime(_OfALoop):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        self.check_only_loop()
        return await super().all_of(inputs, params)


@breaks("test_two_event_loops_at_once", "here came RuntimeError('attached to a different loop')")
class StreamingOnOneLoopAtATime(_OfALoop):
    async def pieces_of(self, given: Any, params: Any) -> Any:
        self.check_only_loop()
        async for item in super().pieces_of(given, params):
            yield item


def _is_listened_to(inputs: Any) -> bool:
    # No other test asks five; one kind is enough.
    return len(inputs) == 5 and not isinstance(inputs[0], str)


@breaks("test_requests_never_block_the_event_loop", "the event loop goes on while requests run: ")
class Blocking(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        if self._loaded and _is_listened_to(inputs):
            time.sleep(0.6)  # noqa: ASYNC251 (that is what is wrong)
        return await super().all_of(inputs, params)


@breaks("test_requests_never_block_the_event_loop", "the event loop goes on while requests run: ")
class BlockingAtTimes(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        if self._loaded and _is_listened_to(inputs):
            time.sleep(0.5)  # noqa: ASYNC251
            await asyncio.sleep(0.6)
        return await super().all_of(inputs, params)


@breaks("test_requests_never_block_the_event_loop", "the event loop goes on while requests run: ")
class Computing(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        if self._loaded and _is_listened_to(inputs):
            sum(range(40_000_000))  # and no other thread gets the interpreter
        return await super().all_of(inputs, params)


@breaks("test_requests_never_block_the_event_loop", "the event loop goes on while requests run: ")
class BlockingStreams(Careful):
    _batches: int = 0

    async def all_of(self, inputs: Any, params: Any) -> Any:
        self._batches += _is_listened_to(inputs)
        return await super().all_of(inputs, params)

    async def pieces_of(self, given: Any, params: Any) -> Any:
        if self._batches > 1:
            time.sleep(0.6)  # noqa: ASYNC251
        async for item in super().pieces_of(given, params):
            yield item


@breaks("test_loading_never_blocks_the_event_loop", "goes on while the first use loads what it ne")
class BlockingWhileLoading(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        if not self._loaded and len(inputs) == 5:
            time.sleep(0.6)  # noqa: ASYNC251
        return await super().all_of(inputs, params)


@breaks("test_loading_never_blocks_the_event_loop", "goes on while the first use loads what it ne")
class BlockingOnce(Careful):
    _is_used: bool = False

    async def all_of(self, inputs: Any, params: Any) -> Any:
        if len(inputs) == 5 and not self._is_used:
            self._is_used = True
            time.sleep(0.6)  # noqa: ASYNC251
        return await super().all_of(inputs, params)


_IMPORTED: list[str] = []


@breaks("test_the_first_request_never_blocks_the_event_loop", "during the first request of a pro")
class ImportingOnTheLoop(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        if not _IMPORTED:
            _IMPORTED.append("all that it needs")
            time.sleep(0.6)  # noqa: ASYNC251
        return await super().all_of(inputs, params)


@breaks("test_the_first_request_never_blocks_the_event_loop", "answers in a process of its own: a")
class AnsweringHereOnly(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        if sys.argv[0] == "-c":
            raise self.failure()
        return await super().all_of(inputs, params)


# -- Values ------------------------------------------------------------------------------


@breaks("test_load_and_unload_may_be_repeated_and_alternated", "unload() returned None")
class OneWay(Careful):
    def unload(self) -> Any:
        super().unload()


@breaks("test_load_and_unload_may_be_repeated_and_alternated", "here came KeyError('engine')")
class GoneForEver(Careful):
    _is_gone: bool = False

    def unload(self) -> Any:
        self._is_gone |= self._loaded
        return super().unload()

    async def all_of(self, inputs: Any, params: Any) -> Any:
        if self._is_gone and len(inputs) == 1:
            raise KeyError("engine")
        return await super().all_of(inputs, params)

    def load(self) -> Any:
        if not self._is_gone:
            self._loaded = True
        return self


@breaks("test_an_identifier_carries_every_field", "places: 'careful!any' leads to ")
class Forgetful(Careful):
    def to_identifier(self, *args: Any, **options: Any) -> str:
        return re.sub(r",places=\d+", "", super().to_identifier(*args, **options))


_HERE: dict[int, Careful] = {}


@breaks(
    "test_it_pickles_into_another_process",
    "a generator pickles, and works in a spawned process, where it loads what it needs: a fresh",
)
class Homebound(Careful):
    def __reduce__(self) -> Any:
        _HERE[id(self)] = self
        return _HERE.__getitem__, (id(self),)


@breaks("test_it_pickles_into_another_process", "a generator is the same in a spawned process: ")
class ShowingItsPlace(Careful):
    def __repr__(self) -> str:
        return f"{type(self).__name__}(in {threading.get_native_id()})"


@breaks("test_it_pickles_into_another_process", "answers in a spawned process as it does here: ")
class AnsweringByPlace(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        here = "" if sys.argv[0] != "-c" else "There: "
        return super().answer(given, here + prompt, params)


_FIRST: dict[str, rg.GenerateParams] = {}


@breaks("test_generators_of_one_class_keep_apart", "wrote 1 tokens, and then one with max_tokens=4")
class OfOneMind(Careful):
    async def one(self, given: Any, own: Any) -> Any:
        if self.params.max_tokens in (1, 4) and not own.to_dict():
            own = _FIRST.setdefault("params", self.params)
        return await super().one(given, own)


@breaks("test_an_unknown_field_is_refused", "'no_such_field' got 'none'")
class TakingAnything(Careful):
    model_config = ConfigDict(extra="ignore")


# -- Secrets -----------------------------------------------------------------------------


@breaks("test_its_key_is_never_shown", "a generator never shows its key: it is in the repr")
class Showing(Careful):
    def __repr__(self) -> str:
        return f"Showing({self.api_key})"


@breaks("test_no_record_of_a_request_shows_the_key", "wrote it to the log 'careful'")
class Logging(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        logging.getLogger("careful").debug("asked with %s", self.api_key)
        return super().answer(given, prompt, params)


@breaks("test_no_event_shows_the_key", "no event shows a key: a ModelLoaded does")
class Telling(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        event = rg.events.ModelLoaded("careful", str(self.api_key), 0.0)
        rg.plugins.manager.tell("rigging_model_loaded", event)
        return super().answer(given, prompt, params)


@breaks("test_no_error_shows_the_key", "text and attributes")
class Complaining(Careful):
    def failure(self) -> Exception:
        text = f"refused: {self.api_key}"
        return ContextLengthError(text, provider="careful", model=self.model, retry_after=7)


# -- Errors ------------------------------------------------------------------------------


@pytest.fixture
def _nothing_fails(self: Any) -> Sequence[Fault]:
    return []


@breaks(
    "test_an_error_has_the_class_of_its_cause",
    "the fixture `faults` returns at least one way to fail",
    faults=_nothing_fails,
)
class Untold(Careful):
    pass


@breaks("test_an_error_has_the_class_of_its_cause", "is a ContextLengthError, not ProviderServerE")
class Vague(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        results = await super().all_of(inputs, params)
        vague = ProviderServerError("too long", provider="careful", model=self.model)
        return [vague if isinstance(one, ContextLengthError) else one for one in results]


@breaks("test_an_error_has_the_class_of_its_cause", "asks to wait (the prompt 'Fail.'): 7.0, not")
class Impatient(Careful):
    def failure(self) -> Exception:
        return ContextLengthError("too long", provider="careful", model=self.model)


@breaks(
    "test_an_error_has_the_class_of_its_cause",
    "a request that fails at the backend raises a rigging.error.GenerationError",
    also=None,
)
class Excusing(Careful):
    def failure(self) -> Exception:
        return ValueError("too long")


@breaks("test_an_error_says_which_model_failed", "an error names its provider (the prompt 'Fail.'")
class Anonymous(Careful):
    def failure(self) -> Exception:
        return ContextLengthError("too long", model=self.model, retry_after=7)


@breaks("test_an_error_says_which_model_failed", "names the model that was asked (the prompt 'Fa")
class Accusing(Careful):
    def failure(self) -> Exception:
        return ContextLengthError("too long", provider="careful", model="it", retry_after=7)


@breaks("test_an_error_pickles", "so that a worker process can hand it on (the prompt 'Fail.'): T")
class Clinging(Careful):
    def failure(self) -> Exception:
        error = super().failure()
        error.response = threading.Lock()
        return error


class _Fading(str):
    __slots__ = ()

    def __reduce__(self) -> Any:
        return str, ("",)


@breaks("test_an_error_pickles", "an error pickles as what it is (the prompt 'Fail.'): ")
class Fading(Careful):
    def failure(self) -> Exception:
        error = super().failure()
        error.message = _Fading("too long")
        return error


@breaks("test_a_stream_fails_as_a_call_does", "here came RuntimeError('stream broke')")
class RawStreaming(Careful):
    async def pieces_of(self, given: Any, params: Any) -> Any:
        try:
            async for item in super().pieces_of(given, params):
                yield item
        except ContextLengthError as error:
            raise RuntimeError("stream broke") from error


@breaks("test_a_stream_fails_as_a_call_does", "a ContextLengthError, not ProviderServerError(")
class VagueStreaming(Careful):
    async def pieces_of(self, given: Any, params: Any) -> Any:
        try:
            async for item in super().pieces_of(given, params):
                yield item
        except ContextLengthError as error:
            raise ProviderServerError("broken", provider="careful", model="any") from error


# -- Imports -----------------------------------------------------------------------------

breaks("test_its_import_brings_no_heavy_library", "it brought wave. Import", heavy_modules=HEAVY)(
    Heavy
)


# Twice what the others take is measured more quickly than the usual bound.
breaks("test_its_import_costs_little", "takes at most 1.5 times the CPU of", max_import_ratio=1.5)(
    Costly
)


# -- Of a module of its own --------------------------------------------------------------

for _rule, _each in broken_values.BROKEN.items():
    for _cls, _sentence in _each:
        breaks(_rule, _sentence)(_cls)
