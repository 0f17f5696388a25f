"""`rigging chat`: a conversation in the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from rigging.chat import Chat
from rigging.cli._answer import Answer
from rigging.cli._exits import UsageError, tell
from rigging.cli._generators import make, opening
from rigging.cli._options import Identifier, Modules, Options, System
from rigging.cli._records import as_line
from rigging.message import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rigging.generator import Generator

__all__ = ["chat"]

_PROMPT: Final = "> "


def chat(
    identifier: Identifier,
    *,
    system: System = None,
    options: Options = None,
    modules: Modules = None,  # noqa: ARG001 (they have been run)
) -> None:
    """Talk to a model. /help shows the commands; Ctrl-C stops an answer, Ctrl-D ends."""
    conversation = _Conversation(make(identifier, options), opening(system), options or [])
    with contextlib.suppress(ImportError):  # not on Windows
        importlib.import_module("readline")  # from then on `input` edits, and remembers lines
    # One loop for all answers: connections and engines stay open between them.
    with asyncio.Runner() as runner:
        line: str | None = ""
        while line is not None:
            try:
                line = _read()
                if line:
                    conversation.take(line, runner)
            except KeyboardInterrupt:
                _end_line()  # what was typed, or a model on its way, is dropped, as shells do


def _end_line() -> None:
    try:  # noqa: SIM105 (a context manager could be interrupted in its turn)
        print()
    except KeyboardInterrupt:  # the impatient press it several times
        pass


def _read() -> str | None:
    """Return the next line; None at the end."""
    try:
        return input(_PROMPT if sys.stdin.isatty() else "").strip()
    except EOFError:
        if sys.stdin.isatty():
            print()
        return None


class _Conversation:
    """What was said, by whom it is answered, and the commands that change either.

    Args:
        generator: Answers.
        before: What the model is told before anything is said.
        options: Of the command line; they hold for other models, too.
    """

    def __init__(
        self, generator: Generator, before: Sequence[Message], options: Sequence[str]
    ) -> None:
        self._generator = generator
        self._before = list(before)
        self._options = options
        self._messages = list(before)
        self._saved: set[Path] = set()
        self._commands: Mapping[str, Callable[[str], bool]] = {
            "/reset": self._reset,
            "/retry": self._retry,
            "/model": self._model,
            "/save": self._save,
            "/help": self._help,
            "/quit": self._quit,
        }

    def take(self, line: str, runner: asyncio.Runner) -> None:
        """Take a line: a command, or something to be answered."""
        try:
            if self._wants_answer(line):
                self._answer(runner)
        except (typer.Exit, BrokenPipeError):
            raise
        except Exception as error:  # noqa: BLE001 (the conversation goes on, whatever it was)
            tell(error, verbose=False)

    def _wants_answer(self, line: str) -> bool:
        word, _, rest = line.partition(" ")
        if not line.startswith("/"):
            self._messages.append(Message("user", line))
            return True
        if word not in self._commands:
            raise UsageError(f"no command {word}: there are {', '.join(self._commands)}")
        return self._commands[word](rest.strip())

    def _answer(self, runner: asyncio.Runner) -> None:
        asked = len(self._messages)
        answer = Answer()
        try:
            with answer:
                runner.run(self._stream(answer))
        except KeyboardInterrupt:
            # What was read belongs to the conversation.
            if answer.pieces and len(self._messages) == asked:
                self._messages.append(Message("assistant", "".join(answer.pieces)))
            print("(stopped)", file=sys.stderr)

    async def _stream(self, answer: Answer) -> None:
        pieces = self._generator.chat(self._messages).stream()
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                answer.write(piece)
                if isinstance(piece, Chat):
                    self._messages += piece.generated

    # -- Commands: each tells whether there is something to answer -----------------------

    def _reset(self, _: str) -> bool:
        """Forget what was said."""
        self._messages = list(self._before)
        return False

    def _retry(self, _: str) -> bool:
        """Answer the last question again."""
        asked = [number for number, said in enumerate(self._messages) if said.role == "user"]
        if not asked:
            raise UsageError("there is no question to answer again")
        del self._messages[asked[-1] + 1 :]
        return True

    def _model(self, identifier: str) -> bool:
        """ID: go on with another model."""
        if not identifier:
            print(self._generator.to_identifier())
            return False
        made = make(identifier, self._options)
        self._generator.unload()
        self._generator = made
        return False

    def _save(self, name: str) -> bool:
        """FILE: write the conversation as one line that `rigging batch` reads."""
        if not name:
            raise UsageError("/save takes the name of a file")
        path = Path(name).expanduser()
        if path.exists() and path not in self._saved:
            raise UsageError(f"{path} exists, and is left as it is: give another name")
        line = as_line({"messages": [message.to_openai() for message in self._messages]})
        path.write_text(f"{line}\n", encoding="utf-8")
        self._saved.add(path)
        print(f"(saved in {path})", file=sys.stderr)
        return False

    def _help(self, _: str) -> bool:
        """Show this."""
        for name, command in self._commands.items():
            print(f"  {name:8}{command.__doc__}")
        print("  Ctrl-C stops the answer, Ctrl-D ends the conversation.")
        return False

    def _quit(self, _: str) -> bool:
        """End the conversation."""
        raise typer.Exit
