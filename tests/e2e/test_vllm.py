"""vLLM's server, asked as any that speaks OpenAI's protocol and under litellm's name for it."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import TYPE_CHECKING, Final

import pytest

import rigging as rg
from rigging.error import ContextLengthError, ModelNotFoundError
from tests.e2e.conftest import MODEL
from tests.e2e.served import QUESTION, ServedDirectly, ServedModel
from tests.support.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

CONTEXT: Final = 256  # tokens of prompt and answer together


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ServerProcess]:
    options = f"--dtype float32 --enforce-eager --max-model-len {CONTEXT} --max-num-seqs 8"
    # In the engine's process: a worker of its own would import everything once more.
    options += " --distributed-executor-backend uni"
    module = "vllm.entrypoints.openai.api_server"
    command = [sys.executable, "-m", module, "--model", MODEL, *options.split()]
    with ServerProcess(command, models) as server:
        yield server


class TestVLLM(ServedModel):
    model = f"openai/{MODEL}"

    def test_a_model_that_is_not_served_is_not_found(
        self, make: Callable[..., rg.Generator]
    ) -> None:
        other = make(self.model.replace(MODEL, "nobody"))

        with pytest.raises(ModelNotFoundError, match="`nobody` does not exist") as caught:
            asyncio.run(other.chat(QUESTION).run())

        assert caught.value.status == 404

    def test_a_prompt_that_is_too_long_is_told_from_other_faults(
        self, generator: rg.Generator
    ) -> None:
        with pytest.raises(ContextLengthError, match=f"maximum context length is {CONTEXT}"):
            asyncio.run(generator.chat("word " * CONTEXT).run())

    def test_a_text_that_is_too_long_is_told_from_other_faults(
        self, generator: rg.Generator
    ) -> None:
        with pytest.raises(ContextLengthError, match=f"maximum context length is {CONTEXT}"):
            asyncio.run(generator.complete("word " * CONTEXT).run())

    def test_a_stream_that_is_left_is_not_generated_to_its_end(
        self, make: Callable[..., rg.Generator], server: ServerProcess
    ) -> None:
        story = make(options="max_tokens=200,extra.ignore_eos=true").chat("Tell me a long story.")
        before = _metric(server, "generation_tokens_total")

        async def leave() -> None:
            pieces = story.stream()
            await anext(pieces)
            await pieces.aclose()
            while _metric(server, "num_requests_running"):  # noqa: ASYNC110 (elsewhere)
                await asyncio.sleep(0.1)

        asyncio.run(leave())

        assert 0 < _metric(server, "generation_tokens_total") - before < 200

    def test_an_answer_has_the_format_that_was_asked_for(
        self, make: Callable[..., rg.Generator]
    ) -> None:
        city = {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        }
        format_ = {"type": "json_schema", "json_schema": {"name": "city", "schema": city}}
        params = rg.GenerateParams(extra={"response_format": format_})

        chat = asyncio.run(make(options="max_tokens=32").chat(QUESTION).with_(params).run())

        assert json.loads(chat.last.text) == {"city": "Paris"}


class TestHostedVLLM(TestVLLM):
    model = f"hosted_vllm/{MODEL}"


class TestDirectly(ServedDirectly, TestVLLM):
    model = MODEL


def _metric(server: ServerProcess, name: str) -> float:
    """Return what the server counts under a name."""
    (line,) = re.findall(rf"^vllm:{name}{{.*}} (\S+)$", server.get("/metrics"), flags=re.MULTILINE)
    return float(line)
