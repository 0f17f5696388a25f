"""The page of comparisons holds no figure that no benchmark wrote."""

from __future__ import annotations

import re
from typing import Final

import pytest

from tests.support.pages import ROOT

PAGE: Final = ROOT / "docs/compare.md"
SECTIONS: Final = re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)
MEASURED: Final = [section for section in SECTIONS if "[Results]" in section]


@pytest.mark.parametrize("section", MEASURED, ids=lambda text: text.partition("\n")[0])
def test_every_row_stands_in_the_results_that_the_section_links_to(section: str) -> None:
    (name,) = re.findall(r"\[Results\]\(\.\./(benchmarks/RESULTS[\w-]*\.md)\)", section)
    results = (ROOT / name).read_text("utf-8").splitlines()

    rows = re.findall(r"^\|.*\|$", section, re.MULTILINE)

    figures = [row for row in rows if not row.startswith("|---")]
    assert len(figures) > 2
    assert len(figures) == len(set(figures))
    assert [row for row in rows if row not in results] == []


@pytest.mark.parametrize("section", MEASURED, ids=lambda text: text.partition("\n")[0])
def test_what_is_missed_is_said(section: str) -> None:
    targets = re.findall(r"\| (?:ratio )?\+?([\d.]+) \| ([≥≤]) \+?([\d.]+) \|", section)

    missed = [
        found
        for found in targets
        if (float(found[0]) < float(found[2])) == (found[1] == "≥") and found[0] != found[2]
    ]

    assert bool(missed) == ("\nMissed: " in section)


def test_there_are_figures_for_every_file_of_results() -> None:
    linked = re.findall(r"\[Results\]\(\.\./(benchmarks/[\w.-]+)\)", PAGE.read_text("utf-8"))

    assert sorted(linked) == sorted(
        path.relative_to(ROOT).as_posix() for path in ROOT.glob("benchmarks/RESULTS*.md")
    )
