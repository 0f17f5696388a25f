"""Rules of parameters: per item, over the generator's own, honoured or warned about."""

from __future__ import annotations

import asyncio
import copy
import operator
import warnings
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rigging.error import RiggingError, UnsupportedParameterWarning
from rigging.params import GenerateParams
from rigging.testing._contract._assigning import assigned
from rigging.testing._contract._kinds import WAYS, Kind, Result, Way, usage_of
from rigging.testing._contract._results import TOOL
from rigging.testing._contract._subject import PROMPTS, Subject, needs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rigging.generator import Generator
    from rigging.testing._contract._runner import Runner
    from rigging.testing._situations import SlowRequest

__all__ = ["VALUES", "ParameterRules"]

#: What each parameter is set to, to see whether it is honoured or warned about.
VALUES: Final[Mapping[str, Any]] = {
    "temperature": 0.5,
    "max_tokens": 2,
    "top_k": 5,
    "top_p": 0.9,
    "stop": ["\n\n---\n\n"],
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "api_base": "http://127.0.0.1:9/v1",
    "timeout": 600.0,
    "seed": 7,
    "tools": [TOOL],
    "tool_choice": "none",
    "parallel_tool_calls": False,
    "modalities": ["text"],
    "audio": {"voice": "any", "format": "wav"},
}

_UNTOUCHED: Final = copy.deepcopy(TOOL)  # what was lent to another request may be changed
_LATE_S: Final = 5.0  # by which a machine that is busy may be late
_GRACE_S: Final = 0.1  # in which a timeout that holds for a whole batch shows

# Without the other, endpoints refuse it.
_COMPANIONS: Final[Mapping[str, str]] = {
    "tool_choice": "tools",
    "parallel_tool_calls": "tools",
}


class ParameterRules(Subject):
    """What a caller asks for is done, or it is said that it is not."""

    def test_each_item_has_its_own_params(
        self, generator: Generator, kind: Kind, slow: SlowRequest, runner: Runner
    ) -> None:
        if self.supports_max_tokens:
            limits = (1, 4, 2)
            params = [self.params(max_tokens=limit) for limit in limits]
            results = runner.run(kind.call(generator, PROMPTS[:3], params))
            written = [usage_of(result).output_tokens for result in results]
            assert [*map(operator.le, written, limits)] == [True] * len(limits), (
                f"each item has its own params: with max_tokens of {limits} came {written} tokens"
            )
            assert written[1] > 1, (
                f"each item has its own params: max_tokens=4 beside max_tokens=1 came to "
                f"{written[1]}"
            )
        if stop := self._working_stop(generator, kind, runner):
            params = [self.params(max_tokens=12, stop=[stop]), self.params(max_tokens=12)]
            both = runner.run(kind.call(generator, [PROMPTS[0]] * 2, params))
            cut, whole = str(both[0]), str(both[-1])
            assert stop not in cut and stop in whole, (  # noqa: PT018 (one sentence for both)
                f"each item has its own params: stop={[stop]} in the first of two gave {cut!r}, "
                f"and {whole!r} in the second"
            )
        if self.supports_seed and self.deterministic:
            params = [self.params(temperature=1.0, seed=seed, max_tokens=8) for seed in (8, 7)]
            alone = {str(runner.run(kind.ask(generator, PROMPTS[0], params[1]))) for _ in "12"}
            beside = str(runner.run(kind.call(generator, [PROMPTS[0]] * 2, params))[-1])
            # Where it differs alone, another rule is broken.
            assert len(alone) > 1 or beside in alone, (
                f"each item has its own params: with seed=7 beside seed=8 came {beside!r}, and "
                f"{alone} alone"
            )
        if self.supports_timeout and self.takes_time:
            failed = runner.run(self._late_beside_a_timeout(generator, kind, slow))
            assert not isinstance(failed, TimeoutError), (
                f"each item has its own params: beside timeout={slow.after_s:g}, a request "
                f"without one ended with {failed!r}"
            )

    def test_params_of_a_call_override_the_generators(
        self, generator: Generator, kind: Kind, slow: SlowRequest, runner: Runner
    ) -> None:
        stop = self._working_stop(generator, kind, runner)
        for way in WAYS:

            def answer(held: GenerateParams, given: GenerateParams, way: Way = way) -> Result:
                with assigned(generator, "params", generator.params.merge_with(held)):
                    return runner.run(kind.answer(way, generator, PROMPTS[0], given))

            if self.supports_max_tokens:
                held = self.params(max_tokens=3)
                own = answer(held, GenerateParams())
                assert usage_of(own).output_tokens <= 3, _ignored(way, "max_tokens=3")
                given = answer(held, GenerateParams(max_tokens=1))
                assert usage_of(given).output_tokens <= 1, _overruled(way, "max_tokens=1")
            if stop:
                long, held = self.params(max_tokens=12), GenerateParams(stop=[stop])
                assert stop not in str(answer(held, long)), _ignored(way, f"stop={[stop]}")
                other = long.merge_with(GenerateParams(stop=VALUES["stop"]))
                assert stop in str(answer(held, other)), _overruled(way, f"stop={VALUES['stop']}")
            if self.deterministic:
                cold = self.params(max_tokens=8)
                whole = str(runner.run(kind.ask(generator, PROMPTS[0], cold)))
                own = answer(cold, GenerateParams())
                assert str(own) == whole, _ignored(way, "temperature=0")
                # What tests for truth and not for None takes the zero for nothing.
                given = answer(GenerateParams(temperature=1.0), cold)
                assert str(given) == whole, _overruled(way, "temperature=0")
        if self.supports_timeout and self.takes_time:
            limit = GenerateParams(timeout=slow.after_s)
            # Whatever is to load, is loaded.
            runner.run(kind.ask(generator, PROMPTS[0], self.params()))
            with assigned(generator, "params", generator.params.merge_with(limit)):
                held_to = runner.run(self._failure_of(generator, kind, slow, GenerateParams()))
            if not isinstance(held_to, TimeoutError):
                # Where that of a call ends nothing either, another rule is broken.
                told = runner.run(self._failure_of(generator, kind, slow, limit))
                assert not isinstance(told, TimeoutError), (
                    f"what a call leaves open, the generator's own params say: a call's "
                    f"timeout={slow.after_s:g} ends a request, and the generator's gave {held_to!r}"
                )

    def test_nothing_is_changed(self, generator: Generator, kind: Kind, runner: Runner) -> None:
        stop: dict[str, Any] = {"stop": VALUES["stop"]} if self.supports_stop else {}
        tools = {} if "tools" in self.unsupported(kind) else {"tools": [_UNTOUCHED]}
        nested = {"rigging_test": {"nested": [{"deep": 1}]}}
        # A backend may refuse the last, as it knows no such thing.
        params = [
            copy.deepcopy(self.params(**stop)),
            copy.deepcopy(self.params(max_tokens=2, **tools)),
            self.params(extra=nested),
        ]
        inputs = kind.inputs(PROMPTS[:3])
        before = copy.deepcopy((inputs, params, dict(generator)))
        runner.run(getattr(generator, f"generate_{kind.name}")(inputs, params))
        for what, then, now in zip(
            ("inputs", "params", "fields of the generator"),
            before,
            (inputs, params, dict(generator)),
            strict=True,
        ):
            assert now == then, f"a call changes nothing that it was given: the {what} differ now"

    @needs("supports_stop", "deterministic")
    def test_a_stop_text_ends_an_answer(
        self, generator: Generator, kind: Kind, runner: Runner
    ) -> None:
        long, whole, stop = self._cuttable(generator, kind, runner)
        assert stop, f"a prompt gives an answer that can be cut, not {whole!r}"
        asked = long.merge_with(GenerateParams(stop=[stop]))
        for way in WAYS:
            cut = str(runner.run(kind.answer(way, generator, PROMPTS[0], asked)))
            assert stop not in cut, (
                f"an answer ends before a stop text: {stop!r} is in {cut!r}, which a {way} gave"
            )
            assert whole.startswith(cut.rstrip()), (
                f"a stop text cuts an answer off, and changes nothing before: {whole!r} became "
                f"{cut!r} in a {way}"
            )

    @needs("supports_seed")
    def test_a_seed_makes_answers_repeatable(
        self, generator: Generator, kind: Kind, runner: Runner
    ) -> None:
        for seed in (7, 0):
            seeded = self.params(temperature=1.0, seed=seed, max_tokens=8)
            first, second = (str(runner.run(kind.ask(generator, PROMPTS[0], seeded))) for _ in "12")
            assert first == second, (
                f"equal seeds give equal answers: {first!r} and {second!r} came of seed={seed} "
                f"(or say `supports_seed = False`)"
            )

    def test_a_parameter_is_honoured_or_warned_about(
        self, generator: Generator, runner: Runner
    ) -> None:
        broken: list[str] = []
        said: set[str] = set()
        for kind in self.kinds():
            unsupported = self.unsupported(kind)
            for number, (name, value) in enumerate(VALUES.items()):
                if name == "api_base" and name not in unsupported:
                    continue  # there is nothing at that address
                companion = _COMPANIONS.get(name, name)
                values = {companion: VALUES[companion]} if companion not in unsupported else {}
                asked = self.params(**{**values, name: value})
                # By turns the one or the other is first: it is said once, so the first says it.
                ways = WAYS[:: -1 if number % 2 else 1]
                told = [_told_of(name, generator, way, kind, asked, runner) for way in ways]
                fault = _fault(told, unsupported=name in unsupported, said=name in said)
                if fault:
                    broken.append(f"{name} (in {kind.name}) {fault}")
                if any(one.warned for one in told):
                    said.add(name)
        assert not broken, (
            f"a parameter is honoured, or an UnsupportedParameterWarning names it, once: "
            f"{'; '.join(broken)}"
        )

    def _cuttable(
        self, generator: Generator, kind: Kind, runner: Runner
    ) -> tuple[GenerateParams, str, str]:
        """Return params of a long answer, the answer, and a part that can end it, if any."""
        long = self.params(max_tokens=12)
        whole = str(runner.run(kind.ask(generator, PROMPTS[0], long)))
        # From behind the middle, so that there is something before it.
        return long, whole, whole[len(whole) // 2 :][:3] if len(whole) > 3 else ""

    def _working_stop(self, generator: Generator, kind: Kind, runner: Runner) -> str:
        """Return a text that ends the long answer to the first prompt; nothing if none does."""
        if not (self.supports_stop and self.deterministic):
            return ""
        long, _, stop = self._cuttable(generator, kind, runner)
        asked = long.merge_with(GenerateParams(stop=[stop] if stop else None))
        cut = str(runner.run(kind.ask(generator, PROMPTS[0], asked)))
        return "" if stop in cut else stop  # another rule is about that

    async def _failure_of(
        self, generator: Generator, kind: Kind, slow: SlowRequest, params: GenerateParams
    ) -> BaseException | None:
        """Ask what lasts, and return the error that it ends with, in time."""
        slow.arrange()
        try:
            async with asyncio.timeout(slow.after_s + min(_LATE_S, self.patience_s)) as limit:
                await kind.ask(generator, slow.prompt, slow.params.merge_with(params))
        except TimeoutError as error:
            return None if limit.expired() else error
        except Exception as error:  # noqa: BLE001 (reported as a broken rule)
            return error
        return None

    async def _late_beside_a_timeout(
        self, generator: Generator, kind: Kind, slow: SlowRequest
    ) -> object:
        """Ask what lasts, in one call with what has a timeout; return its end, if it came."""
        slow.arrange()
        params = [self.params(timeout=slow.after_s), slow.params]
        try:
            async with asyncio.timeout(slow.after_s + _GRACE_S) as limit:
                return (await kind.call(generator, [PROMPTS[0], slow.prompt], params))[1]
        except TimeoutError as error:
            return None if limit.expired() else error


def _ignored(way: Way, what: str) -> str:
    return f"what a call leaves open, the generator's own params say: a {way} ignored its {what}"


def _overruled(way: Way, what: str) -> str:
    return (
        f"what a call passes wins over the generator's own params (`merge_with`): a {way} with "
        f"{what} went by those"
    )


class _Told(NamedTuple):
    """What a request with a parameter said of it."""

    way: Way
    warned: bool
    error: RiggingError | None
    refused: bool  # the error names it, which is as loud


def _told_of(
    name: str, generator: Generator, way: Way, kind: Kind, params: GenerateParams, runner: Runner
) -> _Told:
    error: RiggingError | None = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            runner.run(kind.answer(way, generator, PROMPTS[0], params))
        except RiggingError as raised:
            error = raised
    warned = any(
        issubclass(warning.category, UnsupportedParameterWarning)
        and repr(name) in str(warning.message)
        for warning in caught
    )
    return _Told(way, warned, error, repr(name) in str(error))


def _fault(told: list[_Told], *, unsupported: bool, said: bool) -> str:
    """Return what is wrong with what was said of a parameter; nothing if it is right."""
    warned = sum(one.warned for one in told)
    if not unsupported:
        if warned:
            return "is warned about, and not in `unsupported_params`"
        failed = [one.error for one in told if one.error is not None]
        return f"fails the request: {failed[0]!r}" if failed else ""
    if warned + said > 1:
        return "is warned about again"
    if told[0].warned or said or all(one.refused for one in told):
        return ""
    return f"is unsupported, and no warning names it in a {told[0].way}"
