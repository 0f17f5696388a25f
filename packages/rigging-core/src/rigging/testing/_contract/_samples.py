"""Values for the fields of a class that nobody has described."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from rigging.error import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic.fields import FieldInfo

__all__ = ["another_value"]

_ModelT = TypeVar("_ModelT", bound=BaseModel)

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


def _choices(field: FieldInfo) -> Iterator[Any]:
    """Yield the values that a field enumerates, if it does."""
    try:
        schema = TypeAdapter(field.rebuild_annotation()).json_schema()
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError):
        return
    for branch in (schema, *schema.get("anyOf", ()), *schema.get("$defs", {}).values()):
        yield from branch.get("enum", ())
