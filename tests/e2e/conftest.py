"""The real small model, on disk in the format that servers read."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.litellm_warnings import ignore_litellm_warnings
from tests.support.small_model import save_small_model

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.register_assert_rewrite("tests.e2e.served")

#: The model's folder, which is its name to a server that is started beside it.
MODEL: Final = "smollm2"


def pytest_configure(config: pytest.Config) -> None:
    ignore_litellm_warnings(config)


@pytest.fixture(scope="session")
def models() -> Iterator[Path]:
    """A folder to start servers in: it holds the small model as `MODEL`."""
    # Not pytest's own: that would keep the model of three runs.
    with tempfile.TemporaryDirectory() as folder:
        save_small_model(Path(folder) / MODEL)
        yield Path(folder)
