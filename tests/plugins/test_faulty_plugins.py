"""Plugins that are installed and do not work: each is reported, and hurts nobody else."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Set

    from tests.support.environments import Environment


class Fault(NamedTuple):
    """What is said about a faulty provider."""

    error: str
    parts: list[str]  # of the message: distribution, version, cause, remedy
    cause: str | None  # the original exception
    imported: Set[str] = frozenset()  # of the plugin, afterwards


FAULTS = {
    "raising": Fault(
        "BrokenProviderError",
        [
            "provider 'raising' of raising-rigging 3.1.0 (raising_rigging.raises:RaisingGenerator)",
            "cannot be loaded: RuntimeError: the engine's licence has expired.",
            "`pip install --upgrade raising-rigging`",
            "report it to its authors",
        ],
        "RuntimeError: the engine's licence has expired",
        {"raising_rigging"},
    ),
    "exiting": Fault(
        "BrokenProviderError",
        [
            "provider 'exiting' of raising-rigging 3.1.0 (raising_rigging.exits:ExitingGenerator)",
            "cannot be loaded: SystemExit: usage: exits.py FILE.",
            "`pip install --upgrade raising-rigging`",
        ],
        "SystemExit: usage: exits.py FILE",
        {"raising_rigging"},
    ),
    "needy": Fault(
        "MissingDependencyError",
        [
            "provider 'needy' of needy-rigging 0.4.2 (needy_rigging:NeedyGenerator)",
            "needs the module 'absent_engine', which is not installed",
            "`pip install needy-rigging`",
        ],
        "ModuleNotFoundError: No module named 'absent_engine'",
    ),
    "older": Fault(
        "IncompatibleProviderError",
        [
            "provider 'older' of dated-rigging 5.0.0 (dated_rigging:OlderGenerator)",
            "is written for plugin API 0, rigging-core 0.1.0 has 1.",
            "Upgrade dated-rigging: `pip install --upgrade dated-rigging`.",
        ],
        None,
        {"dated_rigging"},
    ),
    "newer": Fault(
        "IncompatibleProviderError",
        [
            "provider 'newer' of dated-rigging 5.0.0 (dated_rigging:NewerGenerator)",
            "is written for plugin API 99, rigging-core 0.1.0 has 1.",
            "Upgrade rigging-core: `pip install --upgrade rigging-core`.",
        ],
        None,
        {"dated_rigging"},
    ),
    "misspelt": Fault(
        "BrokenProviderError",
        [
            "provider 'misspelt' of misspelt-rigging 1.0.1",
            "entry point 'misspelt_rigging -> MisspeltGenerator' does not read 'module:Class'",
            "`pip install --upgrade misspelt-rigging`",
        ],
        "",
    ),
    "thing": Fault(
        "BrokenProviderError",
        [
            "provider 'thing' of thing-rigging 1.1.0 (thing_rigging:Thing)",
            "is <class 'thing_rigging.Thing'>, which is not a subclass of rigging.Generator",
            "`pip install --upgrade thing-rigging`",
        ],
        None,
        {"thing_rigging"},
    ),
    "function": Fault(
        "BrokenProviderError",
        [
            "provider 'function' of thing-rigging 1.1.0 (thing_rigging:make)",
            "is <function make at",
            "which is not a subclass of rigging.Generator",
            "`pip install --upgrade thing-rigging`",
        ],
        None,
        {"thing_rigging"},
    ),
    "nowhere": Fault(
        "BrokenProviderError",
        [
            "provider 'nowhere' of hollow-rigging 0.0.7 (hollow_rigging.absent:HollowGenerator)",
            "ModuleNotFoundError: No module named 'hollow_rigging.absent'",
            "`pip install --upgrade hollow-rigging`",
        ],
        "ModuleNotFoundError: No module named 'hollow_rigging.absent'",
        {"hollow_rigging"},
    ),
    "nothing": Fault(
        "BrokenProviderError",
        [
            "provider 'nothing' of hollow-rigging 0.0.7 (hollow_rigging:HollowGenerator)",
            "AttributeError: module 'hollow_rigging' has no attribute 'HollowGenerator'",
            "`pip install --upgrade hollow-rigging`",
        ],
        "AttributeError: module 'hollow_rigging' has no attribute 'HollowGenerator'",
        {"hollow_rigging"},
    ),
}


@pytest.mark.parametrize(("provider", "fault"), FAULTS.items(), ids=FAULTS)
def test_a_fault_is_explained_and_stays_with_its_plugin(
    zoo: Environment, provider: str, fault: Fault
) -> None:
    run = zoo.cells(
        f"rg.get_generator('{provider}!any')",
        f"rg.get_generator('{provider}!any')",  # a second time no other error
        "asyncio.run(rg.get_generator('acme!tiny').chat('still here').run()).last.content",
    )

    failure = run.failure()
    assert failure.name == fault.error
    assert failure.facts["provider"] == provider
    for part in fault.parts:
        assert part in failure.text
    assert failure == run.failure(1)
    assert run.outcomes[2] == "still here"
    plugins = {name for name in run.modules if name.endswith("_rigging")}
    assert plugins == {"acme_rigging", *fault.imported}
    if fault.cause is None:
        assert failure.cause is None
    else:
        assert fault.cause in str(failure.cause)


def test_not_installed_and_dependency_missing_and_broken_are_different_errors(
    zoo: Environment,
) -> None:
    run = zoo.cells(*(f"rg.get_generator('{name}!any')" for name in ("absent", "needy", "raising")))

    kinds = ["UnknownProviderError", "MissingDependencyError", "BrokenProviderError"]
    failures = [run.failure(index) for index in range(3)]
    assert [failure.name for failure in failures] == kinds
    for failure in failures:
        assert set(kinds).isdisjoint(failure.bases[1:])
        assert {"ProviderLookupError", "RiggingError", "LookupError"} < set(failure.bases)
    assert [failure.cause for failure in failures] == [
        None,  # nothing was tried, so nothing failed
        "ModuleNotFoundError: No module named 'absent_engine'",
        "RuntimeError: the engine's licence has expired",
    ]
    assert [{"ImportError"} <= set(failure.bases) for failure in failures] == [False, True, True]


def test_a_missing_dependency_is_named(zoo: Environment) -> None:
    failure = zoo.cells("rg.get_generator('needy!any')").failure()

    assert failure.facts["dependency"] == "absent_engine"


def test_a_plugin_api_that_does_not_fit_is_told_with_both_versions(zoo: Environment) -> None:
    failure = zoo.cells("rg.get_generator('newer!any')").failure()

    assert (failure.facts["found"], failure.facts["expected"]) == (99, 1)


def test_a_faulty_class_asked_for_by_its_own_name_gives_the_same_error(zoo: Environment) -> None:
    run = zoo.cells("rg.get_generator('needy!any')", "from rigging.generator import NeedyGenerator")

    assert run.failure(1) == run.failure(0)


def test_garbled_entry_points_are_reported_and_the_other_providers_work(zoo: Environment) -> None:
    run = zoo.cells(
        "rg.get_generator('acme!tiny').to_identifier()",
        "rg.get_generator('garbled!any')",
    )

    assert run.outcomes[0] == "acme!tiny"
    # Each once, though two scans were made. Pydantic looks for plugins too, and stumbles.
    pydantics, warning = run.logs
    assert "pydantic goes without its plugins" in pydantics
    assert "reinstall the distribution whose entry_points.txt is malformed" in pydantics
    failure = run.failure(1)
    assert failure.name == "UnknownProviderError"
    assert "garbled_rigging" not in run.modules
    for text in (warning, failure.text):
        assert "garbled-rigging 2.2.0 in " in text
        assert "its entry points cannot be read (TypeError: " in text
        assert "reinstall it, or report this to its authors" in text
    assert warning.startswith("WARNING rigging.registry: provider left out: ")
