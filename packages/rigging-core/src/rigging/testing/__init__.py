"""Test doubles, a server that breaks down, and the conformance suite of generators.

For users who test their programs, and for authors of providers. The doubles and the server need
nothing; `GeneratorContract` needs pytest (``rigging-core[testing]``), and is imported when it is
asked for. So is `rigging.testing.fixtures`, which holds the server as a fixture.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from rigging.testing._doubles import EchoGenerator, RecordedCall, Reply, ScriptedGenerator
from rigging.testing._faulty import FailingGenerator, FlakyGenerator, SlowGenerator
from rigging.testing._situations import Fault, SlowRequest

if TYPE_CHECKING:
    from rigging.testing._contract import GeneratorContract
    from rigging.testing._server import OpenAIServer, ServerReply, ServerRequest

__all__ = [
    "CONTRACT_VERSION",
    "EchoGenerator",
    "FailingGenerator",
    "Fault",
    "FlakyGenerator",
    "GeneratorContract",
    "OpenAIServer",
    "RecordedCall",
    "Reply",
    "ScriptedGenerator",
    "ServerReply",
    "ServerRequest",
    "SlowGenerator",
    "SlowRequest",
]

#: Counts up whenever a rule is added to `GeneratorContract`, or asks for more than before.
CONTRACT_VERSION: Final = 1

# Where the rest is, which most programs do not need.
_LAZY: Final = {
    "GeneratorContract": "_contract",
    "OpenAIServer": "_server",
    "ServerReply": "_server",
    "ServerRequest": "_server",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
