"""Clean virtual environments, and code that is run in them.

`uv` makes them and installs into them; it takes its settings (an index, a folder of
wheels) from the environment variables that the tests run with. What runs inside sees
none of the variables that configure Python, Rigging or another environment.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uv

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["ROOT", "Cells", "Environment", "Failure", "build", "make_environment"]

ROOT: Final = Path(__file__).parents[2]

_DRIVER: Final = Path(__file__).with_name("cells.py")
_STRANGE: Final = ("CONDA_", "COV_", "COVERAGE_", "PYTHON", "RIGGING_", "VIRTUAL_ENV")
_TIMEOUT_S: Final = 300


@dataclass(frozen=True)
class Failure:
    """An exception that a cell raised."""

    name: str  # of its class
    bases: list[str]  # of the class and all it derives from
    text: str
    facts: dict[str, Any]  # its attributes
    cause: str | None  # "<class>: <text>"


@dataclass(frozen=True)
class Cells:
    """What came of cells of code that one fresh interpreter ran.

    Attributes:
        outcomes: Each cell's value, or its failure.
        modules: Names of all modules that were imported in the end.
        logs: Records, as ``LEVEL logger: text``.
    """

    outcomes: list[Any]
    modules: set[str]
    logs: list[str]

    @property
    def values(self) -> list[Any]:
        """The cells' values; none of them may have failed."""
        for outcome in self.outcomes:
            assert not isinstance(outcome, Failure), f"{outcome.name}: {outcome.text}"
        return self.outcomes

    def failure(self, index: int = 0) -> Failure:
        """The failure of the cell at ``index``; it must have failed."""
        outcome = self.outcomes[index]
        assert isinstance(outcome, Failure), f"no failure, but {outcome!r}"
        return outcome


@dataclass(frozen=True)
class Environment:
    """A virtual environment on disk."""

    path: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        windows = os.name == "nt"
        return self.path / ("Scripts/python.exe" if windows else "bin/python")

    @property
    def packages(self) -> Path:
        """Its folder of installed packages."""
        found = list(self.path.glob("[Ll]ib/**/site-packages"))
        assert len(found) == 1, found
        return found[0]

    def install(self, *arguments: str | Path) -> None:
        """Install requirements, or wheels; options of ``uv pip install`` are understood."""
        _run(self.installing(*arguments), "", self.path, None)

    def install_offline(self, *wheels: Path) -> None:
        """Install wheels alone: nothing that they depend on, and nothing over the net."""
        self.install("--offline", "--no-deps", *wheels)

    def uninstall(self, distribution: str) -> None:
        """Take a distribution away."""
        _uv("pip", "uninstall", "--python", self.python, distribution, cwd=self.path)

    def installing(self, *arguments: str | Path) -> list[str]:
        """Return the command that installs, for a process that is to run it itself."""
        command = [uv.find_uv_bin(), "pip", "install", "--python", self.python, *arguments]
        return list(map(str, command))

    def installed(self) -> dict[str, str]:
        """Return versions of the installed distributions, by their normalised names."""
        listed = _uv("pip", "list", "--python", self.python, "--format=json", cwd=self.path)
        return {item["name"]: item["version"] for item in json.loads(listed)}

    def resolve(self, requirement: str, *options: str | Path) -> set[str]:
        """Return names of all distributions that a requirement would bring; install nothing."""
        command = ("pip", "compile", "--python", self.python, "--no-annotate", "--no-header")
        return {
            re.split(r"[ =]", line)[0]
            for line in _uv(*command, *options, "-", cwd=self.path, stdin=requirement).splitlines()
        }

    def clone(self, path: Path) -> Environment:
        """Return a copy; its files are hard links, so replace them instead of changing them."""
        shutil.copytree(self.path, path, symlinks=True, copy_function=os.link)
        return Environment(path)

    def run(
        self, *arguments: str | Path, stdin: str = "", variables: Mapping[str, str] | None = None
    ) -> str:
        """Run the interpreter, warnings being errors, and return what it printed."""
        command = [self.python, "-P", "-W", "error", *arguments]
        return _run(command, stdin, self.path, variables)

    def call(
        self, *arguments: str | Path, variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the interpreter, however it ends."""
        return _start([self.python, "-P", *arguments], "", self.path, variables)

    def cells(self, *cells: str, variables: Mapping[str, str] | None = None) -> Cells:
        """Run cells of code one after another in one interpreter.

        ``rg``, ``asyncio`` and ``logging`` are there; a cell's value is that of its last line,
        if that is an expression.
        """
        report = json.loads(self.run(_DRIVER, stdin=json.dumps(cells), variables=variables))
        outcomes = [
            outcome["value"] if "value" in outcome else Failure(**outcome)
            for outcome in report["outcomes"]
        ]
        return Cells(outcomes, set(report["modules"]), report["logs"])

    def shell(self, script: str, cwd: Path) -> str:
        """Run lines of a shell as whoever has activated the environment; return the output."""
        programs = f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"
        return _run(["sh", "-e", "-c", script], "", cwd, {"PATH": programs})


def make_environment(path: Path) -> Environment:
    """Make an environment with nothing installed, on the interpreter that runs the tests."""
    path.mkdir(parents=True)
    _uv("venv", "--python", sys.executable, path, cwd=path)
    return Environment(path)


def build(project: Path, out: Path, *options: str | Path) -> Path:
    """Build a project and return the one file that came of it, in the empty folder ``out``."""
    out.mkdir(parents=True)
    _uv("build", *options, "--out-dir", out, project, cwd=out)
    (built,) = [path for path in out.iterdir() if path.suffix in {".whl", ".gz"}]
    return built


def _uv(*arguments: str | Path, cwd: Path, stdin: str = "") -> str:
    return _run([uv.find_uv_bin(), *arguments], stdin, cwd, None)


def _run(
    command: Sequence[str | Path], stdin: str, cwd: Path, variables: Mapping[str, str] | None
) -> str:
    done = _start(command, stdin, cwd, variables)
    shown = " ".join(map(str, command))
    assert done.returncode == 0, (
        f"{shown} exited with {done.returncode}:\n{done.stdout}{done.stderr}"
    )
    return done.stdout


def _start(
    command: Sequence[str | Path], stdin: str, cwd: Path, variables: Mapping[str, str] | None
) -> subprocess.CompletedProcess[str]:
    env = {name: text for name, text in os.environ.items() if not name.startswith(_STRANGE)}
    return subprocess.run(
        command,
        input=stdin,
        cwd=cwd,
        env=env | dict(variables or {}),
        capture_output=True,
        encoding="utf-8",
        timeout=_TIMEOUT_S,
        check=False,
    )
