"""Rigging: one string names any model, one pipeline runs it, any backend can be a plugin.

>>> import asyncio
>>> import rigging as rg
>>> with rg.register_generator("echo", rg.testing.EchoGenerator):
...     chat = asyncio.run(rg.get_generator("echo!any,temperature=0.5").chat("Hi").run())
>>> chat.last.content
'Hi'

Like pydantic's, names are imported from their modules when they are first used: a
program that only looks at `rigging.__version__` pays for nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from rigging._version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rigging import (
        chat,
        completion,
        error,
        events,
        generator,
        identifier,
        message,
        params,
        plugins,
        registry,
        result,
        testing,
    )
    from rigging.chat import Chat, ChatList, ChatPipeline
    from rigging.completion import Completion, CompletionList, CompletionPipeline
    from rigging.error import RiggingError
    from rigging.generator import Generator, get_generator, get_identifier, register_generator
    from rigging.message import (
        AudioData,
        AudioPart,
        FunctionCall,
        ImagePart,
        ImageURL,
        Message,
        TextPart,
        ToolCall,
    )
    from rigging.params import GenerateParams
    from rigging.result import GeneratedMessage, GeneratedText, StopReason, Usage

__all__ = [
    "AudioData",
    "AudioPart",
    "Chat",
    "ChatList",
    "ChatPipeline",
    "Completion",
    "CompletionList",
    "CompletionPipeline",
    "FunctionCall",
    "GenerateParams",
    "GeneratedMessage",
    "GeneratedText",
    "Generator",
    "ImagePart",
    "ImageURL",
    "Message",
    "RiggingError",
    "StopReason",
    "TextPart",
    "ToolCall",
    "Usage",
    "__version__",
    "chat",
    "completion",
    "error",
    "events",
    "generator",
    "get_generator",
    "get_identifier",
    "identifier",
    "message",
    "params",
    "plugins",
    "register_generator",
    "registry",
    "result",
    "testing",
]

# Public modules -> the names of theirs that stand on `rigging` too.
_EXPORTS: Final[Mapping[str, tuple[str, ...]]] = {
    "chat": ("Chat", "ChatList", "ChatPipeline"),
    "completion": ("Completion", "CompletionList", "CompletionPipeline"),
    "error": ("RiggingError",),
    "events": (),
    "generator": ("Generator", "get_generator", "get_identifier", "register_generator"),
    "identifier": (),
    "message": (
        "AudioData",
        "AudioPart",
        "FunctionCall",
        "ImagePart",
        "ImageURL",
        "Message",
        "TextPart",
        "ToolCall",
    ),
    "params": ("GenerateParams",),
    "plugins": (),
    "registry": (),
    "result": ("GeneratedMessage", "GeneratedText", "StopReason", "Usage"),
    "testing": (),
}
_MODULE_OF: Final = {name: module for module, names in _EXPORTS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return importlib.import_module(f"rigging.{name}")
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(f"rigging.{_MODULE_OF[name]}"), name)
        globals()[name] = value  # the next look-up finds it without asking here
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
