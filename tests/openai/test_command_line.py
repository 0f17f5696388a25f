"""The commands that the pages show, in a shell, against a server on loopback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.faults import KEY
from tests.support.openai_server import OpenAIServer
from tests.support.pages import ROOT, Block, needing

ADDRESS = "http://127.0.0.1:8000/v1"


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX")
@pytest.mark.parametrize(
    "block",
    [*needing("rigging-openai", "console"), *needing("rigging-openai", "sh")],
    ids=str,
)
def test_commands_of_a_page_run(block: Block, server: OpenAIServer, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Buy milk.", encoding="utf-8")
    items = '{"prompt": "one"}\n{"prompt": "two", "id": "b"}\n'
    (tmp_path / "in.jsonl").write_text(items, encoding="utf-8")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    # As in an activated environment.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.url}
    lines = block.code.splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]

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
        for command in lines
    ]

    assert lines
    for one in done:
        assert one.returncode == 0, one.stderr
        assert one.stdout
        assert KEY not in one.stdout + one.stderr
    asking = [command for command in lines if re.search(r" run | batch |examples/", command)]
    assert len(server.requests) >= len(asking)
