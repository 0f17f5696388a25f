from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import distribution
from typing import TYPE_CHECKING

import pytest

import rigging as rg
import rigging_vllm
from rigging_vllm import VLLMGenerator

if TYPE_CHECKING:
    from pathlib import Path


def run(code: str, *args: str) -> str:
    """Run code in a fresh interpreter; return what it prints."""
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


def test_the_provider_is_found_by_its_entry_point() -> None:
    assert type(rg.get_generator("vllm!org/name")) is VLLMGenerator


def test_the_class_can_be_had_from_rigging_generator() -> None:
    assert rg.generator.VLLMGenerator is VLLMGenerator


def test_the_package_names_its_version() -> None:
    assert rigging_vllm.__version__ == distribution("rigging-vllm").version


def test_everything_short_of_loading_imports_no_vllm() -> None:
    imported = json.loads(
        run(
            "import asyncio, json, pickle, sys\n"
            "import rigging as rg\n"
            "generator = rg.get_generator('vllm!org/name,max_model_len=64,temperature=0.5')\n"
            "assert rg.get_generator(generator.to_identifier()) == generator\n"
            "pickle.loads(pickle.dumps(generator)).unload()\n"
            "for model in ('./nowhere', '.'):\n"
            "    try:\n"
            "        rg.get_generator(f'vllm!{model}').load()\n"
            "    except rg.error.ModelNotFoundError:\n"
            "        pass\n"
            "    else:\n"
            "        raise AssertionError(model)\n"
            "print(json.dumps(sorted(m.partition('.')[0] for m in sys.modules)))"
        )
    )
    assert "rigging_vllm" in imported
    assert {"vllm", "torch", "transformers", "numpy"}.isdisjoint(imported)


@pytest.mark.parametrize(
    ("missing", "remedy"),
    [
        pytest.param("vllm", "`pip install vllm`", id="vllm"),
        pytest.param("torch", "`pip install torch`", id="what-vllm-needs"),
    ],
)
def test_a_missing_module_is_named(tiny_model: Path, missing: str, remedy: str) -> None:
    text = run(
        "import sys\n"
        "import rigging as rg\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {missing!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "try:\n"
        "    rg.get_generator(f'vllm!{sys.argv[1]}').load()\n"
        "except rg.error.MissingDependencyError as error:\n"
        "    print(error.provider, error.dependency, type(error.__cause__).__name__, error)\n",
        str(tiny_model),
    )
    assert text.startswith(f"vllm {missing} ModuleNotFoundError ")
    assert remedy in text
