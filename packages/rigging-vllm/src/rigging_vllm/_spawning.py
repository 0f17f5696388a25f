"""A script without a main guard, found out before it starts engines in engines.

vLLM's engine has a process of its own. Where vLLM spawns that (it does on CPUs, and on GPUs
once CUDA is in use), the new process runs the main script again, to have its definitions.
A script that uses a generator without asking ``if __name__ == "__main__"`` comes to that
use again there. The process then leaves a note for its parent, and ends.

A note, because nothing else reaches the parent: vLLM says of such a process that it has
ended, and not reliably with which status.
"""

from __future__ import annotations

import multiprocessing.spawn
import os
import tempfile
from pathlib import Path
from typing import Final

__all__ = ["NO_GUARD", "end_if_spawned", "take_note"]

NO_GUARD: Final = (
    "vLLM starts a process for its engine, and that process runs the main script again. There "
    "the script came to a use of a generator once more. Put what it does under "
    '`if __name__ == "__main__":`'
)


def end_if_spawned() -> None:
    """End the process if it was spawned and is still running the main script."""
    try:
        multiprocessing.spawn.get_preparation_data("")  # refuses in such a process
    except RuntimeError:
        _note(os.getppid()).touch()
        raise SystemExit(f"rigging-vllm: {NO_GUARD}") from None


def take_note() -> bool:
    """Tell whether a process that this one spawned has left the note, and remove it."""
    try:
        _note(os.getpid()).unlink()
    except OSError:  # there is none, or it is not ours
        return False
    return True


def _note(pid: int) -> Path:
    return Path(tempfile.gettempdir(), f"rigging-vllm-unguarded-{pid}")
