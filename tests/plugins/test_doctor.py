"""The command line where providers and plugins are installed, most of them broken."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.environments import Environment

# The script of a cloned environment would run the interpreter of the one that was cloned.
RIGGING = ("-m", "rigging.cli")


@pytest.fixture(scope="module")
def ward(
    zoo: Environment, wheels: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """All the faulty providers, one good one, and the command line."""
    environment = zoo.clone(tmp_path_factory.mktemp("ward") / "env")
    environment.install(f"rigging-core[cli] @ {wheels['rigging-core'].as_uri()}")
    return environment


@pytest.fixture
def equipped(
    install: Callable[..., Environment], wheels: Mapping[str, Path]
) -> Callable[..., Environment]:
    """Make an environment with the command line and the named projects."""

    def make(*projects: str) -> Environment:
        environment = install(*projects)
        environment.install(f"rigging-core[cli] @ {wheels['rigging-core'].as_uri()}")
        return environment

    return make


def findings(environment: Environment) -> dict[str, dict[str, Any]]:
    done = environment.call(*RIGGING, "doctor", "--json")
    assert done.returncode == 1, done.stderr
    return {one["name"]: one for one in json.loads(done.stdout)["found"]}


def test_each_fault_is_told_apart(ward: Environment) -> None:
    found = findings(ward)

    states = {name: one["state"] for name, one in found.items() if one["kind"] == "provider"}
    assert states["acme"] == "ok"
    assert states["raising"] == states["exiting"] == states["misspelt"] == "broken"
    assert states["needy"] == "missing dependency"
    assert states["older"] == states["newer"] == "wrong API"
    assert found["garbled-rigging"]["state"] == "unreadable"
    assert "licence has expired" in found["raising"]["detail"]
    assert "Traceback" in found["raising"]["trace"]


def test_a_traceback_is_for_those_who_ask(ward: Environment) -> None:
    plain, verbose = ward.call(*RIGGING, "doctor"), ward.call(*RIGGING, "doctor", "-v")

    assert plain.returncode == verbose.returncode == 1
    assert "provider raising, broken: " in plain.stdout
    assert "Traceback" not in plain.stdout
    assert "RuntimeError: the engine's licence has expired" in verbose.stdout
    assert "Traceback" in verbose.stdout


def test_broken_ones_take_no_other_command_down(ward: Environment) -> None:
    listed = ward.call(*RIGGING, "providers", "--json")
    broken = ward.call(*RIGGING, "run", "raising!x", "hi")
    absent = ward.call(*RIGGING, "run", "needy!x", "hi")
    shown = ward.call(*RIGGING, "providers", "show", "acme", "--json")

    names = {one["name"]: one for one in json.loads(listed.stdout)}
    assert listed.returncode == shown.returncode == 0
    assert {"acme", "raising", "needy", "older"} <= names.keys()
    assert names["raising"]["version"] == "3.1.0"
    assert (broken.returncode, absent.returncode) == (1, 3)
    assert "licence has expired" in broken.stderr
    assert "Traceback" not in broken.stderr


def test_names_that_several_claim_are_no_fault(
    equipped: Callable[..., Environment],
) -> None:
    environment = equipped("acme-rigging", "acme-fork")

    done = environment.call(*RIGGING, "doctor")
    pinned = environment.call(
        *RIGGING, "doctor", "--json", variables={"RIGGING_PROVIDER_ACME": "acme-fork"}
    )
    used = environment.call(*RIGGING, "run", "acme!x", "hi")

    assert done.returncode == pinned.returncode == 0
    assert "set RIGGING_PROVIDER_ACME=acme-fork" in done.stdout
    states = {one["origin"].split()[0]: one["state"] for one in json.loads(pinned.stdout)["found"]}
    assert states == {"acme-fork": "ok", "acme-rigging": "shadowed"}
    assert used.returncode == 1
    assert "acme-rigging" in used.stderr


def test_a_dependency_that_is_missing_or_too_old_is_found_without_importing_it(
    equipped: Callable[..., Environment],
) -> None:
    environment = equipped("acme-rigging")
    (record,) = environment.packages.glob("acme_rigging-*.dist-info")
    metadata = (record / "METADATA").read_text(encoding="utf-8")
    head, _, body = metadata.partition("\n\n")
    needs = (
        "absent-engine>=1",
        "pydantic>=900",
        "rich>=1; extra == 'x'",
        "absent; python_version<'3'",
    )
    lines = [f"Requires-Dist: {need}" for need in needs]
    (record / "METADATA").unlink()
    text = "\n".join([head.rstrip(), *lines, "", body])
    (record / "METADATA").write_text(text, encoding="utf-8")

    done = environment.call(*RIGGING, "doctor", "--json")

    (found,) = json.loads(done.stdout)["found"]
    assert done.returncode == 1
    assert found["state"] == "missing dependency"
    assert "absent-engine>=1, which is not installed" in found["detail"]
    assert "pydantic>=900, and 2." in found["detail"]
    assert "rich" not in found["detail"]


def test_installed_plugins_are_listed_and_may_be_left_out(
    equipped: Callable[..., Environment],
) -> None:
    environment = equipped("tally-rigging")

    on = environment.call(*RIGGING, "doctor", "--json")
    off = environment.call(*RIGGING, "doctor", "--json", variables={"RIGGING_DISABLE_PLUGINS": "1"})

    states = [
        {one["name"]: one["state"] for one in json.loads(done.stdout)["found"]}
        for done in (on, off)
    ]
    assert "ok" in states[0].values()
    assert set(states[1].values()) == {"left out"}
    assert off.returncode == 0


def test_without_its_extra_the_command_says_how_to_get_it(core: Environment) -> None:
    done = core.call(core.python.with_name("rigging"), "run", "acme!x", "hi")

    assert done.returncode == 1
    assert done.stdout == ""
    assert "`pip install 'rigging-core[cli]'`" in done.stderr
    assert "Traceback" not in done.stderr
