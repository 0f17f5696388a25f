from __future__ import annotations

import asyncio
import multiprocessing
import os
from typing import TYPE_CHECKING, Any, Final

import pytest

from rigging import GenerateParams, Message
from rigging.error import BadRequestError
from rigging_vllm import VLLMGenerator
from tests.support.gpu import pytest_runtest_setup, pytest_terminal_summary
from tests.support.lora_adapter import make_lora_adapter
from tests.support.tiny_model import CHAT_TEMPLATE, make_tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["pytest_runtest_setup", "pytest_terminal_summary"]  # hooks: pytest finds them here

#: Tokens of prompt and answer together, in the engine that the tests share.
MAX_MODEL_LEN: Final = 128

#: What makes an engine small, and quick to start on a CPU.
SMALL: Final[dict[str, Any]] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": MAX_MODEL_LEN,
    "max_num_seqs": 8,
    "block_size": 32,  # so that short prompts, too, are found in the cache of prefixes
    # In the engine's process: a worker of its own would import everything once more.
    "distributed_executor_backend": "uni",
}

# What vLLM, and torch under it, say about their own insides while they are imported or start.
_OF_VLLM: Final = (
    ("`torch.jit.script_method` is deprecated", "DeprecationWarning"),
    ("max_rollback_tokens is deprecated", "DeprecationWarning"),  # breaks structured outputs
    ("`torch.distributed.reduce_op` is deprecated", "FutureWarning"),
    ("Unclosed context <zmq", "ResourceWarning"),  # an engine's that has been shut down
)


def pytest_configure(config: pytest.Config) -> None:
    for message, category in _OF_VLLM:
        config.addinivalue_line("filterwarnings", f"ignore:{message}:{category}")
    # For `vllm.LLM`: in the test's own process, because one of its own costs minutes.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def shared(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMGenerator]:
    """One engine for all tests that need no other."""
    adapter = make_lora_adapter(tmp_path_factory.mktemp("adapter"))
    adapters = {"noisy": str(adapter), "gone": str(adapter / "nothing")}
    generator = VLLMGenerator(model=str(tiny_model), lora_modules=adapters, **SMALL)
    yield generator
    generator.unload()


@pytest.fixture
def generator(shared: VLLMGenerator) -> VLLMGenerator:
    return shared


@pytest.fixture(scope="session")
def llm(tiny_model: Path) -> Any:
    """A `vllm.LLM` of the caller's own."""
    import vllm

    return vllm.LLM(str(tiny_model), **SMALL)


def check_variables_of_templates(
    generator: VLLMGenerator, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that ``extra`` sets variables of the chat template of a generator's tokenizer."""
    template = "{% if enable_thinking | default(true) %}think{% endif %}" + CHAT_TEMPLATE
    monkeypatch.setattr(tokenizer, "chat_template", template)
    variables: list[Any] = [
        None,
        {"enable_thinking": False},
        {"enable_thinking": True},
        {"tools": 1},
    ]
    params = [
        GenerateParams(temperature=0, max_tokens=2, extra={"chat_template_kwargs": each})
        for each in (*variables, "thinking")
    ]
    user = [Message("user", "Hi")]

    usual, without, thinking, *wrong = asyncio.run(
        generator.generate_messages([user] * len(params), params)
    )
    (text,) = asyncio.run(generator.generate_texts(["Hi"], [params[1]]))

    tokens = [result.usage.input_tokens for result in (usual, without, thinking)]
    assert tokens[0] == tokens[2] > tokens[1]
    assert text.usage.output_tokens == 2
    assert ["extra.chat_template_kwargs" in str(error) for error in wrong] == [True, True]
    assert all(isinstance(error, BadRequestError) for error in wrong)


def engine_processes() -> list[multiprocessing.process.BaseProcess]:
    """Return vLLM's processes that run below this one."""
    return [child for child in multiprocessing.active_children() if child.name == "EngineCore"]


def in_forked_child(generator: VLLMGenerator) -> str:
    """Return what a child that is forked from this process is told when it asks for an answer."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            params = GenerateParams(max_tokens=4)
            (result,) = asyncio.run(
                asyncio.wait_for(generator.generate_texts(["One"], [params]), 10)
            )
            os.write(write, str(result).encode())
        except BaseException as error:  # noqa: BLE001 (nothing of pytest may go on here)
            os.write(write, repr(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as told:
        text = told.read()
    os.waitpid(child, 0)
    return text
