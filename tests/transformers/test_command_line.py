"""The command line with a real model, in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.small_model import small_model_path

pytestmark = pytest.mark.slow

RIGGING = (sys.executable, "-m", "rigging.cli")
TIMEOUT_S = 300


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < until, "it did not begin"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def identifier() -> str:
    return f"transformers!{small_model_path()},max_tokens=24,temperature=0"


def test_a_conversation_goes_on(identifier: str) -> None:
    lines = "What is the capital of France?\n/retry\nAnd of Italy?\n"

    done = subprocess.run(
        [*RIGGING, "chat", identifier],
        input=lines,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )

    first, again, last = done.stdout.splitlines()
    assert "Paris" in first
    assert again == first
    assert "Rome" in last
    assert "rigging: " not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_killed_batch_goes_on_where_it_stopped(identifier: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    numbers = range(16)
    source.write_text(
        "".join(f"{json.dumps({'prompt': f'Say {n}.', 'id': n})}\n" for n in numbers),
        encoding="utf-8",
    )
    command = [*RIGGING, "batch", f"{identifier},max_batch_size=2", str(source), "-o", str(out)]

    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    # The log of its checkpoint: what is there at first is the table, the rest are results.
    log = out.with_name("out.jsonl.checkpoint-wal")
    wait_until(log.exists)
    time.sleep(1)
    empty = log.stat().st_size
    wait_until(lambda: log.stat().st_size > empty)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    was_there = out.exists()
    done = subprocess.run(
        [*command, "--json"], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )

    assert not was_there
    facts = json.loads(done.stdout)
    assert facts["finished"] == len(numbers)
    assert 0 < facts["kept"] < len(numbers)
    lines = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert [line["id"] for line in lines] == list(numbers)
    assert all(line["generated"][0]["content"] for line in lines)
    assert sum(line["usage"]["output_tokens"] for line in lines) == facts["output_tokens"]
