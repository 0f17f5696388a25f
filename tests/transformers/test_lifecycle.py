from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import subprocess
import sys
import weakref
from threading import Thread
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import rigging as rg
from rigging import GeneratedText, GenerateParams
from rigging.error import (
    BadRequestError,
    InvalidGeneratorError,
    ProviderServerError,
    RiggingError,
)
from rigging_transformers import TransformersGenerator
from rigging_transformers._loaded import Loaded
from tests.support.families import make_small
from tests.transformers.conftest import Reference, greedy

if TYPE_CHECKING:
    from pathlib import Path

KEY = "hf_planted_7c1e5b0a"
SHORT = GenerateParams(max_tokens=3, temperature=0)
DTYPES = ("float32", "bfloat16")


def say(generator: TransformersGenerator) -> str:
    return asyncio.run(generator.complete("The quick").with_(SHORT).run()).generated


def loaded_model(generator: TransformersGenerator) -> weakref.ref[torch.nn.Module]:
    own = generator._engine._own
    assert own is not None
    return weakref.ref(own.model)


def test_nothing_is_loaded_before_it_is_needed(generator: TransformersGenerator) -> None:
    assert generator._engine._own is None
    assert generator._engine._thread is None


def test_loading_and_unloading_may_be_repeated_and_alternated(
    generator: TransformersGenerator,
) -> None:
    assert generator.unload() is generator
    assert generator.load() is generator
    first = say(generator)
    model = loaded_model(generator)
    assert generator.load() is generator
    assert loaded_model(generator)() is model()

    assert generator.unload().unload() is generator
    assert say(generator) == first


def test_plugins_are_told_when_a_model_is_loaded_and_unloaded(
    generator: TransformersGenerator,
) -> None:
    told: list[object] = []

    class Listens:
        def rigging_model_loaded(self, event: rg.events.ModelLoaded) -> None:
            told.append(event)

        def rigging_model_unloaded(self, event: rg.events.ModelUnloaded) -> None:
            told.append(event)

    with rg.plugins.manager.register(Listens()):
        generator.load().load().unload().unload()

    loaded, unloaded = told
    assert isinstance(loaded, rg.events.ModelLoaded)
    assert loaded[:2] == ("transformers", generator.model)
    assert loaded.duration_s > 0
    assert unloaded == rg.events.ModelUnloaded("transformers", generator.model)


def test_a_plugin_that_is_told_of_a_model_cannot_wait_for_its_engine(
    generator: TransformersGenerator,
) -> None:
    refused: list[RiggingError] = []

    class Meddles:
        def rigging_model_loaded(self, event: rg.events.ModelLoaded) -> None:
            for call in (generator.load, generator.unload, lambda: say(generator)):
                with pytest.raises(RiggingError) as caught:
                    call()
                refused.append(caught.value)

    with rg.plugins.manager.register(Meddles()):
        generator.load()

    assert ["start a thread" in str(error) for error in refused] == [True, True, False]
    assert "its own thread" in str(refused[-1])
    assert say(generator)


def test_an_engine_that_failed_leaves_no_model_in_its_error(
    generator: TransformersGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(loaded: Loaded) -> bool:
        raise KeyError("odd model")

    model = loaded_model(generator.load())
    monkeypatch.setattr("rigging_transformers._loop.model_rolls", fail)
    (failure,) = asyncio.run(generator.generate_texts(["Hi"], [SHORT]))
    generator.unload()

    assert isinstance(failure, ProviderServerError)
    assert "odd model" in str(failure)
    assert model() is None


def test_unloading_gives_the_memory_back(generator: TransformersGenerator) -> None:
    bad = SHORT.merge_with(GenerateParams(extra={"no_repeat_ngram_size": "x"}))
    results = asyncio.run(generator.generate_texts(["Hi", "Hi", "Hi"], [SHORT, bad, SHORT]))
    assert isinstance(results[0], GeneratedText)
    assert isinstance(results[1], BadRequestError)
    model = loaded_model(generator)
    weights = weakref.ref(next(model().parameters()))  # type: ignore[union-attr]

    generator.unload()

    # Nor do results and errors that the caller keeps hold on to it.
    assert model() is None
    assert weights() is None
    assert results


def test_unloading_makes_no_event_loop_wait_for_a_full_collection(
    generator: TransformersGenerator,
) -> None:
    say(generator)
    model = loaded_model(generator)
    gc.disable()
    before = gc.get_stats()[-1]["collections"]

    generator.unload()

    after = gc.get_stats()[-1]["collections"]
    gc.enable()
    assert model() is None
    assert after == before


# Before counts what stays for good, once per process: what torch and transformers keep of the
# first load and the first request. How much of their libraries' files is mapped does not count:
# that is the kernel's, which maps 40 MB more or less of them as its cache has it.
MEASURE = """
import asyncio, random, sys, time
from rigging import GenerateParams
from rigging_transformers import TransformersGenerator

def resident():
    size, is_library = 0, False
    with open("/proc/self/smaps") as file:
        for line in file:
            name, value, *_ = line.split()
            if not name.endswith(":"):
                is_library = ".so" in line
            elif name == "Anonymous:" if is_library else name == "Rss:":
                size += int(value)
    return size

def use(model):
    generator = TransformersGenerator(model=model, dtype=sys.argv[1], device_map="cpu").load()
    prompts = ["word " * draw.randint(1, 40) for _ in range(8)]
    params = [GenerateParams(temperature=t, max_tokens=draw.randint(2, 8)) for t in (0, 1.0)] * 4
    asyncio.run(generator.generate_texts(prompts, params))
    during = resident()
    generator.unload()
    return during

def settled():
    sizes = []
    for _ in range(10):  # torch's own threads may still be about to let go
        sizes.append(resident())
        time.sleep(0.1)
    return min(sizes)

draw = random.Random(0)
use(sys.argv[2])
print(settled())
for _ in range(3):
    print(use(sys.argv[3]), settled())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_process_is_as_small_as_before_after_each_unload(
    tiny_model: Path, reference: Reference, tmp_path: Path, dtype: str
) -> None:
    config = copy.deepcopy(reference.model.config)
    config.update({"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 4})
    with torch.random.fork_rng(devices=[]):
        model = type(reference.model)(config)
    model.save_pretrained(tmp_path)
    reference.tokenizer.save_pretrained(tmp_path)
    weights = model.num_parameters() * getattr(torch, dtype).itemsize / 1024
    assert weights > 50_000

    done = subprocess.run(
        [sys.executable, "-c", MEASURE, dtype, str(tiny_model), str(tmp_path)],
        # In half precision, oneDNN keeps code for each of the last 1,024 shapes that it met.
        env={**os.environ, "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16"},
        check=True,
        capture_output=True,
        text=True,
    )
    first, *cycles = done.stdout.splitlines()
    before = int(first)

    for cycle in cycles:
        during, after = map(int, cycle.split())
        assert during > before + 0.9 * weights
        assert after < 1.05 * before, f"{before} kB before; while loaded, and after: {cycles}"


def test_a_generator_that_is_dropped_takes_its_model_along(tiny_model: Path) -> None:
    generator = TransformersGenerator(model=str(tiny_model)).load()
    model = loaded_model(generator)

    del generator
    gc.collect()

    assert model() is None


def test_threads_that_load_and_unload_at_once_do_no_harm(
    generator: TransformersGenerator,
) -> None:
    expected = say(generator)
    failures: list[BaseException] = []

    def toggle() -> None:
        try:
            for _ in range(3):
                generator.load()
                assert say(generator) == expected
                generator.unload()
        except BaseException as error:  # noqa: BLE001 (handed to the test's own thread)
            failures.append(error)

    threads = [Thread(target=toggle) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []


def test_models_that_are_asked_for_at_once_get_their_own_weights(
    tmp_path: Path, reference: Reference
) -> None:
    # Its output layer is its embeddings, which transformers ties while it loads.
    reference.tokenizer.save_pretrained(tmp_path)
    make_small("gemma2", reference.tokenizer).save_pretrained(tmp_path)
    alone = Reference(AutoModelForCausalLM.from_pretrained(tmp_path), reference.tokenizer)
    expected = greedy(alone, "Hello", 8)
    generators = [TransformersGenerator(model=str(tmp_path), dtype=dtype) for dtype in DTYPES * 3]

    async def ask(generator: TransformersGenerator) -> str:
        params = GenerateParams(max_tokens=8, temperature=0)
        return str(*await generator.generate_texts(["Hello"], [params]))

    async def main() -> list[str]:
        return await asyncio.gather(*map(ask, generators))

    said = asyncio.run(main())
    models = [generator._engine._own for generator in generators]

    assert [said[n] for n, own in enumerate(generators) if own.dtype == "float32"] == [expected] * 3
    for generator, loaded in zip(generators, models, strict=True):
        assert loaded is not None
        dtypes = {str(weight.dtype) for weight in loaded.model.parameters()}
        assert dtypes == {f"torch.{generator.dtype}"}
        generator.unload()


def test_a_field_that_is_assigned_makes_it_another_model(
    generator: TransformersGenerator,
) -> None:
    generator.load()
    first = loaded_model(generator)()

    generator.dtype = "bfloat16"
    say(generator)

    second = loaded_model(generator)()
    assert first is not None
    assert second is not None
    assert (first.dtype, second.dtype) == (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", ["bfloat16", "torch.bfloat16"])
def test_the_dtype_can_be_given_by_both_names(tiny_model: Path, key: str, value: str) -> None:
    generator = rg.get_generator(f"transformers!{tiny_model},{key}={value}")

    assert isinstance(generator, TransformersGenerator)
    assert generator.to_identifier() == f"transformers!{tiny_model},dtype=bfloat16"
    model = loaded_model(generator.load())()
    assert model is not None
    assert model.dtype == torch.bfloat16
    generator.unload()


def test_the_dtype_may_be_torchs_own_object() -> None:
    assert TransformersGenerator(model="org/model", dtype=torch.float16).dtype == "float16"


def test_the_device_map_is_transformers_own(tiny_model: Path) -> None:
    identifier = f"transformers!{tiny_model},device_map=cpu"
    generator = rg.get_generator(identifier)
    mapped = TransformersGenerator(model=str(tiny_model), device_map={"": "cpu"})

    assert generator.to_identifier() == identifier
    assert rg.get_generator(mapped.to_identifier()) == mapped
    assert isinstance(generator, TransformersGenerator)
    assert say(generator) == say(mapped)


@pytest.mark.parametrize("on_disk", ["model.embed_tokens", "model.layers.1"])
def test_weights_that_stay_on_disk_change_no_answer(
    generator: TransformersGenerator, on_disk: str, tmp_path: Path
) -> None:
    generator.device_map = "cpu"  # other devices draw other numbers
    parts = ("embed_tokens", "layers.0", "layers.1", "norm", "rotary_emb")
    device_map = {f"model.{part}": "cpu" for part in parts} | {"lm_head": "cpu"}
    offloaded = TransformersGenerator(
        model=generator.model,
        device_map=device_map | {on_disk: "disk"},
        model_kwargs={"offload_folder": str(tmp_path)},
    )
    params = [SHORT, GenerateParams(max_tokens=5, temperature=1.0, seed=1)]
    params.append(SHORT.merge_with(GenerateParams(extra={"num_beams": 2})))

    plain, brought = (
        asyncio.run(own.generate_texts(["Hello", "One", "two"], params))
        for own in (generator, offloaded)
    )

    assert [str(result) for result in brought] == [str(result) for result in plain]
    offloaded.unload()


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ({"model.embed_tokens": "cpu", "lm_head": "cuda:1"}, "cuda:1"),
        ({"model.embed_tokens": "disk", "lm_head": torch.device("cuda", 0)}, "cuda:0"),
        ({"model.embed_tokens": "disk", "lm_head": "cpu"}, "cpu"),
        ({}, "cpu"),
    ],
)
def test_input_goes_where_embeddings_are_brought_for_each_step(
    places: dict[str, Any], expected: str
) -> None:
    model = SimpleNamespace(device=torch.device("meta"), hf_device_map=places)

    assert Loaded(model, None, "offloaded").device == expected


def test_two_generators_share_nothing(generator: TransformersGenerator) -> None:
    generator.load()
    for other in (copy.copy(generator), copy.deepcopy(generator), generator.model_copy()):
        assert other == generator
        assert other.load()._engine is not generator._engine
        assert loaded_model(other)() is not loaded_model(generator)()


# -- Models that are the caller's own ----------------------------------------------------


def test_a_wrapped_model_is_used_as_it_is_and_never_unloaded(reference: Reference) -> None:
    generator = TransformersGenerator.from_obj(
        reference.model, reference.tokenizer, params=GenerateParams(max_tokens=2)
    )
    before = {name: weight.clone() for name, weight in reference.model.state_dict().items()}
    config = reference.model.generation_config.to_dict()

    first = say(generator)
    assert generator.load() is generator
    assert generator.unload() is generator

    assert say(generator) == first
    assert generator.params.max_tokens == 2
    assert generator.model == reference.model.config.name_or_path
    assert reference.model.generation_config.to_dict() == config
    for name, weight in reference.model.state_dict().items():
        assert torch.equal(weight, before[name])


def test_a_wrapped_model_equals_the_same_loaded_by_name(
    generator: TransformersGenerator, reference: Reference
) -> None:
    wrapped = TransformersGenerator.from_obj(reference.model, reference.tokenizer)

    assert wrapped == generator
    assert say(wrapped) == say(generator)
    assert say(copy.copy(wrapped)) == say(generator)


def test_a_wrapped_model_without_a_name_is_called_by_its_class(reference: Reference) -> None:
    nameless = copy.deepcopy(reference.model)
    nameless.config.name_or_path = ""

    generator = TransformersGenerator.from_obj(nameless, reference.tokenizer)

    assert generator.to_identifier() == "transformers!LlamaForCausalLM"


LOADING: dict[str, Any] = {
    "adapter": "./adapter",
    "api_key": "hf-key",
    "attn_implementation": "eager",
    "device_map": "cpu",
    "load_in_4bit": True,
    "model_kwargs": {"use_safetensors": True},
    "torch_dtype": "float16",
}


@pytest.mark.parametrize("field", LOADING)
def test_a_wrapped_model_takes_no_field_that_decides_what_is_loaded(
    reference: Reference, borrowing: TransformersGenerator, field: str
) -> None:
    with pytest.raises(InvalidGeneratorError, match=f"{field} decides how a model is loaded"):
        TransformersGenerator.from_obj(
            reference.model, reference.tokenizer, **{field: LOADING[field]}
        )
    with pytest.raises(InvalidGeneratorError, match=f"{field} decides how a model is loaded"):
        setattr(borrowing, field, LOADING[field])


def test_a_wrapped_model_takes_what_decides_how_requests_run(reference: Reference) -> None:
    generator = TransformersGenerator.from_obj(
        reference.model, reference.tokenizer, max_batch_size=2, chat_template="{{ 'Hi' }}"
    )

    generator.max_batch_size = 3
    generator.chat_template = "{{ 'Hello' }}"

    assert (generator.max_batch_size, generator.chat_template) == (3, "{{ 'Hello' }}")


def test_a_wrapped_model_keeps_its_name(reference: Reference) -> None:
    generator = TransformersGenerator.from_obj(reference.model, reference.tokenizer)

    with pytest.raises(InvalidGeneratorError, match="model decides how a model is loaded"):
        generator.model = "org/other"


def test_what_cannot_be_wrapped_says_what_to_give_instead(reference: Reference) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    small = T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    wrapper = SimpleNamespace(config=reference.model.config, generate=print)
    processor = SimpleNamespace(tokenizer=reference.tokenizer)

    with pytest.raises(InvalidGeneratorError, match="a t5 model has an encoder"):
        TransformersGenerator.from_obj(T5ForConditionalGeneration(small), reference.tokenizer)
    with pytest.raises(InvalidGeneratorError, match="wraps a model of transformers"):
        TransformersGenerator.from_obj(wrapper, reference.tokenizer)
    with pytest.raises(InvalidGeneratorError, match=r"give its tokenizer, `processor\.tokenizer`"):
        TransformersGenerator.from_obj(reference.model, processor)


def test_a_wrapped_model_does_not_pickle_and_says_what_to_do(
    borrowing: TransformersGenerator,
) -> None:
    with pytest.raises(RiggingError, match="Save the model to a directory and name that"):
        pickle.dumps(borrowing)


# -- As a value --------------------------------------------------------------------------


def test_a_generator_pickles_loaded_or_not(generator: TransformersGenerator) -> None:
    generator.params = SHORT
    expected = say(generator)

    again = pickle.loads(pickle.dumps(generator))

    assert again == generator
    assert again._engine._own is None
    assert say(again) == expected


def test_the_key_is_shown_nowhere(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    generator = TransformersGenerator(model=str(tiny_model), api_key=KEY)
    say(generator)
    lost = TransformersGenerator(model="./nowhere", api_key=KEY)
    with pytest.raises(RiggingError, match="no such file") as caught:
        lost.load()

    shown = [
        repr(generator),
        str(generator.model_dump()),
        generator.model_dump_json(),
        generator.to_identifier(),
        repr(pickle.dumps(generator)),
        repr(generator._spec()),
        repr(generator._engine._own),
        str(caught.value),
        repr(caught.value),
        caplog.text,
    ]
    for text in shown:
        assert KEY not in text
