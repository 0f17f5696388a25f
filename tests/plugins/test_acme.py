"""A complete provider of a third party, from its sources to its last day."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.environments import ROOT, Environment, build, make_environment
from tests.support.pages import blocks_of

if TYPE_CHECKING:
    from collections.abc import Mapping

ACME: Final = ROOT / "tests" / "plugins" / "acme"
PAGE: Final = ROOT / "docs" / "write-a-provider.md"


@pytest.fixture(scope="module")
def acme(
    core: Environment,
    wheels: Mapping[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Environment:
    """An environment with rigging-core and Acme's package, both from wheels."""
    folder = tmp_path_factory.mktemp("acme")
    environment = core.clone(folder / "env")
    environment.install_offline(build(ACME, folder / "dist", "--wheel"))
    return environment


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text, with commas!.txt"
    path.write_text("one two three four five six", encoding="utf-8")
    return path


def test_its_own_tests_pass_where_it_is_installed(
    acme: Environment, wheels: Mapping[str, Path], tmp_path: Path
) -> None:
    environment = acme.clone(tmp_path / "env")
    environment.install(f"rigging-core[testing] @ {wheels['rigging-core'].as_uri()}")
    # Away from this repository, whose tests have a configuration of their own.
    tests = shutil.copytree(ACME / "tests", tmp_path / "acme" / "tests")

    printed = environment.run("-m", "pytest", "--rootdir", tests, tests)

    assert " passed in " in printed
    assert "skipped" not in printed


def test_its_author_tests_it_as_the_page_says(wheels: Mapping[str, Path], tmp_path: Path) -> None:
    (typed,) = (block for block in blocks_of(PAGE, "sh") if "-e ." in block.code and not block.step)
    environment = make_environment(tmp_path / "env")
    environment.install(wheels["rigging-core"], "pip>=25.1")
    project = shutil.copytree(ACME, tmp_path / "acme", ignore=shutil.ignore_patterns("__pycache__"))

    printed = environment.shell(typed.code, project)

    assert " passed in " in printed


def test_it_is_found_by_its_identifier_and_runs_a_batch(acme: Environment, text: Path) -> None:
    run = acme.cells(
        f"generator = rg.get_generator(rg.identifier.Identifier({str(text)!r}, 'acme').format()"
        f" + ',order=1,max_tokens=2')",
        "type(generator).__module__, generator.order",
        "chats = generator.chat().run_batch_sync(['one', 'five', 'Say two'])",
        "[chat.last.text for chat in chats]",
        "[(chat.stop_reason, chat.usage.output_tokens) for chat in chats]",
        "chats[0].generator_id == generator.to_identifier()",
    )

    assert run.values[1] == ["acme_rigging._generator", 1]
    assert run.values[3:] == [
        [" two three", " six one", " three four"],
        [["length", 2]] * 3,
        True,
    ]


def test_a_provider_that_was_taken_away_is_unknown(acme: Environment, tmp_path: Path) -> None:
    environment = acme.clone(tmp_path / "env")

    before = environment.cells("rg.get_generator('acme!any').to_identifier()")
    environment.uninstall("acme-rigging")
    after = environment.cells("rg.get_generator('acme!any')")

    assert before.values == ["acme!any"]
    assert after.failure().name == "UnknownProviderError"
    assert "provider 'acme' is not installed" in after.failure().text
