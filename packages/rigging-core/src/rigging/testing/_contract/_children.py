"""Fresh interpreters, for what only a process of its own can show."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Answered", "Imported", "answer_in_child", "import_in_child", "make_in_child"]

_TIMEOUT_S: Final = 600.0

# What is given comes as JSON on standard input, and the last line printed is what comes back.
_BEGIN: Final = """\
import json, sys
given = json.loads(sys.stdin.read())
sys.path[:] = given["path"]
"""

_IMPORT: Final = """\
import importlib, time
started = time.process_time()
importlib.import_module(given["module"])
spent = time.process_time() - started
print()
print(json.dumps({"cpu_s": spent, "modules": sorted(sys.modules)}))
"""

# Neither unpickled nor with plugins: those may bring what they like. Where the class is registered
# by a test only, it has no identifier here.
_MAKE: Final = """\
import base64, contextlib, os, pickle
os.environ["RIGGING_DISABLE_PLUGINS"] = "1"
cls, values = pickle.loads(base64.b64decode(given["pickled"]))
generator = cls(**values)
repr(generator)
with contextlib.suppress(LookupError):
    generator.to_identifier()
print()
print(json.dumps({"modules": sorted(sys.modules)}))
"""

_ANSWER: Final = """\
import asyncio, base64, pickle
from rigging.params import GenerateParams
from rigging.testing._contract._heartbeat import listen
from rigging.testing._contract._kinds import KINDS
generator = pickle.loads(base64.b64decode(given["pickled"]))
answer, stalled_s = None, 0.0

async def ask():
    (kind,) = [kind for kind in KINDS if kind.name == given["kind"]]
    params = GenerateParams(**given["params"])
    return await listen(kind.ask(generator, given["prompt"], params))

if given["prompt"] is not None:
    result, stalled_s = asyncio.run(ask())
    answer = str(result)
    generator.unload()
print()
print(json.dumps({"shown": repr(generator), "answer": answer, "stalled_s": stalled_s}))
"""


@dataclass(frozen=True)
class Imported:
    """What the import of a module brought and cost.

    Attributes:
        modules: The names of all modules that are there then.
        cpu_s: Seconds of CPU.
    """

    modules: frozenset[str]
    cpu_s: float


@dataclass(frozen=True)
class Answered:
    """What a generator was and did in a process of its own.

    Attributes:
        shown: Its repr.
        answer: What it answered; None if it was asked nothing.
        stalled_s: The longest time for which its first request stopped the event loop, in
            seconds.
    """

    shown: str
    answer: str | None
    stalled_s: float


def import_in_child(module: str) -> Imported:
    """Import a module in a fresh interpreter.

    Raises:
        RuntimeError: If that fails.
    """
    done = _run(_IMPORT, module=module)
    return Imported(frozenset(done["modules"]), done["cpu_s"])


def make_in_child(pickled: bytes) -> frozenset[str]:
    """Make a generator in a fresh interpreter; return the names of the modules that are there then.

    Args:
        pickled: Its class, and the values of its fields.

    Raises:
        RuntimeError: If that fails.
    """
    return frozenset(_run(_MAKE, pickled=_as_text(pickled))["modules"])


def answer_in_child(
    pickled: bytes, *, kind: str, prompt: str | None, params: dict[str, Any]
) -> Answered:
    """Unpickle a generator in a fresh interpreter, and ask it.

    Args:
        pickled: The generator.
        kind: Of the request.
        prompt: What to ask; None to ask nothing.
        params: What to ask it with.

    Raises:
        RuntimeError: If that fails.
    """
    done = _run(
        _ANSWER,
        pickled=_as_text(pickled),
        kind=kind,
        prompt=prompt,
        params=params,
    )
    return Answered(**done)


def _as_text(pickled: bytes) -> str:
    return base64.b64encode(pickled).decode()


def _run(code: str, **given: Any) -> dict[str, Any]:
    done = subprocess.run(  # noqa: S603 (this interpreter)
        [sys.executable, "-c", _BEGIN + code],
        input=json.dumps({"path": sys.path, **given}),
        capture_output=True,
        encoding="utf-8",
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"a fresh interpreter failed:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
