"""Values of a model's fields, to and from the options of an identifier.

How a value is written follows from its field's JSON schema, so it holds for the fields
of any generator: text and numbers as they are, a list of these with ``;``, a mapping
part by part, and everything else as JSON. Pydantic converts what was read to the field's
own type.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError
from pydantic_core import PydanticSerializationError

from rigging._model import Model, field_names
from rigging.error import InvalidGeneratorError
from rigging.identifier import (
    decode_any,
    decode_list,
    decode_text,
    encode_any,
    encode_list,
    encode_text,
)
from rigging.redaction import without_secrets

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

__all__ = ["Option", "options_of", "takes_more", "write_more", "write_options"]

_Kind: TypeAlias = Literal["text", "list", "mapping", "any"]
_SCALARS = {"string", "number", "integer", "boolean"}


class Option(NamedTuple):
    """How one field is written in an identifier."""

    field: str
    kind: _Kind = "any"
    nullable: bool = False
    secret: bool = False
    has_names: bool = False  # it may be a mapping of names, and a name may be a secret's
    has_texts: bool = False  # it is a mapping to texts, whatever they look like

    def read(self, raw: str) -> Any:
        """Decode a value; pydantic then converts it.

        Raises:
            ValueError: If ``raw`` is not decodable.
        """
        if self.nullable and raw == "null":
            return None
        match self.kind:
            case "text":
                return decode_text(raw)
            case "list":
                return decode_list(raw)
            case "mapping" | "any":
                return decode_any(raw)

    def read_part(self, raw: str) -> Any:
        """Decode one part of a mapping.

        Raises:
            ValueError: If ``raw`` is not decodable.
        """
        return decode_text(raw) if self.has_texts else decode_any(raw)

    def public(self, value: Any) -> Any:
        """Return a value without the secrets that stand in a mapping."""
        return without_secrets(value) if self.has_names and isinstance(value, dict) else value

    def write(self, value: Any) -> dict[str, str]:
        """Encode a value that pydantic has made JSON of: one option, or one for each part."""
        if self.kind != "mapping":
            return {self.field: self._write_whole(self.public(value))}
        public = self.public(value)
        # No key can end with the dot.
        if not public or "" in public:
            return {self.field: self._write_whole(public)}
        encode = encode_text if self.has_texts else encode_any
        return {f"{self.field}.{name}": encode(public[name]) for name in sorted(public)}

    def _write_whole(self, value: Any) -> str:
        if value is None:
            return "null"
        match self.kind:
            case "text":
                return _scalar(value)
            case "list":
                return encode_list(map(_plain, value))
            case "mapping" | "any":
                return encode_any(value)


@functools.cache
def options_of(cls: type[Model]) -> dict[str, Option]:
    """Return the options that a model's fields take, by each name they may be given."""
    return {
        alias: option
        for name, field in cls.model_fields.items()
        for option in [_option(name, field)]
        for alias in field_names(name, field)
    }


def takes_more(cls: type[Model]) -> bool:
    """Tell whether a model takes values under names that are no fields of its own."""
    return cls.model_config.get("extra") == "allow"


def write_more(model: Model) -> dict[str, str]:
    """Encode the values under names that are no fields; secrets are left out.

    Raises:
        InvalidGeneratorError: If a value cannot be written as JSON.
    """
    values = without_secrets(model.model_extra or {})
    try:
        return {name: encode_any(values[name]) for name in sorted(values)}
    except TypeError as error:
        raise _unwritable(model, error) from error


def write_options(model: Model, names: set[str]) -> dict[str, str]:
    """Encode the named fields that differ from their defaults; secrets are left out.

    Raises:
        InvalidGeneratorError: If a value cannot be written as JSON.
    """
    fields = type(model).model_fields
    options = options_of(type(model))
    changed = {
        name
        for name in names
        if options[name].public(getattr(model, name))
        != fields[name].get_default(call_default_factory=True)
    }
    try:
        for name in changed:
            if options[name].has_names:
                # Where text is not Unicode, pydantic would write other names than there are.
                public = options[name].public(getattr(model, name))
                json.dumps(public, default=str, skipkeys=True, ensure_ascii=False).encode()
        values = model.model_dump(mode="json", include=changed)
    except PydanticSerializationError as error:
        raise _unwritable(model, error) from error
    # In the order of declaration: an identifier does not depend on what was set first.
    return {
        key: raw
        for name in fields
        # What hides its secrets may have nothing left to say.
        if name in values
        and not options[name].secret
        and values[name] != fields[name].get_default(call_default_factory=True)
        for key, raw in options[name].write(values[name]).items()
    }


def _unwritable(model: Model, error: Exception) -> InvalidGeneratorError:
    return InvalidGeneratorError(
        f"{type(model).__name__} cannot be written as an identifier: {error}"
    )


def _option(name: str, field: FieldInfo) -> Option:
    try:
        schema = TypeAdapter(field.rebuild_annotation()).json_schema(mode="serialization")
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError):
        return Option(name, secret=field.exclude is True)
    branches = [_resolved(branch, schema) for branch in schema.get("anyOf", [schema])]
    values = [branch for branch in branches if branch.get("type") != "null"]
    secret = field.exclude is True or any(branch.get("writeOnly") for branch in values)
    nullable = len(values) < len(branches)
    kind = _kind(values, schema, nullable=nullable)
    has_texts = kind == "mapping" and values[0]["additionalProperties"] is not True
    return Option(name, kind, nullable, secret, any(map(_has_names, values)), has_texts)


def _kind(branches: list[dict[str, Any]], schema: dict[str, Any], *, nullable: bool) -> _Kind:
    if len(branches) != 1:
        return "any"
    (branch,) = branches
    # Of anything or of texts: a part's text would not be converted to another type.
    if not nullable and _has_names(branch):
        return "mapping"
    if _is_scalar(branch):
        return "text"
    if branch.get("type") == "array" and _is_scalar(_resolved(branch.get("items", {}), schema)):
        return "list"
    return "any"


def _has_names(branch: dict[str, Any]) -> bool:
    """Tell whether a value is a mapping from any name to anything, or to text."""
    return "properties" not in branch and branch.get("additionalProperties") in (
        True,
        {"type": "string"},
    )


def _is_scalar(schema: dict[str, Any]) -> bool:
    if schema.get("type") not in _SCALARS:
        return False
    # Pydantic does not turn the text "8" into the choice 8.
    return schema["type"] == "string" or not schema.keys() & {"enum", "const"}


def _resolved(branch: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in branch:
        return branch
    name = branch["$ref"].rpartition("/")[2]
    found: dict[str, Any] = schema["$defs"][name]
    return found


def _scalar(value: Any) -> str:
    return encode_text(_plain(value))


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)
