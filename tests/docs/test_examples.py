"""Each file of `examples/` does what it shows, as a program of its own, without a model."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.pages import ROOT, Block, blocks_of

# What each prints: a pattern for the whole of it.
PRINTED: Final = {
    "batch": (
        r"(first run:  What is [123] times 7\?\n){3}3 sent so far\n"
        r"second run: 6 answers, 0 failed\n6 sent in all"
    ),
    "chat": r"\[system\]: .*\[assistant\]: .* Paris\..*\[user\]: And of Italy\?.*: It is Rome\.",
    "count_tokens": r"tokens: \{'tiny': 18\}\nfailures: \{\}",
    "many_models": (
        r"echo!small,max_tokens=1 +Name\necho!large +Name a colour\.\n"
        r"failing!any +failed: this generator fails .*"
    ),
    "own_generator": r"shout!any,mark=\?!: HELLO\?!\nshout!any,mark=\?!: GOOD BYE\?!",
    "retries": r"attempt 1 failed: .*\nattempt 2 failed: .*\nanswer: Name a colour\.",
    "stream": r"Tell me a short story about a boat\. \n8 pieces, stop, .*total_tokens=16",
    "structured_output": (
        r"The capital of France\. City\(name='Paris', country='France', inhabitants=2100000\)\n"
        r".*City\(name='Rome'.*\nThe capital of Atlantis\. invalid"
    ),
    "tools": (
        r'weather\(\{"city": "Paris"\}\) -> 21 degrees and sunny in Paris\n'
        r"answer: It is warm and sunny\."
    ),
    "until": (
        r".*That is no JSON .*Missing: country\..*"
        r"valid after 3 answers: \{'city': 'Paris', 'country': 'France'\}"
    ),
}
# It runs a real model, in the session `demo`.
WITH_A_MODEL: Final = {"demo"}
PAGE: Final = ROOT / "docs/examples.md"


def example(name: str, *arguments: str) -> str:
    """Run an example where warnings are errors; return what it prints."""
    command = [sys.executable, "-W", "error", ROOT / f"examples/{name}.py", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert not run.stderr
    return run.stdout.rstrip("\n")


def test_every_example_is_run_and_listed() -> None:
    names = {path.stem for path in ROOT.glob("examples/*.py")}

    assert names == PRINTED.keys() | WITH_A_MODEL
    assert set(re.findall(r"\(\.\./examples/(\w+)\.py\)", PAGE.read_text("utf-8"))) == names


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_does_what_it_shows(name: str) -> None:
    assert re.fullmatch(PRINTED[name], example(name), re.DOTALL)


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_takes_an_identifier(name: str) -> None:
    """One that leads nowhere: the error is that of the model, so the model was asked for."""
    command = [sys.executable, ROOT / f"examples/{name}.py", "nowhere!any"]

    run = subprocess.run(command, capture_output=True, text=True, check=False)

    assert run.returncode == 1
    assert "UnknownProviderError: provider 'nowhere' is not installed" in run.stderr


@pytest.mark.parametrize(
    "block", [block for block in blocks_of(PAGE, "sh") if not block.needs], ids=str
)
def test_what_the_page_tells_to_type_runs(block: Block) -> None:
    words = shlex.split(block.code)
    assert words[0] == "python"

    run = subprocess.run(
        [sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (run.returncode, run.stderr) == (0, "")
    assert re.fullmatch(PRINTED[Path(words[1]).stem], run.stdout.rstrip("\n"), re.DOTALL)


def test_the_batch_goes_on_where_another_process_stopped(tmp_path: Path) -> None:
    arguments = ("echo!any", str(tmp_path / "run.db"))
    example("batch", *arguments)

    again = example("batch", *arguments)

    assert again.endswith("second run: 6 answers, 0 failed\n0 sent in all")
