"""Mapping of `GenerateParams` to what transformers' ``generate`` takes.

What differs from row to row (temperature, top-k, top-p, seed, penalties) becomes a
`Sampling`, which the row carries through the batch. All that is left, most entries of
``extra``, holds for a whole call of ``generate``, so only rows with equal extras share one.

Some extras make ``generate`` run another loop than plain decoding: beams, assisted
decoding, watermarks. Such a row runs alone, with everything left to transformers.

Plain values in, plain values out: tested without a model.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rigging.error import BadRequestError
from rigging.local import TEMPLATE_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from rigging import GenerateParams

__all__ = ["UNSUPPORTED", "Plan", "Sampling", "plan"]

#: Fields of `GenerateParams` that a local model has no use for.
UNSUPPORTED: Final = ("api_base", "tool_choice", "parallel_tool_calls", "modalities", "audio")

# Below this, dividing logits by the temperature overflows; the result is greedy anyway.
_COLDEST: Final = 1e-5

# transformers' own default where neither the caller nor the model says anything.
_TOP_K: Final = 50

# What looks at a row's own tokens: the type of its value, and the value at which it changes
# nothing.
_PENALTIES: Final[Mapping[str, tuple[type, float]]] = {
    "repetition_penalty": (float, 1.0),
    "no_repeat_ngram_size": (int, 0),
}
# The filters of a distribution, in the order in which transformers applies them.
_FILTERS: Final = (
    "temperature",
    "top_h",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
)
# The value at which a filter changes nothing.
_NEUTRAL: Final[Mapping[str, float]] = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
# Set (and `num_beams` above 1), they replace the plain decoding loop.
_OTHER_LOOPS: Final = (
    "assistant_early_exit",
    "constraints",
    "dola_layers",
    "force_words_ids",
    "penalty_alpha",
    "prompt_lookup_num_tokens",
    "use_mtp",
    "watermarking_config",
)
# Ours to set. Theirs -> what to use instead.
_RESERVED: Final[Mapping[str, str]] = {
    "max_length": "max_tokens",
    "max_new_tokens": "max_tokens",
    "max_time": "timeout",
    "num_return_sequences": "run_many",
    "stop_strings": "stop",
}
# What only changes the shape of generate()'s answer, which nobody would see.
_OUTPUTS: Final = frozenset(
    {
        "output_attentions",
        "output_hidden_states",
        "output_logits",
        "output_scores",
        "return_dict_in_generate",
    }
)


@dataclass(frozen=True)
class Sampling:
    """How one row's next token is chosen.

    Attributes:
        sampled: Whether it is drawn; else the likeliest is taken.
        filters: What shapes the distribution before the draw: names and values, in order.
        repetition_penalty: Divides the logit, or multiplies one below 0, of each token of the
            row and its prompt; before all filters, as are the others.
        no_repeat_ngram_size: Of a run of tokens that may not be there twice; 0 for none.
        presence_penalty: Taken from the logit of each token that the row has generated.
        frequency_penalty: The same, times how often it was generated.
        seed: Of the row's own random numbers; None for the process's.
    """

    sampled: bool = False
    filters: tuple[tuple[str, float], ...] = ()
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None


@dataclass(frozen=True)
class Plan:
    """How one row is generated.

    Attributes:
        sampling: How its tokens are chosen, if the loop is the plain one.
        kwargs: Keyword arguments for ``generate``.
        alone: Whether ``generate`` runs another loop, which takes this row only.
        ignored: Parameters that were given and cannot be honoured.
    """

    sampling: Sampling
    kwargs: Mapping[str, Any]
    alone: bool = False
    ignored: tuple[str, ...] = ()


def plan(
    params: GenerateParams, defaults: Mapping[str, Any], known: Collection[str] | None = None
) -> Plan:
    """Work out how a row is generated.

    Temperature 0 is greedy. A temperature above 0, ``top_p`` or ``top_k`` makes it
    sampled; where none is given, the model's own generation config decides.

    Args:
        params: What is asked for.
        defaults: The model's generation config: what holds where ``params`` is silent.
        known: Names that ``extra`` may hold; None for any.

    Raises:
        BadRequestError: If ``extra`` holds a name that ``generate`` does not know, or
            one that is ours to set.
    """
    given = params.extra.items()
    extra = {
        name: value for name, value in given if value is not None and name != TEMPLATE_VARIABLES
    }
    _check_names(extra, known)
    settings = {**defaults, **extra, **_given(params)}
    sampled = _is_sampled(params, settings, extra)
    alone = (settings.get("num_beams") or 1) > 1 or any(settings.get(n) for n in _OTHER_LOOPS)
    if alone:
        kwargs = {**extra, **(_given(params) if sampled else {}), "do_sample": sampled}
        return Plan(Sampling(), kwargs, alone=True, ignored=_lost_to_other_loops(params, sampled))
    sampling = Sampling(
        sampled=sampled,
        filters=_filters(settings) if sampled else (),
        **_penalties(settings),
        presence_penalty=params.presence_penalty or 0.0,
        frequency_penalty=params.frequency_penalty or 0.0,
        seed=params.seed if sampled else None,
    )
    rest = {
        name: extra[name] for name in extra if name not in {*_PENALTIES, *_FILTERS, "do_sample"}
    }
    return Plan(sampling, rest)


def _lost_to_other_loops(params: GenerateParams, sampled: bool) -> tuple[str, ...]:
    """Name what was asked for and only the plain loop can do."""
    # Where nothing is drawn, a seed is honoured by doing nothing.
    names = ("presence_penalty", "frequency_penalty", *(("seed",) if sampled else ()))
    return tuple(name for name in names if getattr(params, name) is not None)


def _given(params: GenerateParams) -> dict[str, Any]:
    """Return the parameters that transformers knows by the same name."""
    given: dict[str, Any] = {}
    # Colder than that is greedy, which is no temperature to transformers.
    if params.temperature is not None and params.temperature >= _COLDEST:
        given["temperature"] = params.temperature
    if params.top_p is not None:
        given["top_p"] = params.top_p
    if params.top_k is not None:
        given["top_k"] = max(params.top_k, 0)  # -1, too, is "from all"
    return given


def _is_sampled(
    params: GenerateParams, settings: Mapping[str, Any], extra: Mapping[str, Any]
) -> bool:
    if params.temperature is not None and params.temperature < _COLDEST:
        return False
    if "do_sample" in extra:
        return bool(extra["do_sample"])
    return bool(_given(params)) or bool(settings.get("do_sample"))


def _filters(settings: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    values = {"top_k": _TOP_K, **{k: v for k, v in settings.items() if v is not None}}
    return tuple(
        (name, values[name])
        for name in _FILTERS
        if name in values and values[name] != _NEUTRAL.get(name)
    )


def _penalties(settings: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, (kind, neutral) in _PENALTIES.items():
        value = settings.get(name)
        if value is None or value == neutral:
            continue
        fits = isinstance(value, (int, kind)) and not isinstance(value, bool)
        if not (fits and float(value) > 0):
            raise BadRequestError(
                f"generate() refuses {name}={value!r}: expected {kind.__name__} above 0"
            )
        found[name] = kind(value)
    return found


def _check_names(extra: Mapping[str, Any], known: Collection[str] | None) -> None:
    for name in extra:
        if name in _RESERVED:
            raise BadRequestError(f"extra holds {name!r}: use {_RESERVED[name]} instead")
        if name in _OUTPUTS:
            raise BadRequestError(f"extra holds {name!r}: text is all that comes back")
        if known is not None and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see transformers' GenerationConfig"
            raise BadRequestError(f"extra holds {name!r}, which generate() does not take; {hint}")
