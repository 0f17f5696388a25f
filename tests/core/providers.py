"""Generator classes with the fields of the first-party providers, and one with all kinds.

Core's tests run where no provider is installed; what the grammar does with a class
follows from its fields alone.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, Field, SecretStr

from rigging import Generator


class LiteLLM(Generator):
    max_connections: int = Field(default=10, ge=0)
    min_delay_between_requests: float = Field(default=0, ge=0)


class VLLM(Generator):
    gpu_memory_utilization: float = 0.9
    trust_remote_code: bool = False


class Transformers(Generator):
    dtype: str | None = Field(default=None, validation_alias=AliasChoices("dtype", "torch_dtype"))
    trust_remote_code: bool = False
    model_kwargs: dict[str, Any] = Field(
        default_factory=dict, validation_alias=AliasChoices("model_kwargs", "load_kwargs")
    )


PROVIDERS: dict[str, type[Generator]] = {
    "litellm": LiteLLM,
    "vllm": VLLM,
    "transformers": Transformers,
}


class Colour(enum.Enum):
    red = "red"
    odd = "a,b;c"


class Size(enum.IntEnum):
    small = 1
    large = 2


class Nested(BaseModel):
    name: str = ""
    numbers: list[int] = Field(default_factory=list)


class AllKinds(Generator):
    """One field of every kind that an identifier can carry."""

    text: str = "default"
    maybe: str | None = None
    maybe_not: str | None = "default"
    flag: bool = False
    number: int = 0
    ratio: float = 0.0
    choice: Literal["a", "b", "null"] = "a"
    level: Literal[1, 2] = 1
    colour: Colour = Colour.red
    size: Size = Size.small
    maybe_colour: Colour | None = None
    colours: list[Colour] = Field(default_factory=list)
    path: Path = Path("somewhere")
    name: uuid.UUID = uuid.UUID(int=0)
    texts: list[str] = Field(default_factory=list)
    numbers: tuple[int, ...] = ()
    maybe_texts: list[str] | None = None
    table: dict[str, Any] = Field(default_factory=dict)
    rows: list[list[int]] = Field(default_factory=list)
    nested: Nested = Field(default_factory=Nested)
    either: int | str | None = None
    anything: Any = None
    token: SecretStr | None = None
    # No identifier can carry it, and none has to.
    callback: Callable[[], None] | None = None
    # A name that `GenerateParams` has too.
    seed: int | None = None
