"""What litellm warns about without anybody's doing: the tests let it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pytest

__all__ = ["ignore_litellm_warnings"]

_IGNORED: Final = (
    # litellm keeps its HTTP clients for the next request on the same loop, and never closes them.
    ("Unclosed client session", ResourceWarning),
    ("Unclosed connector", ResourceWarning),
    ("unclosed transport", ResourceWarning),
    ("unclosed <socket", ResourceWarning),
    # It has one queue for what it logs, of all loops: a loop that closes leaves some of it undone.
    ("coroutine 'Logging.async_success_handler' was never awaited", RuntimeWarning),
    # It looks at instances of pydantic models in a way that pydantic gives up,
    ("Accessing the 'model_", DeprecationWarning),
    # and has types that pydantic remarks on when they are first used.
    ("Items? '.*' on TypedDict class '.*' (is|are) using the `ReadOnly` qualifier", UserWarning),
)


def ignore_litellm_warnings(config: pytest.Config) -> None:
    """Let them pass in the tests of a `conftest.py`, which calls it from `pytest_configure`."""
    for message, category in _IGNORED:
        config.addinivalue_line("filterwarnings", f"ignore:{message}:{category.__name__}")
        # And for what is found when pytest has finished.
        warnings.filterwarnings("ignore", message, category)
