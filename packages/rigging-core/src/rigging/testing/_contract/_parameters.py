"""Rules of parameters: per item, over the generator's own, honoured or warned about."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rigging.error import RiggingError, UnsupportedParameterWarning
from rigging.params import GenerateParams
from rigging.testing._contract._assigning import assigned
from rigging.testing._contract._kinds import Kind, usage_of
from rigging.testing._contract._results import TOOL
from rigging.testing._contract._subject import PROMPTS, Subject, needs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rigging.generator import Generator
    from rigging.testing._contract._runner import Runner

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

# Without the other, endpoints refuse it.
_COMPANIONS: Final[Mapping[str, str]] = {
    "tool_choice": "tools",
    "parallel_tool_calls": "tools",
}


class ParameterRules(Subject):
    """What a caller asks for is done, or it is said that it is not."""

    @needs("supports_max_tokens")
    def test_each_item_has_its_own_params(
        self, generator: Generator, kind: Kind, runner: Runner
    ) -> None:
        limits = (1, 4, 2)
        params = [self.params(max_tokens=limit) for limit in limits]
        results = runner.run(kind.call(generator, PROMPTS[:3], params))
        written = [usage_of(result).output_tokens for result in results]
        assert all(count <= limit for count, limit in zip(written, limits, strict=True)), (
            f"each item has its own params: with max_tokens of {limits} came {written} tokens"
        )
        assert written[1] > 1, (
            f"each item has its own params: max_tokens=4 beside max_tokens=1 came to {written[1]}"
        )

    @needs("supports_max_tokens")
    def test_params_of_a_call_override_the_generators(
        self, generator: Generator, kind: Kind, runner: Runner
    ) -> None:
        held = generator.params.merge_with(self.params(max_tokens=3))
        with assigned(generator, "params", held):
            own = runner.run(kind.ask(generator, PROMPTS[0], GenerateParams()))
            given = runner.run(kind.ask(generator, PROMPTS[0], GenerateParams(max_tokens=1)))
        assert usage_of(own).output_tokens <= 3, (
            "what a call leaves open, the generator's own params say: they were ignored"
        )
        assert usage_of(given).output_tokens <= 1, (
            "what a call passes wins over the generator's own params (`merge_with`)"
        )

    def test_nothing_is_changed(self, generator: Generator, kind: Kind, runner: Runner) -> None:
        stop: dict[str, Any] = {"stop": VALUES["stop"]} if self.supports_stop else {}
        params = [self.params(**stop), self.params(max_tokens=2)]
        inputs = kind.inputs(PROMPTS[:2])
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
        long = self.params(max_tokens=12)
        whole = str(runner.run(kind.ask(generator, PROMPTS[0], long)))
        assert len(whole) > 2, f"a prompt gives an answer that can be cut, not {whole!r}"
        # From behind the middle, so that there is something before it.
        stop = whole[len(whole) // 2 :][:3]
        asked = long.merge_with(GenerateParams(stop=[stop]))
        cut = str(runner.run(kind.ask(generator, PROMPTS[0], asked)))
        assert stop not in cut, f"an answer ends before a stop text: {stop!r} is in {cut!r}"
        assert whole.startswith(cut.rstrip()), (
            f"a stop text cuts an answer off, and changes nothing before: {whole!r} became {cut!r}"
        )

    @needs("supports_seed")
    def test_a_seed_makes_answers_repeatable(
        self, generator: Generator, kind: Kind, runner: Runner
    ) -> None:
        seeded = self.params(temperature=1.0, seed=7, max_tokens=8)
        first, second = (str(runner.run(kind.ask(generator, PROMPTS[0], seeded))) for _ in "12")
        assert first == second, (
            f"equal seeds give equal answers: {first!r} and {second!r} came of one "
            f"(or say `supports_seed = False`)"
        )

    def test_a_parameter_is_honoured_or_warned_about(
        self, generator: Generator, runner: Runner
    ) -> None:
        broken: list[str] = []
        said: set[str] = set()
        for kind in self.kinds():
            unsupported = self.unsupported(kind)
            for name, value in VALUES.items():
                if name == "api_base" and name not in unsupported:
                    continue  # there is nothing at that address
                companion = _COMPANIONS.get(name, name)
                values = {companion: VALUES[companion]} if companion not in unsupported else {}
                asked = self.params(**{**values, name: value})
                # A second time, to see that it is not said again.
                times = 2 if name in unsupported else 1
                told = [_told_of(name, generator, kind, asked, runner) for _ in range(times)]
                fault = _fault(told, unsupported=name in unsupported, said=name in said)
                if fault:
                    broken.append(f"{name} (in {kind.name}) {fault}")
                if any(one.warned for one in told):
                    said.add(name)
        assert not broken, (
            f"a parameter is honoured, or an UnsupportedParameterWarning names it, once: "
            f"{'; '.join(broken)}"
        )


class _Told(NamedTuple):
    """What a request with a parameter said of it."""

    warned: bool
    error: RiggingError | None
    refused: bool  # the error names it, which is as loud


def _told_of(
    name: str, generator: Generator, kind: Kind, params: GenerateParams, runner: Runner
) -> _Told:
    error: RiggingError | None = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            runner.run(kind.ask(generator, PROMPTS[0], params))
        except RiggingError as raised:
            error = raised
    warned = any(
        issubclass(warning.category, UnsupportedParameterWarning)
        and repr(name) in str(warning.message)
        for warning in caught
    )
    return _Told(warned, error, repr(name) in str(error))


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
    if warned or said or all(one.refused for one in told):
        return ""
    return "is unsupported, and no warning names it"
