"""Environments with installed plugins, and plugins made up on the spot.

The projects under `projects/` are real: each is built into a wheel and installed into a
clean environment, beside a `rigging-core` that was built from this tree.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import importlib_metadata
import pytest

from rigging.plugins import manager
from rigging.registry import registry
from tests.support.environments import ROOT, Environment, build, make_environment
from tests.support.plugins import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

PROJECTS: Final = ROOT / "tests" / "plugins" / "projects"

# Its tests run where it is installed: see `test_acme.py`.
collect_ignore = ["acme"]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The projects and rigging-core as wheels, by the projects' folders."""
    folder = tmp_path_factory.mktemp("wheels")
    # One environment with the build backend, instead of one for each project.
    builder = make_environment(folder / "builder")
    builder.install("hatchling")
    options = ("--wheel", "--no-build-isolation", "--python", builder.python)
    projects = [ROOT / "packages" / "rigging-core", *sorted(PROJECTS.iterdir())]
    return {project.name: build(project, folder / project.name, *options) for project in projects}


@pytest.fixture(scope="session")
def core(wheels: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with rigging-core alone."""
    environment = make_environment(tmp_path_factory.mktemp("core") / "env")
    environment.install(wheels["rigging-core"])
    environment.cells("rg.get_generator")  # compiles everything once, for all its clones
    return environment


@pytest.fixture
def install(
    core: Environment, wheels: Mapping[str, Path], tmp_path: Path
) -> Callable[..., Environment]:
    """Make an environment with rigging-core and the named projects."""

    def make(*projects: str) -> Environment:
        environment = core.clone(tmp_path / "env")
        if projects:
            environment.install_offline(*(wheels[project] for project in projects))
        return environment

    return make


@pytest.fixture(scope="session")
def zoo(
    core: Environment, wheels: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """One good provider among all the faulty ones."""
    environment = core.clone(tmp_path_factory.mktemp("zoo") / "env")
    others = {"rigging-core", "acme-fork", "acme-stale", "litellm-standin", "tally-rigging"}
    projects = wheels.keys() - others
    environment.install_offline(*(wheels[project] for project in projects))
    garble(environment)
    return environment


def garble(environment: Environment) -> None:
    """Spoil the entry points of garbled-rigging: nothing can build a wheel with such a file."""
    (record,) = environment.packages.glob("garbled_rigging-*.dist-info")
    spoilt = "[rigging.generators]\nthis line is no entry point\ngarbled = garbled_rigging:X\n"
    (record / "entry_points.txt").unlink()
    (record / "entry_points.txt").write_text(spoilt, encoding="utf-8")


@pytest.fixture
def clean_registry() -> Iterator[None]:
    """A process that has registered and scanned nothing, before and after the test."""
    registry.reset()
    manager.reset()
    yield
    registry.reset()
    manager.reset()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_registry: None) -> Iterator[Site]:
    """A folder to install made-up plugins into, the only place that is searched for them."""
    before = set(sys.modules)
    discover = importlib_metadata.Distribution.discover

    def discover_here(**options: str) -> Iterable[importlib_metadata.Distribution]:
        here = [folder for folder in sys.path if folder.startswith(str(tmp_path))]
        return discover(path=here, **options)

    monkeypatch.setattr(importlib_metadata.Distribution, "discover", discover_here)
    yield Site(tmp_path / "site", monkeypatch)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
