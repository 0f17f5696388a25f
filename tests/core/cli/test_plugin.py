"""`rigging plugin`, as a person types it."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import rigging as rg
from rigging.cli import _check, _kit, _project
from rigging.cli._exits import ExitCode, UsageError
from rigging.cli._findings import find_settings
from rigging.cli._project import Project
from rigging.error import BadRequestError, UnsupportedParameterWarning
from rigging.registry import registry
from rigging.testing import EchoGenerator
from tests.core.cli.conftest import Done

KEY = "sk-planted-8d2f6a"
# The first shows its key wherever it can, keeps what lies in the folder of temporary files while
# it is asked, and counts nothing.
MODULE = """
import os
from pathlib import Path
import rigging as rg

class Careless(rg.Generator):
    async def generate_messages(self, messages, params):
        print("my key is", self.api_key)
        with Path("seen.txt").open("a") as seen:
            for path in Path(os.environ["TMPDIR"]).rglob("*.py"):
                seen.write(path.read_text())
        return [rg.GeneratedMessage.from_text(f"It is {self.api_key}.") for _ in messages]

class Silent(rg.Generator):
    async def generate_texts(self, texts, params):
        raise NotImplementedError("no model yet")

rg.register_generator("careless", Careless)
rg.register_generator("silent", Silent)
"""

Rigging = Callable[..., Done]


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder that commands run in."""
    folder = tmp_path / "desk"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def careless(tmp_path: Path) -> Path:
    """A file that registers the providers ``careless`` and ``silent``."""
    path = tmp_path / "careless.py"
    path.write_text(MODULE, encoding="utf-8")
    return path


@pytest.fixture
def passing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "passing"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)  # where they lie is worked out once
    return folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# -- new ---------------------------------------------------------------------------------


def test_a_new_project_is_whole(rigging: Rigging, desk: Path) -> None:
    done = rigging("plugin", "new", "My-LLM")
    project = desk / "my-llm-rigging"

    assert done.code == ExitCode.OK, done.err
    assert files(desk) == {
        f"my-llm-rigging/{name}"
        for name in (
            ".github/workflows/test.yml",
            ".gitignore",
            "README.md",
            "pyproject.toml",
            "src/my_llm_rigging/__init__.py",
            "src/my_llm_rigging/_answer.py",
            "src/my_llm_rigging/_generator.py",
            "src/my_llm_rigging/_threaded.py",
            "src/my_llm_rigging/py.typed",
            "tests/test_conformance.py",
        )
    }
    texts = {name: (project / name).read_text("utf-8") for name in files(project)}
    assert [name for name, text in texts.items() if "mymodel" in text.lower()] == []
    assert 'identifier = "my-llm!some-model"' in texts["tests/test_conformance.py"]
    assert "class MyLlmGenerator(" in texts["src/my_llm_rigging/_generator.py"]


def test_a_new_project_says_what_it_is_and_needs(rigging: Rigging, desk: Path) -> None:
    rigging("plugin", "new", "My-LLM")
    text = (desk / "my-llm-rigging" / "pyproject.toml").read_text("utf-8")
    project = tomllib.loads(text)["project"]
    (core,) = map(Requirement, project["dependencies"])

    assert project["name"] == "my-llm-rigging"
    assert project["entry-points"] == {
        "rigging.generators": {"my-llm": "my_llm_rigging:MyLlmGenerator"}
    }
    assert core.name == "rigging-core"
    # The version that made it, and none that may ask for something else.
    version = Version(rg.__version__)
    assert core.specifier.contains(rg.__version__)
    assert not core.specifier.contains(f"{version.major}.{version.minor + 1}")


def test_what_to_do_next_is_printed(rigging: Rigging, desk: Path) -> None:
    (desk / "work").mkdir()
    done = rigging("plugin", "new", "acme", "--into", "work")

    assert done.out.splitlines() == [
        "Made work/acme-rigging. What to do next:",
        "  cd work/acme-rigging",
        "  python -m pip install -e . --group test",
        "  fill in `ask` in src/acme_rigging/_generator.py",
        "  python -m pytest",
        "  rigging run 'acme!some-model' 'Hello!'",
    ]


@pytest.mark.parametrize(
    ("name", "project"),
    [
        ("acme", Project("acme", "acme-rigging", "acme_rigging", "AcmeGenerator")),
        ("ACME2", Project("acme2", "acme2-rigging", "acme2_rigging", "Acme2Generator")),
        ("a_b-c", Project("a_b-c", "a-b-c-rigging", "a_b_c_rigging", "ABCGenerator")),
        ("odd-_", Project("odd-_", "odd-rigging", "odd_rigging", "OddGenerator")),
    ],
)
def test_all_names_follow_from_the_providers(name: str, project: Project) -> None:
    assert Project.of(name) == project


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["1st"], "'1st' cannot be a provider's name", id="no-name"),
        pytest.param(["../up"], "'../up' cannot be a provider's name", id="a-path"),
        pytest.param(["vLLM"], "'vllm' belongs to the package rigging-vllm", id="first-party"),
        pytest.param(["there"], "there-rigging exists already", id="exists"),
        pytest.param(["acme", "--into", "nowhere"], "'nowhere' does not exist", id="no-folder"),
        pytest.param(["a" * 300], "cannot be made: File name too long", id="too-long"),
    ],
)
def test_what_cannot_be_made_is_refused_and_leaves_nothing(
    rigging: Rigging, desk: Path, arguments: list[str], said: str
) -> None:
    (desk / "there-rigging").mkdir()

    done = rigging("plugin", "new", *arguments)

    assert done.code == ExitCode.USAGE
    assert said in done.err
    assert [path.name for path in desk.rglob("*")] == ["there-rigging"]


def test_a_failure_on_the_way_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template, into = tmp_path / "template", tmp_path / "into"
    for folder in (template, into):
        folder.mkdir()
    (template / "a.txt").write_text("mymodel", encoding="utf-8")
    (template / "b.txt").write_bytes(b"\xff")  # no text: it is copied last, and that fails
    monkeypatch.setattr(_project, "_TEMPLATE", template)

    with pytest.raises(UnicodeDecodeError, match="invalid start byte"):
        Project.of("acme").make(into)

    assert list(into.iterdir()) == []


def test_what_tools_leave_in_the_template_is_left_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = tmp_path / "site.cache" / "template"  # where the template stands does not matter
    for name in ("src/a.py", "src/__pycache__/a.pyc", ".ruff_cache/0/x", ".mypy_cache/y"):
        (template / name).parent.mkdir(parents=True, exist_ok=True)
        (template / name).write_text("mymodel", encoding="utf-8")
    monkeypatch.setattr(_project, "_TEMPLATE", template)

    assert files(Project.of("acme").make(tmp_path)) == {"src/a.py"}


def test_a_name_that_is_taken_is_warned_about(
    rigging: Rigging, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = desk / "site" / "theirs-1.2.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.2\n")
    (record / "entry_points.txt").write_text("[rigging.generators]\nacme = theirs:Acme\n")
    monkeypatch.syspath_prepend(desk / "site")
    registry.reset()

    done = rigging("plugin", "new", "Acme")

    assert done.code == ExitCode.OK
    assert "warning: the provider 'acme' is there already, from theirs 1.2" in done.err
    assert (desk / "acme-rigging").is_dir()


# -- check -------------------------------------------------------------------------------


def test_a_generator_that_keeps_the_contract_passes(rigging: Rigging, passing: Path) -> None:
    done = rigging("plugin", "check", "echo!any")

    assert done.code == ExitCode.OK, done
    assert "echo!any, by version 1 of the contract:" in done.out
    assert ", 0 failed." in done.out
    # What the class does not have is seen, and no request of it lasts.
    assert "Switched off: can_fail, supports_streaming, takes_time." in done.out
    assert list(passing.iterdir()) == []


def test_what_is_broken_is_said_and_no_key(
    rigging: Rigging, desk: Path, careless: Path, passing: Path
) -> None:
    identifier = f"careless!any,api_key={KEY}"
    done = rigging(
        "plugin", "check", identifier, "--import", careless, "--", "-k", "usage or record"
    )

    assert done.code == ExitCode.FAILED
    assert (
        "FAILED usage is counted (messages): a result says what it took: `usage` is filled"
        in done.out
    )
    assert "FAILED no record of a request shows the key (messages): no log record" in done.out
    assert "  0 tests passed, 2 failed." in done.out
    assert "my key is ***" in done.out
    assert KEY not in done.out + done.err
    # Nor did it stand in the test file, which is gone.
    seen = (desk / "seen.txt").read_text()
    assert "class TestContract(GeneratorContract)" in seen
    assert KEY not in seen
    assert list(passing.iterdir()) == []


def test_a_generator_that_answers_nothing_says_why(rigging: Rigging, careless: Path) -> None:
    done = rigging("plugin", "check", "silent!any", "--import", careless)

    assert done.code == ExitCode.FAILED
    assert done.err == "rigging: NotImplementedError: no model yet\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nobody!any"], ExitCode.NO_PROVIDER, "provider 'nobody' is not installed"),
        (["echo"], ExitCode.USAGE, "write 'echo!MODEL', or add --model MODEL"),
        (["echo!any", "--model", "x"], ExitCode.USAGE, "the identifier names a model"),
        (["echo!any,odd=1"], ExitCode.USAGE, "unknown key 'odd'"),
        (["echo!any", "--off", "support_seed"], ExitCode.USAGE, "did you mean 'supports_seed'?"),
        (["echo!any", "--on", "wings"], ExitCode.USAGE, "there are supports_messages, "),
        (["Echo", "--model", "x", "--", "-k", "none"], ExitCode.USAGE, "pytest ran no test"),
    ],
)
def test_what_cannot_be_checked_is_refused(
    rigging: Rigging, arguments: list[str], code: ExitCode, said: str
) -> None:
    done = rigging("plugin", "check", *arguments)

    assert done.code == code, done
    assert said in done.err


def test_without_pytest_it_says_what_to_install(
    rigging: Rigging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_check, "find_spec", lambda name: None)

    done = rigging("plugin", "check", "echo!any")

    assert done.code == ExitCode.NO_PROVIDER
    assert "pip install 'rigging-core[testing]'" in done.err


@pytest.mark.parametrize(
    ("provider", "rule", "code"),
    [
        pytest.param("careless", "record", ExitCode.FAILED, id="broken"),
        pytest.param("careless", "batch", ExitCode.OK, id="kept"),
        pytest.param("silent", "batch", ExitCode.FAILED, id="silent"),
        pytest.param("careless", "none", ExitCode.USAGE, id="no-test"),
        pytest.param("nobody", "batch", ExitCode.NO_PROVIDER, id="unknown"),
    ],
)
def test_the_process_that_runs_the_tests_ends_with_the_commands_code(
    provider: str,
    rule: str,
    code: ExitCode,
    careless: Path,
    passing: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = {
        "path": sys.path,
        "folder": str(passing),
        "identifier": f"{provider}!any",
        "modules": [str(careless)],
        "on": [],
        "off": ["supports_streaming"],
        "arguments": ["-k", rule],
    }
    # What it changes is its own, but here.
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(told)))
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("PYTEST_ADDOPTS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
        monkeypatch.setenv(name, "")

    with pytest.raises(SystemExit) as ended:
        _kit.main()
    registry.reset()

    assert ended.value.code == code


# -- What is found out -------------------------------------------------------------------


class Picky(EchoGenerator):
    """Takes no `seed` or `top_k`, in texts no `stop`, and streams conversations only."""

    warned: set[str] = set()

    def _warn(self, params: rg.GenerateParams, *names: str) -> None:
        for name in names:
            if getattr(params, name) is not None and name not in self.warned:
                self.warned.add(name)
                warnings.warn(f"no {name!r} here", UnsupportedParameterWarning, stacklevel=2)

    async def generate_messages(self, messages: Any, params: Any) -> Any:
        for own in params:
            self._warn(own, "seed", "top_k")
        return await super().generate_messages(messages, params)

    async def generate_texts(self, texts: Any, params: Any) -> Any:
        for own in params:
            self._warn(own, "seed", "top_k", "stop")
        return await super().generate_texts(texts, params)

    async def stream_messages(self, messages: Any, params: Any) -> Any:
        async for item in super().stream_messages(messages, params):
            yield item


def test_what_a_generator_can_do_is_seen() -> None:
    found = asyncio.run(find_settings(Picky(model="any"), {}))

    assert found == {
        "supports_messages": True,
        "supports_texts": True,
        "supports_streaming": False,
        "supports_seed": False,
        "takes_time": False,
        "can_fail": False,
        "unsupported_params": {"seed", "top_k"},
        "unsupported_in_texts": {"stop"},
    }


class Strict(EchoGenerator):
    """Needs a minute for a long answer in a chat, and refuses `audio` in texts, by name."""

    async def generate_messages(self, messages: Any, params: Any) -> Any:
        if params[0].max_tokens == 100_000:
            await asyncio.sleep(60)
        return await super().generate_messages(messages, params)

    async def generate_texts(self, texts: Any, params: Any) -> Any:
        if params[0].audio:
            return [BadRequestError("there is no 'audio' here")]
        return await super().generate_texts(texts, params)


def test_what_a_generator_refuses_or_is_slow_at_is_seen() -> None:
    found = asyncio.run(find_settings(Strict(model="any"), {}))

    assert found["takes_time"] is True
    assert found["unsupported_in_texts"] == {"audio"}
    assert found["unsupported_params"] == set()


class Small(EchoGenerator):
    """Takes no great number of tokens."""

    async def generate_messages(self, messages: Any, params: Any) -> Any:
        if params[0].max_tokens == 100_000:
            raise BadRequestError("at most 4096 tokens")
        return await super().generate_messages(messages, params)


def test_a_request_that_is_refused_does_not_last() -> None:
    assert asyncio.run(find_settings(Small(model="any"), {}))["takes_time"] is False


def test_who_knows_better_is_believed() -> None:
    wanted = {"supports_texts": False, "takes_time": True, "supports_seed": True}
    found = asyncio.run(find_settings(Picky(model="any"), wanted))

    assert found.items() >= wanted.items()
    assert found["unsupported_in_texts"] == set()
    assert found["supports_streaming"] is True


def test_what_continues_nothing_cannot_be_checked() -> None:
    with pytest.raises(UsageError, match="neither conversations nor texts"):
        asyncio.run(find_settings(rg.Generator(model="any"), {}))
