"""Every Python example that a user can read runs: docstrings, README, docs."""

from __future__ import annotations

import ast
import asyncio
import doctest
import importlib
import pkgutil
import re
from collections.abc import Iterator
from inspect import isawaitable
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

import rigging

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ["rigging", *(m.name for m in pkgutil.walk_packages(rigging.__path__, "rigging."))]
)
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("packages/*/README.md")])
# A block that needs more than core says so in a comment before it; it must at least parse.
BLOCK = re.compile(r"^(<!-- needs: .*? -->\n)?```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(*, run: bool) -> list[ParameterSet]:
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start()) + 1
            if run == (not block[1]):
                found.append(pytest.param(block[2], id=f"{page.relative_to(ROOT)}:{line}"))
    return found


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


@pytest.mark.parametrize("code", blocks(run=True))
def test_example_of_a_page_runs(code: str) -> None:
    """Blocks may use `await` at the top, as a notebook may."""
    compiled = compile(code, "<page>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    async def run() -> None:
        result = eval(compiled, {"__name__": "example"})  # noqa: S307 (our own pages)
        if isawaitable(result):
            await result

    asyncio.run(run())


@pytest.mark.parametrize("code", blocks(run=False))
def test_example_that_needs_more_than_core_parses(code: str) -> None:
    compile(code, "<page>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
