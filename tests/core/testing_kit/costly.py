"""A provider's module that works while it is imported."""

from __future__ import annotations

import sys
import time

from tests.core.testing_kit.careful import Careful

# In the tests' own process nothing is measured.
if "pytest" not in sys.modules:
    spent_s = time.process_time()
    while time.process_time() < 2.5 * spent_s:
        pass


class Costly(Careful):
    pass
