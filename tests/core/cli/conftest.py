"""The command line in this process, and in a terminal of its own."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import rigging as rg
from rigging.cli import main

# Generators without a model, as a user would register them with --import.
GENERATORS = '''
import asyncio

import rigging as rg
from rigging.error import RateLimitError


class Words(rg.Generator):
    """Says the last message in capitals, word by word; fails at "bad", waits at "slow"."""

    batch_size: int | None = 1
    key_variables = ("WORDS_API_KEY",)

    max_connections: int = 4
    token: str | None = None

    async def generate_messages(self, messages, params):
        (conversation,) = messages
        text = conversation[-1].text
        if text.startswith("bad"):
            return [RateLimitError("slow down")]
        if text.startswith("boom"):
            raise ValueError("no error of rigging's")
        if text.startswith("slow"):
            await asyncio.sleep(0.2)
        usage = rg.Usage(input_tokens=2, output_tokens=3)
        asked = sum(message.role == "user" for message in conversation)
        own = self.params.merge_with(params[0])
        seed = "" if own.seed is None else f" {own.seed}"
        return [rg.GeneratedMessage.from_text(f"{asked} {text.upper()}{seed}", usage=usage)]

    async def stream_messages(self, messages, params):
        (result,) = await self.generate_messages([messages], [params])
        if isinstance(result, BaseException):
            raise result
        for word in result.message.text.split(" "):
            yield f"{word} "
        if "endless" in messages[-1].text:
            print("waiting", flush=True)
            await asyncio.sleep(60)
        yield result


rg.register_generator("words", Words)
rg.register_generator("echo", rg.testing.EchoGenerator)
'''


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _forget_modules(tmp_path: Path) -> Iterator[None]:
    """Forget what a test has imported from its folder: a process imports a file once."""
    yield
    for name, module in [*sys.modules.items()]:
        if (getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def generators(tmp_path: Path) -> Iterator[Path]:
    """A file that registers the providers ``words`` and ``echo``."""
    path = tmp_path / "generators.py"
    path.write_text(GENERATORS, encoding="utf-8")
    yield path
    rg.registry.registry.reset()
    rg.plugins.manager.reset()


@pytest.fixture
def rigging(
    generators: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Run a command in this process, with those providers."""

    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(*arguments: str | Path, stdin: str | None = None) -> Done:
        command = ["rigging", "--import", generators, *arguments]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        given = io.TextIOWrapper(io.BytesIO((stdin or "").encode()), encoding="utf-8")
        monkeypatch.setattr(given, "isatty", lambda: stdin is None)
        monkeypatch.setattr(sys, "stdin", given)
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            with pytest.raises(SystemExit) as ended:
                main()
        return Done(int(ended.value.code or 0), *capsys.readouterr())

    return run
