"""`rigging run`: one prompt, one answer."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.core.cli.conftest import Done

if sys.platform != "win32":
    import pexpect

Rigging = Callable[..., Done]


def test_the_answer_is_printed_and_nothing_else(rigging: Rigging) -> None:
    done = rigging("run", "words!any", "hello there")

    assert done == Done(0, "1 HELLO THERE \n", "")


@pytest.mark.parametrize("prompt", [[], ["-"]])
def test_the_prompt_may_come_from_a_pipe(rigging: Rigging, prompt: list[str]) -> None:
    done = rigging("run", "words!any", *prompt, stdin="two\nlines\n")

    # One line break less: it is the shell's.
    assert done.out == "1 TWO\nLINES \n"


def test_without_a_prompt_in_a_terminal_it_says_what_to_do(rigging: Rigging) -> None:
    done = rigging("run", "words!any")

    assert done.code == 2
    assert done.err == "rigging: no prompt: give one behind the identifier, or pipe one in\n"


def test_json_says_what_was_sent_and_what_came_back(rigging: Rigging) -> None:
    done = rigging("run", "words!any", "hello", "--system", "Shout.", "--json")

    assert json.loads(done.out) == {
        "messages": [
            {"role": "system", "content": "Shout."},
            {"role": "user", "content": "hello"},
        ],
        "generated": [{"role": "assistant", "content": "1 HELLO"}],
        "stop_reason": "stop",
        "usage": {"input_tokens": 2, "output_tokens": 3, "total_tokens": 5},
        "error": None,
    }


def test_json_says_why_there_is_no_answer(rigging: Rigging) -> None:
    done = rigging("run", "words!any", "bad", "--json")

    assert done.code == 1
    assert json.loads(done.out)["error"] == "RateLimitError: slow down"


def test_options_win_over_the_identifier_and_hold_commas(rigging: Rigging) -> None:
    done = rigging("run", "words!any,seed=1", "x", "-o", "seed=7", "-o", "stop=a,b;c", "--json")

    again = rigging("run", "words!any,seed=1", "x", "-o", "seed=null", "--json")

    assert json.loads(done.out)["generated"][0]["content"] == "1 X 7"
    assert json.loads(again.out)["generated"][0]["content"] == "1 X"


def test_texts_are_continued(rigging: Rigging) -> None:
    done = rigging("run", "echo!any", "Once", "--complete", "--json")

    assert json.loads(done.out)["prompt"] == "Once"
    assert json.loads(done.out)["generated"] == "Once"
    assert rigging("run", "echo!any", "Once", "--complete", "--system", "x").code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "absent!any", "x"], 3, "provider 'absent' is not installed"),
        (["run", "openai!any", "x"], 3, "`pip install rigging-openai`"),
        (["run", "words!any,tempratur=1", "x"], 2, "did you mean 'temperature'?"),
        (["run", "words!any", "x", "-o", "sk-planted-51c7"], 2, "KEY=VALUE"),
        (["run", "words!any", "x", "-o", "planted51c=="], 2, "KEY=VALUE"),
        (["run", "words!any", "-"], 2, "no prompt"),
        (["run", "words!any", "x", "-o", "temperature=hot"], 2, "expected a number"),
        (["run", "words!any", "bad"], 1, "rigging: slow down"),
        (["run", "words!any", "x", "--complete"], 1, "does not continue texts"),
        (["run"], 2, "Missing argument"),
        (["rum"], 2, "No such command 'rum'"),
    ],
)
def test_failures_have_a_code_and_a_sentence(
    rigging: Rigging, arguments: list[str], code: int, said: str
) -> None:
    done = rigging(*arguments)

    assert done.code == code
    assert said in done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    assert "planted" not in done.err


def test_a_traceback_is_shown_where_it_is_asked_for(rigging: Rigging) -> None:
    done = rigging("-v", "run", "words!any", "bad")

    assert done.code == 1
    assert "Traceback" in done.err
    assert done.err.endswith("rigging.error.RateLimitError: slow down\n")


def test_tool_calls_and_a_cut_are_told(rigging: Rigging, generators: Path) -> None:
    generators.write_text(
        """
import rigging as rg


class Caller(rg.Generator):
    async def generate_messages(self, messages, params):
        function = rg.FunctionCall(name="look", arguments='{"at": "x"}')
        call = rg.ToolCall(id="call-1", function=function)
        message = rg.Message("assistant", "I look", tool_calls=(call,))
        return [rg.GeneratedMessage(message=message, stop_reason="length")]


rg.register_generator("caller", Caller)
""",
        encoding="utf-8",
    )

    done = rigging("run", "caller!any", "x")

    answer, call = done.out.splitlines()
    assert answer == "I look"
    assert json.loads(call)["function"] == {"name": "look", "arguments": '{"at": "x"}'}
    assert done.err == "rigging: the answer reached its limit of tokens\n"


def test_a_file_that_does_not_import_is_named(rigging: Rigging, generators: Path) -> None:
    generators.write_text("import nothing_of_this_name", encoding="utf-8")

    done = rigging("run", "words!any", "x")

    assert done.code == 2
    assert f"--import {generators}: ModuleNotFoundError" in done.err


def test_a_file_that_is_no_python_is_named(rigging: Rigging, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("Buy milk.", encoding="utf-8")

    done = rigging("run", "words!any", "x", "--import", text)

    assert done.code == 2
    assert f"--import {text}: it takes a Python file" in done.err


def test_a_file_that_hides_another_module_is_refused(rigging: Rigging, tmp_path: Path) -> None:
    for name in ("json", "pydantic"):
        path = tmp_path / f"{name}.py"
        path.touch()

        done = rigging("run", "words!any", "x", "--import", path)

        assert done.code == 2
        assert f"--import {path}: there is a module {name} already" in done.err


def test_a_file_may_be_named_twice(rigging: Rigging, generators: Path) -> None:
    assert rigging("run", "words!any", "x", "--import", generators).code == 0


def test_a_file_finds_what_lies_beside_it(rigging: Rigging, generators: Path) -> None:
    (generators.parent / "shouting.py").write_text("MARK = '!'", encoding="utf-8")
    with generators.open("a", encoding="utf-8") as file:
        file.write("import shouting\nWords.mark = shouting.MARK\n")

    assert rigging("run", "words!any", "x").code == 0


def test_warnings_are_sentences(rigging: Rigging, generators: Path) -> None:
    with generators.open("a", encoding="utf-8") as file:
        file.write("import warnings\nwarnings.warn('mind the gap', rg.error.RiggingWarning)\n")
        file.write("warnings.warn('old', DeprecationWarning)\n")

    done = rigging("run", "words!any", "x")

    assert done.err == (
        "rigging: warning: mind the gap\nrigging: warning: DeprecationWarning: old\n"
    )


def test_a_terminal_that_lacks_a_character_gets_the_rest(generators: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rigging.cli", "run", "words!any", "süß", "--import", generators],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "1 S\\xdcSS \n"


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX")
@pytest.mark.parametrize(
    ("closed", "code", "out", "err"),
    [
        ("<&-", 0, "1 X \n", ""),
        (">&-", 0, "", ""),
        ("2>&-", 0, "1 X \n", ""),
        ("<&- >&- 2>&-", 0, "", ""),
    ],
)
def test_closed_streams_do_no_harm(
    generators: Path, closed: str, code: int, out: str, err: str
) -> None:
    command = [sys.executable, "-m", "rigging.cli", "run", "words!any", "x", "--import", generators]
    line = f"{shlex.join(map(str, command))} {closed}"

    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_answers_do_not_command_the_terminal(generators: Path) -> None:
    command = ["-m", "rigging.cli", "run", "words!any", "\x1b[2j\x9b1m\r\nhi", "--import"]

    told = pexpect.run(shlex.join([sys.executable, *command, str(generators)]), encoding="utf-8")

    # Capitals, as the generator says it. The terminal itself makes two characters of a line's end.
    assert told == "1 \\x1b[2J\\x9b1M\r\nHI \r\n"


def test_the_command_starts_without_any_provider() -> None:
    """In a process of its own, which has imported nothing else."""
    code = "import sys; sys.argv[1:] = ['--version']; from rigging.cli import main; main()"
    shown = "import atexit; atexit.register(lambda: print(*sorted(sys.modules)))"
    printed = subprocess.run(
        [sys.executable, "-c", f"import sys; {shown}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    version, modules = printed.splitlines()
    heavy = {"rich", "torch", "transformers", "vllm", "litellm", "aiohttp", "httpx"}
    assert version == "0.1.0"
    assert heavy.isdisjoint(modules.split())


def test_plugins_add_commands_of_their_own(
    rigging: Rigging,
) -> None:
    from rigging.plugins import manager

    class Greeter:
        def rigging_add_commands(self, app: object) -> None:
            @app.command()  # type: ignore[attr-defined]
            def greet(name: str) -> None:
                sys.stdout.write(f"Hello, {name}!\n")

    with manager.register(Greeter()):
        done = rigging("greet", "World")

    assert done == Done(0, "Hello, World!\n", "")
