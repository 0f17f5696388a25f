"""The command line: what commands there are, and how the process ends."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer

from rigging._building import load_plugins
from rigging._version import __version__
from rigging.cli import _plugin
from rigging.cli._exits import ExitCode, exit_code, show_warning, tell
from rigging.cli._options import Modules
from rigging.plugins import manager

__all__ = ["run"]


def run() -> int:
    """Run the command that the process was started with; return its exit code."""
    warnings.showwarning = show_warning
    verbose = "-v" in sys.argv or "--verbose" in sys.argv
    try:
        app = _make_app()
        result = app(standalone_mode=False)
    except typer.TyperException as error:  # its own: what was typed does not parse
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("rigging: interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Who read the output has gone, as `head` does; nothing more can be said to them.
        sys.stdout = None
        return ExitCode.OK
    except Exception as error:  # noqa: BLE001 (told to whoever typed the command)
        tell(error, verbose=verbose)
        return exit_code(error)
    return result if isinstance(result, int) else ExitCode.OK


def _make_app() -> typer.Typer:
    app = typer.Typer(
        name="rigging",
        help="Run language models: one string names any of them.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_main)
    app.add_typer(_plugin.app, name="plugin")
    load_plugins(wait=True)
    manager.tell("rigging_add_commands", app)
    return app


def _version(*, wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


def _main(
    *,
    modules: Modules = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show tracebacks of errors.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_version),
    ] = False,
) -> None:
    pass
