"""The project's packages, as its design lists them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.environments import ROOT

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CORE", "PROVIDERS", "Package"]


@dataclass(frozen=True)
class Package:
    """What a package is called, needs and provides."""

    name: str
    module: str
    needs: frozenset[str]  # names of its dependencies
    entry_point: str = ""  # "provider = module:Class"

    @property
    def folder(self) -> Path:
        """Its sources."""
        return ROOT / "packages" / self.name

    @property
    def provider(self) -> str:
        """The name that its entry point claims."""
        return self.entry_point.partition(" = ")[0]

    @property
    def generator(self) -> str:
        """The name of its class."""
        return self.entry_point.rpartition(":")[2]


CORE = Package("rigging-core", "rigging", frozenset({"pydantic", "pluggy", "importlib-metadata"}))
PROVIDERS = (
    Package(
        "rigging-litellm",
        "rigging_litellm",
        frozenset({"rigging-core", "litellm"}),
        "litellm = rigging_litellm:LiteLLMGenerator",
    ),
    Package(
        "rigging-openai",
        "rigging_openai",
        frozenset({"rigging-core", "aiohttp", "orjson"}),
        "openai = rigging_openai:OpenAIGenerator",
    ),
    Package(
        "rigging-transformers",
        "rigging_transformers",
        frozenset({"rigging-core", "transformers", "torch", "accelerate"}),
        "transformers = rigging_transformers:TransformersGenerator",
    ),
    Package(
        "rigging-vllm",
        "rigging_vllm",
        frozenset({"rigging-core", "vllm", "torch"}),
        "vllm = rigging_vllm:VLLMGenerator",
    ),
)
