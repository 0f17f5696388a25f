"""The examples on vLLM, with a tiny model under the names that the pages give."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from rigging_vllm import VLLMGenerator
from rigging_vllm._borrowed import BorrowedAsyncLLM
from tests.support.lora_adapter import make_lora_adapter
from tests.support.pages import ROOT, needing, run

BLOCKS = needing("rigging-vllm")
PAGES = sorted({block.page for block in BLOCKS})


@pytest.fixture
def _engine(shared: VLLMGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is loaded is one engine that runs: starting one for each would take minutes."""
    engine = BorrowedAsyncLLM(shared.load()._engine._worker._llm)  # type: ignore[attr-defined]
    private = VLLMGenerator.__private_attributes__["_engine"]
    monkeypatch.setattr(private, "default_factory", lambda: engine)
    make_lora_adapter(tmp_path / "adapters/sql")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_a_page_run_from_top_to_bottom(page: Path, llm: Any) -> None:
    names = run(
        (block for block in BLOCKS if block.page == page), {"__name__": "__main__", "llm": llm}
    )

    if page.name == "vllm.md":
        assert len(names["chats"]) == 16
        assert re.match(r'\s*{\s*"city"\s*:\s*"', names["chat"].last.text)
        assert names["plain"].last.text != names["adapted"].last.text
