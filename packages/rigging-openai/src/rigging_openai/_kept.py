"""What a generator keeps from one request to the next."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rigging.error import MissingDependencyError
from rigging.params import Merged
from rigging_openai._adapting import Adapted
from rigging_openai._endpoint import PROVIDER

if TYPE_CHECKING:
    from rigging_openai._client import Client
    from rigging_openai._endpoint import Endpoint

__all__ = ["Kept"]


class Kept:
    """The HTTP client, endpoints, and what they were found not to take.

    In one object, so that each request looks for one private attribute.

    Attributes:
        client: The HTTP client; None before the first request.
        adapted: What is known of each endpoint and model.
        merged: The parameters of requests.
        endpoints: By what was given for them.
    """

    def __init__(self) -> None:
        self.client: Client | None = None
        self.adapted = Adapted()
        self.merged = Merged()
        self.endpoints: dict[tuple[object, ...], Endpoint] = {}

    async def made_client(self) -> Client:
        """Make the HTTP client, whose library is imported in a thread: that takes a while.

        Raises:
            MissingDependencyError: If its library, or something that it imports, is missing.
        """
        made = await asyncio.to_thread(_make_client)
        self.client = self.client or made  # others may have waited, too
        return self.client

    def __deepcopy__(self, memo: dict[int, object]) -> Kept:
        return Kept()


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
