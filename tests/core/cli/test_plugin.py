"""`rigging plugin`, as a person types it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import rigging as rg
from rigging.cli import _check, _project
from rigging.cli._check import Check
from rigging.cli._exits import ExitCode, UsageError, exit_code
from rigging.cli._findings import find_settings
from rigging.cli._project import Project
from rigging.error import MissingDependencyError, UnsupportedParameterWarning
from rigging.testing import EchoGenerator

KEY = "sk-planted-8d2f6a"
# The second shows its key wherever it can, keeps what lies in the folder of temporary files
# while it is asked, and counts nothing.
MODULE = """
import os
from pathlib import Path
import rigging as rg
from rigging.testing import EchoGenerator

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

rg.register_generator("echo", EchoGenerator)
rg.register_generator("careless", Careless)
rg.register_generator("silent", Silent)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run: with a module to import, and an empty folder for what is passing."""
    (tmp_path / "providers.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    return tmp_path


def rigging(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rigging.cli", *arguments],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# -- new ---------------------------------------------------------------------------------


def test_a_new_project_is_whole(tmp_path: Path) -> None:
    done = rigging(tmp_path, "plugin", "new", "My-LLM")
    project = tmp_path / "my-llm-rigging"

    assert done.returncode == ExitCode.OK, done.stderr
    assert files(tmp_path) == {
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


def test_a_new_project_says_what_it_is_and_needs(tmp_path: Path) -> None:
    rigging(tmp_path, "plugin", "new", "My-LLM")
    text = (tmp_path / "my-llm-rigging" / "pyproject.toml").read_text("utf-8")
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


def test_what_to_do_next_is_printed(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    done = rigging(tmp_path, "plugin", "new", "acme", "--into", "work")

    assert done.stdout.splitlines() == [
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
    ],
)
def test_what_cannot_be_made_is_refused_and_leaves_nothing(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "there-rigging").mkdir()

    done = rigging(tmp_path, "plugin", "new", *arguments, COLUMNS="200")

    assert done.returncode == ExitCode.USAGE
    assert said in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["there-rigging"]


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


def test_a_name_that_is_taken_is_warned_about(tmp_path: Path) -> None:
    record = tmp_path / "site" / "theirs-1.2.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.2\n")
    (record / "entry_points.txt").write_text("[rigging.generators]\nacme = theirs:Acme\n")

    done = rigging(tmp_path, "plugin", "new", "Acme", PYTHONPATH=str(tmp_path / "site"))

    assert done.returncode == ExitCode.OK
    assert "warning: the provider 'acme' is there already, from theirs 1.2" in done.stderr
    assert (tmp_path / "acme-rigging").is_dir()


# -- check -------------------------------------------------------------------------------


def test_a_generator_that_keeps_the_contract_passes(folder: Path) -> None:
    done = rigging(folder, "--import", "providers.py", "plugin", "check", "echo!any")

    assert done.returncode == ExitCode.OK, done.stdout
    assert "echo!any, by version 1 of the contract:" in done.stdout
    assert ", 0 failed." in done.stdout
    # What the class does not have is seen, and no request of it lasts.
    assert "Switched off: can_fail, supports_streaming, takes_time." in done.stdout
    assert list((folder / "temporary").iterdir()) == []


def test_what_is_broken_is_said_and_no_key(folder: Path) -> None:
    done = rigging(
        folder,
        *("plugin", "check", f"careless!any,api_key={KEY}", "--import", "providers.py"),
        *("--", "-k", "usage or record"),
    )

    assert done.returncode == ExitCode.FAILED
    assert (
        "FAILED usage is counted (messages): a result says what it took: `usage` is filled"
        in done.stdout
    )
    assert "FAILED no record of a request shows the key (messages): no result" in done.stdout
    assert "my key is ***" in done.stdout
    assert KEY not in done.stdout + done.stderr
    # Nor did it stand in the test file, which is gone.
    seen = (folder / "seen.txt").read_text()
    assert "class TestContract(GeneratorContract)" in seen
    assert KEY not in seen
    assert list((folder / "temporary").iterdir()) == []


def test_a_generator_that_answers_nothing_says_why(folder: Path) -> None:
    done = rigging(folder, "--import", "providers.py", "plugin", "check", "silent!any")

    assert done.returncode == ExitCode.FAILED
    assert done.stderr == "rigging: NotImplementedError: no model yet\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nobody!any"], ExitCode.NO_PROVIDER, "provider 'nobody' is not installed"),
        (["echo"], ExitCode.USAGE, "write 'echo!MODEL', or add --model MODEL"),
        (["echo!any", "--model", "x"], ExitCode.USAGE, "the identifier names a model"),
        (["echo!any,odd=1"], ExitCode.USAGE, "unknown key 'odd'"),
        (["echo!any", "--off", "support_seed"], ExitCode.USAGE, "did you mean 'supports_seed'?"),
        (["echo!any", "--on", "wings"], ExitCode.USAGE, "there are supports_messages, "),
        (["echo", "--model", "x", "--", "-k", "none"], ExitCode.USAGE, "pytest ran no test"),
    ],
)
def test_what_cannot_be_checked_is_refused(
    folder: Path, arguments: list[str], code: ExitCode, said: str
) -> None:
    done = rigging(folder, "--import", "providers.py", "plugin", "check", *arguments)

    assert done.returncode == code, done.stdout
    assert said in done.stderr


def test_without_pytest_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_check, "find_spec", lambda name: None)

    with (
        rg.register_generator("echo", EchoGenerator),
        pytest.raises(
            MissingDependencyError, match=r"pip install 'rigging-core\[testing\]'"
        ) as raised,
    ):
        Check("echo!any").run()

    assert exit_code(raised.value) is ExitCode.NO_PROVIDER


# -- What is found out -------------------------------------------------------------------


class Picky(EchoGenerator):
    """Takes texts without `stop`, and never `seed` or `top_k`, and streams conversations only."""

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


def test_who_knows_better_is_believed() -> None:
    wanted = {"supports_texts": False, "takes_time": True, "supports_seed": True}
    found = asyncio.run(find_settings(Picky(model="any"), wanted))

    assert found.items() >= wanted.items()
    assert found["unsupported_in_texts"] == set()
    assert found["supports_streaming"] is True


def test_what_continues_nothing_cannot_be_checked() -> None:
    with pytest.raises(UsageError, match="neither conversations nor texts"):
        asyncio.run(find_settings(rg.Generator(model="any"), {}))
