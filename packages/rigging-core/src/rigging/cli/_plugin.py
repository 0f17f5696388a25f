"""`rigging plugin`: providers of one's own, begun and checked."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from rigging.cli._project import Project
from rigging.error import RiggingWarning
from rigging.registry import registry

__all__ = ["app"]

app = typer.Typer(help="Begin a provider of your own, and check it.", no_args_is_help=True)


@app.callback()
def _plugin() -> None:
    pass


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The provider's name.", show_default=False)],
    into: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", help="Where to put its folder.", exists=True, file_okay=False
        ),
    ] = Path(),
) -> None:
    """Make the project of a provider, which lacks only the lines that ask its model."""
    project = Project.of(name)
    for claim in registry.scan().claims_to(project.provider):
        warnings.warn(
            f"the provider {project.provider!r} is there already, from {claim.origin}: where both "
            f"are installed, the name alone leads to neither",
            RiggingWarning,
            stacklevel=1,
        )
    folder = project.make(into)
    print(f"Made {folder}. What to do next:")
    print(f"  cd {folder}")
    print("  python -m pip install -e . --group test")
    print(f"  fill in `ask` in src/{project.module}/_generator.py")
    print("  python -m pytest")
    print(f"  rigging run '{project.provider}!some-model' 'Hello!'")
