"""litellm itself: imported when it is first needed, away from the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from typing import Any, Final

from rigging.error import MissingDependencyError
from rigging_litellm._errors import PROVIDER

__all__ = ["Library"]

# What litellm imports with the first request and the first stream, on the event loop.
_LATER: Final = ("openai.resources", "litellm.litellm_core_utils.default_encoding")


class Library:
    """The module `litellm`, once it was asked for."""

    def __init__(self) -> None:
        self._module: Any = None

    async def get(self) -> Any:
        """Return the module; the first time, that takes seconds in a worker thread.

        Raises:
            MissingDependencyError: If litellm, or something that it imports, is missing.
        """
        if self._module is None:
            self._module = await asyncio.to_thread(_import_litellm)
        return self._module

    def __deepcopy__(self, memo: dict[int, object]) -> Library:
        return Library()


def _import_litellm() -> Any:
    try:
        litellm = importlib.import_module("litellm")
    except ModuleNotFoundError as error:
        missing = (error.name or "litellm").partition(".")[0]
        again = "" if missing == "litellm" else "--force-reinstall "
        raise MissingDependencyError(
            PROVIDER,
            f"rigging-litellm needs the module {missing!r}, which is not installed: "
            f"`pip install {again}rigging-litellm`",
            missing,
        ) from error
    for name in _LATER:
        with contextlib.suppress(ImportError):  # another release may not have it
            importlib.import_module(name)
    return litellm
