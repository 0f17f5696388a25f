"""A file of finished results, so that a batch that ended early goes on where it stopped.

SQLite, one table, JSON inside. A result's key is a digest of what was sent (the
generator's identifier without its key, the input, the parameters) and a number, since the
same may be sent several times. So a changed prompt, model or parameter is a new item, and
an unchanged one is never paid for twice.

All access runs in one thread of its own and in groups: what is asked while a group is
being committed forms the next, so a commit's cost is shared and the loop never waits for
a disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rigging.error import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Checkpoint", "canonical"]

_VERSION: Final = 1  # of the file's layout, in SQLite's `user_version`

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS results (
    digest BLOB NOT NULL,
    occurrence INTEGER NOT NULL,
    result TEXT NOT NULL,
    PRIMARY KEY (digest, occurrence)
);
CREATE TEMP TABLE seen (digest BLOB PRIMARY KEY, times INTEGER NOT NULL) WITHOUT ROWID;
"""
# How often this run has looked for an item: the n-th look finds the n-th result.
_COUNT_FIRST: Final = "INSERT OR IGNORE INTO seen VALUES (?, 1)"
_COUNT_AGAIN: Final = "UPDATE seen SET times = times + 1 WHERE digest = ? RETURNING times"
_FIND: Final = "SELECT result FROM results WHERE digest = ? AND occurrence = ?"
_SAVE_FIRST: Final = "INSERT INTO results VALUES (?, 1, ?) ON CONFLICT DO NOTHING"
_SAVE_AGAIN: Final = """
INSERT INTO results SELECT ?1, coalesce(max(occurrence), 0) + 1, ?2 FROM results WHERE digest = ?1
"""
_IS_EMPTY: Final = "SELECT NOT EXISTS (SELECT 1 FROM results)"

#: Writes JSON values as the text that checkpoints know them by.
canonical: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


class _Result(NamedTuple):
    """A finished result on its way into the file."""

    digest: bytes
    text: str


class Checkpoint:
    """A file of finished results; open, and kept from others, while its context lasts.

    Args:
        path: The file; it is made if there is none.

    Attributes:
        was_empty: Whether there was nothing in it when it was opened.

    Raises:
        CheckpointError: On entering, if the file is in use, is no checkpoint, or cannot
            be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rigging-checkpoint")
        self._connection: sqlite3.Connection
        self.was_empty: bool
        self._group: list[tuple[bytes | _Result, asyncio.Future[Any]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Checkpoint:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._open)
        except BaseException:
            self._thread.shutdown(wait=False)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        # What was asked is finished first.
        if self._worker is not None:
            await asyncio.wait([self._worker])
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown(wait=False)

    def _open(self) -> None:
        self._connection = _connect(self._path)
        ((self.was_empty,),) = self._connection.execute(_IS_EMPTY).fetchall()

    @staticmethod
    def sender(*facts: Any) -> bytes:
        """Digest what the items of a run have in common, for `digest`."""
        return hashlib.blake2b(canonical(facts).encode(), digest_size=32).digest()

    @staticmethod
    def digest(sender: bytes, sent: str) -> bytes:
        """Digest an item.

        Args:
            sender: What the items of a run have in common; see `sender`.
            sent: What is sent, as `canonical` writes it.
        """
        return hashlib.blake2b(sent.encode(), digest_size=16, key=sender).digest()

    # Futures and no coroutines: each item waits for one or two of these.

    def find(self, digest: bytes) -> asyncio.Future[str | None]:
        """Look up an item's finished result, as JSON; call it once per item, in their order."""
        return self._ask(digest)

    def save(self, digest: bytes, result: str) -> asyncio.Future[None]:
        """Commit a finished result; it is on disk when this is done."""
        return self._ask(_Result(digest, result))

    def _ask(self, question: bytes | _Result) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._group.append((question, answer))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return answer

    async def _work(self) -> None:
        """Answer group after group, until nothing is asked."""
        loop = asyncio.get_running_loop()
        try:
            while self._group:
                group, self._group = self._group, []
                questions = [question for question, _ in group]
                try:
                    answers = await loop.run_in_executor(self._thread, self._answer, questions)
                except Exception as error:  # noqa: BLE001 (each of the group raises it)
                    failure = CheckpointError(f"the checkpoint cannot be written: {error}")
                    failure.__cause__ = error
                    for _, future in group:
                        if not future.done():
                            future.set_exception(failure)
                    continue
                for (_, future), answer in zip(group, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)
        finally:
            self._worker = None
            for _, future in self._group:  # only if the task was cancelled
                future.cancel()

    def _answer(self, questions: list[bytes | _Result]) -> list[str | None]:
        """In the thread: look up and save a group in one transaction."""
        with self._connection:
            # What is saved in this group is not found in it: lookups first.
            answers = [
                None if isinstance(question, _Result) else self._find(question)
                for question in questions
            ]
            for question in questions:
                if isinstance(question, _Result):
                    self._save(question)
        return answers

    def _find(self, digest: bytes) -> str | None:
        times = 1
        # Nearly every item is another, so the first statement is nearly always enough.
        if not self._connection.execute(_COUNT_FIRST, (digest,)).rowcount:
            ((times,),) = self._connection.execute(_COUNT_AGAIN, (digest,)).fetchall()
        row = self._connection.execute(_FIND, (digest, times)).fetchone()
        return row[0] if row else None

    def _save(self, result: _Result) -> None:
        # As with lookups, the first statement is nearly always enough, and takes half the time.
        if not self._connection.execute(_SAVE_FIRST, result).rowcount:
            self._connection.execute(_SAVE_AGAIN, result)


def _connect(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, timeout=0.2, check_same_thread=False)
    except sqlite3.Error as error:
        raise CheckpointError(f"the checkpoint {path} cannot be opened: {error}") from error
    try:
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        if "locked" in str(error):
            raise CheckpointError(
                f"the checkpoint {path} is in use by another run: wait for it, or use another file"
            ) from error
        raise CheckpointError(
            f"{path} is no checkpoint of Rigging's, or cannot be written: {error}"
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    # Exclusive from the first read on: two runs on one file would pay for items twice.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if version != _VERSION and tables:
        raise CheckpointError(
            f"{path} is a database of layout {version}, and no checkpoint of layout {_VERSION}, "
            f"which this rigging-core writes: use another file"
        )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute(f"PRAGMA user_version = {_VERSION}")
    connection.commit()
    connection.executescript(_SCHEMA)
