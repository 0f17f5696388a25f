"""Generators that break one rule each, and the contract on each of them.

This file is collected by a pytest of its own, which `test_testing_contract.py` starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import pytest
from pydantic import ConfigDict

import rigging as rg
from rigging.error import ContextLengthError, ProviderServerError
from rigging.testing import Fault, GeneratorContract, SlowRequest
from tests.core.testing_kit.careful import TOO_LONG, UNSUPPORTED, WAIT, Careful
from tests.core.testing_kit.costly import Costly
from tests.core.testing_kit.heavy import HEAVY, Heavy

#: The broken generators, by the rule that they break.
BROKEN: dict[str, type[Careful]] = {}


class TestCareful(GeneratorContract):
    breaks = ""
    made_by: ClassVar[Any] = Careful

    supports_tools = True
    unsupported_params = UNSUPPORTED
    callers = 20

    @pytest.fixture
    def generator(self) -> Iterator[rg.Generator]:
        with rg.register_generator("careful", self.made_by):
            yield self.made_by(model="any")

    @pytest.fixture
    def faults(self) -> Sequence[Fault]:
        return [Fault(error=ContextLengthError, prompt=TOO_LONG)]

    @pytest.fixture
    def slow(self) -> SlowRequest:
        return SlowRequest(prompt=WAIT, params=rg.GenerateParams(), after_s=0.02)


def breaks(rule: str, **switches: Any) -> Callable[[type[Careful]], type[Careful]]:
    """Say which rule a generator breaks: the contract is tested on it, too."""

    def register(cls: type[Careful]) -> type[Careful]:
        assert rule not in BROKEN, rule
        BROKEN[rule] = cls
        name = f"Test{cls.__name__}"
        members = {"breaks": rule, "made_by": cls, "__module__": __name__, **switches}
        globals()[name] = type(name, (TestCareful,), members)
        return cls

    return register


# -- Batches -----------------------------------------------------------------------------
# Each of the first two shows only in the batches of one test, by their size.


@breaks("test_every_input_has_its_result")
class Losing(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        results = await super().all_of(inputs, params)
        return results[:-1] if len(inputs) == 7 else results


@breaks("test_results_come_in_the_order_of_inputs")
class Shuffling(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        results = await super().all_of(inputs, params)
        return sorted(results, key=str) if len(inputs) == 4 else results


@breaks("test_an_empty_batch_gives_no_results")
class NeverIdle(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        if not inputs:
            raise ValueError("nothing to do")
        return await super().all_of(inputs, params)


@breaks("test_any_text_gives_a_result_or_its_own_error")
class Fussy(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        if not all(given if isinstance(given, str) else given[-1].text for given in inputs):
            raise ValueError("empty")
        return await super().all_of(inputs, params)


@breaks("test_a_failure_is_that_of_its_item_only")
class AllOrNothing(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        results = await super().all_of(inputs, params)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results


@breaks("test_what_it_cannot_do_it_says", supports_messages=False)
class Evasive(Careful):
    async def generate_messages(self, messages: Any, params: Any) -> Any:
        return [None for _ in messages]


# -- Parameters --------------------------------------------------------------------------


@breaks("test_each_item_has_its_own_params")
class FirstParamsForAll(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        return await super().all_of(inputs, [*params[:1]] * len(params))


@breaks("test_params_of_a_call_override_the_generators")
class Stubborn(Careful):
    def merged(self, own: Any) -> rg.GenerateParams:
        return own.merge_with(self.params)


@breaks("test_nothing_is_changed")
class Meddling(Careful):
    async def generate_messages(self, messages: Any, params: Any) -> Any:
        for conversation in messages:
            if isinstance(conversation, list):
                conversation.insert(0, rg.Message("system", "Be careful."))
        return await super().generate_messages(messages, params)


@breaks("test_a_stop_text_ends_an_answer")
class Unstoppable(Careful):
    def merged(self, own: Any) -> rg.GenerateParams:
        return super().merged(own).model_copy(update={"stop": None})


@breaks("test_a_seed_makes_answers_repeatable")
class Moody(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        mood = random.randbytes(4).hex() if params.temperature else ""  # noqa: S311
        return super().answer(given, mood + prompt, params)


@breaks("test_a_parameter_is_honoured_or_warned_about")
class Silent(Careful):
    def warn(self, params: rg.GenerateParams) -> None:
        super().warn(params.model_copy(update={"audio": None}))


# -- Results -----------------------------------------------------------------------------


@breaks("test_usage_is_counted")
class Uncounted(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        result = super().answer(given, prompt, params)
        usage = rg.Usage(output_tokens=result.usage.output_tokens)
        return result.model_copy(update={"usage": usage})


@breaks("test_the_stop_reason_is_told")
class NeverCut(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        result = super().answer(given, prompt, params)
        cut = result.stop_reason is rg.StopReason.length
        return result.model_copy(update={"stop_reason": rg.StopReason.stop}) if cut else result


@breaks("test_pipelines_run_it")
class Impersonating(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        result = super().answer(given, prompt, params)
        if isinstance(given, str) or result.message.tool_calls:
            return result
        return result.model_copy(update={"message": rg.Message("user", str(result))})


@breaks("test_a_stream_gives_what_a_call_gives")
class TwoFaced(Careful):
    async def pieces_of(self, given: Any, params: Any) -> Any:
        async for item in super().pieces_of(given, params):
            yield f"{item} " if isinstance(item, str) else item


@breaks("test_a_stream_comes_in_pieces")
class AtOnce(Careful):
    async def pieces_of(self, given: Any, params: Any) -> Any:
        result = await self.one(given, params)
        yield str(result)
        yield result


@breaks("test_a_tool_call_comes_back_as_one")
class Writing(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        plain = params.model_copy(update={"tool_choice": None})
        return super().answer(given, prompt, plain)


# -- Callers -----------------------------------------------------------------------------


@breaks("test_many_callers_at_once")
class Crowded(Careful):
    _crowd: int = 0

    async def one(self, given: Any, own: Any) -> Any:
        self._crowd += 1
        try:
            if self._crowd > 10:
                raise RuntimeError("pool of 10 is exhausted")
            return await super().one(given, own)
        finally:
            self._crowd -= 1


@breaks("test_one_event_loop_after_another")
class OfOneLoop(Careful):
    _loop: Any = None

    async def one(self, given: Any, own: Any) -> Any:
        self._loop = self._loop or asyncio.get_running_loop()
        if self._loop.is_closed():
            raise RuntimeError("Event loop is closed")
        return await super().one(given, own)


@breaks("test_two_event_loops_at_once")
class OfOneLoopAtATime(Careful):
    _loop: Any = None

    async def one(self, given: Any, own: Any) -> Any:
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.get_running_loop()
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("attached to a different loop")
        return await super().one(given, own)


@breaks("test_a_cancelled_request_frees_its_place", patience_s=2.0)
class Leaking(Careful):
    @contextlib.asynccontextmanager
    async def place(self) -> Any:
        await self.slots().acquire()
        yield
        self.slots().release()


@breaks("test_a_timeout_ends_a_request", patience_s=2.0)
class Timeless(Careful):
    async def wait(self, prompt: str, params: rg.GenerateParams) -> None:
        await super().wait(prompt, params.model_copy(update={"timeout": None}))


@breaks("test_requests_never_block_the_event_loop")
class Blocking(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        if self._loaded and len(inputs) == 5:  # as many as that test, and no other, asks
            time.sleep(0.3)  # noqa: ASYNC251 (that is what is wrong)
        return await super().all_of(inputs, params)


@breaks("test_loading_never_blocks_the_event_loop")
class BlockingWhileLoading(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        if not self._loaded and len(inputs) == 5 and self._unloaded:
            time.sleep(0.3)  # noqa: ASYNC251
        return await super().all_of(inputs, params)

    _unloaded: bool = False

    def unload(self) -> Any:
        self._unloaded = True
        return super().unload()


# -- Values ------------------------------------------------------------------------------


@breaks("test_load_and_unload_may_be_repeated_and_alternated")
class OneWay(Careful):
    def unload(self) -> Any:
        super().unload()


@breaks("test_an_identifier_carries_every_field")
class Forgetful(Careful):
    def to_identifier(self, *args: Any, **options: Any) -> str:
        return re.sub(r",places=\d+", "", super().to_identifier(*args, **options))


_HERE: dict[int, Careful] = {}


@breaks("test_it_pickles_into_another_process")
class Homebound(Careful):
    def __reduce__(self) -> Any:
        _HERE[id(self)] = self
        return _HERE.__getitem__, (id(self),)


@breaks("test_an_unknown_field_is_refused")
class TakingAnything(Careful):
    model_config = ConfigDict(extra="ignore")


# -- Secrets -----------------------------------------------------------------------------


@breaks("test_its_key_is_never_shown")
class Showing(Careful):
    def __repr__(self) -> str:
        return f"Showing({self.api_key})"


@breaks("test_no_record_of_a_request_shows_the_key")
class Logging(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        logging.getLogger("careful").debug("asked with %s", self.api_key)
        return super().answer(given, prompt, params)


@breaks("test_no_event_shows_the_key")
class Telling(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        event = rg.events.ModelLoaded("careful", str(self.api_key), 0.0)
        rg.plugins.manager.tell("rigging_model_loaded", event)
        return super().answer(given, prompt, params)


@breaks("test_no_error_shows_the_key")
class Complaining(Careful):
    def failure(self) -> Exception:
        text = f"refused: {self.api_key}"
        return ContextLengthError(text, provider="careful", model=self.model)


# -- Errors ------------------------------------------------------------------------------


@breaks("test_an_error_has_the_class_of_its_cause")
class Vague(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        results = await super().all_of(inputs, params)
        vague = ProviderServerError("too long", provider="careful", model=self.model)
        return [vague if isinstance(one, ContextLengthError) else one for one in results]


@breaks("test_an_error_says_which_model_failed")
class Anonymous(Careful):
    def failure(self) -> Exception:
        return ContextLengthError("too long")


@breaks("test_an_error_pickles")
class Clinging(Careful):
    def failure(self) -> Exception:
        error = super().failure()
        error.response = threading.Lock()
        return error


@breaks("test_a_stream_fails_as_a_call_does")
class RawStreaming(Careful):
    async def pieces_of(self, given: Any, params: Any) -> Any:
        try:
            async for item in super().pieces_of(given, params):
                yield item
        except ContextLengthError as error:
            raise RuntimeError("stream broke") from error


# -- Imports -----------------------------------------------------------------------------

breaks("test_its_import_brings_no_heavy_library", heavy_modules=HEAVY)(Heavy)


# Twice what the others take is measured more quickly than the usual bound.
breaks("test_its_import_costs_little", max_import_ratio=1.5)(Costly)
