"""Which engine a request is for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

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
