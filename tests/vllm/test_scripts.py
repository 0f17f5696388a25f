"""Whole programs: how they end, and what they say when they lack a main guard."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Final

from rigging_vllm._spawning import NO_GUARD
from tests.vllm.conftest import SMALL

if TYPE_CHECKING:
    from pathlib import Path

_NOISE: Final = ("Traceback", "Exception ignored", "Error", "leaked")


def run(folder: Path, code: str, model: Path) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(textwrap.dedent(code), encoding="utf-8")
    command = [sys.executable, str(script), str(model), repr(SMALL)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_a_script_that_just_ends_says_nothing(tmp_path: Path, tiny_model: Path) -> None:
    done = run(
        tmp_path,
        """
        import ast, asyncio, sys, threading, time
        import rigging as rg
        from rigging_vllm import VLLMGenerator

        def endless(generator):
            params = rg.GenerateParams(extra={"ignore_eos": True})
            asyncio.run(generator.generate_texts(["One"] * 10_000, [params] * 10_000))

        if __name__ == "__main__":
            generator = VLLMGenerator(model=sys.argv[1], **ast.literal_eval(sys.argv[2]))
            chat = asyncio.run(generator.chat("Hi").with_(max_tokens=4).run())
            threading.Thread(target=endless, args=[generator], daemon=True).start()
            time.sleep(0.5)
            print("answered", chat.usage.output_tokens, time.time())
        """,
        tiny_model,
    )
    ended = time.time()

    assert done.returncode == 0, done.stderr
    # vLLM writes its log to stdout.
    (answer,) = [line for line in done.stdout.splitlines() if line.startswith("answered")]
    _, tokens, when = answer.split()
    assert tokens == "4"
    assert ended - float(when) < 30
    assert not [line for line in done.stderr.splitlines() if any(n in line for n in _NOISE)]


def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path, tiny_model: Path) -> None:
    done = run(
        tmp_path,
        """
        import ast, sys
        from rigging_vllm import VLLMGenerator

        generator = VLLMGenerator(model=sys.argv[1], **ast.literal_eval(sys.argv[2]))
        generator.load()
        """,
        tiny_model,
    )

    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("rigging.error.InvalidGeneratorError: ")
    assert done.stderr.count(NO_GUARD) == 2  # of the process that ran it again, and here
    assert 'Put what it does under `if __name__ == "__main__":`' in last
