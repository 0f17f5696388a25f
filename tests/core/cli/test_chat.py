"""`rigging chat`: a conversation, driven line by line and in a real terminal."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.core.cli.conftest import Done

if sys.platform != "win32":
    import pexpect

Rigging = Callable[..., Done]


def test_answers_know_what_was_said_before(rigging: Rigging) -> None:
    done = rigging("chat", "words!any", stdin="hello\nagain\n")

    assert done == Done(0, "1 HELLO \n2 AGAIN \n", "")


def test_commands_change_the_conversation(rigging: Rigging, tmp_path: Path) -> None:
    lines = ["hello", "/retry", "/reset", "again", "/model echo!any", "/model", "more", "/quit"]

    done = rigging("chat", "words!any", stdin="\n".join([*lines, "unread"]))

    assert done.code == 0
    assert done.out.splitlines() == ["1 HELLO ", "1 HELLO ", "1 AGAIN ", "echo!any", "more"]


def test_a_conversation_is_saved_as_a_batch_reads_it(rigging: Rigging, tmp_path: Path) -> None:
    path, taken = tmp_path / "chat.jsonl", tmp_path / "taken.txt"
    taken.write_text("mine", encoding="utf-8")
    lines = ["hello", f"/save {path}", "more", f"/save {path}", f"/save {taken}", "/save"]

    done = rigging("chat", "words!any", "--system", "Shout.", stdin="\n".join(lines))
    batch = rigging("batch", "words!any", path, "-o", tmp_path / "out.jsonl")

    (line,) = path.read_text(encoding="utf-8").splitlines()
    assert [message["content"] for message in json.loads(line)["messages"]] == [
        "Shout.",
        "hello",
        "1 HELLO",
        "more",
        "2 MORE",
    ]
    assert taken.read_text(encoding="utf-8") == "mine"
    assert f"{taken} exists, and is left as it is" in done.err
    assert "/save takes the name of a file" in done.err
    assert batch.code == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/retry", "there is no question to answer again"),
        ("/nonsense", "no command /nonsense: there are /reset, "),
        ("/model absent!x", "provider 'absent' is not installed"),
        ("bad", "slow down"),
        ("/save ~nobody-of-this-name/x", "rigging: "),
        ("/save /nowhere/at/all", "No such file or directory"),
    ],
)
def test_what_fails_is_told_and_the_conversation_goes_on(
    rigging: Rigging, line: str, said: str
) -> None:
    done = rigging("chat", "words!any", stdin=f"\n{line}\nhello\n")

    assert done.code == 0
    assert said in done.err
    assert done.out.splitlines()[-1].endswith(" HELLO ")


def test_help_names_all_commands(rigging: Rigging) -> None:
    done = rigging("chat", "words!any", stdin="/help\n")

    for name in ("/reset", "/retry", "/model", "/save", "/help", "/quit"):
        assert f"  {name}" in done.out


# -- In a terminal -----------------------------------------------------------------------


# A provider that takes its time to import.
STUCK = """
import time


def stuck():
    print("importing", flush=True)
    time.sleep(60)


rg.register_generator("stuck", stuck)
"""


@pytest.fixture
def terminal(generators: Path) -> Iterator[Any]:
    """The command in a terminal of its own."""
    with generators.open("a", encoding="utf-8") as file:
        file.write(STUCK)
    child = pexpect.spawn(
        sys.executable,
        ["-m", "rigging.cli", "chat", "words!any", "--import", str(generators)],
        encoding="utf-8",
        timeout=30,
        env={**os.environ, "TERM": "dumb"},
    )
    child.setecho(False)
    yield child
    child.close(force=True)


def ask_without_end(child: Any) -> None:
    child.expect("> ")
    child.sendline("endless talk")
    child.expect("waiting")


def leave(child: Any) -> None:
    child.sendeof()
    child.expect(pexpect.EOF)
    child.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_ctrl_c_stops_the_answer_and_not_the_program(terminal: Any) -> None:
    child = terminal
    ask_without_end(child)
    child.sendintr()
    child.expect(r"\(stopped\)")
    child.expect("> ")
    child.sendline("/model stuck!any")
    child.expect("importing")
    child.sendintr()
    child.expect("> ")
    child.sendline("hello")
    child.expect("2 HELLO")
    child.expect("> ")
    child.sendintr()
    child.expect("> ")
    leave(child)

    assert child.exitstatus == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_who_presses_ctrl_c_several_times_may_go_on(terminal: Any) -> None:
    child = terminal
    ask_without_end(child)
    for _ in range(30):  # while it is stopped, and while the next line is asked for
        os.kill(child.pid, signal.SIGINT)
        time.sleep(0.001)
    time.sleep(2)  # until all have come
    child.sendline("hello")
    child.expect("2 HELLO")
    child.expect("> ")
    leave(child)

    assert child.exitstatus == 0
