from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import pytest

from rigging import GenerateParams
from rigging_vllm import VLLMGenerator
from tests.support.tiny_model import make_tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Tokens of prompt and answer together, in the engine that the tests share.
MAX_MODEL_LEN: Final = 128

#: What makes an engine small, and quick to start on a CPU.
SMALL: Final[dict[str, Any]] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": MAX_MODEL_LEN,
    "max_num_seqs": 8,
}

# What vLLM, and torch under it, say about their own insides while they are imported or start.
_OF_VLLM: Final = (
    ("`torch.jit.script_method` is deprecated", "DeprecationWarning"),
    ("max_rollback_tokens is deprecated", "DeprecationWarning"),  # breaks structured outputs
    ("`torch.distributed.reduce_op` is deprecated", "FutureWarning"),
)


def pytest_configure(config: pytest.Config) -> None:
    for message, category in _OF_VLLM:
        config.addinivalue_line("filterwarnings", f"ignore:{message}:{category}")
    # In the test's own process, unless told otherwise: one of its own costs minutes.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def shared(tiny_model: Path) -> Iterator[VLLMGenerator]:
    """One engine for all tests that need no other."""
    generator = VLLMGenerator(model=str(tiny_model), **SMALL)
    yield generator
    generator.unload()


@pytest.fixture
def generator(shared: VLLMGenerator) -> VLLMGenerator:
    return shared


@pytest.fixture
def mine(shared: VLLMGenerator) -> VLLMGenerator:
    """A generator around an engine that exists already."""
    llm = shared.load()._engine._own
    return VLLMGenerator.from_obj("mine", llm, params=GenerateParams(temperature=0))
