"""The examples on rigging-openai, against a server on loopback in place of the one they name."""

from __future__ import annotations

import pytest

from tests.support.faults import KEY
from tests.support.openai_server import OpenAIServer
from tests.support.pages import Block, needing, run


@pytest.mark.parametrize("block", needing("rigging-openai"), ids=str)
def test_an_example_runs(
    block: Block, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    names = run([block], instead={"http://127.0.0.1:8000/v1": server.url})

    assert ("run" in block.code) == bool(server.requests)
    if "chats" in names:
        assert [chat.last.text for chat in names["chats"]] == [
            "You said: Name a colour.",
            "You said: Name a fruit.",
        ]
