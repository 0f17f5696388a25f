"""`rigging run`: one prompt, its answer streamed to the terminal."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from rigging.cli._answer import Answer
from rigging.cli._exits import UsageError, exit_code
from rigging.cli._generators import make, opening
from rigging.cli._options import AsJson, Complete, Identifier, Modules, Options, System
from rigging.cli._records import as_line, record
from rigging.message import Message

__all__ = ["run"]


def run(
    identifier: Identifier,
    prompt: Annotated[
        str | None,
        typer.Argument(help="What to say; read from stdin if left out.", show_default=False),
    ] = None,
    *,
    system: System = None,
    options: Options = None,
    complete: Complete = False,
    as_json: AsJson = False,
    modules: Modules = None,  # noqa: ARG001 (they have been run)
) -> None:
    """Answer one prompt, and stream the answer to the terminal."""
    messages = opening(system, complete=complete)
    text = _prompt(prompt)
    generator = make(identifier, options)
    pipeline: Any
    if complete:
        pipeline = generator.complete(text)
    else:
        pipeline = generator.chat([*messages, Message("user", text)])
    if as_json:
        item = pipeline.run_sync(on_failed="include")
        print(as_line(record(item)))
        if isinstance(item.error, Exception):
            raise typer.Exit(exit_code(item.error))
    else:
        with Answer() as answer:
            for piece in pipeline.stream_sync():
                answer.write(piece)


def _prompt(given: str | None) -> str:
    if given is not None and given != "-":
        return given
    waits = given is None and sys.stdin.isatty()  # for somebody who does not know that
    text = "" if waits else sys.stdin.read().removesuffix("\n")  # which `echo` adds
    if not text:
        raise UsageError("no prompt: give one behind the identifier, or pipe one in")
    return text
