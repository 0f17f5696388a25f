"""The page "Write a provider" shows a real package: each of its files, as it is."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ACME = ROOT / "tests" / "plugins" / "acme"
PAGE = ROOT / "docs" / "write-a-provider.md"
# A block says whose text it is in a comment before it, and may hold shorter fences.
BLOCK = re.compile(
    r"^<!-- (?:needs: [\w-]+; )?file: (\S+) -->\n(`{3,})\w+\n(.*?)^\2$", re.MULTILINE | re.DOTALL
)


def test_the_page_shows_every_file_of_the_package_as_it_is() -> None:
    shown = {name: text for name, _, text in BLOCK.findall(PAGE.read_text("utf-8"))}
    files = {
        path.relative_to(ACME).as_posix(): path.read_text("utf-8")
        for path in ACME.rglob("*")
        if path.is_file() and path.name != "py.typed" and "__pycache__" not in path.parts
    }

    assert shown.keys() == files.keys()
    for name, text in files.items():
        assert shown[name] == text, f"{name} and the page differ"
