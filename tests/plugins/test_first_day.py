"""A third party's first day: an empty folder, and what the page "Write a provider" says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

from tests.support.environments import ROOT, Environment, make_environment
from tests.support.pages import blocks_of, needing

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.slow

PAGE: Final = ROOT / "docs" / "write-a-provider.md"
STEPS: Final = {block.step: block.code for block in blocks_of(PAGE, "sh") if block.step}
# Where the lines go that are to be filled in, in the words of the page.
PLACE: Final = re.compile(
    r"In `(\S+)`, put these lines in place of those from\s+`([^`]+)` to `([^`]+)`:"
)


class Day(NamedTuple):
    """How far the author has come.

    Attributes:
        environment: Where they work: with rigging's command, and their package for editing.
        project: The folder of the project.
        unfilled: What asking the provider gave before it was filled in.
    """

    environment: Environment
    project: Path
    unfilled: str


@pytest.fixture(scope="module")
def day(wheels: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Day:
    folder = tmp_path_factory.mktemp("first-day")
    # No clone: the commands of a copy run on the interpreter of the original.
    environment = make_environment(folder / "env")
    environment.install(f"rigging-core[cli] @ {wheels['rigging-core'].as_uri()}", "pip>=25.1")
    desk = folder / "desk"
    desk.mkdir()

    *_, cwd = environment.shell(f"{STEPS['begin']}\npwd", desk).splitlines()
    failure = environment.cells("rg.get_generator('acme!x').chat('hi').run_sync()").failure()
    fill_in(Path(cwd))
    return Day(environment, Path(cwd), f"{failure.name}: {failure.text}")


def fill_in(project: Path) -> None:
    """Do what the page says of the lines to fill in."""
    (lines_to_fill_in,) = needing("acme")
    ((name, first, last),) = PLACE.findall(PAGE.read_text(encoding="utf-8"))
    path = project / name
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    stripped = [line.strip() for line in lines]
    start, end = stripped.index(first), stripped.index(last)
    assert start < end
    lines[start : end + 1] = [lines_to_fill_in.code]
    path.write_text("".join(lines), encoding="utf-8")


def test_the_page_has_every_step() -> None:
    assert list(STEPS) == ["begin", "test", "list", "run", "build", "check"]


def test_before_it_is_filled_in_it_says_where_to_do_that(day: Day) -> None:
    place = day.project / "src" / "acme_rigging" / "_generator.py"

    assert day.unfilled == (
        f"NotImplementedError: acme asks no model yet: fill in `ask` in {place}"
    )


def test_the_whole_kit_passes(day: Day) -> None:
    printed = day.environment.shell(STEPS["test"], day.project)

    passed = re.search(r"^=+ (\d+) passed in ", printed, re.MULTILINE)
    assert passed, printed
    assert int(passed[1]) > 60


def test_rigging_lists_it(day: Day) -> None:
    printed = day.environment.shell(STEPS["list"], day.project)

    (line,) = [line for line in printed.splitlines() if "acme" in line]
    assert "acme-rigging" in line
    assert "0.1.0" in line


def test_rigging_runs_it(day: Day) -> None:
    printed = day.environment.shell(STEPS["run"], day.project)

    assert printed.split() == ["hi"] * 20


def test_rigging_checks_it(day: Day) -> None:
    printed = day.environment.shell(STEPS["check"], day.project)

    assert re.search(r"^  \d+ tests passed, 0 failed\.$", printed, re.MULTILINE), printed


def test_its_wheel_works_where_only_rigging_core_is(
    day: Day, core: Environment, tmp_path: Path
) -> None:
    day.environment.shell(STEPS["build"], day.project)
    (wheel,) = (day.project / "dist").iterdir()
    environment = core.clone(tmp_path / "env")
    environment.install_offline(wheel)

    run = environment.cells(
        "generator = rg.get_generator('acme!x,max_tokens=3')",
        "chats = generator.chat().run_batch_sync(['one two', 'three'])",
        "[chat.last.text for chat in chats]",
        "[(chat.stop_reason, chat.usage.output_tokens) for chat in chats]",
    )

    assert environment.installed().keys() - core.installed().keys() == {"acme-rigging"}
    assert run.values[2:] == [
        [" one two one", " three three three"],
        [["length", 3]] * 2,
    ]
