"""What the pages say about installing, done in clean environments with what was built here."""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING, Final

import pytest

from tests.build.packages import PROVIDERS
from tests.support.environments import ROOT, make_environment
from tests.support.pages import PAGES, Block, blocks_of

if TYPE_CHECKING:
    from pathlib import Path

_INSTALL: Final = "python -m pip install "
# CI itself installs nox; what is a step of the first day is done by `tests/plugins`.
_ELSEWHERE: Final = ("nox[uv]", " -e .")
# A build for CUDA, which is gigabytes: it is resolved, and not installed.
_HUGE: Final = "rigging-vllm"


def installing() -> list[Block]:
    """Return the blocks that install, each once."""
    found = {
        block.code: block
        for page in PAGES
        for block in blocks_of(page, "sh")
        if _INSTALL in block.code and not any(part in block.code for part in _ELSEWHERE)
    }
    return list(found.values())


def is_huge(block: Block) -> bool:
    return _HUGE in block.code and "--no-deps" not in block.code


def arguments(line: str) -> list[str | Path]:
    """Return what is installed; folders are those of this repository."""
    words = shlex.split(line.removeprefix(_INSTALL), comments=True)
    return [ROOT / word if word.startswith("./") else word for word in words]


@pytest.fixture(autouse=True)
def _built(dist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let installers find the wheels, beside whatever else is on this machine's disk."""
    others = os.environ.get("UV_FIND_LINKS", "")
    monkeypatch.setenv("UV_FIND_LINKS", ",".join(filter(None, (str(dist), others))))


@pytest.mark.parametrize("block", [block for block in installing() if not is_huge(block)], ids=str)
def test_what_a_page_installs_is_there(block: Block, tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "env")

    for line in block.code.splitlines():
        environment.install(*arguments(line))

    named = [
        package
        for package in PROVIDERS
        if re.search(rf"\b{package.name}\b|\[{package.provider}\]", block.code)
    ]
    assert {"rigging-core", *(package.name for package in named)} <= environment.installed().keys()
    assert environment.cells(
        *(f"type(rg.get_generator('{package.provider}!any')).__name__" for package in named)
    ).values == [package.generator for package in named]
    if "[cli]" in block.code:
        assert "openai" in environment.run("-m", "rigging.cli", "providers")


@pytest.mark.parametrize("block", [block for block in installing() if is_huge(block)], ids=str)
def test_what_a_page_installs_for_cuda_can_be_had(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("UV_TORCH_BACKEND", "UV_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    environment = make_environment(tmp_path / "env")

    wanted = "\n".join(map(str, arguments(block.code.strip())))
    resolved = environment.resolve(wanted)

    assert {"rigging-core", "rigging-vllm", "vllm", "torch"} <= resolved
