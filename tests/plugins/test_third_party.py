"""A provider that somebody else publishes works as the first-party ones do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.support.environments import Environment

IDENTIFIER = "acme!tiny,shout=true,marks=!;?,temperature=0.5"


def test_it_answers_a_chat(zoo: Environment) -> None:
    run = zoo.cells(
        f"generator = rg.get_generator({IDENTIFIER!r})",
        "asyncio.run(generator.chat('hi').run()).last.content",
    )

    assert run.values == [None, "HI!?"]


def test_its_own_fields_make_the_round_trip_through_an_identifier(zoo: Environment) -> None:
    run = zoo.cells(
        f"generator = rg.get_generator({IDENTIFIER!r})",
        "generator.shout, generator.marks, generator.params.temperature",
        "generator.to_identifier()",
        "rg.get_generator(generator.to_identifier()) == generator",
    )

    assert run.values == [None, [True, ["!", "?"], 0.5], IDENTIFIER, True]


def test_an_unknown_field_is_refused_with_the_fields_it_has(zoo: Environment) -> None:
    failure = zoo.cells("rg.get_generator('acme!tiny,shoot=true')").failure()

    assert failure.name == "InvalidIdentifierError"
    assert "unknown key 'shoot'; did you mean 'shout'?" in failure.text
    assert "Keys of acme: " in failure.text
    assert "shout, marks, temperature, " in failure.text


def test_its_name_may_be_written_in_any_case(zoo: Environment) -> None:
    run = zoo.cells("rg.get_generator('ACME!Tiny').to_identifier()")

    assert run.values == ["acme!Tiny"]


def test_its_class_is_had_from_the_generator_module_by_its_own_name(zoo: Environment) -> None:
    run = zoo.cells(
        "from rigging.generator import AcmeGenerator",
        "AcmeGenerator.__module__",
        "AcmeGenerator is rg.generator.AcmeGenerator is type(rg.get_generator('acme!tiny'))",
        "AcmeGenerator(model='tiny').to_identifier()",
    )

    assert run.values == [None, "acme_rigging", True, "acme!tiny"]


def test_a_class_made_by_hand_has_an_identifier_before_its_name_was_ever_used(
    zoo: Environment,
) -> None:
    run = zoo.cells(
        "from acme_rigging import AcmeGenerator",
        "AcmeGenerator(model='tiny').to_identifier()",
    )

    assert run.values == [None, "acme!tiny"]


def test_looking_around_imports_no_plugin(zoo: Environment) -> None:
    run = zoo.cells(
        "from rigging.registry import registry",
        "sorted(registry.known())",
        "rg.register_generator('acme', rg.testing.EchoGenerator).undo()",
    )

    assert run.values[1] == [
        "acme",
        "exiting",
        "function",
        "litellm",
        "misspelt",
        "needy",
        "newer",
        "nothing",
        "nowhere",
        "older",
        "raising",
        "thing",
    ]
    assert plugins_in(run.modules) == set()


def test_only_the_plugin_that_is_asked_for_is_imported(zoo: Environment) -> None:
    run = zoo.cells("rg.get_generator('acme!tiny')", "rg.generator.AcmeGenerator")

    assert plugins_in(run.modules) == {"acme_rigging"}


def test_importing_rigging_reads_no_entry_point(install: Callable[..., Environment]) -> None:
    run = install("acme-rigging").cells("import rigging.generator")

    assert plugins_in(run.modules) == set()
    assert "importlib_metadata" not in run.modules
    assert run.logs == []


def test_a_provider_installed_after_a_first_miss_is_found(
    install: Callable[..., Environment], wheels: Mapping[str, Path]
) -> None:
    environment = install()
    command = environment.installing("--offline", "--no-deps", wheels["acme-rigging"])
    # What a notebook's `%pip install` does: another process installs, this one goes on.
    run = environment.cells(
        "rg.get_generator('acme!tiny')",
        "import subprocess, sys",
        f"subprocess.run({command!r}, check=True)",
        "rg.get_generator('acme!tiny').to_identifier()",
        "rg.generator.AcmeGenerator.__module__",
    )

    assert run.failure().name == "UnknownProviderError"
    assert run.outcomes[3:] == ["acme!tiny", "acme_rigging"]


def plugins_in(modules: set[str]) -> set[str]:
    return {name for name in modules if name.endswith("_rigging") or "litellm" in name}
