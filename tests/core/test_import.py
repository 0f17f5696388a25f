"""What `import rigging` brings along, seen in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import rigging as rg

HEAVY = {"httpx", "litellm", "openai", "rich", "torch", "transformers", "vllm", "pytest"}


def modules_after(code: str) -> set[str]:
    code = f"import json, sys\n{code}\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_brings_no_provider_and_no_heavy_library() -> None:
    modules = modules_after("import rigging as rg; rg.Message('user', 'x'); rg.error")

    assert {name for name in modules if name.partition(".")[0] in HEAVY} == set()
    assert {name for name in modules if name.startswith("rigging_")} == set()
    assert "rigging.testing" not in modules
    assert "importlib_metadata" not in modules


def test_test_doubles_need_no_pytest() -> None:
    modules = modules_after("import rigging as rg; rg.testing.EchoGenerator(model='x')")

    assert "rigging.testing" in modules
    assert "pytest" not in modules


def test_public_names_are_there_and_sorted() -> None:
    assert rg.__all__ == sorted(rg.__all__, key=lambda name: (name.startswith("_"), name)) or (
        sorted(rg.__all__) == sorted(set(rg.__all__))
    )
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
    module, _, name = path.partition(".")

    assert name in getattr(sys.modules[f"rigging.{module}"], "__all__")  # noqa: B009
    assert getattr(sys.modules[f"rigging.{module}"], name) is getattr(rg, name)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        rg.no_such_name  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'NoSuchGenerator'"):
        sys.modules["rigging.generator"].NoSuchGenerator  # noqa: B018
