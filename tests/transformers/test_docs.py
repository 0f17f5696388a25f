"""The examples on local models, with real models in folders that are called as on the hub.

A path that exists goes before a hub name of the same spelling, so the pages stay as they are.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.pages import ROOT, needing, run
from tests.support.small_model import save_small_model

pytestmark = pytest.mark.slow

BLOCKS = needing("rigging-transformers")
PAGES = sorted({block.page for block in BLOCKS})


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with the models that the pages name; of the large one only the name."""
    hub = tmp_path_factory.mktemp("hub")
    save_small_model(hub / "HuggingFaceTB/SmolLM2-135M-Instruct")
    shutil.copytree(tiny_model, hub / "meta-llama/Meta-Llama-3-8B-Instruct")
    return hub


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_a_page_run_from_top_to_bottom(
    page: Path, hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(hub)

    run(block for block in BLOCKS if block.page == page)

    if page.name == "README.md" and page.parent == ROOT:
        assert "Paris" in capsys.readouterr().out
