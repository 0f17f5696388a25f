"""What `import rigging` brings along, seen in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import rigging as rg

HEAVY = {"aiohttp", "httpx", "litellm", "openai", "rich", "torch", "transformers", "vllm", "pytest"}


def modules_after(code: str) -> set[str]:
    code = f"import json, sys\n{code}\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_brings_no_provider_and_no_heavy_library() -> None:
    use = "rg.Message('user', 'x'); rg.Generator; rg.ChatPipeline; rg.error.RiggingError"
    modules = modules_after(f"import rigging as rg; {use}")

    assert {name for name in modules if name.partition(".")[0] in HEAVY} == set()
    assert {name for name in modules if name.startswith("rigging_")} == set()
    assert "rigging.testing" not in modules
    assert "importlib_metadata" not in modules


def test_test_doubles_need_no_pytest() -> None:
    modules = modules_after("import rigging as rg; rg.testing.EchoGenerator(model='x')")

    assert "rigging.testing" in modules
    assert "pytest" not in modules


def test_a_run_without_plugins_does_not_import_what_keeps_them() -> None:
    modules = modules_after(
        "import rigging as rg; rg.testing.EchoGenerator(model='x').chat('Hi').run_sync()"
    )

    assert "rigging.plugins" in modules
    assert {
        name for name in modules if name.partition(".")[0] in {"pluggy", "opentelemetry"}
    } == set()


def test_import_alone_loads_next_to_nothing() -> None:
    modules = modules_after("import rigging; rigging.__version__")

    assert {name for name in modules if name.startswith("rigging.")} == {"rigging._version"}
    assert "pydantic" not in modules


def test_public_names_are_all_there_and_nothing_else() -> None:
    lazy = {"__version__", *rg._EXPORTS, *(n for names in rg._EXPORTS.values() for n in names)}

    assert sorted(lazy) == rg.__all__ == dir(rg)
    for name in rg.__all__:
        assert getattr(rg, name) is not None


@pytest.mark.parametrize(
    "path",
    [
        "generator.Generator",
        "generator.GenerateParams",
        "generator.GeneratedMessage",
        "generator.GeneratedText",
        "generator.get_generator",
        "generator.get_identifier",
        "generator.register_generator",
        "chat.Chat",
        "chat.ChatList",
        "chat.ChatPipeline",
        "completion.Completion",
        "completion.CompletionPipeline",
        "message.Message",
        "error.RiggingError",
    ],
)
def test_public_path_leads_to_the_same_object(path: str) -> None:
    module_name, _, name = path.partition(".")
    module = getattr(rg, module_name)

    assert name in module.__all__
    assert getattr(module, name) is getattr(rg, name)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        rg.no_such_name  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'NoSuchGenerator'"):
        rg.generator.NoSuchGenerator  # noqa: B018
