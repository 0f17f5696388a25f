"""A server that answers at once or after a while, whole or in a hundred chunks.

It runs in a process of its own, and speaks just as much HTTP as clients need: it shall not be
what a benchmark waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["CHUNKS", "running"]

CHUNKS: Final = 100
_BODY: Final = {
    "id": "chatcmpl-benchmark",
    "object": "chat.completion",
    "created": 1_700_000_000,
    "model": "tiny-2024",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "logprobs": None,
            "message": {"role": "assistant", "content": "word " * 40, "refusal": None},
        }
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 40, "total_tokens": 49},
    "system_fingerprint": "fp_1",
}


@contextlib.contextmanager
def running(answer_s: float = 0.0) -> Iterator[str]:
    """Run a server whose answers take so long; give its ``api_base``."""
    command = [sys.executable, str(Path(__file__)), str(answer_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.terminate()


def _whole() -> bytes:
    body = json.dumps(_BODY).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def _streamed() -> list[bytes]:
    """Return the head of a stream, and each of its events as a chunk of HTTP's."""
    frame = {name: _BODY[name] for name in ("id", "created", "model")}
    frame["object"] = "chat.completion.chunk"
    deltas: list[tuple[dict[str, str], str | None]] = [({"content": "word "}, None)] * (CHUNKS - 1)
    events = [
        json.dumps({**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
        for delta, reason in [*deltas, ({}, "stop")]
    ]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked"
    lines = [f"data: {event}\n\n".encode() for event in [*events, "[DONE]"]]
    chunks = [f"{len(line):x}\r\n".encode() + line + b"\r\n" for line in lines]
    return [head + b"\r\n\r\n", *chunks, b"0\r\n\r\n"]


_WHOLE: Final = _whole()
_STREAMED: Final = _streamed()
_PER_WRITE: Final = 5  # events; a fast model's arrive in small groups


class _Protocol(asyncio.Protocol):
    def __init__(self, answer_s: float) -> None:
        self._answer_s = answer_s
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        lengths = [
            line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        ]
        if len(rest) < int(lengths[0].partition(b":")[2]):
            return
        self._received = b""
        streams = b'"stream":true' in rest.replace(b" ", b"")
        loop = asyncio.get_running_loop()
        if streams:
            self._streaming = loop.create_task(self._stream())
        elif self._answer_s:
            loop.call_later(self._answer_s, self._write, _WHOLE)
        else:
            self._write(_WHOLE)

    async def _stream(self) -> None:
        for start in range(0, len(_STREAMED), _PER_WRITE):
            self._write(b"".join(_STREAMED[start : start + _PER_WRITE]))
            await asyncio.sleep(0)

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)


async def _serve(answer_s: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Protocol(answer_s), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(float(sys.argv[1])))
