"""What chat and completion pipelines have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from rigging.error import InvalidParamsError, UnregisteredGeneratorError
from rigging.params import GenerateParams

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Identifiable", "generator_id", "params_per_item", "shortened"]

_SHOWN: Final = 60  # characters of a text in a repr


class Identifiable(Protocol):
    """A generator, as far as its name is concerned."""

    def to_identifier(self, params: GenerateParams | None = None, *, short: bool = False) -> str:
        """Return the generator's identifier, without its key."""
        ...


def generator_id(generator: Identifiable) -> str | None:
    """Return a generator's identifier; None if its class is registered nowhere."""
    try:
        return generator.to_identifier()
    except UnregisteredGeneratorError:
        return None


def params_per_item(
    base: GenerateParams, count: int, params: Sequence[GenerateParams] | None
) -> list[GenerateParams]:
    """Lay the parameters of each item over those of the pipeline.

    Raises:
        InvalidParamsError: If ``count`` is no count, or ``params`` has another length.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise InvalidParamsError(f"expected how many to generate, 0 or more, got {count!r}")
    if params is None:
        return [base] * count
    if isinstance(params, GenerateParams):
        raise InvalidParamsError(
            "params are a list, one for each generation: for all alike, use with_(params)"
        )
    if len(params) != count:
        raise InvalidParamsError(
            f"got {len(params)} params for {count} generations: give one each, or none at all"
        )
    return [base.merge_with(own) for own in params]


def shortened(text: str) -> str:
    """Return the beginning of a text, fit for a repr."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
