"""`rigging plugin`: providers of one's own, begun and checked."""

from __future__ import annotations

import typer

__all__ = ["app"]

app = typer.Typer(help="Begin a provider of your own, and check it.", no_args_is_help=True)


@app.callback()
def _plugin() -> None:
    pass
