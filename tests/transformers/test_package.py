from __future__ import annotations

import subprocess
import sys

import pytest
from importlib_metadata import entry_points, version

import rigging as rg
import rigging_transformers
from rigging_transformers import TransformersGenerator

HEAVY = ("torch", "transformers", "accelerate", "numpy", "tokenizers", "huggingface_hub")


def run_fresh(code: str) -> str:
    """Run code in a new interpreter, with warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "use",
    [
        pytest.param("import rigging_transformers", id="import"),
        pytest.param(
            "from rigging.generator import TransformersGenerator\n"
            "TransformersGenerator(model='org/model', dtype='bfloat16', device_map='auto')",
            id="make",
        ),
        pytest.param(
            "import rigging as rg\n"
            "g = rg.get_generator('transformers!org/model,torch_dtype=float16,temperature=0.5')\n"
            "assert rg.get_generator(g.to_identifier()) == g",
            id="round-trip",
        ),
        pytest.param(
            "import rigging as rg\n"
            "try: rg.get_generator('transformers!./nowhere').load()\n"
            "except rg.error.ModelNotFoundError: pass\n"
            "else: raise SystemExit('it loaded')",
            id="refuse-a-path",
        ),
        pytest.param(
            "import rigging as rg\nrg.get_generator('transformers!org/model').unload()",
            id="unload-unloaded",
        ),
    ],
)
def test_it_costs_no_heavy_import_to(use: str) -> None:
    imported = run_fresh(f"{use}\nimport sys\nprint(*sys.modules)").split()

    assert "rigging_transformers" in imported
    assert not set(HEAVY) & set(imported)


def test_its_entry_point_is_found() -> None:
    (entry_point,) = entry_points(group="rigging.generators", name="transformers")

    assert entry_point.load() is TransformersGenerator
    assert isinstance(rg.get_generator("transformers!org/model"), TransformersGenerator)


def test_its_version_is_the_distributions() -> None:
    assert rigging_transformers.__version__ == version("rigging-transformers")


def test_all_is_what_is_public() -> None:
    public = {name for name in vars(rigging_transformers) if not name.startswith("_")}

    assert public <= set(rigging_transformers.__all__)
    assert set(rigging_transformers.__all__) == {"TransformersGenerator", "__version__"}


def test_every_field_comes_back_from_an_identifier() -> None:
    generator = TransformersGenerator(
        model="org/model",
        dtype="float16",
        device_map="cuda:0",
        attn_implementation="eager",
        revision="v2",
        adapter="./adapters/mine",
        chat_template="{{ messages[0].content }}, {% if a %}!{% endif %}",
        trust_remote_code=True,
        load_in_4bit=True,
        dequantize=False,
        model_kwargs={"cache_dir": "/models", "max_memory": {"cpu": "8GiB"}},
        max_batch_size=4,
    )

    identifier = generator.to_identifier()

    assert set(identifier.split(",")) == {
        "transformers!org/model",
        "dtype=float16",
        "device_map=cuda:0",
        "attn_implementation=eager",
        "revision=v2",
        "adapter=./adapters/mine",
        "chat_template={{ messages[0].content }}%2C {% if a %}!{% endif %}",
        "trust_remote_code=true",
        "load_in_4bit=true",
        "dequantize=false",
        "model_kwargs.cache_dir=/models",
        'model_kwargs.max_memory={"cpu":"8GiB"}',
        "max_batch_size=4",
    }
    assert rg.get_generator(identifier) == generator
