"""Rules of the generator as a value: loaded and unloaded, written, pickled, built."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest

from rigging._fields import options_of
from rigging.error import InvalidGeneratorError, RiggingError
from rigging.generator import get_generator
from rigging.params import GenerateParams
from rigging.testing._contract._assigning import assigned, made_anew
from rigging.testing._contract._children import answer_in_child
from rigging.testing._contract._kinds import raised, usage_of
from rigging.testing._contract._samples import another_value
from rigging.testing._contract._subject import PROMPTS, Subject, needs

if TYPE_CHECKING:
    from rigging.generator import Generator
    from rigging.testing._contract._runner import Runner

__all__ = ["ValueRules"]


class ValueRules(Subject):
    """A generator is a value: its identifier, and nothing else, says what it is."""

    def test_load_and_unload_may_be_repeated_and_alternated(
        self, generator: Generator, runner: Runner
    ) -> None:
        kind = self.kinds()[0]
        for step in ("load", "load", "unload", "unload"):
            returned = getattr(generator, step)()
            assert returned is generator, (
                f"load() and unload() may be repeated, and return the generator: {step}() "
                f"returned {returned!r}"
            )
        try:
            runner.run(kind.ask(generator, PROMPTS[0], self.params()))
        except Exception as error:  # noqa: BLE001 (reported as a broken rule)
            pytest.fail(f"after unload(), the next use loads again: here came {raised(error)!r}")

    def test_an_identifier_carries_every_field(self, generator: Generator) -> None:
        lost = [
            fault
            for fault in (self._fault_of_round_trip(generator, "as it is"), *self._lost(generator))
            if fault
        ]
        assert not lost, (
            f"get_generator(g.to_identifier()) equals g but for its key, whatever its fields "
            f"hold: {'; '.join(lost)}"
        )

    def test_it_pickles_into_another_process(self, generator: Generator, runner: Runner) -> None:
        kind, params = self.kinds()[0], self.params()
        asked = PROMPTS[0] if self.answers_when_spawned else None
        try:
            pickled = pickle.dumps(generator)
            there = answer_in_child(pickled, kind=kind.name, prompt=asked, params=params.to_dict())
        except Exception as error:  # noqa: BLE001 (reported as a broken rule)
            pytest.fail(
                f"a generator pickles, and works in a spawned process, where it loads what it "
                f"needs: {error}"
            )
        # Without its key, which stays here.
        expected = repr(pickle.loads(pickled))  # noqa: S301 (our own bytes)
        assert there.shown == expected, (
            f"a generator is the same in a spawned process: {expected} became {there.shown}"
        )
        if asked and self.deterministic:
            here = str(runner.run(kind.ask(generator, asked, params)))
            assert there.answer == here, (
                f"a generator answers in a spawned process as it does here: {there.answer!r} "
                f"there, {here!r} here"
            )

    @needs("supports_max_tokens", "answers_when_spawned")
    def test_generators_of_one_class_keep_apart(self, generator: Generator, runner: Runner) -> None:
        kind = self.kinds()[0]
        short, long = (generator.params.merge_with(self.params(max_tokens=n)) for n in (1, 4))
        with assigned(generator, "params", short), made_anew(generator, params=long) as another:
            one, two = (
                usage_of(runner.run(kind.ask(asked, PROMPTS[0], GenerateParams()))).output_tokens
                for asked in (generator, another)
            )
        assert one <= 1 < two, (
            f"two generators of one class have nothing in common: one with max_tokens=1 wrote "
            f"{one} tokens, and then one with max_tokens=4 wrote {two}"
        )

    def test_an_unknown_field_is_refused(self, generator: Generator) -> None:
        refusal = ""
        try:
            type(generator)(**{**_values(generator), "no_such_field": 1})
        except InvalidGeneratorError as error:
            refusal = str(error)
        assert "no_such_field" in refusal, (
            f"a field that the generator does not have is refused with an InvalidGeneratorError "
            f"that names it: 'no_such_field' got {refusal or 'none'!r}"
        )

    def _lost(self, generator: Generator) -> list[str]:
        """Return what is wrong with each field, set to another value alone."""
        cls, values = type(generator), _values(generator)
        found = []
        for name, field in cls.model_fields.items():
            option = options_of(cls)[name]
            if option.secret or name == "params" or name in self.unwritten_fields:
                continue
            changed: Generator | None
            if name in self.field_values:
                changed = cls(**{**values, name: self.field_values[name]})
            else:
                changed = another_value(cls, values, name, field)
            if changed is None:
                found.append(
                    f"{name}: no other value is known; give one in `field_values`, or name it in "
                    f"`unwritten_fields`"
                )
                continue
            found.append(self._fault_of_round_trip(changed, name))
        for name, field in GenerateParams.model_fields.items():
            params = another_value(GenerateParams, {}, name, field)
            assert params is not None, name
            changed = cls(**{**values, "params": params})
            found.append(self._fault_of_round_trip(changed, f"params.{name}"))
        return found

    def _fault_of_round_trip(self, generator: Generator, what: str) -> str:
        """Return what is wrong with a generator's identifier; nothing if it leads back."""
        try:
            identifier = generator.to_identifier()
            again = get_generator(identifier)
        except RiggingError as error:
            return f"{what}: {error}"
        if again != generator:
            return f"{what}: {identifier!r} leads to {again!r}, not to {generator!r}"
        if again.to_identifier() != identifier:
            return f"{what}: {identifier!r} is written otherwise when it comes back"
        return ""


def _values(generator: Generator) -> dict[str, Any]:
    return {name: value for name, value in generator if name != "api_key"}
