"""The command line: what commands there are, and how the process ends."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer

from rigging._building import load_plugins
from rigging._version import __version__
from rigging.cli import _ids, _plugin, _providers
from rigging.cli._batch import batch
from rigging.cli._chat import chat
from rigging.cli._doctor import doctor
from rigging.cli._exits import exit_code, show_warning, tell
from rigging.cli._options import Modules
from rigging.cli._run import run as run_prompt
from rigging.cli._terminal import prepare_streams
from rigging.plugins import manager

__all__ = ["run"]


def run() -> None:
    """Run the command that the process was started with.

    Raises:
        SystemExit: At the end, with the exit code.
    """
    prepare_streams()
    warnings.showwarning = show_warning
    verbose = False

    def main(
        *,
        modules: Modules = None,  # noqa: ARG001 (they have been run)
        tracebacks: Annotated[
            bool, typer.Option("--verbose", "-v", help="Show tracebacks of errors.")
        ] = False,
        version: Annotated[  # noqa: ARG001 (it has been printed)
            bool,
            typer.Option("--version", help="Print the version.", is_eager=True, callback=_version),
        ] = False,
    ) -> None:
        nonlocal verbose
        verbose = tracebacks

    app = typer.Typer(
        name="rigging",
        help="Run language models: one string names any of them.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(main)
    app.command("run")(run_prompt)
    for command in (chat, batch, doctor):
        app.command()(command)
    for name, group in {"providers": _providers.app, "id": _ids.app, "plugin": _plugin.app}.items():
        app.add_typer(group, name=name)
    load_plugins(wait=True)
    manager.tell("rigging_add_commands", app)
    try:
        app()
    except Exception as error:  # noqa: BLE001 (told to whoever typed the command)
        tell(error, verbose=verbose)
        sys.exit(exit_code(error))


def _version(*, wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit
