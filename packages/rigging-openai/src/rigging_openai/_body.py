"""The bodies of answers: read piece by piece, unpacked, and never more than a bound."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from rigging_openai._results import broken

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import aiohttp

__all__ = ["pieces_of", "read_all"]

_ANY_HEADER: Final = 47  # for zlib: 32 KiB of window, and a header of gzip's or its own
_PACKED: Final = frozenset({"deflate", "gzip", "x-gzip"})


async def read_all(response: aiohttp.ClientResponse, most: int, model: str) -> bytes:
    """Return a whole body.

    Args:
        response: The answer.
        most: The most bytes that it may have, unpacked.
        model: That was asked.

    Raises:
        ResponseError: If it is longer, or packed in an unknown or broken way.
        aiohttp.ClientError: If the connection breaks.
    """
    length = response.content_length
    if length is not None and length <= most and _packing(response) is None:
        body: bytes = await response.read()
        return body
    return b"".join([piece async for piece in pieces_of(response, most, model)])


async def pieces_of(
    response: aiohttp.ClientResponse, most: int, model: str
) -> AsyncGenerator[bytes, None]:
    """Yield a body as it comes.

    Args:
        response: The answer.
        most: The most bytes that it may have, unpacked.
        model: That was asked.

    Raises:
        ResponseError: If it is longer, or packed in an unknown or broken way.
        aiohttp.ClientError: If the connection breaks.
    """
    packing = _packing(response)
    if packing is not None and packing not in _PACKED:
        raise broken(f"the answer is packed as {packing!r}, which was not asked for", model)
    unpacker = None if packing is None else zlib.decompressobj(_ANY_HEADER)
    left = most
    packed_left = most  # bytes that unpack to nothing are endless, too
    while piece := await response.content.readany():
        if unpacker is not None:
            packed_left -= len(piece)
            if unpacker.eof:
                raise broken("something follows the packed content of the answer", model)
            try:
                # One byte more than is left, to tell.
                piece = unpacker.decompress(piece, left + 1)
            except zlib.error as error:
                raise broken("the answer is packed in a broken way", model) from error
        left -= len(piece)
        if left < 0 or packed_left < 0:
            raise broken(f"the answer is longer than {most} bytes (max_response_bytes)", model)
        if piece:
            yield piece
    if unpacker is not None and not unpacker.eof:
        raise broken("the answer ends before its packed content does", model)


def _packing(response: aiohttp.ClientResponse) -> str | None:
    packing = response.headers.get("Content-Encoding", "").strip().lower()
    return None if packing in {"", "identity"} else packing
