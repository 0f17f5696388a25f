"""What chats and completions have in common: the facts of a generation, and lists of them."""

from __future__ import annotations

import importlib
import json
from datetime import UTC, datetime
from functools import cache, reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, SupportsIndex, TypeVar, overload
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic_core import PydanticSerializationError

from rigging._building import build
from rigging._ids import new_id
from rigging._model import filled
from rigging.error import InvalidGeneratorError, RiggingError
from rigging.params import GenerateParams
from rigging.result import StopReason, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rigging.result import GeneratedMessage, GeneratedText

__all__ = ["Item", "ItemList", "as_json", "summed"]

_SHOWN: Final = 3  # items in the repr of a list

SelfT = TypeVar("SelfT", bound="Item")
ItemT = TypeVar("ItemT", bound="Item")
ListT = TypeVar("ListT", bound="ItemList[Any]")


def _error_of_text(value: object) -> object:
    return RiggingError(value) if isinstance(value, str) else value


def _text_of_error(error: BaseException | None) -> str | None:
    if error is None:
        return None
    if type(error) is RiggingError:  # out of JSON: its text has its name already
        return str(error)
    return f"{type(error).__name__}: {error}"


class Item(BaseModel):
    """One generation and its facts. Immutable: what changes it returns a new one."""

    model_config = ConfigDict(
        frozen=True,
        arbitrary_types_allowed=True,
        ser_json_inf_nan="constants",  # log-probabilities may be infinite
    )

    stop_reason: StopReason = StopReason.unknown
    usage: Usage | None = None
    params: GenerateParams = Field(default_factory=GenerateParams)
    generator_id: str | None = None
    extra: dict[str, Any] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)
    # JSON has its text only, and comes back as a RiggingError of that text.
    error: Annotated[
        BaseException | None,
        BeforeValidator(_error_of_text),
        PlainSerializer(_text_of_error, return_type=str | None),
    ] = None
    timestamp: datetime = Field(default_factory=lambda: datetime.now(UTC))
    uuid: UUID = Field(default_factory=new_id)

    # A slot and no field: an item knows what made it, and neither shows nor stores it.
    __slots__ = ("_pipeline",)

    def __hash__(self) -> int:
        return hash(self.uuid)

    def __copy__(self: SelfT) -> SelfT:
        return super().__copy__().made_by(self.maker)

    def __deepcopy__(self: SelfT, memo: dict[int, Any] | None = None) -> SelfT:
        return super().__deepcopy__(memo).made_by(self.maker)

    @property
    def maker(self) -> Any:
        """The pipeline that made the item; None if it came out of a file."""
        return getattr(self, "_pipeline", None)

    @classmethod
    def of_result(
        cls: type[SelfT],
        result: GeneratedMessage | GeneratedText,
        *,
        usage: Usage | None,
        params: GenerateParams,
        generator_id: str | None,
        metadata: dict[str, Any],
        pipeline: Any,
        **own: Any,
    ) -> SelfT:
        """Make an item of what a generator gave, by values that are known to fit.

        There is one per request, and pydantic would look at each value again.

        Args:
            result: What the generator gave.
            usage: Of all rounds.
            params: The parameters that were passed.
            generator_id: The generator's identifier.
            metadata: The caller's notes.
            pipeline: What made the item.
            own: The fields that the class has beside those of all items, in their order.
        """
        values = {
            "stop_reason": result.stop_reason,
            "usage": usage,
            "params": params,
            "generator_id": generator_id,
            "extra": {**result.extra},
            "metadata": metadata,
            "error": None,
            "timestamp": datetime.now(UTC),
            "uuid": new_id(),
            **own,
        }
        made = filled(cls, values, _names(cls))
        _set_pipeline(made, pipeline)
        return made

    def made_by(self: SelfT, pipeline: Any) -> SelfT:
        """Note the pipeline that made the item; return the item."""
        _set_pipeline(self, pipeline)
        return self

    def rebuilt(self) -> Any:
        """Return a new generator like the one that answered, for an item out of a file.

        Raises:
            InvalidGeneratorError: If the item does not say which one that was.
        """
        if self.generator_id is None:
            raise InvalidGeneratorError(
                "this item does not know its generator, whose class was registered under no "
                "provider name: go on with `generator.chat(…)` or `generator.complete(…)`"
            )
        return build(self.generator_id)

    def __str__(self) -> str:
        return repr(self)

    @property
    def failed(self) -> bool:
        """Whether the generation failed; ``error`` says why."""
        return self.error is not None

    def clone(self: SelfT) -> SelfT:
        """Return a copy with a name of its own."""
        return self.model_copy(update={"uuid": new_id()}, deep=True)

    def meta(self: SelfT, **metadata: Any) -> SelfT:
        """Return a copy with these notes added to its metadata."""
        return self.model_copy(update={"metadata": {**self.metadata, **metadata}})


_set_pipeline: Final = Item.__dict__["_pipeline"].__set__


@cache
def _names(cls: type[Item]) -> set[str]:
    """Return the names of all fields: one set for all items, which are frozen."""
    return set(cls.model_fields)


class ItemList(list[ItemT]):
    """Generations in the order of their inputs."""

    def __repr__(self) -> str:
        # Short for a million, too: `asyncio.run` asks for the repr of what it returns.
        shown = [repr(item) for item in self[:_SHOWN]]
        more = [f"… {len(self) - _SHOWN} more"] if len(self) > _SHOWN else []
        return f"{type(self).__name__}[{', '.join(shown + more)}]"

    @overload
    def __getitem__(self, index: SupportsIndex) -> ItemT: ...
    @overload
    def __getitem__(self: ListT, index: slice) -> ListT: ...
    def __getitem__(self, index: Any) -> Any:
        got = super().__getitem__(index)
        return type(self)(got) if isinstance(index, slice) else got

    # A sum of lists of one kind is of that kind; `list` promises a plain one.
    def __add__(self: ListT, other: Any) -> ListT:  # type: ignore[override]
        return type(self)([*self, *other])

    @property
    def usage(self) -> Usage:
        """Tokens of all together."""
        return reduce(add, (item.usage for item in self if item.usage), Usage())

    @property
    def failed(self) -> list[ItemT]:
        """Those that failed."""
        return [item for item in self if item.failed]

    def to_json(self) -> str:
        """Return all as one JSON array."""
        return f"[{','.join(self._lines())}]"

    def to_jsonl(self, path: str | Path) -> None:
        """Write all into a file, one JSON object a line."""
        with Path(path).open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{line}\n" for line in self._lines())

    def to_df(self) -> Any:
        """Return a pandas DataFrame, a row each.

        Raises:
            ImportError: If pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            raise ImportError("to_df() needs pandas: `pip install pandas`") from error
        return pandas.DataFrame([json.loads(line) for line in self._lines()])

    def _lines(self) -> Iterable[str]:
        return map(as_json, self)


def as_json(
    item: Item, *, fallback: Callable[[Any], Any] | None = None, exclude_none: bool = False
) -> str:
    """Return an item as JSON.

    Half a character, which some backends answer and UTF-8 has no form for, becomes ``?``.

    Args:
        item: The item.
        fallback: What to make of values that JSON has no form for.
        exclude_none: Leave out fields that hold nothing; they come back all the same.

    Raises:
        ValueError: If there is such a value nevertheless.
    """
    try:
        return item.model_dump_json(fallback=fallback, exclude_none=exclude_none)
    except PydanticSerializationError:
        values = item.model_dump(mode="json", fallback=fallback, exclude_none=exclude_none)
        text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace").decode()


def summed(previous: Item | None, usage: Usage | None) -> Usage | None:
    """Add a round's usage to that of the rounds before it."""
    if previous is None or previous.usage is None:
        return usage
    return previous.usage if usage is None else previous.usage + usage
