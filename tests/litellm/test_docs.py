"""The examples on rigging-litellm: litellm is told of a server on loopback by its own variables."""

from __future__ import annotations

import pytest

from tests.support.faults import KEY
from tests.support.openai_server import OpenAIServer
from tests.support.pages import Block, needing, run


@pytest.mark.parametrize("block", needing("rigging-litellm"), ids=str)
def test_an_example_runs(
    block: Block, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)

    run([block])

    assert ("run(" in block.code) == bool(server.requests)
