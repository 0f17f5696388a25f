"""A random LoRA adapter for the tiny model, written by hand: peft need not be installed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["make_lora_adapter"]

_RANK: Final = 8


def make_lora_adapter(directory: Path, *, hidden_size: int = 64, layers: int = 2) -> Path:
    """Write an adapter of the attention's queries and values; the same one every time.

    Its weights are large enough that what the model says changes.

    Args:
        directory: Where to; made if it is not there.
        hidden_size: Of the model; queries and values must be as wide.
        layers: Of the model.

    Returns:
        ``directory``.
    """
    import torch
    from safetensors.torch import save_file

    random = torch.Generator().manual_seed(0)
    weights = {}
    for layer in range(layers):
        for projection in ("q_proj", "v_proj"):
            name = f"base_model.model.model.layers.{layer}.self_attn.{projection}"
            for matrix, shape in (("A", (_RANK, hidden_size)), ("B", (hidden_size, _RANK))):
                weights[f"{name}.lora_{matrix}.weight"] = torch.randn(shape, generator=random)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": _RANK,
        "lora_alpha": _RANK,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
    }
    directory.mkdir(parents=True, exist_ok=True)
    save_file(weights, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory
