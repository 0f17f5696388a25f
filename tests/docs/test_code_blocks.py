"""Every Python example that a user can read runs: docstrings, README, docs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import rigging
from tests.support.pages import PAGES, ROOT, SUITES, Block, blocks_of, needing, run, stray_fences

MODULES = sorted(
    ["rigging", *(m.name for m in pkgutil.walk_packages(rigging.__path__, "rigging."))]
)
LANGUAGES = {"console", "markdown", "python", "sh", "text", "toml"}
WITH_CORE = [*needing(""), *needing("rigging-core[otel]")]


@pytest.fixture(autouse=True)
def _names_end_with_the_example() -> Iterator[None]:
    yield
    rigging.registry.registry.reset()
    rigging.plugins.manager.reset()


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings_show_what_happens(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))

    assert result.failed == 0, f"{name}: see the output above"


def test_docstrings_have_examples_to_run() -> None:
    finder = doctest.DocTestFinder()
    with_examples = {
        name
        for name in MODULES
        if any(test.examples for test in finder.find(importlib.import_module(name)))
    }

    assert with_examples >= {
        f"rigging.{name}"
        for name in ("chat", "completion", "generator", "identifier", "message", "params", "result")
    }


@pytest.mark.parametrize("block", WITH_CORE, ids=str)
def test_example_of_a_page_runs(block: Block) -> None:
    run([block])


def test_every_other_example_is_run_by_a_suite() -> None:
    needs = {block.needs for page in PAGES for block in blocks_of(page, "python")}

    assert needs - {""} == SUITES.keys()


@pytest.mark.parametrize(("package", "suite"), SUITES.items())
def test_a_suite_runs_all_that_needs_its_package(package: str, suite: str) -> None:
    text = (ROOT / suite).read_text("utf-8")

    assert f'needing("{package}")' in text


def test_an_error_that_a_page_shows_is_what_is_said() -> None:
    (_, shown) = blocks_of(ROOT / "docs/identifiers.md", "text")
    rigging.register_generator("echo", rigging.testing.EchoGenerator)

    with pytest.raises(rigging.error.InvalidIdentifierError) as raised:
        rigging.get_generator("echo!m,api_key=sk-my-key,temprature=0.5")

    assert str(raised.value).startswith(shown.code.removesuffix(" …\n"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_block_is_overlooked(page: Path) -> None:
    languages = {block.language for block in blocks_of(page)}

    assert not stray_fences(page)
    assert languages <= LANGUAGES, "is one of them to be run?"
    # Commands and what they print: run where the provider that they name is installed.
    assert {block.needs for block in blocks_of(page, "console")} <= {"rigging-openai"}
