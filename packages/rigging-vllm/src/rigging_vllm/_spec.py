"""Which engine a request is for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rigging.redaction import is_secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["EngineSpec"]


@dataclass(frozen=True)
class EngineSpec:
    """Which engine a request is for. Equal ones share it.

    Attributes:
        model: As the user named it.
        arguments: Of `AsyncEngineArgs`, by name, without the model. May hold a hub token.
        adapters: Paths or hub ids of LoRA adapters, by the names that requests use.
    """

    model: str
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)
    adapters: Mapping[str, str] = field(default_factory=dict)

    def secrets(self) -> list[str]:
        """Return what must be shown nowhere."""
        return list(_secrets(self.arguments))


def _secrets(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(inner, str) and isinstance(name, str) and is_secret(name):
                yield inner
            yield from _secrets(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _secrets(inner)
