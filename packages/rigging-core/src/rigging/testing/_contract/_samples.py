"""What generators are asked that nobody has described: field values, odd texts, conversations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from rigging.error import InvalidValueError
from rigging.message import FunctionCall, Message, TextPart, ToolCall

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pydantic.fields import FieldInfo

__all__ = ["ODD_TEXTS", "another_value", "conversations"]

_ModelT = TypeVar("_ModelT", bound=BaseModel)

#: What a text may hold, too.
ODD_TEXTS: Final = (
    "",
    " \n\t",
    "naïve façade 日本語 🦜\u200d🏳️ \u202eright to left",
    "a\x00b\x1b[0m",
    "<|im_end|></s>[INST]{{ user }}",
)

# What an identifier has to write with care comes first.
_CANDIDATES: Final = (
    ["one;two", "three, four"],
    {"name, odd": [1, "two", None], "plain": True},
    {"name, odd": "two; three"},
    [{"name, odd": "two; three"}],
    [1, 2],
    'odd, !text; with 100% "marks", 日本語=x',
    True,
    False,
    0.25,
    0.75,
    7,
    1,
    2,
)


def another_value(
    cls: type[_ModelT], values: Mapping[str, Any], name: str, field: FieldInfo
) -> _ModelT | None:
    """Build an object that differs from its default in one field.

    Args:
        cls: The class to build.
        values: Its other fields.
        name: The field to change.
        field: What pydantic knows of it.

    Returns:
        The object; None if no value was found that the class takes.
    """
    default = field.get_default(call_default_factory=True, validated_data={})
    for value in (*_choices(field), *_CANDIDATES):
        try:
            built = cls(**{**values, name: value})
        except (InvalidValueError, ValueError):
            continue
        if getattr(built, name) != default:
            return built
    return None


def conversations(prompt: str) -> Mapping[str, Sequence[Message]]:
    """Return conversations that end in a prompt, or in what a tool found, by what they hold."""
    ask = Message("user", "Is it red?")
    said = [ask, Message("assistant", "It may be.")]
    function = FunctionCall(name="look_up", arguments='{"term": "red"}')
    call = Message("assistant", tool_calls=[ToolCall(id="call_1", function=function)])
    found = Message("tool", prompt, tool_call_id="call_1")
    parts = Message("user", [TextPart(text="Listen: "), TextPart(text=prompt)])
    last = Message("user", prompt)
    return {
        "several turns": [*said, last],
        "parts of text": [parts],
        "a system message": [Message("system", "Be brief."), last],
        "the result of a tool": [ask, call, found],
    }


def _choices(field: FieldInfo) -> Iterator[Any]:
    """Yield the values that a field enumerates, if it does."""
    try:
        schema = TypeAdapter(field.rebuild_annotation()).json_schema()
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError):
        return
    for branch in (schema, *schema.get("anyOf", ()), *schema.get("$defs", {}).values()):
        yield from branch.get("enum", ())
