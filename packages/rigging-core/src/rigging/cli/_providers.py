"""`rigging providers`: which there are, and what each takes and does."""

from __future__ import annotations

import contextlib
import inspect
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic_core import PydanticUndefined

from rigging.cli._options import AsJson, Modules
from rigging.cli._records import as_line
from rigging.generator import Generator
from rigging.params import GenerateParams
from rigging.redaction import is_secret
from rigging.registry import registry

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic import BaseModel

__all__ = ["app", "find", "table"]

app = typer.Typer(help="List providers, and show what one takes.")


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    *,
    as_json: AsJson = False,
    modules: Modules = None,  # noqa: ARG001 (they have been run)
) -> None:
    """List providers, and show what one takes."""
    if context.invoked_subcommand is None:
        _list(as_json=as_json)


@app.command("list")
def list_(
    *,
    as_json: AsJson = False,
    modules: Modules = None,  # noqa: ARG001 (they have been run)
) -> None:
    """List all providers; none of them is imported."""
    _list(as_json=as_json)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    *,
    as_json: AsJson = False,
    modules: Modules = None,  # noqa: ARG001 (they have been run)
) -> None:
    """Import one provider, and show its fields, parameters and capabilities."""
    distribution, _, provider = name.lower().rpartition(":")
    cls = find(provider, distribution or None)
    facts = _facts(provider, cls)
    if as_json:
        print(as_line(facts))
        return
    print(f"{facts['name']}: {facts['class']}")
    if facts["summary"]:
        print(facts["summary"])
    print("\ncapabilities")
    print(table(("", ""), [(name, str(value)) for name, value in facts["capabilities"].items()]))
    for kind in ("fields", "parameters"):
        print(f"\n{kind}")
        rows = [(one["name"], one["type"], one["default"]) for one in facts[kind]]
        print(table(("name", "type", "default"), rows))


def find(provider: str, distribution: str | None) -> type[Generator]:
    """Load a provider's class; what it prints meanwhile is no part of a listing.

    Raises:
        ProviderLookupError: As `rigging.registry.Registry.find`.
    """
    with contextlib.redirect_stdout(sys.stderr):
        return registry.find(provider, distribution, base=Generator)


def table(heads: Sequence[str], rows: Iterable[Sequence[str | None]]) -> str:
    """Return rows as text, in columns."""
    texts = [[cell or "" for cell in row] for row in rows]
    if any(heads):
        texts.insert(0, list(heads))
    widths = [max((len(row[column]) for row in texts), default=0) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in texts
    )


def _list(*, as_json: bool) -> None:
    listed = registry.listed()
    if as_json:
        print(as_line([one._asdict() for one in listed]))
    elif listed:
        print(table(("name", "distribution", "version", "target", "state"), listed))
    else:
        print("no provider is installed: begin with `pip install 'rigging-core[litellm]'`")


def _facts(provider: str, cls: type[Generator]) -> dict[str, Any]:
    return {
        "name": provider,
        "class": f"{cls.__module__}.{cls.__qualname__}",
        "summary": (inspect.getdoc(cls) or "").partition("\n")[0],
        "capabilities": {
            "conversations": _has(cls, "generate_messages"),
            "texts": _has(cls, "generate_texts"),
            "streams": _has(cls, "stream_messages") or _has(cls, "stream_texts"),
            "loads a model": _has(cls, "load"),
            "requests per call": _batch_size(cls),
        },
        "fields": _fields(cls, without={"params"}),
        "parameters": _fields(GenerateParams, without=set()),
        "key variables": list(cls.key_variables or ()),
    }


def _has(cls: type[Generator], method: str) -> bool:
    return getattr(cls, method) is not getattr(Generator, method)


def _batch_size(cls: type[Generator]) -> int | str:
    field = cls.model_fields.get("batch_size")
    size = getattr(cls, "batch_size", None) if field is None else field.default
    return size if isinstance(size, int) else "all that wait"


def _fields(cls: type[BaseModel], *, without: set[str]) -> list[dict[str, str | None]]:
    return [
        {
            "name": name,
            "type": inspect.formatannotation(field.annotation).replace("typing.", ""),
            "default": _default(name, field.get_default(call_default_factory=True)),
        }
        for name, field in cls.model_fields.items()
        if name not in without
    ]


def _default(name: str, value: Any) -> str | None:
    if value is PydanticUndefined:
        return "(required)"
    return "(secret)" if is_secret(name) else repr(value)
