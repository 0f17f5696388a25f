"""The interpreter's end, before which every thread of ours has left C++.

A daemon thread that comes back from C++ while the interpreter is torn down is ended by force,
and that aborts the process. So those who have such a thread are told at exit, and wait there
until it has ended; and from then on nobody starts another.
"""

from __future__ import annotations

import threading

from rigging.error import ProviderServerError

__all__ = ["ended", "is_ending"]


def is_ending() -> bool:
    """Tell whether what is registered with `atexit` may run already, or has run.

    It runs when the main thread and all others that are no daemons have ended. So what was
    registered before this was found to be False will be called.
    """
    return not any(thread.is_alive() and not thread.daemon for thread in threading.enumerate())


def ended() -> ProviderServerError:
    """Return the error of what is asked of an engine at the end of the program."""
    return ProviderServerError("the program is ending: nothing is answered any more")
