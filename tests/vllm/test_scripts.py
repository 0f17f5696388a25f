"""Whole programs: how they end, and what they say when they lack a main guard."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Final

import pytest

from rigging_vllm._spawning import NO_GUARD
from tests.vllm.conftest import SMALL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NOISE: Final = ("Traceback", "Exception ignored", "Error", "leaked", "FATAL")

_UNGUARDED: Final = """
import ast, sys
from rigging_vllm import VLLMGenerator

generator = VLLMGenerator(model=sys.argv[1], **ast.literal_eval(sys.argv[2]))
generator.load()
"""

# What still waits at the end are thousands of requests, to an engine of each kind: to answer
# them would take the better part of an hour.
_ENDING: Final = """
import ast, asyncio, os, sys, threading, time
import rigging as rg
from rigging_vllm import VLLMGenerator

def endless(generator):
    params = rg.GenerateParams(extra={"ignore_eos": True})
    asyncio.run(generator.generate_texts(["One"] * 10_000, [params] * 10_000))

if __name__ == "__main__":
    small = ast.literal_eval(sys.argv[2])
    generator = VLLMGenerator(model=sys.argv[1], **small)
    chat = asyncio.run(generator.chat("Hi").with_(max_tokens=4).run())
    import vllm
    mine = VLLMGenerator.from_obj("mine", vllm.LLM(sys.argv[1], **small))
    for one in (generator, mine):
        threading.Thread(target=endless, args=[one], daemon=True).start()
    time.sleep(0.5)
    print("answered", chat.usage.output_tokens)
"""


def start(folder: Path, code: str, *args: str, **env: str) -> subprocess.Popen[str]:
    script = folder / "script.py"
    script.write_text(textwrap.dedent(code), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, str(script), *args],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Return what a program says on stdout and stderr."""
    try:
        return process.communicate(timeout=600)
    finally:
        process.kill()


@pytest.fixture(scope="module")
def programs(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path
) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """What imports vLLM, side by side, because that takes longest."""
    codes = {"ending": _ENDING, "unguarded": _UNGUARDED}
    started = {
        name: start(tmp_path_factory.mktemp(name), code, str(tiny_model), repr(SMALL))
        for name, code in codes.items()
    }
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


def test_a_script_that_just_ends_says_nothing(programs: dict[str, subprocess.Popen[str]]) -> None:
    out, err = outcome(programs["ending"])

    assert programs["ending"].returncode == 0, err
    # vLLM writes its log to stdout.
    assert "answered 4" in out.splitlines()
    assert not [line for line in err.splitlines() if any(n in line for n in _NOISE)]


def test_a_script_without_a_main_guard_is_told_so(
    programs: dict[str, subprocess.Popen[str]],
) -> None:
    _, err = outcome(programs["unguarded"])

    assert programs["unguarded"].returncode == 1
    last = err.strip().splitlines()[-1]
    assert last.startswith("rigging.error.InvalidGeneratorError: ")
    assert err.count(NO_GUARD) == 2  # of the process that ran it again, and here
    assert 'Put what it does under `if __name__ == "__main__":`' in last


# -- The end of a program, with a stand-in that takes its time to be imported ------------


@pytest.fixture
def slow_vllm(tmp_path: Path) -> dict[str, str]:
    """The environment of a program that finds another vLLM."""
    package = tmp_path / "slow" / "vllm"
    (package / "engine").mkdir(parents=True)
    (package / "__init__.py").write_text("import time\nprint('begun')\ntime.sleep(1)\n")
    (package / "engine" / "__init__.py").touch()
    (package / "engine" / "arg_utils.py").write_text("print('gone on')\n")
    return {"PYTHONPATH": str(package.parent), "PYTHONUNBUFFERED": "1"}


def test_an_engine_that_is_loading_is_given_up_and_waited_for(
    tmp_path: Path, tiny_model: Path, slow_vllm: dict[str, str]
) -> None:
    code = """
    import atexit, sys, threading, time
    from rigging_vllm import VLLMGenerator

    def look():  # registered first, so it is called last
        print("left:", *(t.name for t in threading.enumerate() if t.name == "rigging-vllm"))

    atexit.register(look)
    generator = VLLMGenerator(model=sys.argv[1])
    threading.Thread(target=generator.load, daemon=True).start()
    while "vllm" not in sys.modules:
        time.sleep(0.01)
    """
    program = start(tmp_path, code, str(tiny_model), **slow_vllm)

    out, err = outcome(program)

    assert program.returncode == 0, err
    assert out.split("\n") == ["begun", "left:", ""]


def test_no_engine_is_started_while_the_program_ends(
    tmp_path: Path, tiny_model: Path, slow_vllm: dict[str, str]
) -> None:
    code = """
    import asyncio, atexit, sys, threading
    import rigging as rg
    from rigging_vllm import VLLMGenerator

    generator = VLLMGenerator(model=sys.argv[1])
    ending = threading.Event()

    def ask():
        ending.wait()
        print(*asyncio.run(generator.generate_texts(["One"], [rg.GenerateParams()])))
        try:
            generator.load()
        except rg.error.ProviderServerError as error:
            print(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    atexit.register(thread.join)
    atexit.register(ending.set)
    """
    program = start(tmp_path, code, str(tiny_model), **slow_vllm)

    out, err = outcome(program)

    assert program.returncode == 0, err
    refusal = f"the program is ending: nothing is answered any more [vllm!{tiny_model}]"
    assert out.splitlines() == [refusal] * 2


def test_a_thread_that_the_program_waits_for_may_still_start_one(
    tmp_path: Path, tiny_model: Path, slow_vllm: dict[str, str]
) -> None:
    code = """
    import contextlib, sys, threading
    import rigging as rg
    from rigging_vllm import VLLMGenerator

    def load():
        threading.main_thread().join()
        with contextlib.suppress(rg.error.RiggingError):  # of the stand-in
            VLLMGenerator(model=sys.argv[1]).load()

    threading.Thread(target=load).start()
    """
    program = start(tmp_path, code, str(tiny_model), **slow_vllm)

    out, err = outcome(program)

    assert program.returncode == 0, err
    assert out.splitlines() == ["begun", "gone on"]
