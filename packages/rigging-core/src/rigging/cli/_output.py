"""The file that a batch writes: complete and in order, or not there."""

from __future__ import annotations

import os
from array import array
from typing import TYPE_CHECKING, Any, BinaryIO

from rigging.cli._records import as_line

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Output"]


class Output:
    """Lines that come in any order, and are a file at the end.

    Until then they stand in ``NAME.part`` beside it, which the context's end takes away.
    What is kept in memory is 8 bytes a line.

    Args:
        path: The file; one of that name is replaced when the new one is complete.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self._ordered = path.with_name(f"{path.name}.ordered")
        self._file: BinaryIO | None = None
        self._starts = array("q")  # of each line in the part; -1 where there is none

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        self._part.unlink(missing_ok=True)
        self._ordered.unlink(missing_ok=True)

    def put(self, number: int, value: dict[str, Any]) -> None:
        """Write the line of this number, counted from 0."""
        if self._file is None:
            # Not before: another run may be writing the same file, and its checkpoint is ours
            # once the first result has come.
            self._file = self._part.open("w+b")
        while len(self._starts) <= number:
            self._starts.append(-1)
        self._starts[number] = self._file.tell()
        self._file.write(f"{as_line(value)}\n".encode("utf-8", "surrogatepass"))

    def finish(self) -> None:
        """Put the lines in order, and give the file its name."""
        with self._ordered.open("wb") as ordered:
            if self._file is not None:
                for start in self._starts:
                    if start >= 0:
                        self._file.seek(start)
                        ordered.write(self._file.readline())
            ordered.flush()
            os.fsync(ordered.fileno())
        self._ordered.replace(self._path)
