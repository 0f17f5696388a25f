"""`rigging plugin check`: the contract of generators, run for a provider that is installed.

A process of its own runs the tests (`rigging.cli._kit`), because they change warnings, load models
and run modules. What it is told goes through its standard input, and what it says through here: an
identifier may hold a key, which is shown nowhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, TextIO

from rigging.cli._exits import ExitCode, UsageError
from rigging.error import MissingDependencyError
from rigging.generator import get_generator
from rigging.identifier import Identifier, decode_text
from rigging.redaction import Redactor, is_secret

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Check", "identifier_of"]

_CHILD: Final = "from rigging.cli._kit import main; main()"


@dataclass(frozen=True)
class Check:
    """What is to be checked, and how.

    Attributes:
        identifier: Names the generator.
        modules: Files that register generators.
        on: Switches of the contract to turn on.
        off: And those to turn off.
        arguments: Further ones, for pytest.
    """

    identifier: str
    modules: list[Path] = field(default_factory=list)
    on: list[str] = field(default_factory=list)
    off: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)

    def run(self) -> ExitCode:
        """Run the tests, and print what came of them.

        Raises:
            MissingDependencyError: If pytest is not installed.
            RiggingError: As `rigging.get_generator`.
        """
        generator = get_generator(self.identifier)  # whoever cannot be had is told so at once
        if find_spec("pytest") is None:
            provider = Identifier.parse(self.identifier).provider or ""
            raise MissingDependencyError(
                provider,
                "the contract is a suite for pytest, which is not installed. Install it: "
                "`pip install 'rigging-core[testing]'`.",
                "pytest",
            )
        redactor = Redactor([generator.api_key, *self._secrets()])
        with tempfile.TemporaryDirectory(prefix="rigging-check-") as folder:
            told = {
                "path": sys.path,
                "folder": folder,
                "identifier": self.identifier,
                "modules": [str(path.resolve()) for path in self.modules],
                "on": self.on,
                "off": self.off,
                "arguments": self.arguments,
            }
            code = self._run_child(json.dumps(told), redactor)
        return ExitCode(code) if code in set(ExitCode) else ExitCode.FAILED

    @staticmethod
    def _run_child(told: str, redactor: Redactor) -> int:
        """Run the tests, and hand on what they say as it comes, without keys."""

        def hand_on(said: IO[str], to: TextIO) -> None:
            for line in said:
                print(redactor.text(line), end="", file=to, flush=True)

        with subprocess.Popen(  # noqa: S603 (this interpreter)
            [sys.executable, "-P", "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        ) as child:
            assert child.stdin and child.stdout and child.stderr  # noqa: PT018, S101 (pipes)
            errors = threading.Thread(target=hand_on, args=(child.stderr, sys.stderr))
            errors.start()
            with child.stdin:
                child.stdin.write(told)
            hand_on(child.stdout, sys.stdout)
            errors.join()
        return child.returncode

    def _secrets(self) -> Iterator[str]:
        for name, raw in Identifier.parse(self.identifier).options.items():
            if is_secret(name.rpartition(".")[2]):
                yield decode_text(raw)
        for name, value in os.environ.items():
            if is_secret(name):
                yield value


def identifier_of(name: str, model: str | None) -> str:
    """Return the identifier of what is named: one already, or a provider and its model.

    Raises:
        UsageError: If there is a model too many, or none.
    """
    is_identifier = "!" in name
    if is_identifier and model is not None:
        raise UsageError("--model goes with a provider's name: the identifier names a model")
    if is_identifier:
        return name
    if model is None:
        raise UsageError(
            f"{name!r} names no model to ask: write '{name}!MODEL', or add --model MODEL"
        )
    return Identifier(model, name.lower()).format()
