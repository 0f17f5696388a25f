"""What is in the wheels and sdists, and what their metadata says."""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

from tests.build.packages import CORE, PROVIDERS, Package
from tests.support.environments import ROOT, build

if TYPE_CHECKING:
    from collections.abc import Callable

    Find = Callable[[Package], Path]

every_package = pytest.mark.parametrize(
    "package", [CORE, *PROVIDERS], ids=lambda package: package.name
)
every_provider = pytest.mark.parametrize("package", PROVIDERS, ids=lambda package: package.name)


# -- Metadata ----------------------------------------------------------------------------


@every_package
def test_name_and_version_are_those_of_the_sources(package: Package, wheel: Find) -> None:
    metadata = read(wheel(package)).metadata

    assert metadata["Name"] == package.name
    assert metadata["Version"] == version_of(package)
    assert wheel(package).name.endswith(f"-{version_of(package)}-py3-none-any.whl")


@every_package
def test_the_license_is_named_and_carried_along(package: Package, wheel: Find) -> None:
    distribution = read(wheel(package))

    assert distribution.metadata["License-Expression"] == "MIT"
    assert distribution.metadata.get_all("License-File") == ["LICENSE"]
    carried = distribution.read_text("licenses/LICENSE")
    assert carried == (ROOT / "LICENSE").read_text(encoding="utf-8")


@every_package
def test_the_readme_is_the_description(package: Package, wheel: Find) -> None:
    metadata = read(wheel(package)).metadata
    readme = (package.folder / "README.md").read_text(encoding="utf-8")

    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Summary"]
    description = metadata.get_payload()  # type: ignore[attr-defined]
    assert description.strip() == readme.strip()


@every_package
def test_python_and_dependencies_are_as_designed(package: Package, wheel: Find) -> None:
    distribution = read(wheel(package))
    needed = [one for one in requirements(distribution) if not one.marker]

    assert distribution.metadata["Requires-Python"] == ">=3.11"
    assert {one.name for one in needed} == package.needs
    assert not [one for one in needed if one.extras or one.url or not admits_newest(one)]


@every_provider
def test_a_provider_fits_this_core_and_no_later_minor_one(package: Package, wheel: Find) -> None:
    (core,) = [one for one in requirements(read(wheel(package))) if one.name == CORE.name]

    assert core.specifier.contains(version_of(CORE))
    assert not core.specifier.contains("0.2.0")
    assert not core.specifier.contains("1.0.0")


def test_releases_of_litellm_that_were_compromised_are_excluded(wheel: Find) -> None:
    (litellm,) = [one for one in requirements(read(wheel(PROVIDERS[0]))) if one.name == "litellm"]

    assert not [v for v in ("1.82.7", "1.82.8", "1.107.0") if litellm.specifier.contains(v)]


def test_cores_extras_bring_the_providers_and_what_is_optional(wheel: Find) -> None:
    distribution = read(wheel(CORE))
    brought = {
        extra: {
            one.name
            for one in requirements(distribution)
            if one.marker and one.marker.evaluate({"extra": extra})
        }
        for extra in distribution.metadata.get_all("Provides-Extra")
    }

    expected = {package.provider: {package.name} for package in PROVIDERS}
    everything = {"all": {package.name for package in PROVIDERS}}
    others = {
        "cli": {"packaging", "rich", "typer"},
        "otel": {"opentelemetry-api"},
        "progress": {"tqdm"},
        "testing": {"pytest"},
    }
    assert brought == expected | everything | others


@every_provider
def test_a_provider_claims_its_name(package: Package, wheel: Find) -> None:
    (entry_point,) = read(wheel(package)).entry_points

    assert entry_point.group == "rigging.generators"
    assert f"{entry_point.name} = {entry_point.value}" == package.entry_point


def test_core_brings_its_command_and_claims_no_name(wheel: Find) -> None:
    (command,) = read(wheel(CORE)).entry_points

    assert (command.group, command.name) == ("console_scripts", "rigging")
    assert command.value == "rigging.cli:main"


# -- Contents ----------------------------------------------------------------------------


@every_package
def test_a_wheel_holds_the_sources_and_nothing_else(package: Package, wheel: Find) -> None:
    inside = {name for name in contents_of_wheel(wheel(package)) if ".dist-info/" not in name}

    assert inside == set(sources(package))
    assert f"{package.module}/py.typed" in inside


@every_package
def test_an_sdist_holds_what_a_wheel_is_built_from_and_nothing_else(
    package: Package, sdist: Find
) -> None:
    inside = {
        str(PurePosixPath(*PurePosixPath(name).parts[1:]))
        for name in contents_of_sdist(sdist(package))
    }

    around = {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}
    assert inside - {".gitignore"} == around | {f"src/{name}" for name in sources(package)}


@every_package
def test_an_sdist_builds_into_the_wheel_of_the_sources(
    package: Package, sdist: Find, tmp_path: Path
) -> None:
    from_sdist = build(sdist(package), tmp_path / "sdist", "--wheel")
    from_sources = build(package.folder, tmp_path / "sources", "--wheel")

    assert contents_of_wheel(from_sdist) == contents_of_wheel(from_sources)


@every_package
def test_the_wheel_is_that_of_the_sources(package: Package, wheel: Find, tmp_path: Path) -> None:
    from_sources = build(package.folder, tmp_path / "sources", "--wheel")

    assert contents_of_wheel(wheel(package)) == contents_of_wheel(from_sources)


@every_package
def test_nothing_in_them_tells_of_this_machine(package: Package, wheel: Find, sdist: Find) -> None:
    files = contents_of_wheel(wheel(package)) | contents_of_sdist(sdist(package))
    places = [str(place).encode() for place in (ROOT, sys.prefix, Path(sys.executable).parent)]

    assert [name for name, text in files.items() if any(place in text for place in places)] == []


# -- Reading -----------------------------------------------------------------------------


def read(wheel: Path) -> PathDistribution:
    name, version = wheel.name.split("-")[:2]
    return PathDistribution(zipfile.Path(wheel, f"{name}-{version}.dist-info/"))


def requirements(distribution: PathDistribution) -> list[Requirement]:
    return [Requirement(line) for line in distribution.requires or ()]


def admits_newest(requirement: Requirement) -> bool:
    """Tell whether only a floor is set, or a ceiling where a next major version may break."""
    return all(one.operator in {">=", "<", "!="} for one in requirement.specifier)


def version_of(package: Package) -> str:
    text = (package.folder / "src" / package.module / "_version.py").read_text(encoding="utf-8")
    (version,) = re.findall(r'^__version__ = "([\d.]+)"$', text, flags=re.MULTILINE)
    return version


def sources(package: Package) -> list[str]:
    folder = package.folder / "src"
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    # What tools remember is no source: ruff keeps its cache in the template of a project, too.
    caches = {"__pycache__", ".ruff_cache"}
    return [path.as_posix() for path in files if caches.isdisjoint(path.parts)]


def contents_of_wheel(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def contents_of_sdist(sdist: Path) -> dict[str, bytes]:
    with tarfile.open(sdist) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        return {member.name: archive.extractfile(member).read() for member in members}
