"""The examples of the page on local models, with the real small model under its hub name."""

from __future__ import annotations

import ast
import asyncio
import re
from inspect import isawaitable
from pathlib import Path
from typing import Any

import pytest

from tests.support.small_model import save_small_model

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs/local-models.md"
NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_examples_run_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A path that exists goes before a hub name of the same spelling.
    save_small_model(tmp_path / NAME)
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text("utf-8")
    names: dict[str, Any] = {"__name__": "example"}

    async def run() -> None:
        for block in BLOCK.finditer(text):
            # So that a traceback shows the page's own line.
            above = "\n" * (text.count("\n", 0, block.start(1)))
            code = compile(above + block[1], PAGE, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, names)  # noqa: S307 (our own page)
            if isawaitable(result):
                await result

    asyncio.run(run())
