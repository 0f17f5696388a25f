"""What a user gets who installs the packages into a clean environment."""

from __future__ import annotations

from importlib.metadata import distributions
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.build.packages import CORE, PROVIDERS, Package
from tests.support.environments import Environment, make_environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Find = Callable[[Package], Path]

HEAVY = {
    "accelerate",
    "aiohttp",
    "httpx",
    "litellm",
    "openai",
    "orjson",
    "torch",
    "transformers",
    "vllm",
}


# -- Core alone --------------------------------------------------------------------------


def test_core_brings_what_it_needs_and_nothing_else(core_alone: Environment) -> None:
    installed = set(core_alone.installed())

    assert installed == needed_by(CORE.name, core_alone)
    assert {CORE.name, *CORE.needs} < installed
    assert HEAVY.isdisjoint(installed)


def test_core_alone_runs_the_echo_generator(core_alone: Environment) -> None:
    run = core_alone.cells(
        "rg.register_generator('echo', rg.testing.EchoGenerator)",
        "generator = rg.get_generator('echo!any,temperature=0.5')",
        "asyncio.run(generator.chat('Hello').run()).last.content",
        "asyncio.run(generator.complete('Once').run()).generated",
    )

    assert run.values[2:] == ["Hello", "Once"]


def test_core_alone_says_for_gpt_4_what_to_install(core_alone: Environment) -> None:
    failure = core_alone.cells("rg.get_generator('gpt-4')").failure()

    assert failure.name == "UnknownProviderError"
    assert "provider 'litellm' is not installed" in failure.text
    assert "Install it: `pip install rigging-litellm`." in failure.text


# -- With providers ----------------------------------------------------------------------


def test_core_with_litellm_resolves_gpt_4_without_importing_litellm(
    wheel: Find, dist: Path, tmp_path: Path
) -> None:
    environment = make_environment(tmp_path / "env")
    environment.install("--find-links", dist, f"{CORE.name}[litellm] @ {wheel(CORE).as_uri()}")

    run = environment.cells(
        "generator = rg.get_generator('gpt-4,temperature=0.5')",
        "type(generator).__name__, generator.to_identifier()",
    )

    assert {"litellm", "rigging-litellm"} <= environment.installed().keys()
    assert run.values[1] == ["LiteLLMGenerator", "litellm!gpt-4,temperature=0.5"]
    assert HEAVY.isdisjoint(run.modules)


def test_the_extra_transformers_brings_the_provider_and_its_library(
    wheel: Find, dist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Resolved only: it stands for more than a gigabyte. So any build of torch will do.
    monkeypatch.delenv("UV_TORCH_BACKEND", raising=False)
    environment = make_environment(tmp_path / "env")
    resolved = environment.resolve(
        f"{CORE.name}[transformers] @ {wheel(CORE).as_uri()}", "--find-links", dist
    )

    assert {CORE.name, "rigging-transformers", "torch", "transformers", "accelerate"} <= resolved
    assert {"rigging-litellm", "rigging-vllm"}.isdisjoint(resolved)


@pytest.fixture(scope="module")
def bare_providers(
    core_alone: Environment, wheel: Find, tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """Core with all providers, but none of the libraries that they stand for."""
    environment = core_alone.clone(tmp_path_factory.mktemp("providers") / "env")
    environment.install_offline(*(wheel(package) for package in PROVIDERS))
    return environment


@pytest.mark.parametrize("package", PROVIDERS, ids=lambda package: package.name)
def test_a_provider_is_found_without_its_library(
    bare_providers: Environment, package: Package
) -> None:
    identifier = f"{package.provider}!any,temperature=0.5"
    run = bare_providers.cells(
        f"generator = rg.get_generator({identifier!r})",
        "type(generator).__module__.partition('.')[0], type(generator).__name__",
        f"type(generator) is rg.generator.{package.generator}",
        "generator.to_identifier()",
    )

    assert run.values[1:] == [[package.module, package.generator], True, identifier]
    others = {other.module for other in PROVIDERS} - {package.module}
    assert (HEAVY | others).isdisjoint(run.modules)


def test_an_installed_provider_is_found_by_name_and_imported_when_it_is_used(
    bare_providers: Environment,
) -> None:
    run = bare_providers.cells("from rigging.registry import registry", "sorted(registry.known())")

    assert run.values[1] == sorted(package.provider for package in PROVIDERS)
    assert {package.module for package in PROVIDERS}.isdisjoint(run.modules)


def needed_by(name: str, environment: Environment) -> set[str]:
    """Return a distribution and all that it needs, directly or not, extras left out."""
    installed = {
        canonicalize_name(found.name): found
        for found in distributions(path=[str(environment.packages)])
    }
    needed: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in needed:
            continue
        needed.add(current)
        for line in installed[current].requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    return needed
