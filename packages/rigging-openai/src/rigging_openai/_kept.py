"""The HTTP client, made when the first request needs it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rigging.error import MissingDependencyError
from rigging_openai._endpoint import PROVIDER

if TYPE_CHECKING:
    from rigging_openai._client import Client

__all__ = ["LazyClient"]


class LazyClient:
    """A client whose library is imported in a thread, since that takes a while."""

    def __init__(self) -> None:
        self._client: Client | None = None

    async def get(self) -> Client:
        """Return the client.

        Raises:
            MissingDependencyError: If its library, or something that it imports, is missing.
        """
        if self._client is None:
            made = await asyncio.to_thread(_make_client)
            self._client = self._client or made  # others may have waited, too
        return self._client

    def __deepcopy__(self, memo: dict[int, object]) -> LazyClient:
        return LazyClient()


def _make_client() -> Client:
    try:
        from rigging_openai._client import Client  # noqa: PLC0415 (it imports the HTTP library)
    except ModuleNotFoundError as error:
        missing = (error.name or "aiohttp").partition(".")[0]
        raise MissingDependencyError(
            PROVIDER,
            f"rigging-openai needs the module {missing!r}, which is not installed: "
            f"`pip install {missing}`",
            missing,
        ) from error
    return Client()
