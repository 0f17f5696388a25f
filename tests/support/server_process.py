"""A server in a process of its own, ready when it says so, and gone for sure afterwards."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

__all__ = ["ServerProcess"]

_START_S: Final = 400  # vLLM's takes one minute on two idle cores, and several on busy ones
_STOP_S: Final = 15
_ANSWER_S: Final = 10
_POLL_S: Final = 0.1
_TAIL: Final = 60  # lines of the log


class ServerProcess:
    """A server on loopback, as a context manager; it may be killed and started again.

    The process leads a group of its own, so that whatever it starts ends with it.

    Args:
        command: What to run; ``--host`` and ``--port`` are added to it.
        folder: Where it runs, and keeps its log.

    Attributes:
        port: Where it listens, also when it was started again.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self.port = _free_port()
        self._command = [*command, "--host", "127.0.0.1", "--port", str(self.port)]
        self._folder = folder
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The ``api_base``."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def running(self) -> bool:
        """Whether it was started, and has not ended since."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and wait until it answers ``/health``.

        Raises:
            RuntimeError: If it ends or does not answer; the text has the end of its log.
        """
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise

    def get(self, path: str) -> str:
        """Return what it answers to a plain GET.

        Raises:
            OSError: If it does not answer.
            http.client.HTTPException: If it does not answer with status 200.
        """
        # Unlike urllib, this asks no proxy.
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_ANSWER_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise http.client.HTTPException(f"{path}: status {response.status}: {text}")
        return text

    def stop(self) -> None:
        """Let it end in its own way, and what does not end in time, the other way."""
        self._signal(signal.SIGTERM)
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
        self.kill()

    def kill(self) -> None:
        """End it and all that it started at once, without a chance to say goodbye."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(_STOP_S)
            self._process = None  # its number may become another process's

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if not self.running:
                raise RuntimeError(self._failure("ended before it answered"))
            if self._answers():
                return
            time.sleep(_POLL_S)
        raise RuntimeError(self._failure(f"did not answer within {_START_S} s"))

    def _answers(self) -> bool:
        try:
            self.get("/health")
        except (OSError, http.client.HTTPException):
            return False
        return True

    def _failure(self, what: str) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join([f"{' '.join(self._command)} {what}:", *lines[-_TAIL:]])

    def _signal(self, number: signal.Signals) -> None:
        # The group may outlive its leader, and keeps the leader's number meanwhile.
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
