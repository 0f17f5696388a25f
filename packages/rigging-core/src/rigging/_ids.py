"""Ids of messages and chats: random UUIDs, without a system call for each.

`uuid.uuid4` asks the system for its bytes, and gives other threads the interpreter while it
does; where a library keeps threads busy, getting it back takes longer than all else that a
message costs. Ids are no secrets, so they come from a generator of this process's own.
"""

from __future__ import annotations

import os
import random
from typing import Final
from uuid import UUID, SafeUUID

__all__ = ["new_id"]

# Seeded by the system, and nobody else's: a program that seeds `random` gets new ids all the same.
_random: Final = random.Random()  # noqa: S311 (no secret)

if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_random.seed)


# Bits that are not random: the version and the variant.
_RANDOM: Final = ~(0xF000_C000 << 48)
_FIXED: Final = 0x4000_8000 << 48

# Python 3.11 looks the members of an enum up by a function.
_UNKNOWN: Final = SafeUUID.unknown


def new_id() -> UUID:
    """Return a random UUID.

    Source:
        RFC 9562, "UUID Version 4".
    """
    # Made as the standard library makes its own from Python 3.14 on: the constructor, which is
    # for UUIDs in any form, takes most of the time, and a chat has three ids.
    made = object.__new__(UUID)
    object.__setattr__(made, "int", _random.getrandbits(128) & _RANDOM | _FIXED)
    object.__setattr__(made, "is_safe", _UNKNOWN)
    return made
