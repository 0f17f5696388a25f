"""The command `rigging`; its parts need the extra ``cli``, this module does not."""

from __future__ import annotations

import sys
from typing import Final

__all__ = ["main"]

# What the extra brings.
_EXTRA: Final = frozenset({"packaging", "rich", "typer"})


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    try:
        from rigging.cli._app import run  # noqa: PLC0415 (it imports what the extra brings)

        run()
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        sys.exit(
            f"The command line needs {error.name}, which is not installed: "
            f"`pip install 'rigging-core[cli]'`."
        )
    except KeyboardInterrupt:  # before the command itself has begun
        sys.exit(130)
