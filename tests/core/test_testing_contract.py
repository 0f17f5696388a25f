"""The conformance suite finds what is broken: each rule, and nothing beside it."""

from __future__ import annotations

import ast
import asyncio
import inspect
import time
import uuid
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import Field, PrivateAttr

import rigging as rg
import rigging.testing._contract
from rigging.testing import CONTRACT_VERSION, EchoGenerator, GeneratorContract
from rigging.testing._contract import RULES
from rigging.testing._contract._heartbeat import listen
from rigging.testing._contract._parameters import VALUES
from rigging.testing._contract._runner import Runner
from tests.core.providers import AllKinds, Colour
from tests.core.testing_kit.broken import ALSO, BROKEN

CONTRACT = Path(rigging.testing._contract.__file__).parent

# They start an interpreter each, so only those meant to break them are tested for them.
IN_CHILDREN = {
    "test_it_pickles_into_another_process",
    "test_its_import_brings_no_heavy_library",
    "test_its_import_costs_little",
    "test_the_first_request_never_blocks_the_event_loop",
}

#: Sentences that no broken generator can be told, by their beginning, and why.
UNSAID = {
    "every request ends: there was no answer for": "tested below, without waiting for it",
    "a contract test names its `identifier`": "tested below: it is about the contract's user",
    "a contract test shows how requests fail": "tested below: it is about the contract's user",
    "a completion keeps its prompt as it is": "core makes the completion of the prompt",
    "assert isinstance(result, GeneratedMessage)": "it is for the type checker",
    "assert params is not None": "each parameter has a value among the samples, or its own test",
}


class Outcomes:
    """What a pytest of its own found, as a plugin of it.

    Attributes:
        passed: How many tests each class has passed.
        failed: What each class has failed: rule to the failure's text.
        lines: The lines of the contract that failures passed through: file and number.
    """

    def __init__(self) -> None:
        self.passed: defaultdict[str, int] = defaultdict(int)
        self.failed: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self.lines: set[tuple[str, int]] = set()

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if not item.cls.breaks or _tells(item)]

    def pytest_runtest_makereport(self, call: Any) -> None:
        if call.excinfo is not None:
            self.lines |= {(Path(e.path).name, e.lineno + 1) for e in call.excinfo.traceback}

    def pytest_runtest_logreport(self, report: Any) -> None:
        _, cls, name = report.nodeid.split("::", 2)
        if report.failed:
            rule = name.partition("[")[0]
            self.failed[cls][rule] = f"{report.when}: {report.longrepr.reprcrash.message}"
        elif report.when == "call":
            self.passed[cls] += 1


def _tells(item: Any) -> bool:
    """Tell whether a test is worth its time for a generator that breaks a rule."""
    rule, test, cls = item.cls.breaks, item.originalname, item.cls.made_by
    if test == rule:
        return "[texts" not in item.name  # one kind is enough
    also = ALSO[cls.__name__]
    if "[texts" in item.name or test in IN_CHILDREN:
        return False
    if also is None:
        return not _lasts(test)
    if item.cls.patience_s < GeneratorContract.patience_s / 100:  # a busy machine takes longer
        return test in also
    # The first one for a rule is asked everything else, and the others what stands beside it.
    first, _ = BROKEN[rule][0]
    is_near = _owner(test) is _owner(rule)
    return test in also or (not _lasts(test) and cls is first) or is_near


def _lasts(rule: str) -> bool:
    return "slow" in inspect.signature(RULES[rule]).parameters


def _owner(rule: str) -> type:
    return next(base for base in GeneratorContract.__mro__ if rule in vars(base))


def _sentences() -> Iterator[tuple[str, str, range]]:
    """Yield all that the contract says of a broken rule: its text, its file and its lines."""
    for file in sorted(CONTRACT.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            said = _said(node)
            if said is not None:
                yield said, file.name, range(node.lineno, node.end_lineno + 1)


def _said(node: Any) -> str | None:
    if isinstance(node, ast.Assert):
        return ast.unparse(node)
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        return ast.unparse(node.exc.args[0]) if _name(node.exc) == "AssertionError" else None
    if isinstance(node, ast.Call) and _name(node) == "pytest.fail":
        return ast.unparse(node.args[0])
    return None


def _name(call: ast.Call) -> str:
    return ast.unparse(call.func)


@pytest.fixture(scope="module")
def outcomes() -> Outcomes:
    found = Outcomes()
    tests = Path(__file__).with_name("testing_kit") / "broken.py"
    arguments = ["--quiet", "--tb=line", "-p", "no:cacheprovider", str(tests)]
    assert pytest.main(arguments, plugins=[found]) == pytest.ExitCode.TESTS_FAILED
    return found


def test_every_rule_has_a_generator_that_breaks_it() -> None:
    assert BROKEN.keys() == RULES.keys()


def test_a_generator_that_breaks_no_rule_passes(outcomes: Outcomes) -> None:
    assert outcomes.failed["TestCareful"] == {}
    assert outcomes.passed["TestCareful"] > len(RULES)


@pytest.mark.parametrize(
    ("rule", "broken", "sentence"),
    [
        pytest.param(rule, broken.__name__, sentence, id=f"{rule}-{broken.__name__}")
        for rule, each in BROKEN.items()
        for broken, sentence in each
    ],
)
def test_a_generator_that_breaks_one_rule_fails_that_test_only(
    outcomes: Outcomes, rule: str, broken: str, sentence: str
) -> None:
    failed, also = outcomes.failed[f"Test{broken}"], ALSO[broken]

    assert sentence in failed.get(rule, "nothing")
    assert also is None or failed.keys() == {rule, *also}
    # Sentences of the contract's, and not whatever the generator happened to raise.
    for text in failed.values():
        assert text.startswith(("call: AssertionError: ", "call: Failed: ", "call: rigging.error."))
        assert len(text.split()) > 8


@pytest.mark.parametrize(
    ("said", "file", "lines"),
    [pytest.param(*each, id=f"{each[1]}-{each[2].start}") for each in _sentences()],
)
def test_every_sentence_is_said_of_a_broken_generator(
    outcomes: Outcomes, said: str, file: str, lines: range
) -> None:
    if any(text in said for text in UNSAID):
        return
    assert outcomes.lines.intersection((file, line) for line in lines), said


def test_every_exception_to_that_is_needed() -> None:
    said = [text for text, _, _ in _sentences()]
    assert [text for text in UNSAID if not any(text in one for one in said)] == []


def test_every_parameter_is_tried() -> None:
    assert VALUES.keys() == rg.GenerateParams.model_fields.keys() - {"extra"}


def test_the_contract_has_a_version() -> None:
    assert CONTRACT_VERSION == 1


# -- What single rules find --------------------------------------------------------------


def test_fields_of_any_kind_get_another_value() -> None:
    class Contract(GeneratorContract):
        unwritten_fields = frozenset({"callback"})
        # No value can be guessed for what has parts of its own.
        field_values: ClassVar[Any] = {
            "colours": [Colour.odd],
            "name": uuid.UUID(int=1),
            "nested": {"name": "odd, one"},
            "rows": [[1], [2, 3]],
        }

    with rg.register_generator("all", AllKinds):
        Contract().test_an_identifier_carries_every_field(AllKinds(model="any"))


def test_a_field_that_no_value_is_known_for_has_to_be_told() -> None:
    class Even(EchoGenerator):
        number: Annotated[int, Field(multiple_of=1000)] = 0

    class Contract(GeneratorContract):
        pass

    class Told(GeneratorContract):
        field_values: ClassVar[Any] = {"number": 2000}

    with rg.register_generator("even", Even):
        with pytest.raises(AssertionError, match="number: no other value is known; give"):
            Contract().test_an_identifier_carries_every_field(Even(model="any"))
        Told().test_an_identifier_carries_every_field(Even(model="any"))


@pytest.mark.parametrize(
    ("broken", "unsupported", "text"),
    [
        pytest.param("warns", set(), r"top_k .* is warned about, and not in", id="unexpected"),
        pytest.param("warns twice", {"top_k"}, r"top_k .* is warned about again", id="again"),
        pytest.param("is silent", {"top_k"}, r"top_k .* no warning names it", id="silent"),
        pytest.param("fails", set(), r"top_k .* fails the request: BadReq", id="fails"),
        pytest.param("fails otherwise", {"top_k"}, "no warning names it", id="fails-otherwise"),
        pytest.param("fails", {"top_k"}, "", id="refused-by-name"),
        pytest.param("warns", {"top_k"}, "", id="warned-once"),
    ],
)
def test_a_parameter_is_never_dropped_silently(
    broken: str, unsupported: set[str], text: str
) -> None:
    class Picky(EchoGenerator):
        _warned: bool = PrivateAttr(default=False)

        async def generate_texts(self, texts: Any, params: Any) -> Any:
            if params and params[0].top_k is not None:
                if broken == "fails":
                    raise rg.error.BadRequestError("no 'top_k' here")
                if broken == "fails otherwise":
                    raise rg.error.BadRequestError("no")
                if broken == "warns twice" or (broken == "warns" and not self._warned):
                    self._warned = True
                    warnings.warn("no 'top_k'", rg.error.UnsupportedParameterWarning, stacklevel=1)
            return await super().generate_texts(texts, params)

    class Contract(GeneratorContract):
        supports_messages = False
        unsupported_params = frozenset(unsupported)

    expected = pytest.raises(AssertionError, match=text) if text else nullcontext()
    with Runner(30) as runner, expected:
        Contract().test_a_parameter_is_honoured_or_warned_about(Picky(model="any"), runner)


def test_a_request_that_never_ends_fails_its_test() -> None:
    with (
        Runner(0.01) as runner,
        pytest.raises(pytest.fail.Exception, match=r"there was no answer for 0\.01 s"),
    ):
        runner.run(asyncio.sleep(60))


def test_what_is_no_error_of_ours_fails_a_test_with_a_sentence() -> None:
    async def late() -> None:
        raise TimeoutError("mine")

    text = r"a request failed with TimeoutError\('mine'\): a failure is a rigging\.error\.Gen"
    with Runner(30) as runner, pytest.raises(AssertionError, match=text):
        runner.run(late())


def test_an_event_loop_is_blamed_for_what_it_does_itself() -> None:
    async def sleep() -> str:
        time.sleep(0.3)  # noqa: ASYNC251 (that is what is heard)
        return "done"

    came, stalled_s = asyncio.run(listen(sleep()))

    assert came == "done"
    assert stalled_s > 0.2


def test_an_event_loop_is_not_blamed_for_a_thread_that_keeps_the_interpreter() -> None:
    started = time.monotonic()
    _, stalled_s = asyncio.run(listen(asyncio.to_thread(sum, range(30_000_000))))

    assert stalled_s < (time.monotonic() - started) / 2


# -- Inheriting it -----------------------------------------------------------------------


def test_what_is_switched_off_is_not_there() -> None:
    class Contract(GeneratorContract):
        supports_stop = False
        can_fail = False

    class Again(Contract):
        supports_stop = True

    gone = {name for name in RULES if getattr(Contract, name) is None}
    assert {"test_a_stop_text_ends_an_answer", "test_an_error_pickles"} < gone
    assert Again.test_a_stop_text_ends_an_answer is RULES["test_a_stop_text_ends_an_answer"]
    assert Again.test_an_error_pickles is None


def test_a_refusal_is_tested_where_one_is_owed() -> None:
    class Both(GeneratorContract):
        pass

    class TextsOnly(GeneratorContract):
        supports_messages = False

    assert Both.test_what_it_cannot_do_it_says is None
    assert TextsOnly.test_what_it_cannot_do_it_says is not None


def test_a_rule_is_not_overridden_without_a_reason() -> None:
    with pytest.raises(TypeError, match=r"Quiet\.test_usage_is_counted overrides a test of the"):

        class Quiet(GeneratorContract):
            def test_usage_is_counted(self) -> None:
                pass


def test_a_rule_is_not_removed_nor_overridden_by_a_mixin() -> None:
    with pytest.raises(TypeError, match=r"Without\.test_usage_is_counted overrides"):

        class Without(GeneratorContract):
            test_usage_is_counted = None

    class Mixin:
        @pytest.mark.xfail(reason="")
        def test_usage_is_counted(self) -> None:
            pass

    with pytest.raises(TypeError, match=r"Mixin\.test_usage_is_counted overrides"):

        class Mixed(Mixin, GeneratorContract):
            pass


def test_a_switch_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="supports_text switches nothing: did you mean"):

        class Misspelt(GeneratorContract):
            supports_text = False


def test_a_rule_may_be_expected_to_fail(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        import rigging as rg
        from rigging.testing import EchoGenerator, GeneratorContract

        class TestEcho(GeneratorContract):
            takes_time = can_fail = False

            @pytest.fixture
            def generator(self):
                with rg.register_generator("echo", EchoGenerator):
                    yield EchoGenerator(model="any")

            @pytest.mark.xfail(reason="an echo comes at once")
            def test_a_stream_comes_in_pieces(self, generator, kind, runner):
                super().test_a_stream_comes_in_pieces(generator, kind, runner)
        """
    )

    result = pytester.runpytest_inprocess("-k", "a_stream_gives or a_stream_comes")

    result.assert_outcomes(passed=4, xfailed=2)


def test_a_contract_says_what_it_needs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from rigging.testing import EchoGenerator, GeneratorContract

        class TestNothing(GeneratorContract):
            pass

        class TestWithoutFaults(GeneratorContract):
            @pytest.fixture
            def generator(self):
                return EchoGenerator(model="any")
        """
    )

    result = pytester.runpytest_inprocess("-k", "test_an_error_pickles")

    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines(
        [
            "*a contract test names its `identifier`, or overrides*",
            "*a contract test shows how requests fail: override the fixture `faults`*",
        ]
    )


class TestEcho(GeneratorContract):
    """Of the doubles, the one that users run programs with."""

    supports_streaming = False
    takes_time = False
    can_fail = False

    @pytest.fixture
    def generator(self) -> Any:
        with rg.register_generator("echo", EchoGenerator):
            yield rg.get_generator("echo!any,stop=;---")
