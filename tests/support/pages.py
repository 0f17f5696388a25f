"""The code blocks of the pages that a user reads, and what runs each of them.

A Python block runs with core alone, unless a comment before it names the package that it needs:
``<!-- needs: rigging-openai and a server -->``. `SUITES` says which tests run those, and
`tests/docs` sees to it that there is no other name. What is typed on a third party's first day is
named as a step of it, ``<!-- first day: begin -->``: `tests/plugins/test_first_day.py` does it.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["PAGES", "ROOT", "SUITES", "Block", "blocks_of", "needing", "run", "stray_fences"]

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("packages/*/README.md"),
    ]
)

#: What a block needs -> the tests that run it.
SUITES: Final[Mapping[str, str]] = {
    "acme": "tests/plugins/test_first_day.py",
    "acme-rigging": "tests/docs/test_provider_page.py",  # compares them with files that are tested
    "rigging-core[otel]": "tests/docs/test_code_blocks.py",
    "rigging-litellm": "tests/litellm/test_docs.py",
    "rigging-openai": "tests/openai/test_docs.py",
    "rigging-transformers": "tests/transformers/test_docs.py",
    "rigging-vllm": "tests/vllm/test_docs.py",
}

_BLOCK: Final = re.compile(
    r"^(?:<!-- (?:needs: (?P<needs>[^\s;]+)[^\n]*|first day: (?P<step>\w+)|[^\n]*) -->\n)?"
    r"(?P<fence>`{3,})(?P<language>\w+)\n(?P<code>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One block of a page.

    Attributes:
        page: The page.
        line: Where its code begins, counted from 1.
        language: Such as ``python``.
        code: Its text.
        needs: The package that it needs beside core; empty if none.
        step: Which step of a third party's first day it is; empty if none.
    """

    page: Path
    line: int
    language: str
    code: str
    needs: str = ""
    step: str = ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path, *languages: str) -> Iterator[Block]:
    """Yield the blocks of a page, those of some languages only or all."""
    text = page.read_text("utf-8")
    for found in _BLOCK.finditer(text):
        if not languages or found["language"] in languages:
            line = text.count("\n", 0, found.start("code")) + 1
            needs, step = found["needs"] or "", found["step"] or ""
            yield Block(page, line, found["language"], found["code"], needs, step)


def stray_fences(page: Path) -> list[str]:
    """Return the fences that neither begin nor end a block: one has no language, or no end."""
    return re.findall(r"^`{3,}.*$", _BLOCK.sub("", page.read_text("utf-8")), re.MULTILINE)


def needing(package: str, language: str = "python") -> list[Block]:
    """Return the blocks of all pages that need this package; empty: that need none."""
    blocks = (block for page in PAGES for block in blocks_of(page, language))
    return [block for block in blocks if block.needs == package]


def run(
    blocks: Iterable[Block],
    names: dict[str, Any] | None = None,
    *,
    instead: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run blocks one after the other, on one event loop, as the cells of a notebook.

    Args:
        blocks: Their names are shared, and they may use ``await`` at the top.
        names: What they find.
        instead: Texts to put in place of others, such as the address of a server.

    Returns:
        The names after the last block.
    """
    names = {"__name__": "example"} if names is None else names
    with asyncio.Runner() as runner:
        for block in blocks:
            code = block.code
            for old, new in (instead or {}).items():
                code = code.replace(old, new)
            # So that a traceback shows the page's own line.
            code = "\n" * (block.line - 1) + code
            flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            result = eval(compile(code, block.page, "exec", flags=flags), names)  # noqa: S307 (our own)
            if inspect.iscoroutine(result):
                runner.run(result)
    return names
