"""Plugins made up on the spot, installed into a folder of the running process.

Cheaper than a real project in an environment of its own, and able to be broken in ways
that no build tool would let pass.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pytest

__all__ = ["Site"]

_GENERATOR: Final = """
    from rigging import Generator

    class {name}(Generator):
        pass
"""


class Site:
    """A folder at the head of ``sys.path``."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path.mkdir(parents=True)
        monkeypatch.syspath_prepend(path)
        self.path = path

    def add(
        self,
        distribution: str,
        version: str = "1.0",
        entry_points: Mapping[str, str] | str = "",
        code: str = "",
    ) -> None:
        """Install a distribution with its one module, which is named like it.

        Args:
            distribution: Its name.
            version: Its version.
            entry_points: Provider names to targets, or the text of `entry_points.txt`.
            code: The module's; if it is empty, a generator class for each target.
        """
        if not isinstance(entry_points, str):
            code = code or "".join(
                textwrap.dedent(_GENERATOR.format(name=target.partition(":")[2]))
                for target in entry_points.values()
            )
            lines = (f"{name} = {target}" for name, target in entry_points.items())
            entry_points = "\n".join(["[rigging.generators]", *lines, ""])
        module = distribution.replace("-", "_")
        self.write(f"{module}.py", code)
        record = f"{module}-{version}.dist-info"
        metadata = f"Metadata-Version: 2.4\nName: {distribution}\nVersion: {version}\n"
        self.write(f"{record}/METADATA", metadata)
        self.write(f"{record}/entry_points.txt", entry_points)

    def write(self, name: str, text: str) -> None:
        """Write a file, dedented."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
