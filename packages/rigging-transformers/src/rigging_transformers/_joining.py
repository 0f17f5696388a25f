"""Which requests the rolling batch takes. What it does not take goes through ``generate``.

The rolling batch is a plain decoding loop over a cache of keys and values. It takes a row
if that is all that the model, its generation config and the request need. Imports torch:
import this module late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
import transformers
from transformers.cache_utils import DynamicCache

from rigging_transformers._layers import HAS_POSITIONS, may_roll

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rigging_transformers._loaded import Loaded
    from rigging_transformers._sampling import Plan

__all__ = [
    "counts_width",
    "may_pad",
    "may_share",
    "model_rolls",
    "reads_in_parts",
    "row_rolls",
    "seeds_roll",
]

# Of a generation config: read by `plan` and `Loaded`, or of no consequence here.
_HANDLED: Final = frozenset(
    {
        "bos_token_id",
        "do_sample",
        "eos_token_id",
        "epsilon_cutoff",
        "eta_cutoff",
        "max_length",
        "max_new_tokens",
        "min_p",
        "no_repeat_ngram_size",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_logits",
        "output_scores",
        "pad_token_id",
        "repetition_penalty",
        "return_dict_in_generate",
        "stop_strings",
        "temperature",
        "top_h",
        "top_k",
        "top_p",
        "transformers_version",
        "typical_p",
        "use_cache",
    }
)
# Values that change nothing, beside False, None and what is empty.
_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    # Where ``generate`` would keep what is kept here.
    "cache_implementation": ("dynamic", "hybrid", "hybrid_chunked", "sliding_window", "static"),
    "diversity_penalty": (0.0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "guidance_scale": (1.0,),
    "length_penalty": (1.0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "num_beam_groups": (1,),
    "num_beams": (1,),
}
# Of ``generate``: count from the left end of the longest row, or to its right end, or take
# padding for a part of the prompt.
_BY_WIDTH: Final = (
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "min_length",
)
# Types of models (tested) without positions, or that find them in the mask.
_PADDED_WITHOUT_POSITIONS: Final = ("bloom", "falcon_mamba", "mamba", "mamba2", "mpt")
# Types of models (tested) that take padding for tokens.
_SPOILED_BY_PADDING: Final = (
    *("deepseek_v4", "git", "kosmos-2.5", "paligemma", "recurrent_gemma", "reformer"),
    "unlimited_ocr",
)
# Types of models (tested) that mix up the rows of a batch, even of equal lengths.
_SPOILED_BY_NEIGHBOURS: Final = ("rwkv",)
# Types of models (tested) that prepare their inputs themselves for the sake of images, or of
# rows beyond `Loaded.steady`, and no more than others where there is neither; or to set what
# is set here.
_PREPARE_LIKE_OTHERS: Final = (
    *("gemma3", "gemma4", "gemma4_unified", "phi3", "phi4_multimodal", "phimoe"),
    *("exaone4_5", "hyperclovax_vision_v2", "minicpmv4_6", "minicpmv4_7"),
    *("bamba", "falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h", "zamba", "zamba2"),
)
# Types of models (tested) that have places for images in their cache or mask, also where there
# are none, or a cache of their own.
_KEEP_MORE: Final = (
    *("git", "minimax", "mllama_text_model", "recurrent_gemma"),
    *(() if HAS_POSITIONS else ("qwen4_exp", "qwen4_exp_text")),
)
# Types of models (tested) that begin anew with each part of a prompt; or whose sliding window has
# forgotten what they look at in a prompt.
_READ_AT_ONCE: Final = ("falcon_mamba", "jamba", "mamba", "zamba", "moshi")


def model_rolls(loaded: Loaded) -> bool:
    """Tell whether the rolling batch can run a model, and its generation config."""
    model, config = loaded.model, loaded.model.config
    prepare = getattr(type(model), "prepare_inputs_for_generation", None)
    # Ids, a mask and positions are all that it needs.
    is_plain = (
        prepare is transformers.GenerationMixin.prepare_inputs_for_generation
        or config.model_type in _PREPARE_LIKE_OTHERS
    )
    return (
        {"attention_mask", loaded.cache_name} <= loaded.takes
        and _counts_right(loaded)
        and not config.is_encoder_decoder
        and is_plain
        and config.model_type not in _KEEP_MORE
        and may_roll(DynamicCache(config=config).layers)
        and not any(_matters(name, value) for name, value in loaded.defaults.items())
    )


def reads_in_parts(loaded: Loaded) -> bool:
    """Tell whether the rolling batch may read a long prompt part by part."""
    return loaded.model.config.model_type not in _READ_AT_ONCE


def may_pad(loaded: Loaded) -> bool:
    """Tell whether padding changes nothing, so that ``generate`` may take rows of any lengths.

    It does for rows that are longer than `Loaded.steady`.
    """
    is_spoiled = loaded.model.config.model_type in _SPOILED_BY_PADDING
    return loaded.masks and _counts_right(loaded) and not is_spoiled


def may_share(loaded: Loaded) -> bool:
    """Tell whether ``generate`` may take several rows at once."""
    return loaded.model.config.model_type not in _SPOILED_BY_NEIGHBOURS


def counts_width(plan: Plan, defaults: Mapping[str, Any]) -> bool:
    """Tell whether an option of a row or of the model's counts the padding of a batch."""
    settings = {**defaults, **plan.kwargs}
    return any(_matters(name, settings.get(name)) for name in _BY_WIDTH)


def seeds_roll(loaded: Loaded) -> bool:
    """Tell whether a model is precise enough for seeded rows to have neighbours.

    A neighbour changes a row's logits in their last bits. That may tip a draw, and a seed
    is a promise that nothing does. In single precision it tips less than one draw in a
    million, in half precision one in some hundred.
    """
    model = loaded.model
    is_single = model.dtype is torch.float32 and _multiplies_exactly()
    is_packed = getattr(model, "hf_quantizer", None) is not None
    return (is_single or model.dtype is torch.float64) and not is_packed


def row_rolls(plan: Plan, *, seeds: bool) -> bool:
    """Tell whether the rolling batch can run a row, on a model that it can run.

    It cannot if the row may become longer than `Loaded.steady`.

    Args:
        plan: The row's.
        seeds: Whether it may be a seeded one; see `seeds_roll`.
    """
    may_be_drawn = seeds or plan.sampling.seed is None
    return may_be_drawn and not (plan.alone or plan.kwargs.keys() - _HANDLED)


def _counts_right(loaded: Loaded) -> bool:
    """Tell whether the tokens of a padded row stand where they do alone."""
    # Most models are given positions.
    is_known = loaded.model.config.model_type in _PADDED_WITHOUT_POSITIONS
    return "position_ids" in loaded.takes or is_known


def _multiplies_exactly() -> bool:
    try:
        precision: str = torch.get_float32_matmul_precision()
    except RuntimeError:  # a lower one was set by the newer ``fp32_precision``
        return False
    return precision == "highest"


def _matters(name: str, value: object) -> bool:
    """Tell whether a setting is one that changes what is generated, and not handled here."""
    if name.startswith("_") or name in _HANDLED:
        return False
    # 0 turns a setting off, but a token by that number is one.
    is_set = value is not None if name.endswith("_token_id") else bool(value)
    return is_set and value not in _NEUTRAL.get(name, ())
