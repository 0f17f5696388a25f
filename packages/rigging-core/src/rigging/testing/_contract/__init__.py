"""The contract of a generator, as a pytest suite that a provider inherits.

    class TestMine(GeneratorContract):
        identifier = "mine!some-model"

The rules stand in the modules of this package, by topic. Each test checks one sentence of the
contract, and fails with that sentence. A test whose capability is switched off is not there at
all; where a refusal is owed, that is tested instead. The tests make their own event loops and
need no plugin of pytest's.
"""

from __future__ import annotations

import difflib
from typing import Any, Final

from rigging.testing._contract._batches import BatchRules
from rigging.testing._contract._callers import CallerRules
from rigging.testing._contract._errors import ErrorRules
from rigging.testing._contract._imports import ImportRules
from rigging.testing._contract._loops import LoopRules
from rigging.testing._contract._parameters import ParameterRules
from rigging.testing._contract._results import ResultRules
from rigging.testing._contract._secrets import SecretRules
from rigging.testing._contract._subject import Subject, capabilities_of
from rigging.testing._contract._values import ValueRules

__all__ = ["RULES", "GeneratorContract"]


class GeneratorContract(
    BatchRules,
    ParameterRules,
    ResultRules,
    CallerRules,
    LoopRules,
    ValueRules,
    SecretRules,
    ErrorRules,
    ImportRules,
):
    """What every generator promises. Inherit it, and name a generator.

    Give ``identifier``, or override the fixture `generator` (one that is slow to load comes
    from a session-scoped fixture of your own). Unless ``can_fail`` is off, override the fixture
    `faults`: ways to make a request fail. Where an answer of very many tokens is not slow,
    override `slow`: a request that lasts.

    What the backend cannot do is switched off; the tests of it are gone then, or test the
    refusal. A test that is overridden must be marked ``pytest.mark.xfail(reason=…)``.

    Attributes:
        identifier: Names the generator to test.
        supports_messages: It continues conversations. If False, it must say so.
        supports_texts: It continues texts. If False, it must say so.
        supports_streaming: Its streams come in pieces.
        supports_tools: With ``tool_choice="required"`` it calls the tool. Off at first.
        supports_max_tokens: It honours ``max_tokens``. If False, it must warn.
        supports_stop: It honours ``stop``. If False, it must warn.
        supports_seed: It honours ``seed``. If False, it must warn.
        supports_timeout: It honours ``timeout``. If False, it must warn.
        deterministic: At temperature 0 equal prompts give equal answers.
        takes_time: A request can be made to last (fixture `slow`). Off for what answers at once.
        can_fail: A request can be made to fail (fixture `faults`). Off for what never does.
        answers_when_spawned: It is asked in processes of its own, too, and others like it are
            loaded. Off where that costs minutes: it is only unpickled there then.
        unsupported_params: Further parameters that it cannot honour, and must warn of.
        unsupported_in_texts: The same, for texts only.
        field_values: Another value than the default, for fields where none can be guessed.
        unwritten_fields: Fields that no identifier can carry.
        heavy_modules: Top modules that importing the class must not bring.
        callers: How many ask at once.
        long_text: Characters of a very long prompt.
        max_stall_s: Seconds for which the event loop may stand still, since machines are busy.
        patience_s: Seconds after which an answer counts as missing, loading included.
        max_import_ratio: CPU that importing the class may take, in imports of rigging.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Those that inherit the contract were looked at when they were made.
        mixins = (base for base in cls.__mro__[1:] if not issubclass(base, GeneratorContract))
        for base in (cls, *mixins):
            if base not in GeneratorContract.__mro__:
                _check_names(base)
        cls.refuses_a_kind = not (cls.supports_messages and cls.supports_texts)
        for name, rule in RULES.items():
            applies = all(getattr(cls, needed) for needed in capabilities_of(rule))
            own = [vars(base)[name] for base in cls.__mro__ if vars(base).get(name)]
            # pytest does not collect what cannot be called.
            setattr(cls, name, own[0] if applies else None)


#: Every test of the contract, by name.
RULES: Final = {
    name: test
    for base in reversed(GeneratorContract.__mro__)
    for name, test in vars(base).items()
    if name.startswith("test_")
}


def _check_names(cls: type) -> None:
    """Refuse switches that are none, and tests that are overridden without saying why."""
    for name, value in vars(cls).items():
        if name.startswith("supports_") and not hasattr(Subject, name):
            known = [known for known in vars(Subject) if known.startswith("supports_")]
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise TypeError(f"{cls.__name__}.{name} switches nothing: {hint}")
        if name in RULES:
            reasons = [
                mark.kwargs.get("reason")
                for mark in getattr(value, "pytestmark", ())
                if mark.name == "xfail"
            ]
            if not any(reasons):
                raise TypeError(
                    f"{cls.__name__}.{name} overrides a test of the contract: mark it "
                    f"pytest.mark.xfail(reason=…), or switch off what the backend cannot do"
                )
