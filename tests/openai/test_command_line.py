"""The commands that the pages show, in a shell, against a server on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.faults import KEY
from tests.support.openai_server import OpenAIServer
from tests.support.pages import Block, needing

ADDRESS = "http://127.0.0.1:8000/v1"


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX")
@pytest.mark.parametrize("block", needing("rigging-openai", "console"), ids=str)
def test_commands_of_a_page_run(block: Block, server: OpenAIServer, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Buy milk.", encoding="utf-8")
    lines = '{"prompt": "one"}\n{"prompt": "two", "id": "b"}\n'
    (tmp_path / "in.jsonl").write_text(lines, encoding="utf-8")
    # As in an activated environment.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.url}
    commands = [line.removeprefix("$ ") for line in block.code.splitlines() if line[:2] == "$ "]

    done = [
        subprocess.run(
            ["sh", "-c", command.replace(ADDRESS, server.url)],  # noqa: S607
            cwd=tmp_path,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        for command in commands
    ]

    assert commands
    for one in done:
        assert one.returncode == 0, one.stderr
        assert one.stdout
        assert KEY not in one.stdout + one.stderr
    asking = [command for command in commands if "run " in command or "batch " in command]
    assert len(server.requests) >= len(asking)
