"""The page "Write a provider" shows a real package: each of its files, as it is."""

from __future__ import annotations

import re

from tests.support.pages import ROOT, needing

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


def test_whatever_needs_the_package_is_one_of_its_files() -> None:
    """So that it is run by the tests of the package, `tests/plugins/test_acme.py`."""
    blocks = needing("acme-rigging")
    files = {path.read_text("utf-8") for path in ACME.rglob("*.py")}

    assert {block.page for block in blocks} == {PAGE}
    assert {block.code for block in blocks} <= files
