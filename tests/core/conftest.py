from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

import rigging as rg
from tests.core.providers import PROVIDERS

if TYPE_CHECKING:
    from collections.abc import Iterator

# A law holds or does not; how long an example takes on a busy machine says nothing.
settings.register_profile("rigging", deadline=None, print_blob=True)
settings.load_profile("rigging")


@pytest.fixture
def providers() -> Iterator[None]:
    """The first-party names, led to classes with the same fields."""
    with ExitStack() as stack:
        for name, cls in PROVIDERS.items():
            stack.enter_context(rg.register_generator(name, cls))
        yield
