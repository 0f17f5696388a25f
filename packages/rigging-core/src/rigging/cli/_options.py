"""Options and arguments that several commands have, each written once."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from rigging.cli._exits import UsageError

__all__ = ["AsJson", "Complete", "Identifier", "Modules", "Options", "System"]


def _import(paths: list[Path]) -> list[Path]:
    """Run files, which may register generators; those that were run before are not run again."""
    for path in paths:
        try:
            runpy.run_path(str(path), run_name=path.stem)
        except Exception as error:
            raise UsageError(
                f"--import {path}: {type(error).__name__}: {error}. It takes a Python file that "
                f"calls rigging.register_generator()."
            ) from error
    return paths


Identifier: TypeAlias = Annotated[
    str,
    typer.Argument(metavar="ID", help="The model: provider!model,key=value,…", show_default=False),
]

Options: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-o",
        metavar="KEY=VALUE",
        help="A field or parameter, as in an identifier, but with commas as they are. "
        "May be repeated.",
        show_default=False,
    ),
]

System: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="What the model is told before all else.", metavar="TEXT", show_default=False
    ),
]

Complete: TypeAlias = Annotated[
    bool, typer.Option("--complete", help="Continue texts, without a chat.")
]

AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Modules: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--import",
        metavar="FILE",
        help="Run a Python file that registers generators of its own. May be repeated.",
        show_default=False,
        exists=True,
        dir_okay=False,
        callback=lambda paths: _import(paths or []),
    ),
]
