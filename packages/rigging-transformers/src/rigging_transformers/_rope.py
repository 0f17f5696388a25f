"""Rotary positions: how far a model's configuration stretches them, and from where they shift.

Sources: transformers' rotary scaling
(https://huggingface.co/docs/transformers/internal/rope_utils); YaRN (arXiv:2309.00071);
LongRoPE (arXiv:2402.13753).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["remembers", "steady", "stretched"]

# Beyond the original length, frequencies depend on how long the longest row of a batch is.
_SHIFTING: Final = ("dynamic", "longrope")
# For these, a configuration names the context that there was before.
_STRETCHING: Final = ("dynamic", "linear")

_ORIGINAL: Final = "original_max_position_embeddings"


def stretched(config: Any, context: int, most: int) -> int:
    """Return a model's context, in tokens, as its rotary scaling stretches it.

    Args:
        config: Of the model's text.
        context: As the configuration names it: for YaRN that may be the stretched one or not.
        most: What the tokenizer says that the model can take.
    """
    rope = _parameters(config)
    kind, factor = _kind(rope), rope.get("factor") or 1
    if kind == "yarn":
        return max(context, int(factor * (rope.get(_ORIGINAL) or context)))
    if kind in _STRETCHING:
        return max(context, min(int(factor * context), most))
    return context


def steady(config: Any, context: int | None) -> int | None:
    """Return up to which length a row's frequencies do not depend on that of any row.

    Args:
        config: Of the model's text.
        context: As the configuration names it.

    Returns:
        Tokens of prompt and answer; None if there is no limit.
    """
    limits = []
    for kind, rope in _shifting(config):
        # Older configurations have it outside.
        original = rope.get(_ORIGINAL) or getattr(config, _ORIGINAL, None)
        limits.append((context if kind == "dynamic" else original) or 0)
    return min(limits, default=None)


def remembers(config: Any) -> bool:
    """Tell whether a long row leaves its frequencies to the next, unless a short one is between."""
    return any(kind == "dynamic" for kind, _ in _shifting(config))


def _shifting(config: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    rope = _parameters(config)
    # There may be some for each kind of layers.
    for each in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        kind = _kind(each)
        if kind in _SHIFTING:
            yield kind, each


def _parameters(config: Any) -> Mapping[str, Any]:
    # The second name is that of older code.
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    return found or {}


def _kind(rope: Mapping[str, Any]) -> str | None:
    kind = rope.get("rope_type") or rope.get("type")
    return kind if isinstance(kind, str) else None
