"""The examples run with a real model, too: whatever speaks OpenAI's protocol, here on loopback."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

from tests.support.openai_server import OpenAIServer
from tests.support.pages import ROOT

# What the server's usual answer, which repeats the question, becomes; and how often it is asked.
PRINTED: Final = {
    "batch": ("You said: What is 3 times 7?", 6),
    "chat": ("[assistant]: You said: And of Italy?", 2),
    "count_tokens": ("tokens: {'any':", 2),
    "many_models": ("You said: Name a colour.", 1),
    "own_generator": ("api_base=http://127.0.0.1", 2),
    "retries": ("answer: You said: Name a colour.", 1),
    "stream": ("You said: Tell me a short story about a boat.", 1),
    "structured_output": ("The capital of Italy. invalid", 3),
    "tools": ("answer: You said: How is the weather in Paris?", 1),
}


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_asks_the_model_that_it_is_given(name: str, server: OpenAIServer) -> None:
    identifier = f"openai!any,api_base={server.url}"
    command = [sys.executable, "-W", "error", ROOT / f"examples/{name}.py", identifier]

    run = subprocess.run(command, capture_output=True, text=True, check=False)

    printed, requests = PRINTED[name]
    assert run.returncode == 0, run.stderr
    assert printed in run.stdout
    assert len(server.requests) == requests


def test_asking_until_the_answer_is_valid_comes_to_an_end(server: OpenAIServer) -> None:
    identifier = f"openai!any,api_base={server.url}"
    command = [sys.executable, ROOT / "examples/until.py", identifier]

    run = subprocess.run(command, capture_output=True, text=True, check=False)

    assert run.returncode == 1
    assert "MaxRoundsError" in run.stderr
    assert len(server.requests) == 1 + 5
