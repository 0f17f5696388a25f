"""Which of the installed distributions gets a name, and how to choose another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.support.environments import Environment

    Install = Callable[..., Environment]


# -- Two distributions claim one name ----------------------------------------------------


def test_two_claims_are_an_error_at_use_that_names_both_and_the_ways_to_choose(
    install: Install,
) -> None:
    run = install("acme-rigging", "acme-fork").cells(
        "from rigging.registry import registry",
        "len(registry.scan().claims)",
        "rg.get_generator('acme!tiny')",
    )

    assert run.outcomes[:2] == [None, 2]  # neither import nor scan minds
    failure = run.failure(2)
    assert failure.name == "AmbiguousProviderError"
    assert failure.facts["candidates"] == [["acme-fork", "2.0.0"], ["acme-rigging", "1.2.0"]]
    assert "'acme' is claimed by 2 installed distributions" in failure.text
    assert "acme-fork 2.0.0, acme-rigging 1.2.0." in failure.text
    assert "write 'acme-fork:acme!…'" in failure.text
    assert "set RIGGING_PROVIDER_ACME=acme-fork" in failure.text
    assert "uninstall the others" in failure.text
    assert {"acme_rigging", "acme_fork"}.isdisjoint(run.modules)


def test_an_identifier_chooses_by_the_distributions_name(install: Install) -> None:
    run = install("acme-rigging", "acme-fork").cells(
        "type(rg.get_generator('acme-rigging:acme!tiny')).__module__",
        "type(rg.get_generator('Acme_Fork:acme!tiny')).__module__",
    )

    assert run.values == ["acme_rigging", "acme_fork"]


def test_only_the_chosen_one_is_imported(install: Install) -> None:
    run = install("acme-rigging", "acme-fork").cells("rg.get_generator('acme-fork:acme!tiny')")

    assert "acme_fork" in run.modules
    assert "acme_rigging" not in run.modules


def test_an_identifier_names_the_distribution_where_the_provider_alone_is_ambiguous(
    install: Install,
) -> None:
    run = install("acme-rigging", "acme-fork").cells(
        "generator = rg.get_generator('acme-fork:acme!tiny,speed=3')",
        "generator.to_identifier()",
        "rg.get_generator(generator.to_identifier()) == generator",
        "generator.to_identifier(short=True)",
    )

    written = "acme-fork:acme!tiny,speed=3"
    assert run.values == [None, written, True, "acme-fork:acme!tiny"]


def test_an_identifier_drops_a_distribution_that_is_not_needed(install: Install) -> None:
    run = install("acme-rigging").cells(
        "rg.get_generator('acme-rigging:acme!tiny').to_identifier()"
    )

    assert run.values == ["acme!tiny"]


def test_a_variable_pins_a_provider_to_a_distribution(install: Install) -> None:
    run = install("acme-rigging", "acme-fork").cells(
        "generator = rg.get_generator('acme!tiny')",
        "type(generator).__module__",
        "generator.to_identifier()",
        "rg.get_generator('acme-rigging:acme!tiny').to_identifier()",
        variables={"RIGGING_PROVIDER_ACME": "Acme.Fork"},
    )

    assert run.values == [None, "acme_fork", "acme!tiny", "acme-rigging:acme!tiny"]


def test_classes_of_both_are_had_by_their_own_names(install: Install) -> None:
    run = install("acme-rigging", "acme-fork").cells(
        "rg.generator.AcmeGenerator.__module__", "rg.generator.ForkGenerator.__module__"
    )

    assert run.values == ["acme_rigging", "acme_fork"]


def test_a_pin_to_what_is_not_installed_says_so(install: Install) -> None:
    environment = install("acme-rigging")
    failure = environment.cells(
        "rg.get_generator('acme!tiny')", variables={"RIGGING_PROVIDER_ACME": "acme-pro"}
    ).failure()

    assert failure.name == "UnknownProviderError"
    assert failure.facts["install"] == "pip install acme-pro"
    assert "RIGGING_PROVIDER_ACME asks for 'acme-pro', which is not installed." in failure.text
    assert "Claimed by acme-rigging 1.2.0 (acme_rigging:AcmeGenerator)" in failure.text
    assert "'acme-rigging:acme!…' or set RIGGING_PROVIDER_ACME=acme-rigging" in failure.text


def test_an_identifier_that_names_what_is_not_installed_says_so(install: Install) -> None:
    failure = install("acme-rigging").cells("rg.get_generator('acme-pro:acme!tiny')").failure()

    assert failure.name == "UnknownProviderError"
    assert "The identifier asks for 'acme-pro', which is not installed." in failure.text
    assert "Install it: `pip install acme-pro`." in failure.text


# -- First-party names -------------------------------------------------------------------


def test_a_claim_to_a_first_party_name_does_not_get_it(install: Install) -> None:
    run = install("pirate-rigging").cells(
        "rg.get_generator('gpt-4')",
        "rg.get_generator('litellm!gpt-4')",
        "rg.generator.LiteLLMGenerator",
    )

    for index in (0, 1):
        failure = run.failure(index)
        assert failure.name == "UnknownProviderError"
        assert failure.facts["install"] == "pip install rigging-litellm"
        assert "provider 'litellm' is not installed" in failure.text
        assert "`pip install rigging-litellm`" in failure.text
        assert "Claimed by pirate-rigging 6.6.6 (pirate_rigging:LiteLLMGenerator)" in failure.text
        assert "write 'pirate-rigging:litellm!…'" in failure.text
    assert run.failure(2).name == "AttributeError"
    assert "pirate_rigging" not in run.modules


def test_who_claims_a_first_party_name_can_be_chosen(install: Install) -> None:
    environment = install("pirate-rigging")
    named = environment.cells(
        "generator = rg.get_generator('pirate-rigging:litellm!gpt-4,ransom=3')",
        "generator.to_identifier()",
        "rg.get_generator(generator.to_identifier()) == generator",
    )
    pinned = environment.cells(
        "rg.get_generator('gpt-4,ransom=3').to_identifier()",
        variables={"RIGGING_PROVIDER_LITELLM": "pirate-rigging"},
    )

    assert named.values[1:] == ["pirate-rigging:litellm!gpt-4,ransom=3", True]
    assert pinned.values == ["litellm!gpt-4,ransom=3"]


def test_the_first_party_distribution_wins_its_name(install: Install) -> None:
    run = install("pirate-rigging", "litellm-standin").cells(
        "generator = rg.get_generator('gpt-4,max_connections=3')",
        "type(generator).__module__",
        "generator.to_identifier()",
        "rg.generator.LiteLLMGenerator.__module__",
    )

    assert run.values == [
        None,
        "rigging_litellm",
        "litellm!gpt-4,max_connections=3",
        "rigging_litellm",
    ]
    assert "pirate_rigging" not in run.modules


# -- Nothing provides the name -----------------------------------------------------------


def test_without_the_default_provider_a_bare_model_says_what_to_install(install: Install) -> None:
    failure = install().cells("rg.get_generator('gpt-4')").failure()

    assert failure.name == "UnknownProviderError"
    assert failure.facts["provider"] == "litellm"
    assert failure.text == (
        "provider 'litellm' is not installed (available: none). "
        "Install it: `pip install rigging-litellm`."
    )


def test_the_default_provider_can_be_another_one(install: Install) -> None:
    run = install("acme-rigging").cells(
        "rg.get_generator('tiny').to_identifier()", variables={"RIGGING_DEFAULT_PROVIDER": "Acme"}
    )

    assert run.values == ["acme!tiny"]


def test_a_mistyped_name_is_answered_with_the_nearest_one(zoo: Environment) -> None:
    failure = zoo.cells("rg.get_generator('acmee!tiny')").failure()

    assert failure.name == "UnknownProviderError"
    assert "provider 'acmee' is not installed (available: acme, " in failure.text
    assert "Did you mean 'acme'?" in failure.text


def test_a_mistyped_first_party_name_is_answered_though_it_is_not_installed(
    install: Install,
) -> None:
    failure = install().cells("rg.get_generator('litelm!gpt-4')").failure()

    assert "'litellm' would come with `pip install rigging-litellm`." in failure.text


# -- One distribution twice on the path --------------------------------------------------


def test_a_stale_copy_earlier_on_the_path_is_what_runs_and_the_other_is_reported(
    install: Install, wheels: Mapping[str, Path], tmp_path: Path
) -> None:
    environment = install("acme-rigging")
    stale = tmp_path / "stale"
    environment.install("--offline", "--no-deps", "--target", stale, wheels["acme-stale"])

    run = environment.cells(
        "generator = rg.get_generator('acme!tiny,whisper=true')",
        "import acme_rigging; acme_rigging.__file__",
        "generator.to_identifier()",
        "rg.get_generator('acme!tiny,shout=true')",
        "from rigging.registry import registry; list(map(str, registry.scan().problems))",
        variables={"PYTHONPATH": str(stale)},
    )

    assert run.outcomes[1] == str(stale / "acme_rigging" / "__init__.py")
    assert run.outcomes[2] == "acme!tiny,whisper=true"
    assert "unknown key 'shout'" in run.failure(3).text
    (problem,) = run.outcomes[4]
    assert run.logs == [f"WARNING rigging.registry: provider left out: {problem}"]
    assert problem == (
        f"acme-rigging 1.2.0 in {environment.packages}: shadowed by version 0.9.0 in {stale}, "
        f"which stands earlier on sys.path; uninstall one of them"
    )


# -- Registered in process, on top of what is installed ----------------------------------


def test_a_registration_covers_an_installed_provider_until_it_is_undone(zoo: Environment) -> None:
    run = zoo.cells(
        "logging.getLogger('rigging').setLevel('INFO')",
        "registration = rg.register_generator('Acme', rg.testing.EchoGenerator)",
        "echo = rg.get_generator('acme!tiny')",
        "type(echo).__name__, echo.to_identifier()",
        "covered = rg.get_generator('acme-rigging:acme!tiny')",
        "type(covered).__name__, covered.to_identifier()",
        "registration.undo()",
        "type(rg.get_generator('acme!tiny')).__name__, covered.to_identifier()",
        "echo.to_identifier()",
    )

    assert run.outcomes[3] == ["EchoGenerator", "acme!tiny"]
    assert run.outcomes[5] == ["AcmeGenerator", "acme-rigging:acme!tiny"]
    assert run.outcomes[7] == ["AcmeGenerator", "acme!tiny"]
    assert run.failure(8).name == "UnregisteredGeneratorError"
    (replaced,) = [line for line in run.logs if line.startswith("INFO rigging.registry: ")]
    assert "'acme' of acme-rigging 1.2.0 (acme_rigging:AcmeGenerator) is replaced" in replaced
    assert "EchoGenerator" in replaced
