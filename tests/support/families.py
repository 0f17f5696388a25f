"""Every family of causal models that transformers knows, made small with random weights.

A configuration is its family's own, but for its sizes. Weights are drawn wide, so that
different prompts get different answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["KINDS", "MULTIMODAL", "families", "make_small"]

#: A family for each kind of layers, or of positions: those that look back to the beginning, to
#: the last tokens, within chunks, sparsely; recurrent ones, beside such, in the same and alone.
KINDS: Final = (
    *("llama", "bloom", "mistral", "gemma3_text", "llama4_text", "deepseek_v32"),
    *("bamba", "qwen3_5_text", "falcon_h1", "mamba2", "qwen4_exp_text", "qwen2_5_vl"),
)

#: Families that are no causal model of text on their own, or have none that is small.
LEFT_OUT: Final[Mapping[str, str]] = {
    "blt": "its patcher is a model of its own, of 90 million parameters",
    "dory": "transformers 5.24 cannot decode beyond its window, not even one prompt",
    "dots3_note": "its configuration is of so many layers; dots3_note_text is here",
    "gemma3n": "its images need packages that the tests do not have",
    "gemma4_assistant": "drafts for another model, whose cache it reads",
    "gemma4_unified_assistant": "drafts for another model, whose cache it reads",
    "musicgen": "makes audio",
    "musicgen_melody": "makes audio",
}

#: Families that take images or audio, too, and can do without; those that people run most.
MULTIMODAL: Final = (
    *("aya_vision", "exaone4_5", "glm4v", "idefics3", "internvl", "kimi_k25"),
    *("kosmos-2.5", "lfm2_vl", "llava", "llava_next", "llava_onevision", "minicpmv4_6"),
    *("mistral3", "ovis2", "paligemma", "qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen3_vl_moe"),
    *("qwen2_audio", "smolvlm", "voxtral"),
)

# What configurations call their sizes, by how large they are here. The windows are shorter
# than some prompts, because that is where padding and neighbours could matter.
_SIZES: Final[Mapping[float, str]] = {
    0: "num_nextn_predict_layers",
    0.3: "initializer_range init_std",
    1: "first_k_dense_replace indexer_kv_heads n_group num_expert_group topk_group",
    2: "decoder_layers encoder_layers indexer_compress_ratio linear_num_key_heads mamba_expand "
    "moe_k moe_topk num_decoder_layers num_encoder_layers num_experts_per_tok "
    "num_experts_per_token num_key_value_heads num_kv_heads swa_num_key_value_heads top_k_experts",
    4: "decoder_attention_heads encoder_attention_heads hc_lowrank linear_num_heads "
    "linear_num_value_heads moe_num_experts n_head n_heads n_layer n_layers n_routed_experts "
    "num_attention_heads num_experts num_heads num_hidden_layers num_layers num_local_experts "
    "swa_num_attention_heads",
    8: "attention_chunk_size attention_head_dim attention_window_size d_head dim_head head_dim "
    "hidden_size_per_layer_input index_head_dim index_topk indexer_budget indexer_head_dim "
    "kv_channels linear_head_dim linear_key_head_dim linear_value_head_dim mamba_d_head "
    "mamba_d_state mamba_head_dim mamba_n_heads mamba_num_heads qk_nope_head_dim "
    "qk_rope_head_dim rotary_dim sliding_window sliding_window_size state_size swa_head_dim "
    "v_head_dim",
    16: "kv_lora_rank q_lora_rank qk_head_dim",
    32: "d_model dim dim_model emb_dim embed_dim embedding_size expert_ffn_hidden_size hidden_size "
    "lru_width moe_intermediate_size n_embd ple_embed_dim shared_expert_intermediate_size "
    # With few of these, scores are often equal, and chance decides.
    "index_n_heads indexer_n_heads",
    64: "d_ff decoder_ffn_dim dim_ff encoder_ffn_dim ffn_dim ffn_hidden_size intermediate_size "
    "n_inner",
    512: "max_position_embeddings max_seq_len n_positions",
}
_SMALL: Final = {name: size for size, names in _SIZES.items() for name in names.split()}

# Of positions in time and space; their frequencies are parted.
_IN_SPACE: Final = {
    "text_config": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 1, 1],
        }
    }
}

_TWO_KINDS: Final = ["linear_attention", "full_attention"] * 2

# What else is to be set, where sizes have to fit each other.
_SPECIAL: Final[Mapping[str, Mapping[str, Any]]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "bailing_hybrid": {"layer_group_size": 2, "q_lora_rank": None, "num_key_value_heads": 4},
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [1, 1, 2],
            }
        }
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4},
    },
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {
        "num_hidden_layers": 10,
        "num_kv_shared_layers": 5,
        "intermediate_size": 64,
        "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 2,
        "activation_sparsity_pattern": [0.0] * 10,
        "laurel_rank": 8,
    },
    "glm4v": _IN_SPACE,
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 8},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": _TWO_KINDS, "q_lora_rank": None},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "longcat_flash": {"zero_expert_num": 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2},
    "qwen2_5_vl": _IN_SPACE,
    "qwen2_vl": _IN_SPACE,
    "qwen3_next": {"layer_types": _TWO_KINDS},
    # It has none, and its mask knows of none.
    "qwen3_vl_moe": {"text_config": {"sliding_window": None}},
    "reformer": {
        "axial_pos_embds": False,
        "attn_layers": ["local", "local"],
        "local_attn_chunk_length": 64,
    },
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},
    "xmod": {"default_language": "en_XX"},
    "zamba2": {"num_hidden_layers": 6, "layers_block_type": ["mamba", "hybrid"] * 3},
    "zaya": {"num_experts_per_tok": 1},
}


def families() -> list[str]:
    """Return the names of families as transformers calls them: all but those left out."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return [
        *(name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in LEFT_OUT),
        *MULTIMODAL,
    ]


def make_small(family: str, tokenizer: Any) -> Any:
    """Make a model of a family, the same one every time."""
    import torch
    import transformers

    config = _small_config(family, tokenizer)
    kind = transformers.AutoModelForCausalLM
    if family in MULTIMODAL:
        kind = transformers.AutoModelForMultimodalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind.from_config(config).eval()
        # Some draw their weights as narrow as ever.
        for weight in model.parameters():
            if weight.dim() == 2 and 0 < weight.std() < 0.1:
                weight.data.normal_(0, 0.2)
    return model


def _small_config(family: str, tokenizer: Any) -> Any:
    from transformers import CONFIG_MAPPING

    own = CONFIG_MAPPING[family]
    like = own()
    small = {
        **_SMALL,
        "vocab_size": len(tokenizer),
        "unpadded_vocab_size": len(tokenizer),
        "n_words": len(tokenizer),
        "vocab_size_per_layer_input": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "is_decoder": True,
        "tie_word_embeddings": False,
    }
    parts = {name: getattr(like, name, None) for name in getattr(own, "sub_configs", None) or ()}
    changes: dict[str, Any] = _known(small, like)
    for name, part in parts.items():
        if part is not None:
            changes[name] = {**_known(small, part), "model_type": part.model_type}
    for name, special in _SPECIAL.get(family, {}).items():
        changes[name] = {**changes[name], **special} if name in parts else special
    return own(**changes)


def _known(small: Mapping[str, Any], like: Any) -> dict[str, Any]:
    """Return what a configuration knows; latent attention shares no keys among heads."""
    known = {name: value for name, value in small.items() if name in like.to_dict()}
    if {"kv_lora_rank", "qk_rope_head_dim"} <= known.keys():
        known["num_key_value_heads"] = known["num_attention_heads"]
    return known
