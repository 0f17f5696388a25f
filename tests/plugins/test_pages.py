"""What the pages say about publishing: their tables of a `pyproject.toml`, with their classes."""

from __future__ import annotations

import ast
import asyncio
import tomllib
from typing import Final

import rigging as rg
from rigging.plugins import manager
from rigging.testing import EchoGenerator
from tests.support.environments import ROOT
from tests.support.pages import blocks_of
from tests.support.plugins import Site

ACME: Final = ROOT / "tests" / "plugins" / "acme"


def test_a_published_plugin_is_loaded(site: Site) -> None:
    page = ROOT / "docs" / "plugins.md"
    (table,) = blocks_of(page, "toml")
    code, *_ = blocks_of(page, "python")
    made = [part for part in ast.parse(code.code).body if isinstance(part, ast.ClassDef)]
    points = tomllib.loads(table.code)["project"]["entry-points"]["rigging.plugins"]
    lines = (f"{name} = {target}\n" for name, target in points.items())
    source = ast.unparse(ast.Module(made, []))
    site.add("rigging-spending", entry_points=f"[rigging.plugins]\n{''.join(lines)}", code=source)

    asyncio.run(EchoGenerator(model="tiny").chat("two words").run())

    (found,) = (listener.call for listener in manager.listeners("rigging_request_finished"))
    assert manager.names == ["spending"]
    assert found.__self__.tokens == {"tiny": 4}  # type: ignore[attr-defined]


def test_a_published_provider_is_found(site: Site) -> None:
    (table,) = blocks_of(ROOT / "docs" / "providers.md", "toml")
    shown = tomllib.loads(table.code)["project"]
    points = shown["entry-points"]["rigging.generators"]
    site.add(shown["name"], entry_points=points)

    generator = rg.get_generator("acme!any")

    assert f"acme_rigging:{type(generator).__name__}" == points["acme"]
    # And it is what a real package says, which other tests build and install.
    real = tomllib.loads((ACME / "pyproject.toml").read_text("utf-8"))["project"]
    assert shown.items() <= real.items()
