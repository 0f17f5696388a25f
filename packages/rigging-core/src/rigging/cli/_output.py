"""The file that a batch writes: complete and in order, or not there."""

from __future__ import annotations

import os
import tempfile
from array import array
from pathlib import Path
from typing import Any

from rigging.cli._records import as_line

__all__ = ["Output"]


class Output:
    """Lines that come in any order, and are a file at the end.

    Until then they stand in a file without a name, which is gone with the process. What is
    kept in memory is 8 bytes a line.

    Args:
        path: The file; one of that name is replaced when the new one is complete.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts = array("q")  # of each line in the part; -1 where there is none

    def __enter__(self) -> Output:
        self._part = tempfile.TemporaryFile(dir=self._path.parent)
        return self

    def __exit__(self, *_: object) -> None:
        self._part.close()

    def put(self, number: int, value: dict[str, Any]) -> None:
        """Write the line of this number, counted from 0."""
        while len(self._starts) <= number:
            self._starts.append(-1)
        self._starts[number] = self._part.tell()
        # Half a character, which UTF-8 has no form for, is written as JSON escapes it.
        self._part.write(f"{as_line(value)}\n".encode("utf-8", "backslashreplace"))

    def finish(self) -> None:
        """Put the lines in order, and give the file its name."""
        mode = self._path.stat().st_mode if self._path.exists() else 0o666 & ~_umask()
        with tempfile.NamedTemporaryFile(
            dir=self._path.parent, prefix=f".{self._path.name}-", delete=False
        ) as ordered:
            try:
                for start in self._starts:
                    if start >= 0:
                        self._part.seek(start)
                        ordered.write(self._part.readline())
                ordered.flush()
                os.fsync(ordered.fileno())
                Path(ordered.name).chmod(mode)
                Path(ordered.name).replace(self._path)
            except BaseException:
                Path(ordered.name).unlink(missing_ok=True)
                raise


def _umask() -> int:
    """Return the mask of new files, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
