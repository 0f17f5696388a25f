"""The doubles, the contract suite on them, and that the suite finds what is broken."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

import rigging as rg
from rigging.error import RateLimitError, ResponseError
from rigging.testing import EchoGenerator, GeneratorContract, ScriptedGenerator


class TestEchoGenerator(GeneratorContract):
    identifier = "echo!any,stop=;---"

    @pytest.fixture(autouse=True)
    def _registered(self) -> Iterator[None]:
        with rg.register_generator("echo", EchoGenerator):
            yield


class OnlyTexts(rg.Generator):
    """Continues texts only, and knows no parameters."""

    async def generate_texts(
        self, texts: Sequence[str], params: Sequence[rg.GenerateParams]
    ) -> Sequence[rg.GeneratedText]:
        usage = rg.Usage(input_tokens=1, output_tokens=1)
        return [rg.GeneratedText.from_text("x", usage=usage) for _ in texts]


class TestTextsOnly(GeneratorContract):
    identifier = "only-texts!x"
    supports_messages = False
    supports_max_tokens = False
    deterministic = False

    @pytest.fixture(autouse=True)
    def _registered(self) -> Iterator[None]:
        with rg.register_generator("only-texts", OnlyTexts):
            yield


def test_echo_honours_stop_and_max_tokens() -> None:
    echo = EchoGenerator(model="x", params=rg.GenerateParams(stop=["END", ""]))

    stopped = asyncio.run(echo.complete("one two END three").run())
    cut = asyncio.run(echo.complete("one two END three").with_(max_tokens=1).run())

    assert (stopped.generated, stopped.stop_reason) == ("one two ", "stop")
    assert (cut.generated, cut.stop_reason) == ("one", "length")


def test_script_gives_replies_in_order_and_records_calls() -> None:
    usage = rg.Usage(input_tokens=1)
    scripted = ScriptedGenerator(["a", rg.GeneratedText.from_text("b", "length", usage=usage)])

    first, second = asyncio.run(scripted.complete("Hi").with_(seed=3).run_many(2))

    assert (first.generated, second.generated, second.usage) == ("a", "b", usage)
    (call,) = scripted.calls
    assert call.inputs == ("Hi", "Hi")
    assert call.params == (rg.GenerateParams(seed=3),) * 2


def test_an_exception_in_the_script_fails_its_request_only() -> None:
    scripted = ScriptedGenerator(["a", RateLimitError("slow down"), "c"])
    hi = [rg.Message("user", "Hi")]

    results = asyncio.run(scripted.generate_messages([hi] * 3, [rg.GenerateParams()] * 3))

    assert [type(result).__name__ for result in results] == [
        "GeneratedMessage",
        "RateLimitError",
        "GeneratedMessage",
    ]


def test_a_request_after_the_script_ends_says_so() -> None:
    with pytest.raises(ResponseError, match="the script has 1 replies, and this is request 2"):
        asyncio.run(ScriptedGenerator(["a"]).chat("Hi").run_many(2))


def test_a_reply_of_the_wrong_kind_says_so() -> None:
    scripted = ScriptedGenerator([rg.GeneratedText.from_text("a")])

    with pytest.raises(ResponseError, match=r"reply 1 .* is a GeneratedText, and a GeneratedMess"):
        asyncio.run(scripted.chat("Hi").run())


def test_testing_has_only_what_it_says() -> None:
    with pytest.raises(AttributeError, match="no attribute 'NoSuchThing'"):
        rg.testing.NoSuchThing  # noqa: B018


# -- The suite itself: a generator that breaks one rule fails that rule's test -----------


class Shuffling(EchoGenerator):
    async def generate_texts(
        self, texts: Sequence[str], params: Sequence[rg.GenerateParams]
    ) -> Sequence[rg.GeneratedText | BaseException]:
        results = await super().generate_texts(texts, params)
        return sorted(results, key=str)


class Short(EchoGenerator):
    async def generate_texts(self, texts: Any, params: Any) -> Any:
        return (await super().generate_texts(texts, params))[:1]


class Raising(EchoGenerator):
    async def generate_texts(self, texts: Any, params: Any) -> Any:
        if not all(texts):
            raise ValueError("empty")
        return await super().generate_texts(texts, params)


class FirstParamsForAll(EchoGenerator):
    async def generate_texts(self, texts: Any, params: Any) -> Any:
        widest = max(params, key=lambda own: own.max_tokens or 99, default=None)
        return await super().generate_texts(texts, [widest] * len(texts))


class IgnoringItsOwnParams(EchoGenerator):
    async def generate_texts(self, texts: Any, params: Any) -> Any:
        plain = EchoGenerator(model="x", params=rg.GenerateParams(max_tokens=6))
        return await plain.generate_texts(texts, [rg.GenerateParams()] * len(texts))


class Mutating(EchoGenerator):
    async def generate_texts(self, texts: Any, params: Any) -> Any:
        self.model += "x"
        return await super().generate_texts(texts, params)


class Silent(EchoGenerator):
    async def generate_texts(self, texts: Any, params: Any) -> Any:
        return [rg.GeneratedText(text=text) for text in texts]


class Chatty(EchoGenerator):
    def __repr__(self) -> str:
        return f"Chatty({self.api_key})"


class Lockful(EchoGenerator):
    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle '_thread.lock' object")


class Forgetful(EchoGenerator):
    def unload(self) -> Any:
        return None


class OfTheFuture(EchoGenerator):
    plugin_api = 2


class StreamingOtherwise(EchoGenerator):
    async def stream_texts(self, text: Any, params: Any) -> Any:
        yield "something else"
        yield rg.GeneratedText.from_text("something else")


class PerLoop(EchoGenerator):
    _loop: Any = None

    async def generate_texts(self, texts: Any, params: Any) -> Any:
        self._loop = self._loop or asyncio.get_running_loop()
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("bound to another event loop")
        return await super().generate_texts(texts, params)


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (Short, "test_every_input_has_its_result"),
        (Shuffling, "test_results_come_in_the_order_of_inputs"),
        (Raising, "test_any_text_gives_a_result_or_that_items_error"),
        (FirstParamsForAll, "test_params_are_per_item"),
        (IgnoringItsOwnParams, "test_params_of_a_call_override_the_generators"),
        (Mutating, "test_nothing_is_mutated"),
        (Silent, "test_usage_and_stop_reason_are_filled"),
        (StreamingOtherwise, "test_a_stream_gives_what_a_call_gives"),
        (PerLoop, "test_one_event_loop_after_another"),
        (Chatty, "test_its_key_is_never_shown"),
        (Lockful, "test_it_pickles"),
        (Forgetful, "test_load_and_unload_may_be_repeated_and_alternated"),
        (OfTheFuture, "test_it_is_written_for_this_plugin_api"),
        (EchoGenerator, "test_its_identifier_leads_back"),  # registered nowhere
    ],
)
def test_a_broken_generator_fails_the_rule_it_breaks(broken: type[rg.Generator], rule: str) -> None:
    with pytest.raises((AssertionError, rg.RiggingError, TypeError, ValueError, RuntimeError)):
        getattr(GeneratorContract(), rule)(broken(model="x"))


def test_a_contract_without_a_generator_says_what_it_needs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from rigging.testing import GeneratorContract

        class TestMine(GeneratorContract):
            pass
        """
    )

    result = pytester.runpytest_subprocess("-k", "test_it_pickles")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*a contract test names its `identifier`, or overrides*"])
