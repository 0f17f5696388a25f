"""Ids of messages and chats: random UUIDs, without a system call for each.

`uuid.uuid4` asks the system for its bytes, and gives other threads the interpreter while it
does; where a library keeps threads busy, getting it back takes longer than all else that a
message costs. Ids are no secrets, so they come from a generator of this process's own.
"""

from __future__ import annotations

import os
import random
from typing import Final
from uuid import UUID

__all__ = ["new_id"]

# Seeded by the system, and nobody else's: a program that seeds `random` gets new ids all the same.
_random: Final = random.Random()  # noqa: S311 (no secret)

if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_random.seed)


def new_id() -> UUID:
    """Return a random UUID (RFC 9562, version 4)."""
    return UUID(int=_random.getrandbits(128), version=4)
