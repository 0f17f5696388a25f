"""`rigging id`: identifiers, taken apart and put together."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from pydantic_core import to_json

from rigging.cli._exits import UsageError
from rigging.cli._options import Identifier
from rigging.cli._records import as_line
from rigging.identifier import Identifier as Parsed
from rigging.identifier import (
    decode_any,
    decode_list,
    decode_text,
    encode_any,
    encode_list,
    encode_text,
    names_secret,
    normalize_distribution,
)
from rigging.redaction import Redactor, without_secrets

__all__ = ["app"]

app = typer.Typer(help="Take identifiers apart, and put them together.", no_args_is_help=True)


@app.command("parse")
def parse(identifier: Identifier) -> None:
    """Print the parts of an identifier as JSON, secrets left out.

    Values are texts, or lists of texts where ';' separates them.
    """
    parsed = Parsed.parse(identifier)
    parts: dict[str, Any] = {
        "distribution": parsed.distribution,
        "provider": parsed.provider,
        "model": Redactor([]).text(parsed.model),
        "options": {},
    }
    for key, raw in parsed.options.items():
        try:
            parts["options"][key] = _shown(key, raw)
        except (ValueError, RecursionError) as error:  # of the codec; a thousand brackets
            raise parsed.error(f"{key}: {error}", key) from None
    print(as_line(parts))


@app.command("format")
def format_(
    parts: Annotated[
        str | None,
        typer.Argument(
            metavar="JSON",
            help="As `parse` prints; read from stdin if left out.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print the identifier that has these parts, secrets left out."""
    print(_formatted(_read(sys.stdin.read() if parts is None else parts)))


def _read(text: str) -> dict[str, Any]:
    try:
        parts = json.loads(text)
        to_json(parts)
    except (ValueError, RecursionError) as error:  # half a character, a thousand brackets
        raise UsageError(f"the parts of an identifier are JSON: {error}") from None
    if not isinstance(parts, dict) or not isinstance(parts.get("model"), str):
        raise UsageError(
            'the parts of an identifier are an object: {"provider": …, "model": …, "options": {…}}'
        )
    return parts


def _formatted(parts: dict[str, Any]) -> str:
    options = parts.get("options") or {}
    if not isinstance(options, dict):
        raise UsageError(f"options are an object, got {type(options).__name__}")
    unknown = sorted(parts.keys() - {"distribution", "provider", "model", "options"})
    if unknown:
        raise UsageError(f"an identifier has no {', '.join(unknown)}")
    provider, distribution = _name(parts, "provider"), _name(parts, "distribution")
    given = Parsed(
        model=parts["model"],
        provider=provider and provider.lower(),
        distribution=distribution and normalize_distribution(distribution),
        options={
            key: _raw(_public(key, value))
            for key, value in options.items()
            if not names_secret(key)
        },
    )
    text = given.format()
    read = Parsed.parse(text)  # what no identifier can hold is said by the parser
    if read != given:
        raise UsageError(f"no identifier holds these parts: together, they are read as {read!r}")
    return text


def _name(parts: dict[str, Any], key: str) -> str | None:
    name = parts.get(key)
    if not isinstance(name, (str, type(None))):
        raise UsageError(f"{key} is a text, got {type(name).__name__}")
    return name or None


def _shown(key: str, raw: str) -> Any:
    """Return an option's value without secrets: an address, or a header, may hold one."""
    if names_secret(key):
        return "***"
    if raw == "null":
        return None
    whole = decode_any(raw)
    public = _public(key, whole)
    if isinstance(whole, (dict, list)) and public != whole:
        return public
    return Redactor([]).value(decode_list(raw) if ";" in raw else decode_text(raw))


def _public(key: str, value: Any) -> Any:
    name = key.rpartition(".")[2]
    return Redactor([]).value(without_secrets({name: value})[name])


def _raw(value: Any) -> str:
    if isinstance(value, list):
        return encode_list(text if isinstance(text, str) else json.dumps(text) for text in value)
    if isinstance(value, str):
        # In an identifier, a ';' in a text would make a list of it.
        return encode_list([value]) if ";" in value else encode_text(value)
    return encode_any(value)
