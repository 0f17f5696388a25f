"""The examples of the page on vLLM, with a tiny model under the name that the page gives."""

from __future__ import annotations

import ast
import asyncio
import re
from inspect import isawaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rigging_vllm import VLLMGenerator
from rigging_vllm._borrowed import BorrowedAsyncLLM
from tests.support.lora_adapter import make_lora_adapter

if TYPE_CHECKING:
    import pytest

PAGE = Path(__file__).parents[2] / "docs/vllm.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_examples_run_from_top_to_bottom(
    shared: VLLMGenerator, llm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Starting an engine for each would take minutes: they are asked of one that runs.
    engine = BorrowedAsyncLLM(shared.load()._engine._worker._llm)  # type: ignore[attr-defined]
    private = VLLMGenerator.__private_attributes__["_engine"]
    monkeypatch.setattr(private, "default_factory", lambda: engine)
    make_lora_adapter(tmp_path / "adapters/sql")
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text("utf-8")
    names: dict[str, Any] = {"__name__": "__main__", "llm": llm}

    async def run() -> None:
        for block in BLOCK.finditer(text):
            # So that a traceback shows the page's own line.
            above = "\n" * (text.count("\n", 0, block.start(1)))
            code = compile(above + block[1], PAGE, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, names)  # noqa: S307 (our own page)
            if isawaitable(result):
                await result

    asyncio.run(run())

    assert len(names["chats"]) == 16
    assert re.match(r'\s*{\s*"city"\s*:\s*"', names["chat"].last.text)
    assert names["plain"].last.text != names["adapted"].last.text
