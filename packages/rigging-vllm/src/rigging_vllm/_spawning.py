"""A script without a main guard, found out before it starts engines in engines.

vLLM's engine has a process of its own. Where vLLM spawns that (it does on CPUs, and on GPUs
once CUDA is in use), the new process runs the main script again, to have its definitions.
A script that uses a generator without asking ``if __name__ == "__main__"`` comes to that
use again there. The process then leaves a note for its parent, and ends.

A note, because nothing else reaches the parent: vLLM says of such a process that it has
ended, and not reliably with which status.
"""

from __future__ import annotations

import contextlib
import multiprocessing.spawn
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NO_GUARD", "end_if_spawned", "note_of_spawned"]

NO_GUARD: Final = (
    "vLLM starts a process for its engine, and that process runs the main script again. There "
    "the script came to a use of a generator once more. Put what it does under "
    '`if __name__ == "__main__":`'
)

# Variables that begin so name the folders in which processes that are spawned leave notes: one
# for each engine that is being built, and nobody else can write there.
_VARIABLE: Final = "RIGGING_VLLM_NOTES_"

_NOTE: Final = "unguarded"


@contextlib.contextmanager
def note_of_spawned() -> Iterator[Path]:
    """Give the file that is there once a process spawned meanwhile has left its note."""
    with tempfile.TemporaryDirectory(prefix="rigging-vllm-") as folder:
        # A name of its own, since two engines may be built at once.
        variable = _VARIABLE + Path(folder).name
        os.environ[variable] = folder
        try:
            yield Path(folder, _NOTE)
        finally:
            del os.environ[variable]


def end_if_spawned() -> None:
    """End the process if it was spawned and is still running the main script."""
    try:
        multiprocessing.spawn.get_preparation_data("")  # refuses in such a process
    except RuntimeError:
        for variable, folder in os.environ.items():
            if variable.startswith(_VARIABLE):
                with contextlib.suppress(OSError):  # it waits for none any more
                    Path(folder, _NOTE).touch()
        raise SystemExit(f"rigging-vllm: {NO_GUARD}") from None
