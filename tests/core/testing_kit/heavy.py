"""A provider's module that imports what no program may pay for before it needs it."""

from __future__ import annotations

import wave

from tests.core.testing_kit.careful import Careful

HEAVY = frozenset({wave.__name__})


class Heavy(Careful):
    pass
