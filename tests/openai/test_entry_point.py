from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

import rigging as rg
import rigging_openai
from rigging.redaction import _HARMLESS
from rigging_openai import OpenAIGenerator


def run(code: str) -> str:
    """Run code in a fresh interpreter; return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    ).stdout


def test_the_provider_is_found_by_its_entry_point() -> None:
    assert type(rg.get_generator("openai!gpt-4o")) is OpenAIGenerator


def test_the_class_can_be_had_from_rigging_generator() -> None:
    assert rg.generator.OpenAIGenerator is OpenAIGenerator


def test_the_package_names_its_version() -> None:
    assert rigging_openai.__version__ == distribution("rigging-openai").version


def test_everything_short_of_a_request_imports_no_http_client() -> None:
    imported = json.loads(
        run(
            "import json, pickle, sys\n"
            "import rigging as rg\n"
            "generator = rg.get_generator('openai!gpt-4o,temperature=0.5')\n"
            "assert rg.get_generator(generator.to_identifier()) == generator\n"
            "pickle.loads(pickle.dumps(generator)).load().unload()\n"
            "print(json.dumps(sorted(m.partition('.')[0] for m in sys.modules)))"
        )
    )
    assert "rigging_openai" in imported
    assert {"aiohttp", "httpx", "openai", "orjson", "yarl"}.isdisjoint(imported)


@pytest.mark.parametrize("missing", ["aiohttp", "orjson"])
def test_a_missing_module_is_named_at_the_first_request(missing: str) -> None:
    text = run(
        "import asyncio, sys\n"
        "import rigging as rg\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {missing!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "generator = rg.get_generator('openai!tiny,api_base=http://127.0.0.1:9/v1')\n"
        "try:\n"
        "    asyncio.run(generator.chat('Hi').run())\n"
        "except rg.error.MissingDependencyError as error:\n"
        "    print(error.provider, error.dependency, type(error.__cause__).__name__, error)\n"
    )
    assert text.startswith(f"openai {missing} ModuleNotFoundError ")
    assert f"`pip install {missing}`" in text


DOCS = Path(__file__).parents[2] / "docs" / "openai.md"
ROWS = re.findall(
    r"^\| (.+?) \| `(openai![^`]+)` \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE
)


@pytest.mark.parametrize(("endpoint", "identifier"), ROWS, ids=[row[0] for row in ROWS])
def test_the_identifiers_of_the_table_of_endpoints_are_right(
    endpoint: str, identifier: str
) -> None:
    generator = rg.get_generator(identifier)

    assert type(generator) is OpenAIGenerator
    assert generator.to_identifier() == identifier
    assert (generator.params.api_base is None) == (endpoint == "OpenAI")


def test_local_servers_come_first_in_the_table_of_endpoints() -> None:
    assert len(ROWS) > 12
    are_local = ["127.0.0.1" in identifier for _, identifier in ROWS]
    assert are_local == sorted(are_local, reverse=True)


def test_what_is_shown_of_headers_and_queries_is_what_the_docs_say() -> None:
    _, _, section = DOCS.read_text(encoding="utf-8").partition("### Headers and queries that are")
    names = re.findall(r"`([\w-]+)`", section.partition("\n#")[0])

    assert sorted(name.lower() for name in names) == sorted(_HARMLESS)
