"""Generators without a model, for tests of programs."""

from __future__ import annotations

import asyncio
import time

import pytest

import rigging as rg
from rigging.error import ProviderServerError, ProviderTimeoutError, RateLimitError, ResponseError
from rigging.testing import (
    EchoGenerator,
    FailingGenerator,
    FlakyGenerator,
    ScriptedGenerator,
    SlowGenerator,
)


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


def test_a_failing_generator_fails_every_request_with_an_error_of_its_own() -> None:
    error = RateLimitError("slow down", retry_after=7)
    failing = FailingGenerator(error)

    chats = failing.chat("Hi").run_many_sync(2, on_failed="include")
    completion = failing.complete("Hi").run_sync(on_failed="include")

    errors = [*(chat.error for chat in chats), completion.error]
    assert [(type(found), found.retry_after) for found in errors] == [(RateLimitError, 7)] * 3
    assert len({id(found) for found in [error, *errors]}) == 4


def test_a_failing_generator_without_an_error_fails_as_a_server_does() -> None:
    with pytest.raises(ProviderServerError, match="this generator fails"):
        FailingGenerator().chat("Hi").run_sync()


def test_a_slow_generator_takes_its_time_for_all_at_once() -> None:
    slow = SlowGenerator(delay_s=0.05)
    started = time.monotonic()

    chats = slow.chat().run_batch_sync(["one", "two"])

    assert time.monotonic() - started >= 0.05
    assert [chat.last.text for chat in chats] == ["one", "two"]
    assert slow.complete("Hi").run_sync().generated == "Hi"


def test_a_slow_generator_has_no_answer_for_who_waits_less() -> None:
    slow = SlowGenerator(delay_s=60)

    with pytest.raises(ProviderTimeoutError, match=r"no answer within 0\.01 s: delay_s is 60"):
        slow.chat("Hi").with_(timeout=0.01).run_sync()


def test_a_slow_generator_can_be_cancelled() -> None:
    async def give_up() -> None:
        async with asyncio.timeout(0.01):
            await SlowGenerator(delay_s=60).chat("Hi").run()

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())


def test_a_flaky_generator_fails_each_prompt_a_few_times() -> None:
    flaky = FlakyGenerator(failures=2)

    def ask(prompt: str) -> str:
        chat = flaky.chat(prompt).run_sync(on_failed="include")
        return str(chat.error) if chat.failed else chat.last.text

    asked = [ask(prompt) for prompt in ("a", "b", "a", "a", "b", "b", "b")]

    first, second = "failure 1 of 2 [flaky]", "failure 2 of 2 [flaky]"
    assert asked == [first, first, second, "a", second, "b", "b"]


def test_a_flaky_generator_fails_with_the_error_it_was_given() -> None:
    flaky = FlakyGenerator(RateLimitError("slow down"))

    with pytest.raises(RateLimitError, match="slow down"):
        flaky.complete("Hi").run_sync()
    assert flaky.complete("Hi").run_sync().generated == "Hi"


def test_testing_has_only_what_it_says() -> None:
    with pytest.raises(AttributeError, match="no attribute 'NoSuchThing'"):
        rg.testing.NoSuchThing  # noqa: B018
