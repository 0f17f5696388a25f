"""Generators without a model, for tests of programs."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import re
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

import rigging as rg
from rigging.error import ProviderServerError, ProviderTimeoutError, RateLimitError, ResponseError
from rigging.testing import (
    CONTRACT_VERSION,
    EchoGenerator,
    FailingGenerator,
    FlakyGenerator,
    GeneratorContract,
    ScriptedGenerator,
    SlowGenerator,
    SlowRequest,
)
from rigging.testing._contract import RULES
from rigging.testing._contract._runner import Runner
from rigging.testing._contract._secrets import Watch
from tests.support.pages import ROOT


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


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(copy.copy, id="copied"),
        pytest.param(copy.deepcopy, id="copied-deeply"),
        pytest.param(lambda made: pickle.loads(pickle.dumps(made)), id="pickled"),
    ],
)
def test_a_double_keeps_what_it_was_prepared_with(again: Any) -> None:
    def ask(generator: rg.Generator) -> str:
        chat = generator.chat("Hi").run_sync(on_failed="include")
        return repr(chat.error or chat.last.text)

    scripted = ScriptedGenerator(["one", "two", RateLimitError("slow down")])
    ask(scripted)
    made = again(scripted)
    assert [ask(made), ask(made), ask(scripted)] == [
        "'two'",
        "RateLimitError('slow down')",
        "'two'",
    ]
    assert (len(scripted.calls), len(made.calls)) == (2, 3)

    flaky = FlakyGenerator(RateLimitError("slow down"), failures=2)
    ask(flaky)
    made = again(flaky)
    failure = "RateLimitError('slow down')"
    assert [ask(made), ask(made), ask(flaky)] == [failure, "'Hi'", failure]

    assert ask(again(FailingGenerator(RateLimitError("no")))) == "RateLimitError('no')"
    assert ask(again(FailingGenerator())) == "ProviderServerError('this generator fails')"
    assert ask(again(SlowGenerator(delay_s=0))) == "'Hi'"


def test_doubles_can_be_named() -> None:
    with rg.register_generator("failing", FailingGenerator):
        chat = rg.get_generator("failing!any").chat("Hi").run_sync(on_failed="include")

    assert str(chat.error) == "this generator fails [any]"


def test_testing_has_only_what_it_says() -> None:
    with pytest.raises(AttributeError, match="no attribute 'NoSuchThing'"):
        rg.testing.NoSuchThing  # noqa: B018


# -- The contract's settings -------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value", "text"),
    [
        pytest.param("deterministc", False, "did you mean 'deterministic'", id="switch"),
        pytest.param("can_fial", False, "did you mean 'can_fail'", id="swapped-letters"),
        pytest.param("caller", 5, "did you mean 'callers'", id="size"),
        pytest.param("unsupported_params", {"top-k"}, "'top-k', which .* 'top_k'", id="parameter"),
        pytest.param("unsupported_in_texts", {"x"}, "there are api_base, aud", id="no-parameter"),
        pytest.param("unsupported_params", {"extra"}, "no parameter that can be", id="extra"),
        pytest.param("unsupported_params", "top_k", "is a set of names of", id="text"),
    ],
)
def test_a_misspelt_setting_is_refused(setting: str, value: Any, text: str) -> None:
    with pytest.raises(TypeError, match=rf"Misspelt\.{setting} .*{text}"):
        type("Misspelt", (GeneratorContract,), {setting: value})
    with pytest.raises(TypeError, match=rf"Mixin\.{setting} .*{text}"):
        type("Mixed", (type("Mixin", (), {setting: value}), GeneratorContract), {})


def test_attributes_of_an_author_are_left_alone() -> None:
    class Mine(GeneratorContract):
        unsupported_params = ["top_k"]
        texts = ["mine"]
        model = "any"

        @pytest.fixture
        def generators(self) -> None:
            pass

    assert Mine().unsupported(Mine.kinds()[0]) == {"top_k"}


def test_a_contract_has_one_kind_of_request() -> None:
    with pytest.raises(TypeError, match="Neither supports neither messages nor texts: a gen"):

        class Neither(GeneratorContract):
            supports_messages = supports_texts = False


def test_a_rule_is_not_expected_to_fail_on_a_condition() -> None:
    with pytest.raises(TypeError, match=r"At.test_usage_is_counted is expected to fail on a cond"):

        class At(GeneratorContract):
            @pytest.mark.xfail(False, reason="never")
            def test_usage_is_counted(self) -> None:
                pass

    class OfTheAuthor(GeneratorContract):
        @pytest.mark.xfail(False, reason="never")
        def test_mine(self) -> None:
            pass


def test_an_expected_failure_fails_once_the_rule_is_kept(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from rigging.testing import EchoGenerator, GeneratorContract

        class TestEcho(GeneratorContract):
            takes_time = can_fail = supports_texts = False

            @pytest.fixture
            def generator(self):
                return EchoGenerator(model="any")

            @pytest.mark.xfail(reason="one day")
            def test_usage_is_counted(self):
                pass

            @pytest.mark.xfail(reason="at times", strict=False)
            def test_the_stop_reason_is_told(self):
                pass
        """
    )

    result = pytester.runpytest_inprocess("-k", "usage or reason")

    result.assert_outcomes(failed=1, xpassed=1)
    result.stdout.fnmatch_lines(["*XPASS(strict)*one day*"])


# -- The contract's version --------------------------------------------------------------

# A rule that is added, or asks for more, makes a new version. So a released list stays as it is.
RULES_OF = {
    1: """
    a_cancelled_request_fails_no_other a_cancelled_request_frees_its_place
    a_failure_is_that_of_its_item_only a_parameter_is_honoured_or_warned_about
    a_seed_makes_answers_repeatable a_stop_text_ends_an_answer a_stream_comes_in_pieces
    a_stream_fails_as_a_call_does a_stream_gives_what_a_call_gives
    a_stream_that_is_left_frees_its_place a_timeout_ends_a_request a_tool_call_comes_back_as_one
    an_empty_batch_gives_no_results an_error_has_the_class_of_its_cause an_error_pickles
    an_error_says_which_model_failed an_identifier_carries_every_field
    an_unknown_field_is_refused any_conversation_gives_a_result_or_its_own_error
    any_text_gives_a_result_or_its_own_error each_item_has_its_own_params
    every_input_has_its_result generators_of_one_class_keep_apart
    it_pickles_into_another_process its_import_brings_no_heavy_library its_import_costs_little
    its_key_is_never_shown load_and_unload_may_be_repeated_and_alternated
    loading_never_blocks_the_event_loop many_callers_at_once no_error_shows_the_key
    no_event_shows_the_key no_record_of_a_request_shows_the_key nothing_is_changed
    one_event_loop_after_another params_of_a_call_override_the_generators pipelines_run_it
    requests_never_block_the_event_loop results_come_in_the_order_of_inputs
    the_first_request_never_blocks_the_event_loop the_stop_reason_is_told
    two_event_loops_at_once usage_is_counted what_it_cannot_do_it_says
    """
}


def test_a_version_of_the_contract_has_its_rules() -> None:
    assert sorted(RULES) == [f"test_{rule}" for rule in RULES_OF[CONTRACT_VERSION].split()]


def test_the_page_names_every_rule() -> None:
    page = (ROOT / "docs" / "testing.md").read_text("utf-8")
    version = page.partition("### The rules")[2].partition("###")[0]
    table = "".join(line for line in version.splitlines() if line.startswith("|"))

    assert f"Version {CONTRACT_VERSION}," in version
    named = re.findall(r"`([a-z]+(?:_[a-z]+){2,})`", table)
    assert sorted(f"test_{name}" for name in named) == sorted(RULES)


# -- Keys --------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["E", "any", "EMPTY"])
def test_a_key_that_any_text_may_hold_is_no_false_alarm(
    key: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    class Contract(GeneratorContract):
        pass

    contract, watch = Contract(), Watch(caplog, capfd)
    with rg.register_generator("echo", EchoGenerator), Runner(30) as runner:
        echo = EchoGenerator(model="any", api_key=key)
        contract.test_its_key_is_never_shown(echo)
        for kind in contract.kinds():
            contract.test_no_record_of_a_request_shows_the_key(echo, kind, watch, runner)
            contract.test_no_event_shows_the_key(echo, kind, runner)
    assert echo.api_key == key


class Remote(EchoGenerator):
    key_variables: ClassVar[tuple[str, ...]] = ("REMOTE_TOKEN", "REMOTE_KEY")
    seen: ClassVar[list[tuple[str | None, str]]] = []

    def __repr__(self) -> str:
        self.seen.append((self.api_key, os.environ["REMOTE_KEY"]))
        return ""


def test_a_key_in_the_environment_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked may be a real endpoint, which takes no planted key."""

    class Contract(GeneratorContract):
        pass

    monkeypatch.setenv("REMOTE_KEY", "sk-of-the-environment")
    with rg.register_generator("remote", Remote):
        Contract().test_its_key_is_never_shown(Remote(model="any"))

    key = "sk-of-the-environment"
    assert set(Remote.seen) == {(key, key), (None, key)}


# -- A double that keeps it --------------------------------------------------------------


class TestSlow(GeneratorContract):
    """Of the doubles, the one whose requests can be cancelled and timed out."""

    supports_streaming = can_fail = False
    callers = 20

    @pytest.fixture
    def generator(self, request: pytest.FixtureRequest) -> Iterator[rg.Generator]:
        # So slow only where a busy machine could be slower than a request.
        delay_s = 0.6 if "cancelled" in request.node.name else 0.05
        with rg.register_generator("slow", SlowGenerator):
            yield rg.get_generator(f"slow!any,delay_s={delay_s}")

    @pytest.fixture
    def slow(self) -> SlowRequest:
        return SlowRequest(after_s=0.02)
