"""Options and arguments that several commands have, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from rigging.cli._modules import import_file

__all__ = ["AsJson", "Complete", "Identifier", "Modules", "Options", "System"]


def _import(paths: list[Path] | None) -> list[Path]:
    for path in paths or []:
        import_file(path)
    return paths or []


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
        callback=_import,
    ),
]
