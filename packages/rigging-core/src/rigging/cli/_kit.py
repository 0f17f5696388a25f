"""The process that runs the contract's tests for `rigging plugin check`.

The test file that an author would write is written here, and pytest runs it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from rigging.cli._exits import ExitCode, UsageError, exit_code, tell
from rigging.cli._findings import find_settings, switches
from rigging.cli._modules import import_file
from rigging.generator import Generator, get_generator
from rigging.testing import CONTRACT_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["main"]

# The identifier, which may hold a key, is in no file.
_FILE: Final = '''\
"""Made by `rigging plugin check`, which takes it away again."""

import pytest
from rigging.testing import GeneratorContract


class TestContract(GeneratorContract):
{settings}

    @pytest.fixture
    def generator(self, make_checked):
        generator = make_checked()
        yield generator
        generator.unload()
'''


def main() -> None:
    """Run the tests that standard input asks for, and end with the command's exit code."""
    told = json.load(sys.stdin)
    sys.path[:] = told["path"]
    try:
        for path in told["modules"]:
            import_file(Path(path))
        wanted = switches(told["on"], told["off"])
        code = _check(told["identifier"], wanted, told["arguments"], Path(told["folder"]))
    except Exception as error:  # noqa: BLE001 (told to whoever typed the command)
        tell(error, verbose=False)
        code = exit_code(error)
    sys.exit(code)


def _check(
    identifier: str, wanted: Mapping[str, bool], arguments: Sequence[str], folder: Path
) -> ExitCode:
    generator = get_generator(identifier)
    shown = generator.to_identifier()  # without its key
    print(f"Asking {shown} what it can do …", flush=True)
    settings = asyncio.run(find_settings(generator, wanted))
    generator.unload()

    lines = (f"    {name} = {value!r}" for name, value in settings.items())
    file = folder / "test_contract.py"
    file.write_text(_FILE.format(settings="\n".join(lines)), encoding="utf-8")
    # So that pytest takes no project around it for its own.
    (folder / "pytest.ini").touch()
    os.environ.pop("PYTEST_ADDOPTS", None)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    quiet = ["--quiet", "--no-header", "--no-summary", "--tb=no"]
    alone = ["--import-mode=importlib", "-p", "no:cacheprovider"]
    outcomes = _Outcomes(identifier)
    ended = pytest.main([*quiet, *alone, *arguments, str(file)], plugins=[outcomes])
    if ended == pytest.ExitCode.INTERRUPTED:
        return ExitCode.INTERRUPTED
    if ended not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        raise UsageError(f"pytest ran no test; it was given {' '.join(arguments) or 'nothing'}")
    print(f"\n{shown}, by version {CONTRACT_VERSION} of the contract:")
    print("\n".join(outcomes.report(settings)))
    return ExitCode.FAILED if outcomes.broken else ExitCode.OK


class _Outcomes:
    """A plugin of pytest's that gives the generator to the tests, and remembers how they ended.

    Attributes:
        kept: How many tests passed.
        broken: What failed, as a line each: the rule, and the sentence that it failed with.
    """

    def __init__(self, identifier: str) -> None:
        self.kept = 0
        self.broken: list[str] = []
        self._identifier = identifier

    @pytest.fixture
    def make_checked(self) -> Callable[[], Generator]:
        return lambda: get_generator(self._identifier)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            _, _, name = report.nodeid.rpartition("::")
            rule, _, parameters = name.removeprefix("test_").partition("[")
            rule = rule.replace("_", " ")
            about = f" ({parameters.rstrip(']')})" if parameters else ""
            self.broken.append(f"{rule}{about}: {_sentence(report)}")
        elif report.when == "call":
            self.kept += 1

    def report(self, settings: Mapping[str, Any]) -> Iterator[str]:
        """Yield the lines of the report."""
        yield f"  {self.kept} tests passed, {len(self.broken)} failed."
        off = sorted(name for name, value in settings.items() if value is False)
        yield f"  Switched off: {', '.join(off)}."
        unsupported = settings["unsupported_params"] | settings["unsupported_in_texts"]
        if unsupported:
            yield f"  Warned about, as it must be: {', '.join(sorted(unsupported))}."
        for line in self.broken:
            yield f"  FAILED {line}"


def _sentence(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    first, *_ = text.split("\nassert ")
    return first.removeprefix("AssertionError: ").removeprefix("Failed: ")
