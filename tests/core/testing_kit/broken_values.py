"""Generators that break a rule of parameters, secrets or imports, in further ways.

`broken.py` runs the contract on them: each fails the one rule, with the sentence that says how.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import warnings
from types import ModuleType
from typing import Any, ClassVar

import rigging as rg
from rigging.error import RiggingWarning
from tests.core.testing_kit.careful import TOO_LONG, Careful

#: By rule: the broken generators, and a part of the sentence that each must fail with.
BROKEN: dict[str, list[tuple[type[Careful], str]]] = {}


def _breaks(rule: str, sentence: str) -> Any:
    def register(cls: type[Careful]) -> type[Careful]:
        BROKEN.setdefault(rule, []).append((cls, sentence))
        return cls

    return register


def _with(params: rg.GenerateParams, **others: Any) -> rg.GenerateParams:
    return params.model_copy(update=others)


# -- Parameters --------------------------------------------------------------------------


@_breaks("test_each_item_has_its_own_params", "with max_tokens of (1, 4, 2) came [1, 4, 4]")
class LargestLimitForAll(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        if len(params) == 3:
            params = [params[0], params[1], params[1]]
        return await super().all_of(inputs, params)


@_breaks("test_each_item_has_its_own_params", "beside max_tokens=1 came to 1")
class SmallestLimitForAll(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        least = min((own.max_tokens for own in params if own.max_tokens), default=None)
        return await super().all_of(inputs, [_with(own, max_tokens=least) for own in params])


@_breaks("test_each_item_has_its_own_params", "in the first of two gave")
class FirstStopForAll(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        return await super().all_of(inputs, [_with(own, stop=params[0].stop) for own in params])


@_breaks("test_each_item_has_its_own_params", "with seed=7 beside seed=8 came")
class FirstSeedForAll(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        return await super().all_of(inputs, [_with(own, seed=params[0].seed) for own in params])

    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        return super().answer(given, f"{params.seed or ''}{prompt}", params)


@_breaks("test_each_item_has_its_own_params", "a request without one ended with")
class FirstTimeoutForAll(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        return await super().all_of(
            inputs, [_with(own, timeout=params[0].timeout) for own in params]
        )


class _OwnForgotten(Careful):
    forgotten: str = ""

    def merged(self, own: Any) -> rg.GenerateParams:
        left = {self.forgotten: getattr(own, self.forgotten)}
        return _with(super().merged(own), **left)


@_breaks("test_params_of_a_call_override_the_generators", "a call ignored its max_tokens=3")
class OwnLimitForgotten(Careful):
    def merged(self, own: Any) -> rg.GenerateParams:
        # Not all limits: how generators keep apart is another rule.
        merged = super().merged(own)
        return own if merged.max_tokens == 3 else merged


@_breaks("test_params_of_a_call_override_the_generators", "a call ignored its stop=")
class OwnStopForgotten(_OwnForgotten):
    forgotten: str = "stop"


@_breaks("test_params_of_a_call_override_the_generators", "and the generator's gave None")
class OwnTimeoutForgotten(_OwnForgotten):
    forgotten: str = "timeout"


@_breaks("test_params_of_a_call_override_the_generators", "a call ignored its temperature=0")
class OwnTemperatureForgotten(_OwnForgotten):
    forgotten: str = "temperature"

    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        if params.temperature is None:
            prompt = random.randbytes(4).hex()  # noqa: S311
        return super().answer(given, prompt, params)


@_breaks("test_params_of_a_call_override_the_generators", "a call with temperature=0 went by")
class ZeroIsNothing(Careful):
    def merged(self, own: Any) -> rg.GenerateParams:
        temperature = own.temperature or self.params.temperature
        return _with(super().merged(own), temperature=temperature)

    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        if params.temperature and params.seed is None:
            prompt = random.randbytes(4).hex()  # noqa: S311
        return super().answer(given, prompt, params)


@_breaks("test_params_of_a_call_override_the_generators", "a call with stop=")
class OwnStopWins(Careful):
    def merged(self, own: Any) -> rg.GenerateParams:
        return _with(super().merged(own), stop=self.params.stop or own.stop)


@_breaks("test_params_of_a_call_override_the_generators", "a stream ignored its max_tokens=3")
class StreamForgetsOwn(Careful):
    _streaming: bool = False

    async def pieces_of(self, given: Any, params: Any) -> Any:
        self._streaming = True
        async for item in super().pieces_of(given, params):
            self._streaming = False
            yield item

    def merged(self, own: Any) -> rg.GenerateParams:
        return own if self._streaming else super().merged(own)


@_breaks("test_nothing_is_changed", "the params differ now")
class ChangingTools(Careful):
    def merged(self, own: Any) -> rg.GenerateParams:
        for tool in own.tools or ():
            tool["function"]["strict"] = True
        return super().merged(own)


@_breaks("test_nothing_is_changed", "the params differ now")
class ChangingExtra(Careful):
    def merged(self, own: Any) -> rg.GenerateParams:
        for nested in own.extra.values():
            nested["seen"] = True
        return super().merged(own)


@_breaks("test_nothing_is_changed", "the fields of the generator differ now")
class ChangingItself(Careful):
    def merged(self, own: Any) -> rg.GenerateParams:
        self.mood = "cross"
        return super().merged(own)


@_breaks("test_a_stop_text_ends_an_answer", "which a stream gave")
class StreamForgetsStop(Careful):
    async def pieces_of(self, given: Any, params: Any) -> Any:
        # Not where the generator holds one: that is another rule.
        stop = params.stop if self.params.stop else None
        async for item in super().pieces_of(given, _with(params, stop=stop)):
            yield item


@_breaks("test_a_stop_text_ends_an_answer", "changes nothing before")
class StopChangesAll(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        return super().answer(given, f"Stop. {prompt}" if params.stop else prompt, params)


@_breaks("test_a_stop_text_ends_an_answer", "gives an answer that can be cut, not 'a b'")
class Curt(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        result = super().answer(given, prompt, params)
        if params.max_tokens != 12:  # as long as that rule's
            return result
        text = (
            {"text": "a b"}
            if isinstance(given, str)
            else {"message": rg.Message("assistant", "a b")}
        )
        return result.model_copy(update=text)


@_breaks("test_a_seed_makes_answers_repeatable", "came of seed=0")
class SeedZeroIsNone(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        if params.temperature and not params.seed:
            prompt = random.randbytes(4).hex()  # noqa: S311
        return super().answer(given, prompt, params)


@_breaks("test_a_parameter_is_honoured_or_warned_about", "no warning names it in a stream")
class StreamWarnsOfNothing(Careful):
    async def pieces_of(self, given: Any, params: Any) -> Any:
        async for item in super().pieces_of(given, _with(params, audio=None, modalities=None)):
            yield item


@_breaks("test_a_parameter_is_honoured_or_warned_about", "no warning names it in a call")
class CallWarnsOfNothing(Careful):
    async def all_of(self, inputs: Any, params: Any) -> Any:
        bare = [_with(own, audio=None, modalities=None) for own in params]
        return await super().all_of(inputs, bare)


# -- Secrets -----------------------------------------------------------------------------

_quiet = logging.getLogger("careful.quiet")
_quiet.setLevel(logging.WARNING)
_apart = logging.getLogger("careful.apart")
_apart.propagate = False
# Else it would go to standard error, too.
_apart.addHandler(logging.NullHandler())


@_breaks("test_no_record_of_a_request_shows_the_key", "a call wrote it to the log 'careful'")
class LoggingInAField(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        logging.getLogger("careful").info("asked", extra={"headers": [self.api_key]})
        return super().answer(given, prompt, params)


@_breaks("test_no_record_of_a_request_shows_the_key", "wrote it to the log 'careful.quiet'")
class LoggingBelowItsLevel(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        _quiet.debug("asked with %s", self.api_key)
        return super().answer(given, prompt, params)


@_breaks("test_no_record_of_a_request_shows_the_key", "wrote it to the log 'careful.apart'")
class LoggingApart(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        _apart.warning("asked with %s", self.api_key)
        return super().answer(given, prompt, params)


@_breaks("test_no_record_of_a_request_shows_the_key", "wrote it to the log 'careful'")
class LoggingWhileLoading(Careful):
    def load(self) -> Any:
        if self.api_key:
            logging.getLogger("careful").debug("loading with %s", self.api_key)
        return super().load()


@_breaks("test_no_record_of_a_request_shows_the_key", "a stream wrote it to the log 'careful'")
class LoggingStreams(Careful):
    async def pieces_of(self, given: Any, params: Any) -> Any:
        if TOO_LONG not in str(given):  # else a failure does, too
            logging.getLogger("careful").debug("streaming with %s", self.api_key)
        async for item in super().pieces_of(given, params):
            yield item


@_breaks("test_no_record_of_a_request_shows_the_key", "a call wrote it to a RiggingWarning")
class WarningWhileLoading(Careful):
    def load(self) -> Any:
        if self.api_key:
            warnings.warn(f"loading with {self.api_key}", RiggingWarning, stacklevel=2)
        return super().load()


@_breaks("test_no_record_of_a_request_shows_the_key", "a call wrote it to standard output")
class Printing(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        sys.stdout.write(f"asked with {self.api_key}")
        return super().answer(given, prompt, params)


@_breaks("test_no_record_of_a_request_shows_the_key", "a call wrote it to standard error")
class PrintingErrors(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        sys.stderr.write(f"asked with {self.api_key}")
        return super().answer(given, prompt, params)


@_breaks("test_no_record_of_a_request_shows_the_key", "no result shows a key: that of a call")
class Enclosing(Careful):
    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        result = super().answer(given, prompt, params)
        # Without a key every result is like another.
        raw = Raw(self.api_key) if self.api_key else None
        return result.model_copy(update={"extra": {"raw": raw}})


class Raw:
    def __init__(self, key: str | None) -> None:
        self.headers = {"Authorization": f"Bearer {key}"}


@_breaks("test_no_record_of_a_request_shows_the_key", "a call wrote it to the log 'careful'")
class LoggingTheEnvironment(Careful):
    key_variables: ClassVar[tuple[str, ...]] = ("CAREFUL_KEY", "CAREFUL_API_KEY")

    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        if self.api_key is None:
            logging.getLogger("careful").info("with %s", os.environ.get("CAREFUL_API_KEY"))
        return super().answer(given, prompt, params)


@_breaks("test_its_key_is_never_shown", "it is in the repr")
class ShowingTheEnvironment(Careful):
    key_variables: ClassVar[tuple[str, ...]] = ("CAREFUL_KEY",)

    def __repr__(self) -> str:
        return f"Showing({os.environ.get('CAREFUL_KEY')})"


@_breaks("test_no_error_shows_the_key", "that of a call has it in its text and attributes")
class FailingWithARequest(Careful):
    def failure(self) -> Exception:
        error = super().failure()
        error.__cause__ = ValueError("400")
        error.__cause__.request = Raw(self.api_key)
        return error


@_breaks("test_no_error_shows_the_key", "that of a stream has it in its text and attributes")
class ComplainingInStreams(Careful):
    async def pieces_of(self, given: Any, params: Any) -> Any:
        try:
            async for item in super().pieces_of(given, params):
                yield item
        except rg.error.ContextLengthError as error:
            error.add_note(f"with {self.api_key}")
            raise


@_breaks("test_no_error_shows_the_key", "a call wrote it to the log 'careful'")
class LoggingFailures(Careful):
    def failure(self) -> Exception:
        logging.getLogger("careful").error("failed", extra={"key": self.api_key})
        return super().failure()


# -- Imports -----------------------------------------------------------------------------


@_breaks("test_its_import_brings_no_heavy_library", "making a HeavyWhenMade, and writing")
class HeavyWhenMade(Careful):
    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        _bring_jax()


@_breaks("test_its_import_brings_no_heavy_library", "making a HeavyWhenWritten, and writing")
class HeavyWhenWritten(Careful):
    def to_identifier(self, *args: Any, **options: Any) -> str:
        _bring_jax()
        return super().to_identifier(*args, **options)


def _bring_jax() -> None:
    # Only where somebody looks: in a process of its own.
    if "pytest" not in sys.modules:
        sys.modules["jax"] = ModuleType("jax")
