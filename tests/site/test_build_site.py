"""The build of the site refuses what is broken, and the site has all that is public."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import griffe
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT: Final = Path(__file__).parents[2]
SOURCES: Final = ROOT / "packages/rigging-core/src"
# What the command line does stands on a page of its own, and nobody imports it.
NOT_IN_THE_API: Final = {"rigging", "rigging.cli"}


def build(root: Path) -> tuple[int, str]:
    program = root / "docs/build_site.py"
    run = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    return run.returncode, run.stdout + run.stderr


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with our settings, and two small pages."""
    (tmp_path / "docs").mkdir()
    for program in (ROOT / "docs").glob("*.py"):
        shutil.copy(program, tmp_path / "docs")
    shutil.copytree(ROOT / "packages", tmp_path / "packages")
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/RESULTS.md").write_text("# Results\n")
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples/chat.py").write_text("print('Hi')\n")
    nav = "nav = [{ A = 'index.md' }, { B = 'api.md' }, { C = 'benchmarks/RESULTS.md' }]\n"
    settings = (ROOT / "zensical.toml").read_text("utf-8")
    pattern = re.compile(r"^nav = \[\n.*?^\]\n", re.MULTILINE | re.DOTALL)
    settings, count = pattern.subn(nav, settings)
    assert count == 1
    (tmp_path / "zensical.toml").write_text(settings, encoding="utf-8")
    write(
        tmp_path,
        {
            "docs/index.md": "# A\n\n"
            "[B](api.md#rigging.params), [C](../benchmarks/RESULTS.md#results),"
            " [D](../examples/chat.py), [elsewhere](https://example.org/)\n",
            "docs/api.md": "# B\n\n::: rigging.params\n",
        },
    )
    return tmp_path


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")


def test_a_repository_without_faults_becomes_a_site(repository: Path) -> None:
    status, printed = build(repository)

    assert status == 0, printed
    page = (repository / "site/index.html").read_text("utf-8")
    assert 'href="benchmarks/RESULTS.html#results"' in page
    assert 'href="examples/chat.py"' in page
    assert (repository / "site/examples/chat.py").exists()
    assert 'id="rigging.params.GenerateParams"' in (repository / "site/api.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("page", "faults"),
    [
        pytest.param(
            "index.md",
            {
                "[x](gone.md)": "index.md:5:5 ]",
                "[x](api.md#gone)": "index.md:6:12 ]",
                "[x](#gone)": "index.md:7:6 ]",
                "[x][rigging.params.Gone]": "index.md:8:5 ]",
            },
            id="links-to-pages",
        ),
        pytest.param(
            "index.md",
            {
                "[x](../examples/gone.py)": "index.html: examples/gone.py leads nowhere",
                "<a href='gone.html'>x</a>": "index.html: gone.html leads nowhere",
                "<a href='api.html#gone'>x</a>": "index.html: api.html#gone names no place",
                "![x](gone.png)": "index.html: gone.png leads nowhere",
            },
            id="links-to-files",
        ),
        pytest.param(
            "api.md",
            {"::: rigging.params.Gone": "rigging.params.Gone could not be found"},
            id="api",
        ),
        pytest.param("more.md", {"# More": "more.md is not in the navigation"}, id="unlisted"),
    ],
)
def test_what_is_broken_fails_the_build(
    repository: Path, page: str, faults: Mapping[str, str]
) -> None:
    path = repository / "docs" / page
    old = path.read_text("utf-8") if path.exists() else ""
    path.write_text("\n".join([old, *faults, ""]), encoding="utf-8")

    status, printed = build(repository)

    assert status == 1, printed
    for complaint in faults.values():
        assert complaint in re.sub(r"\x1b\[[\d;]*m", "", printed)


def test_a_page_that_only_the_navigation_has_fails_the_build(repository: Path) -> None:
    (repository / "docs/api.md").unlink()
    write(repository, {"docs/index.md": "# A\n"})

    status, printed = build(repository)

    assert status == 1, printed
    assert "api.md is in the navigation, but not there" in printed


def test_a_docstring_that_cannot_be_read_fails_the_build(repository: Path) -> None:
    package = repository / "packages/rigging-core/src/odd"
    package.mkdir()
    code = 'def f(x: int) -> None:\n    """Do it.\n\n    Args:\n        y: Nobody\'s.\n    """\n'
    write(package, {"__init__.py": code})
    write(repository, {"docs/index.md": "# A\n", "docs/api.md": "# B\n\n::: odd\n"})

    status, printed = build(repository)

    assert status == 1, printed
    assert re.search(r"^griffe.*'y'", printed, re.MULTILINE)


def test_every_public_name_is_described() -> None:
    """One without a docstring is left out of the API pages."""
    package = griffe.load(
        "rigging",
        search_paths=[SOURCES],
        extensions=griffe.load_extensions(ROOT / "docs/griffe_docstrings.py"),
        allow_inspection=False,
    )

    names = {
        f"{module.path}.{name}": module[name].has_docstring
        for module in public_modules(package)
        for name in module.exports or ()
    }

    assert [name for name, described in names.items() if not described] == []
    assert len(names) > 100


def public_modules(package: griffe.Module) -> Iterator[griffe.Module]:
    for module in package.modules.values():
        if not module.is_alias and not module.name.startswith("_"):
            yield module
            yield from public_modules(module)


def test_every_public_module_is_in_the_api() -> None:
    modules = {
        ".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix(".__init__")
        for path in SOURCES.rglob("*.py")
        if not any(part.startswith("_") and part != "__init__.py" for part in path.parts)
    }
    pages = (page.read_text("utf-8") for page in ROOT.glob("docs/api/*.md"))
    shown = {name for page in pages for name in re.findall(r"^::: ([\w.]+)$", page, re.MULTILINE)}

    assert {name for name in shown if name.startswith("rigging.")} == modules - NOT_IN_THE_API
    assert len(modules) > 15
