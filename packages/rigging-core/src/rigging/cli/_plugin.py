"""`rigging plugin`: providers of one's own, begun and checked."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from rigging.cli._check import Check, identifier_of
from rigging.cli._options import Modules
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


@app.command()
def check(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="An identifier, or a provider's name.", show_default=False
        ),
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PYTEST", help="Arguments for pytest, after --: -k WORD.", show_default=False
        ),
    ] = None,
    *,
    model: Annotated[
        str | None, typer.Option(help="The model, with a provider's name.", show_default=False)
    ] = None,
    on: Annotated[
        list[str] | None,
        typer.Option(metavar="SWITCH", help="What it can do: supports_tools.", show_default=False),
    ] = None,
    off: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SWITCH",
            help="What it cannot do: deterministic, supports_seed. May be repeated.",
            show_default=False,
        ),
    ] = None,
    modules: Modules = None,
) -> None:
    """Test a provider by all that is expected of one. It is asked for hundreds of short answers.

    Found out are: which requests it takes, whether it streams, what it warns about. Left out is how
    it fails: a test file of its own can show that.
    """
    given = context.find_root().params.get("modules") or []
    code = Check(
        identifier_of(name, model),
        modules=[*given, *(modules or [])],
        on=on or [],
        off=off or [],
        arguments=arguments or [],
    ).run()
    raise typer.Exit(code)
