"""`rigging providers` and `rigging doctor`, on what this process has registered.

What they say of installed packages is tested in `tests/plugins/test_doctor.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

import rigging as rg
from tests.core.cli.conftest import Done

Rigging = Callable[..., Done]


@pytest.mark.parametrize("arguments", [["providers"], ["providers", "list"]])
def test_a_list_says_where_names_lead(rigging: Rigging, arguments: list[str]) -> None:
    rg.register_generator("words", rg.testing.EchoGenerator)  # the file registers it anew

    shown = rigging(*arguments)
    found = json.loads(rigging(*arguments, "--json").out)

    assert shown.code == 0
    assert shown.out.splitlines()[0].split() == [
        "name",
        "distribution",
        "version",
        "target",
        "state",
    ]
    assert {one["name"] for one in found} == {"echo", "words"}
    assert found[-1] == {
        "name": "words",
        "distribution": None,
        "version": None,
        "target": "generators:Words",
        "state": "registered",
    }
    assert found[-2]["state"] == "shadowed"


def test_show_tells_what_a_provider_takes_and_does(rigging: Rigging) -> None:
    shown = rigging("providers", "show", "Words")
    facts = json.loads(rigging("providers", "show", "words", "--json").out)

    fields = {field["name"]: field for field in facts["fields"]}
    assert fields["model"]["default"] == "(required)"
    assert fields["max_connections"] == {"name": "max_connections", "type": "int", "default": "4"}
    assert fields["token"]["default"] == "(secret)"
    assert "temperature" in {one["name"] for one in facts["parameters"]}
    assert facts["capabilities"] == {
        "conversations": True,
        "texts": False,
        "streams": True,
        "loads a model": False,
        "requests per call": 1,
    }
    assert facts["key variables"] == ["WORDS_API_KEY"]
    assert "Says the last message in capitals" in shown.out
    assert "max_connections" in shown.out


def test_show_of_a_name_that_nobody_has(rigging: Rigging) -> None:
    assert rigging("providers", "show", "absent").code == 3


def test_doctor_says_which_keys_are_set_and_never_what_they_are(
    rigging: Rigging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORDS_API_KEY", raising=False)
    before = rigging("doctor", "--json")
    monkeypatch.setenv("WORDS_API_KEY", "sk-planted-51c7")
    after, shown = rigging("doctor", "--json"), rigging("doctor")

    assert before.code == after.code == shown.code == 0
    assert json.loads(before.out)["keys"] == {"WORDS_API_KEY": False}
    assert json.loads(after.out)["keys"] == {"WORDS_API_KEY": True}
    assert "WORDS_API_KEY  set" in shown.out
    assert "planted" not in after.out + shown.out
    assert [one["state"] for one in json.loads(before.out)["found"]] == ["ok", "ok"]


def test_doctor_fails_where_something_is_broken(rigging: Rigging, generators: object) -> None:
    path = generators
    with path.open("a", encoding="utf-8") as file:  # type: ignore[attr-defined]
        file.write("rg.register_generator('broken', lambda: 1 / 0)\n")
        file.write("rg.register_generator('old', type('Old', (Words,), {'plugin_api': 0}))\n")

    done, verbose = rigging("doctor"), rigging("doctor", "-v")

    assert done.code == verbose.code == 1
    assert "provider broken, broken: " in done.out
    assert "ZeroDivisionError" in done.out
    assert "provider old, wrong API: " in done.out
    assert "Traceback" not in done.out
    assert "Traceback" in verbose.out
