"""What decides how a model is loaded, and what is said where it does not load."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import threading
import warnings
import weakref
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import torch

import rigging as rg
from rigging import GenerateParams
from rigging.error import (
    AuthenticationError,
    BadRequestError,
    InvalidGeneratorError,
    InvalidIdentifierError,
    MissingDependencyError,
    ModelNotFoundError,
    ProviderConnectionError,
    ProviderServerError,
    RiggingError,
)
from rigging_transformers import TransformersGenerator
from tests.support.memory import out_of_memory
from tests.support.tiny_model import make_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.transformers.conftest import Reference

SHORT = GenerateParams(max_tokens=8, temperature=0)
OWN_CODE = "transformers_modules"
PROMPTS = ("The quick", "What is the capital", "One two three four five six")


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}))


def texts(generator: TransformersGenerator) -> list[str]:
    results = asyncio.run(generator.generate_texts(PROMPTS, [SHORT] * len(PROMPTS)))
    return [result.text for result in results if not isinstance(result, BaseException)]


def loaded_model(generator: TransformersGenerator) -> Any:
    own = generator.load()._engine._own
    assert own is not None
    return own.model


def by_identifier(identifier: str) -> TransformersGenerator:
    generator = rg.get_generator(identifier)
    assert isinstance(generator, TransformersGenerator)
    assert rg.get_generator(generator.to_identifier()) == generator
    return generator


# -- Fields ------------------------------------------------------------------------------


def test_attention_is_computed_as_asked_and_comes_to_the_same(tiny_model: Path) -> None:
    said = []
    for kind in ("eager", "sdpa"):
        generator = by_identifier(f"transformers!{tiny_model},attn_implementation={kind}")
        assert loaded_model(generator).config._attn_implementation == kind
        said.append(texts(generator))
        generator.unload()

    assert said[0] == said[1]


def test_anything_else_goes_to_from_pretrained(tiny_model: Path) -> None:
    generator = by_identifier(
        f"transformers!{tiny_model},model_kwargs.max_position_embeddings=64,"
        f"model_kwargs.local_files_only=true"
    )

    own = generator.load()._engine._own

    assert own is not None
    assert own.context == 64
    generator.unload()


@pytest.mark.parametrize(
    "change",
    [
        {"attn_implementation": "eager"},
        {"model_kwargs": {"max_position_embeddings": 64}},
        {"adapter": "ADAPTER"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_assigning_what_decides_it_makes_it_another_model(
    generator: TransformersGenerator, adapter: Path, change: dict[str, Any]
) -> None:
    first = weakref.ref(loaded_model(generator))

    for name, value in change.items():
        setattr(generator, name, str(adapter) if value == "ADAPTER" else value)
    generator.load()

    assert first() is None


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            lambda g: g.model_kwargs.update(max_position_embeddings=64), id="model_kwargs"
        ),
        pytest.param(
            lambda g: g.model_kwargs["rope_parameters"].update(rope_theta=100.0), id="nested"
        ),
        pytest.param(lambda g: g.device_map.update(lm_head="cpu"), id="device_map"),
    ],
)
def test_a_change_in_place_makes_it_another_model(
    tiny_model: Path, change: Callable[[TransformersGenerator], None]
) -> None:
    generator = TransformersGenerator(
        model=str(tiny_model),
        device_map={"": "cpu"},
        model_kwargs={"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    )
    first = weakref.ref(loaded_model(generator))
    assert loaded_model(generator) is first()

    change(generator)
    generator.load()

    assert first() is None
    generator.unload()


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("torch_dtype", "set the field 'dtype'"),
        ("device_map", "set the field 'device_map'"),
        ("token", "set the field 'api_key'"),
        ("hf_token", "set the field 'api_key'"),
        ("api_key", "set the field 'api_key'"),
        ("config", "wrap a model that you have loaded"),
        ("state_dict", "wrap a model that you have loaded"),
        ("load_in_4bit", "set the field 'load_in_4bit'"),
        ("gguf_file", "give the file's path as the model"),
    ],
)
def test_model_kwargs_hide_no_field(name: str, instead: str) -> None:
    with pytest.raises(InvalidGeneratorError, match=f"model_kwargs holds '{name}': {instead}"):
        TransformersGenerator(model="org/model", model_kwargs={name: "secret-1"})
    with pytest.raises(InvalidIdentifierError, match=instead) as caught:
        rg.get_generator(f"transformers!org/model,model_kwargs.{name}=1")
    assert caught.value.identifier[caught.value.position :] in {"1", "…"}


def test_memory_of_gpus_is_given_by_their_numbers() -> None:
    from rigging_transformers._loading import _model_options
    from rigging_transformers._source import Source

    limits = {0: "10GiB", 1: "1GiB", "cpu": "8GiB"}
    generator = TransformersGenerator(model="org/model", model_kwargs={"max_memory": limits})

    read = by_identifier(generator.to_identifier())

    assert read == generator
    for one in (generator, read):
        assert _model_options(one._spec(), Source("org/model"))["max_memory"] == limits


def test_model_kwargs_are_what_comes_back_from_json(tmp_path: Path) -> None:
    given = {
        "cache_dir": tmp_path,
        "key_mapping": {"a": ("b", None)},
        "quantization_config": {"bnb_4bit_compute_dtype": torch.bfloat16},
    }

    generator = TransformersGenerator(model="org/model", model_kwargs=given)

    assert by_identifier(generator.to_identifier()).model_kwargs == {
        "cache_dir": str(tmp_path),
        "key_mapping": {"a": ["b", None]},
        "quantization_config": {"bnb_4bit_compute_dtype": "bfloat16"},
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(b"x", "option: expected text, a number, .* got bytes", id="bytes"),
        pytest.param({"inner": {1, 2}}, "inner: expected text, a number, .* got set", id="set"),
        pytest.param({(1, 2): 3}, "option: expected text as a name, got tuple", id="name"),
        pytest.param(torch.nn.Linear(1, 1), r"got Linear.* from_obj\(\)", id="object"),
        pytest.param("\ud800", "'option' holds half a character", id="half-a-character"),
    ],
)
def test_model_kwargs_that_json_cannot_hold_are_refused(value: object, message: str) -> None:
    with pytest.raises(InvalidGeneratorError, match=message):
        TransformersGenerator(model="org/model", model_kwargs={"option": value})


def test_a_quantisation_is_no_text() -> None:
    with pytest.raises(InvalidIdentifierError, match=r"expected a mapping such as .*, got text"):
        by_identifier("transformers!org/model,model_kwargs.quantization_config=4bit")


@pytest.mark.parametrize("device_map", ["meta", {"model": "cpu", "lm_head": "meta"}])
def test_a_device_that_holds_no_weights_is_refused(device_map: Any) -> None:
    with pytest.raises(InvalidGeneratorError, match="'meta' holds no weights"):
        TransformersGenerator(model="org/model", device_map=device_map)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"device_map": "cuda:0"}, "device_map='cuda:0' asks for a GPU", id="name"),
        pytest.param({"device_map": 0}, "device_map=0 asks for a GPU", id="number"),
        pytest.param(
            {"device_map": {"model": "cpu", "lm_head": 1}}, "device_map=1 asks", id="part"
        ),
        pytest.param(
            {"device_map": "auto", "model_kwargs": {"max_memory": {0: "1GiB"}}},
            "max_memory of '0' asks for a GPU",
            id="memory",
        ),
    ],
)
def test_a_gpu_that_is_not_there_is_told(
    tiny_model: Path, fields: dict[str, Any], message: str
) -> None:
    generator = TransformersGenerator(model=str(tiny_model), **fields)

    with pytest.raises(
        BadRequestError, match=f"{message}.* torch finds none .torch {torch.__version__[:1]}"
    ):
        generator.load()


def test_a_model_in_a_subfolder_is_found_or_the_subfolder_is_named(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "inner")

    by_identifier(f"transformers!{tmp_path},model_kwargs.subfolder=inner").load().unload()
    with pytest.raises(ModelNotFoundError, match="the directory has no subfolder 'nope'"):
        by_identifier(f"transformers!{tmp_path},model_kwargs.subfolder=nope").load()


def test_one_quantization_at_a_time() -> None:
    config = {"quantization_config": {"load_in_4bit": True}}

    assert TransformersGenerator(model="org/model", model_kwargs=config).model_kwargs == config
    with pytest.raises(InvalidGeneratorError, match="set one of the three"):
        TransformersGenerator(model="org/model", load_in_8bit=True, model_kwargs=config)


def test_a_name_that_transformers_does_not_know_is_refused_in_its_words(tiny_model: Path) -> None:
    generator = TransformersGenerator(model=str(tiny_model), model_kwargs={"attention": "fast"})

    with pytest.raises(BadRequestError, match="unexpected keyword argument 'attention'") as caught:
        generator.load()

    assert isinstance(caught.value.__cause__, TypeError)


def test_an_attention_that_needs_a_package_says_so(tiny_model: Path) -> None:
    generator = TransformersGenerator(
        model=str(tiny_model), attn_implementation="flash_attention_2"
    )

    with pytest.raises(MissingDependencyError, match="`pip install flash-attn`") as caught:
        generator.load()

    assert caught.value.dependency == "flash_attn"


@pytest.mark.parametrize(
    ("kind", "message", "dependency"),
    [
        ("aqlm", "`pip install 'aqlm[gpu,cpu]'`", "aqlm"),
        ("compressed-tensors", "`pip install 'compressed-tensors>=", "compressed-tensors"),
    ],
)
def test_what_a_model_that_is_saved_quantised_needs_is_named(
    tiny_model: Path, tmp_path: Path, kind: str, message: str, dependency: str
) -> None:
    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    change_json(tmp_path / "config.json", quantization_config={"quant_method": kind})

    with pytest.raises(MissingDependencyError) as caught:
        TransformersGenerator(model=str(tmp_path)).load()

    assert message in str(caught.value)
    assert caught.value.dependency == dependency


@pytest.mark.parametrize("kind", ["fbgemm_fp8", "spqr"])
def test_a_gpu_that_is_missing_is_no_missing_package(
    tiny_model: Path, tmp_path: Path, kind: str
) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    change_json(tmp_path / "config.json", quantization_config={"quant_method": kind})

    with pytest.raises(BadRequestError, match="GPU"):
        TransformersGenerator(model=str(tmp_path)).load()


@pytest.fixture
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where transformers copies a model's own code to, and imports it: else, one per account."""
    from transformers import dynamic_module_utils

    path = tmp_path_factory.mktemp("modules")
    before = {name: sys.modules[name] for name in sys.modules if name.startswith(OWN_CODE)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(path))
        patch.setattr(sys, "path", [*sys.path])
        yield path
    for name in [name for name in sys.modules if name.startswith(OWN_CODE)]:
        del sys.modules[name]
    sys.modules.update(before)


def test_a_name_that_a_package_lacks_is_no_missing_package(
    tiny_model: Path, tmp_path: Path, modules: Path
) -> None:
    auto = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    change_json(tmp_path / "config.json", auto_map=auto, model_type="own")
    (tmp_path / "own.py").write_text("from transformers.modeling_utils import no_such_thing\n")

    with pytest.raises(BadRequestError, match="cannot import name 'no_such_thing'"):
        TransformersGenerator(model=str(tmp_path), trust_remote_code=True).load()
    assert list(modules.rglob("own.py"))


def test_a_package_that_only_transformers_names_is_the_dependency(tiny_model: Path) -> None:
    config = {"quant_method": "gptq", "bits": 4}
    generator = TransformersGenerator(
        model=str(tiny_model), model_kwargs={"quantization_config": config}
    )

    with pytest.raises(MissingDependencyError, match=r"without a package: .*optimum") as caught:
        generator.load()

    assert caught.value.dependency == "optimum"


def test_an_attention_that_nobody_knows_is_refused(tiny_model: Path) -> None:
    generator = TransformersGenerator(model=str(tiny_model), attn_implementation="divided")

    with pytest.raises(BadRequestError, match=r"attn_implementation=\"divided\"` is not supported"):
        generator.load()


def test_a_directory_has_no_revision(tiny_model: Path) -> None:
    generator = by_identifier(f"transformers!{tiny_model},revision=v2")

    with pytest.raises(ModelNotFoundError, match="a path has no revision 'v2'"):
        generator.load()


def test_a_revision_is_one_of_model_and_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a hub's cache, made by hand, two revisions have different tokenizers and weights."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # read from the environment at import
    repository = tmp_path / "models--org--tiny"
    make_tiny_model(repository / "snapshots" / ("a" * 40))
    other = make_tiny_model(repository / "snapshots" / ("b" * 40), chat_template="{{ 'new' }}")
    change_json(other / "config.json", max_position_embeddings=64)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    (repository / "refs" / "v2").write_text("b" * 40)

    found = {}
    for options in ("", ",revision=v2"):
        generator = by_identifier(
            f"transformers!org/tiny{options},model_kwargs.cache_dir={tmp_path}"
        )
        own = generator.load()._engine._own
        assert own is not None
        found[options] = (own.context, own.tokenizer.chat_template == "{{ 'new' }}")
        generator.unload()

    assert found == {"": (256, False), ",revision=v2": (64, True)}
    missing = by_identifier(f"transformers!org/tiny,revision=v3,model_kwargs.cache_dir={tmp_path}")
    with pytest.raises(ProviderConnectionError, match="not in the local cache"):
        missing.load()


# -- Parts that are missing or broken ----------------------------------------------------


def weights_of(model: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return dict(load_file(model / "model.safetensors"))


def save_weights(weights: dict[str, torch.Tensor], model: Path) -> None:
    from safetensors.torch import save_file

    save_file(weights, model / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("missing", [1, 21])
def test_weights_that_are_missing_are_not_made_up(
    tiny_model: Path, tmp_path: Path, missing: int
) -> None:
    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    weights = weights_of(tiny_model)
    save_weights(dict(sorted(weights.items())[missing:]) or {"x": torch.ones(1)}, tmp_path)

    with pytest.raises(BadRequestError, match=f"^{missing} of the model's weights are in none"):
        TransformersGenerator(model=str(tmp_path)).load()


def test_an_encoder_is_refused(tmp_path: Path, reference: Reference) -> None:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=len(reference.tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    reference.tokenizer.save_pretrained(tmp_path)

    with pytest.raises(BadRequestError, match="only an encoder"):
        TransformersGenerator(model=str(tmp_path)).load()


def test_a_tokenizer_without_its_files_is_missing(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").unlink()

    with pytest.raises(ModelNotFoundError, match="lacks its tokenizer's files"):
        TransformersGenerator(model=str(tmp_path)).load()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("pytorch_model.bin", b""),
        ("pytorch_model.bin", b"<html>not here</html>" * 50),
        ("model.safetensors.index.json", b"{"),
    ],
)
def test_a_file_that_is_broken_is_not_missing(
    tiny_model: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    if name != "config.json":
        (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(content)

    with pytest.raises(BadRequestError, match="The file may be broken: fetch it again"):
        TransformersGenerator(model=str(tmp_path)).load()


def test_a_gguf_file_is_one_in_small_letters(tmp_path: Path) -> None:
    (tmp_path / "M.GGUF").write_bytes(b"GGUF")

    with pytest.raises(ModelNotFoundError, match="rename this one"):
        TransformersGenerator(model=str(tmp_path / "M.GGUF")).load()


# -- What the hub answers ----------------------------------------------------------------


@pytest.mark.parametrize("token", ["", "hf_planted_5d\n", "hf_planted_\xfc", "hf planted"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(
    tiny_model: Path, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(AuthenticationError) as caught:
        TransformersGenerator(model=str(tiny_model), api_key=token).load()

    assert "api_key is no hub token" in str(caught.value)
    assert "planted" not in caplog.text + str(caught.value)


@contextlib.contextmanager
def hub_that_answers(status: int) -> Iterator[str]:
    """Run a hub that answers any request alike; return its address."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815 (the base class's name)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, "AuthenticationError False"),
        (403, "PermissionDeniedError False"),
        (429, "RateLimitError True"),
        (501, "ProviderServerError True"),
    ],
)
def test_what_the_hub_answers_is_the_error(tmp_path: Path, status: int, kind: str) -> None:
    code = """
from rigging.error import GenerationError
from rigging_transformers import TransformersGenerator

try:
    TransformersGenerator(model="org/tiny", api_key="hf_planted_5d").load()
except GenerationError as error:
    assert "planted" not in str(error)
    print(type(error).__name__, error.retryable)
"""
    with hub_that_answers(status) as address:
        settings = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=True,
        )

    assert run.stdout.strip() == kind


# -- Adapters ----------------------------------------------------------------------------


@contextlib.contextmanager
def peft_of_its_own() -> Iterator[None]:
    """Let peft's wrapper ask for an attribute that transformers is about to rename."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".is_gradient_checkpointing", FutureWarning)
        yield


def make_adapter(directory: Path, reference: Reference, **changes: Any) -> Path:
    """Save random LoRA weights for the tiny model, or for one that differs from it."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**{**reference.model.config.to_dict(), **changes})
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]), peft_of_its_own():
        torch.manual_seed(1)
        adapted = get_peft_model(LlamaForCausalLM(config), lora)
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_" in name:
                    weight.normal_(std=0.3)
    adapted.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, reference: Reference) -> Path:
    return make_adapter(tmp_path_factory.mktemp("adapters") / "fitting", reference)


@pytest.fixture
def adapted(tiny_model: Path, adapter: Path) -> Iterator[TransformersGenerator]:
    generator = by_identifier(f"transformers!{tiny_model},adapter={adapter}")
    yield generator
    generator.unload()


def test_a_model_with_an_adapter_says_what_pefts_own_merged_model_says(
    adapted: TransformersGenerator, adapter: Path, tiny_model: Path, reference: Reference
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    with peft_of_its_own():
        merged = PeftModel.from_pretrained(base, adapter).merge_and_unload()
    expected = []
    for prompt in PROMPTS:
        inputs = reference.tokenizer(prompt, return_tensors="pt")
        output = merged.generate(**inputs, max_new_tokens=8, do_sample=False)
        expected.append(reference.text(output[0, inputs["input_ids"].shape[1] :].tolist()))

    assert texts(adapted) == expected
    without = TransformersGenerator.from_obj(reference.model, reference.tokenizer)
    assert all(a != b for a, b in zip(texts(without), expected, strict=True))


def test_an_adapter_may_be_a_file_of_torchs(
    adapted: TransformersGenerator, adapter: Path, tiny_model: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    older = shutil.copytree(adapter, tmp_path / "older")
    torch.save(load_file(older / "adapter_model.safetensors"), older / "adapter_model.bin")
    (older / "adapter_model.safetensors").unlink()
    generator = TransformersGenerator(model=str(tiny_model), adapter=str(older))

    assert texts(generator) == texts(adapted)
    generator.unload()


def test_a_model_with_an_adapter_runs_in_the_rolling_batch(
    adapted: TransformersGenerator, reference: Reference
) -> None:
    from rigging_transformers._joining import model_rolls

    assert type(loaded_model(adapted)) is type(reference.model)
    assert adapted._engine._own is not None
    assert model_rolls(adapted._engine._own)


def test_a_model_with_an_adapter_gives_its_memory_back(adapted: TransformersGenerator) -> None:
    texts(adapted)
    model = weakref.ref(loaded_model(adapted))

    adapted.unload()

    assert model() is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"hidden_size": 128}, "weights have other shapes than", id="size"),
        pytest.param({"num_hidden_layers": 3}, "4 weights are unexpected", id="deeper"),
        pytest.param({"num_hidden_layers": 1}, "4 weights are missing", id="shallower"),
    ],
)
def test_an_adapter_for_another_model_is_refused(
    tiny_model: Path,
    reference: Reference,
    tmp_path: Path,
    changes: dict[str, int],
    message: str,
) -> None:
    other = make_adapter(tmp_path / "other", reference, **changes)
    generator = TransformersGenerator(model=str(tiny_model), adapter=str(other))

    with pytest.raises(BadRequestError, match=f"cannot be put on the model: .*{message}"):
        generator.load()


def test_an_adapter_of_a_kind_that_transformers_does_not_load_is_refused(
    tiny_model: Path, adapter: Path, tmp_path: Path
) -> None:
    from peft import PromptTuningConfig

    other = shutil.copytree(adapter, tmp_path / "other")
    PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM").save_pretrained(other)
    generator = TransformersGenerator(model=str(tiny_model), adapter=str(other))

    with pytest.raises(BadRequestError, match=r"prompt learning.*by from_obj"):
        generator.load()


def test_an_adapter_whose_weights_are_broken_is_refused(
    tiny_model: Path, adapter: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(adapter, tmp_path / "other")
    (other / "adapter_model.safetensors").write_bytes(b"broken")
    generator = TransformersGenerator(model=str(tiny_model), adapter=str(other))

    with pytest.raises(BadRequestError, match=r"cannot be put on the model: .*header"):
        generator.load()


def test_an_adapter_for_layers_that_the_model_does_not_have_is_refused(
    tiny_model: Path, adapter: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(adapter, tmp_path / "other")
    change_json(other / "adapter_config.json", target_modules=["c_attn"])
    generator = TransformersGenerator(model=str(tiny_model), adapter=str(other))

    with pytest.raises(BadRequestError, match=r"cannot be put on the model: .*c_attn") as caught:
        generator.load()
    assert ".." not in str(caught.value).replace(str(tmp_path), "")


def test_an_adapter_of_a_kind_that_peft_does_not_know_is_refused(
    tiny_model: Path, adapter: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(adapter, tmp_path / "other")
    change_json(other / "adapter_config.json", peft_type="ABACUS")
    generator = TransformersGenerator(model=str(tiny_model), adapter=str(other))

    with pytest.raises(BadRequestError, match=r"peft .* does not know its peft_type, 'ABACUS'"):
        generator.load()


@pytest.mark.parametrize("adapter", ["./nowhere", "~/nowhere-at-all"])
def test_an_adapters_path_to_nothing_is_refused(tiny_model: Path, adapter: str) -> None:
    with pytest.raises(
        ModelNotFoundError, match=f"adapter '{adapter}': no such directory"
    ) as caught:
        TransformersGenerator(model=str(tiny_model), adapter=adapter).load()

    assert caught.value.model == str(tiny_model)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "has no adapter_config.json"),
        (["adapter_config.json"], "has no adapter_model.safetensors or .bin"),
    ],
)
def test_a_directory_without_an_adapter_is_refused(
    tiny_model: Path, tmp_path: Path, files: list[str], message: str
) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")

    with pytest.raises(ModelNotFoundError, match=message):
        TransformersGenerator(model=str(tiny_model), adapter=str(tmp_path)).load()


def test_an_adapter_that_is_a_file_or_no_name_is_refused(tiny_model: Path, adapter: Path) -> None:
    file = adapter / "adapter_config.json"

    with pytest.raises(ModelNotFoundError, match="a directory, and this is a file"):
        TransformersGenerator(model=str(tiny_model), adapter=str(file)).load()
    with pytest.raises(ModelNotFoundError, match="no hub id either"):
        TransformersGenerator(model=str(tiny_model), adapter="no adapter").load()


def test_an_adapter_given_as_the_model_is_refused_with_a_hint(adapter: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="name its base model here, and it as adapter="):
        TransformersGenerator(model=str(adapter)).load()


def test_an_adapter_on_a_hub_out_of_reach_is_a_connection_error(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # read from the environment at import
    generator = TransformersGenerator(model=str(tiny_model), adapter="rigging-tests/not-there")

    with pytest.raises(
        ProviderConnectionError, match="the adapter 'rigging-tests/not-there' is not in the local"
    ) as caught:
        generator.load()

    assert caught.value.model == str(tiny_model)


def test_an_adapter_without_its_package_says_what_to_install(
    tiny_model: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)

    with pytest.raises(MissingDependencyError, match=r"rigging-transformers\[adapters\]"):
        TransformersGenerator(model=str(tiny_model), adapter=str(adapter)).load()


# -- Quantised ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "layer"),
    [
        pytest.param("load_in_8bit=true,dtype=float16", "Linear8bitLt", id="8bit"),
        pytest.param("load_in_4bit=true", "Linear4bit", id="4bit"),
        pytest.param(
            'model_kwargs.quantization_config={"quant_method":"bitsandbytes"%2C'
            '"load_in_4bit":true%2C"bnb_4bit_quant_type":"nf4"}',
            "Linear4bit",
            id="by-model-kwargs",
        ),
    ],
)
def test_a_quantised_model_answers(tiny_model: Path, options: str, layer: str) -> None:
    # Its import logs an exception, which pytest keeps, with all frames of whoever imports it.
    importlib.import_module("bitsandbytes")
    generator = by_identifier(f"transformers!{tiny_model},{options}")

    model = loaded_model(generator)

    assert type(model.model.layers[0].self_attn.q_proj).__name__ == layer
    assert len(texts(generator)) == len(PROMPTS)
    weak = weakref.ref(model)
    del model
    generator.unload()
    assert weak() is None


def test_8_bit_layers_warn_once(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rigging_transformers._loading._told", set())
    warned: list[str] = []
    logger = logging.getLogger("bitsandbytes.autograd._functions")
    generator = by_identifier(f"transformers!{tiny_model},load_in_8bit=true").load()

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            warned.append(record.getMessage())

    monkeypatch.setattr(logger, "handlers", [Notes()])
    texts(generator)
    texts(generator)
    generator.unload()

    assert [text for text in warned if text.startswith("MatMul8bitLt")] == [
        "MatMul8bitLt: inputs will be cast from torch.float32 to float16 during quantization"
    ]


@pytest.mark.parametrize(
    ("dtype", "device_map", "expected"),
    [
        ("float16", None, "float16"),
        ("bfloat16", 0, "bfloat16"),
        ("float32", None, "float32"),
        (None, None, "float32"),
        ("float16", "cpu", "float32"),
    ],
)
def test_on_a_gpu_4_bit_layers_compute_in_the_half_precision_asked_for(
    monkeypatch: pytest.MonkeyPatch, dtype: str | None, device_map: Any, expected: str
) -> None:
    from rigging_transformers._loading import _model_options
    from rigging_transformers._source import LoadSpec, Source

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    spec = LoadSpec("org/model", dtype=dtype, device_map=device_map, load_in_4bit=True)

    config = _model_options(spec, Source("org/model"))["quantization_config"]

    assert config.bnb_4bit_compute_dtype is getattr(torch, expected)


def test_quantising_with_a_bitsandbytes_that_does_not_work_says_so(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bitsandbytes.py").write_text("raise RuntimeError('libbitsandbytes: no GPU')")
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(MissingDependencyError, match=r"does not work here: .*no GPU") as caught:
        TransformersGenerator(model=str(tiny_model), load_in_8bit=True).load()

    assert caught.value.dependency == "bitsandbytes"


def test_an_adapter_goes_onto_a_quantised_model(tiny_model: Path, adapter: Path) -> None:
    plain = by_identifier(f"transformers!{tiny_model},load_in_4bit=true")
    adapted = by_identifier(f"transformers!{tiny_model},adapter={adapter},load_in_4bit=true")

    assert texts(adapted) != texts(plain)
    adapted.unload()
    plain.unload()


# -- What does not load ------------------------------------------------------------------

CUSTOM_CONFIG = """
from transformers import LlamaConfig

class CustomConfig(LlamaConfig):
    model_type = "rigging_custom"
"""
CUSTOM_MODEL = """
from transformers import LlamaForCausalLM
from .configuration_custom import CustomConfig

class CustomForCausalLM(LlamaForCausalLM):
    config_class = CustomConfig
"""


def test_code_that_comes_with_a_model_runs_only_if_asked(
    tmp_path: Path, reference: Reference, modules: Path
) -> None:
    directory = make_tiny_model(tmp_path / "model")
    (directory / "configuration_custom.py").write_text(CUSTOM_CONFIG)
    (directory / "modeling_custom.py").write_text(CUSTOM_MODEL)
    change_json(
        directory / "config.json",
        model_type="rigging_custom",
        architectures=["CustomForCausalLM"],
        auto_map={
            "AutoConfig": "configuration_custom.CustomConfig",
            "AutoModelForCausalLM": "modeling_custom.CustomForCausalLM",
        },
    )

    with pytest.raises(BadRequestError, match="run only with trust_remote_code=true"):
        by_identifier(f"transformers!{directory}").load()
    assert not any("modeling_custom" in name for name in sys.modules)

    generator = by_identifier(f"transformers!{directory},trust_remote_code=true")
    assert type(loaded_model(generator)).__name__ == "CustomForCausalLM"
    assert list(modules.rglob("modeling_custom.py"))
    assert texts(generator) == texts(
        TransformersGenerator.from_obj(reference.model, reference.tokenizer)
    )
    generator.unload()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        pytest.param(
            "model.safetensors", b"broken", "The file may be broken: fetch it again", id="weights"
        ),
        pytest.param("config.json", b"{", "transformers cannot load", id="configuration"),
        pytest.param("config.json", b'{"model_type": "abacus"}', "abacus", id="architecture"),
        pytest.param("tokenizer.json", b"{", "model's tokenizer: .*save it", id="tokenizer"),
        pytest.param(
            "tokenizer.json", b"{}", "model's tokenizer: KeyError: '", id="empty-tokenizer"
        ),
    ],
)
def test_a_broken_file_is_told_with_transformers_own_error_as_the_cause(
    tmp_path: Path, file: str, content: bytes, message: str
) -> None:
    directory = make_tiny_model(tmp_path / "model")
    (directory / file).write_bytes(content)

    with pytest.raises((BadRequestError, ModelNotFoundError), match=message) as caught:
        TransformersGenerator(model=str(directory)).load()

    assert isinstance(caught.value, RiggingError)
    assert caught.value.__cause__ is not None
    assert caught.value.model == str(directory)
    pickle.dumps(caught.value)


def test_a_broken_gguf_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "small.gguf").write_bytes(b"GGUFxxxx")

    with pytest.raises(
        BadRequestError, match=r"cannot load the GGUF file: error: .*The file may be broken"
    ):
        TransformersGenerator(model=str(tmp_path / "small.gguf")).load()


def test_weights_that_do_not_fit_the_configuration_are_told(tmp_path: Path) -> None:
    directory = make_tiny_model(tmp_path / "model")
    generator = by_identifier(f"transformers!{directory},model_kwargs.hidden_size=128")

    with pytest.raises(BadRequestError, match="the weights have other shapes than the model"):
        generator.load()


def test_a_model_that_failed_to_load_leaves_nothing_behind(
    tiny_model: Path, reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    made: list[weakref.ref[torch.nn.Module]] = []
    load_adapter = LlamaForCausalLM.load_adapter

    def noting(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        made.append(weakref.ref(self))
        return load_adapter(self, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "load_adapter", noting)
    kept = []
    for name, changes in (("wide", {"hidden_size": 128}), ("deep", {"num_hidden_layers": 3})):
        other = make_adapter(tmp_path / name, reference, **changes)
        generator = TransformersGenerator(model=str(tiny_model), adapter=str(other))
        with pytest.raises(BadRequestError, match="cannot be put") as caught:
            generator.load()
        kept.append(caught)

    # Though the errors are still there, with all that led to them.
    assert [model() for model in made] == [None, None]
    assert kept


def test_unloading_gives_the_processs_memory_back(tmp_path: Path, reference: Reference) -> None:
    import psutil
    from transformers import LlamaConfig, LlamaForCausalLM

    config = reference.model.config.to_dict() | {"hidden_size": 1024, "intermediate_size": 4096}
    large = LlamaForCausalLM(LlamaConfig(**config))
    size = sum(weight.nbytes for weight in large.parameters())
    large.save_pretrained(tmp_path)
    reference.tokenizer.save_pretrained(tmp_path)
    del large
    process = psutil.Process()
    generator = TransformersGenerator(model=str(tmp_path), device_map="cpu")
    texts(generator)  # what libraries keep for good is there after the first time
    generator.unload()

    for _ in range(2):
        before = process.memory_info().rss
        texts(generator)
        assert process.memory_info().rss > before + 0.8 * size
        generator.unload()
        assert process.memory_info().rss < 1.05 * before


def test_memory_that_does_not_suffice_for_loading_is_told(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")

    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", fail)

    with pytest.raises(ProviderServerError, match=r"out of memory while loading: try"):
        TransformersGenerator(model=str(tiny_model)).load()


@pytest.mark.parametrize(
    ("failures", "error", "message"),
    [
        ([1, 2], ProviderServerError, "out of memory while loading: try"),
        ([1, 1], BadRequestError, "automatic conversion of the weights"),
    ],
    ids=["memory", "other"],
)
def test_memory_that_runs_out_while_quantising_is_told_from_other_failures(
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    failures: list[int],
    error: type[RiggingError],
    message: str,
) -> None:
    from transformers.integrations.bitsandbytes import Bnb4bitQuantize

    def fail(*_: Any, **__: Any) -> None:
        raise out_of_memory()

    # transformers keeps the error to itself, so torch's count has to tell, which only a GPU has.
    monkeypatch.setattr(Bnb4bitQuantize, "convert", fail)
    monkeypatch.setattr("rigging_transformers._loading.count_failures", lambda: failures.pop(0))

    with pytest.raises(error, match=message):
        TransformersGenerator(model=str(tiny_model), load_in_4bit=True).load()


def test_where_loading_failed_is_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "rigging_transformers")
    directory = make_tiny_model(tmp_path / "model")
    (directory / "model.safetensors").write_bytes(b"broken")

    with pytest.raises(BadRequestError, match="cannot load"):
        TransformersGenerator(model=str(directory)).load()

    assert "from_pretrained" in caplog.text
