"""The wheels and sdists under test, and clean environments to install them into."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.build.packages import CORE, PROVIDERS, Package
from tests.support.environments import Environment, build, make_environment

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with everything built: ``RIGGING_DIST``, or one that is filled here."""
    if "RIGGING_DIST" in os.environ:
        return Path(os.environ["RIGGING_DIST"])
    folder = tmp_path_factory.mktemp("dist")
    for package in (CORE, *PROVIDERS):
        for kind in ("--sdist", "--wheel"):
            built = build(package.folder, folder / package.name / kind, kind)
            built.rename(folder / built.name)
    return folder


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Callable[[Package], Path]:
    """Find a package's only wheel."""
    return lambda package: _only(dist, f"{package.name.replace('-', '_')}-*.whl")


@pytest.fixture(scope="session")
def sdist(dist: Path) -> Callable[[Package], Path]:
    """Find a package's only sdist."""
    return lambda package: _only(dist, f"{package.name.replace('-', '_')}-*.tar.gz")


@pytest.fixture(scope="session")
def core_alone(
    wheel: Callable[[Package], Path], tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """A clean environment with rigging-core and what it needs."""
    environment = make_environment(tmp_path_factory.mktemp("core") / "env")
    environment.install(wheel(CORE))
    return environment


def _only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    assert len(found) == 1, f"{pattern}: {found}"
    return found[0]
