"""What depends on the device: where weights lie, memory, rounding. Each check names its device.

Checks for the GPU are marked `gpu`. The same check runs on the CPU where that can show
anything, so that it is known to work before a GPU is there.
"""

from __future__ import annotations

import asyncio
import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import torch

from rigging import GeneratedText, GenerateParams
from rigging_transformers import TransformersGenerator
from rigging_transformers._loaded import Loaded
from rigging_transformers._memory import free_workspaces
from rigging_transformers._rolling import RollingBatch
from rigging_transformers._row import Row
from rigging_transformers._sampling import Plan, Sampling
from tests.support.families import KINDS, make_small
from tests.support.memory import out_of_memory
from tests.support.tiny_model import train_tokenizer
from tests.transformers.conftest import Reference, greedy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

GPU = pytest.mark.gpu
TWO = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
DTYPES = ["float32", "bfloat16", "float16"]
PROMPTS = [
    "The quick brown fox",
    "One",
    "What is the capital of France? The capital of France is",
    "red, green, blue and",
    "You are a helpful assistant who answers in a few words. " * 3,
]
GREEDY = GenerateParams(max_tokens=24, temperature=0)


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=GPU)])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def generator(device: str, tiny_model: Path) -> Iterator[TransformersGenerator]:
    """On the device, in float32."""
    generator = make(tiny_model, device, "float32")
    yield generator
    generator.unload()


@pytest.fixture(scope="module")
def alone(device: str, tiny_model: Path) -> Reference:
    """The same model as transformers itself loads it, for single prompts."""
    return load_reference(tiny_model, device, "float32")


@pytest.fixture(autouse=True, scope="module")
def _exact() -> Iterator[None]:
    """Multiply in single precision: some containers have GPUs round more, by TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def make(model: Path, device_map: Any, dtype: str) -> TransformersGenerator:
    return TransformersGenerator(model=str(model), device_map=device_map, dtype=dtype)


def load_reference(model: Path, device: str, dtype: str) -> Reference:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return Reference(
        AutoModelForCausalLM.from_pretrained(model, dtype=dtype).to(device),
        AutoTokenizer.from_pretrained(model),
    )


def say(generator: TransformersGenerator, params: GenerateParams = GREEDY) -> list[str]:
    """Answer all prompts in one batch."""
    return texts(asyncio.run(generator.generate_texts(PROMPTS, [params] * len(PROMPTS))))


def texts(results: Sequence[GeneratedText | BaseException]) -> list[str]:
    """Return what was said. Raises the first error, which is a text to `str`."""
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [str(result) for result in results]


# -- Loading -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("device_map", "expected"),
    [
        pytest.param("cpu", "cpu", id="cpu"),
        pytest.param({"": "cpu"}, "cpu", id="cpu-by-part"),
        pytest.param(None, "cuda", id="none-to-gpu", marks=GPU),
        pytest.param("auto", "cuda", id="auto-to-gpu", marks=GPU),
        pytest.param(0, "cuda", id="number-to-gpu", marks=GPU),
        pytest.param("cuda:0", "cuda", id="name-to-gpu", marks=GPU),
        pytest.param({"": 0}, "cuda", id="gpu-by-part", marks=GPU),
    ],
)
def test_weights_lie_where_device_map_says_in_the_dtype_asked_for(
    tiny_model: Path, device_map: Any, expected: str, dtype: str
) -> None:
    generator = make(tiny_model, device_map, dtype).load()
    own = generator._engine._own
    assert own is not None

    assert {p.device.type for p in own.model.parameters()} == {expected}
    assert {p.dtype for p in own.model.parameters()} == {getattr(torch, dtype)}
    assert len(say(generator)) == len(PROMPTS)


@pytest.mark.gpu
def test_layers_on_the_gpu_and_on_the_cpu_say_what_one_device_says(
    tiny_model: Path, reference: Reference
) -> None:
    parts = {"model.embed_tokens": 0, "model.layers.0": 0, "model.rotary_emb": 0}
    rest = {"model.layers.1": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    generator = make(tiny_model, parts | rest, "float32")

    assert say(generator) == [greedy(reference, prompt) for prompt in PROMPTS]


@pytest.mark.gpu
@TWO
@pytest.mark.parametrize("first", [0, 1])
def test_layers_on_two_gpus_say_what_one_device_says(
    tiny_model: Path, reference: Reference, first: int
) -> None:
    parts = {"model.embed_tokens": first, "model.layers.0": first, "model.rotary_emb": first}
    rest = {"model.layers.1": 1 - first, "model.norm": 1 - first, "lm_head": 1 - first}
    generator = make(tiny_model, parts | rest, "float32")

    assert say(generator) == [greedy(reference, prompt) for prompt in PROMPTS]


@pytest.mark.gpu
@TWO
def test_the_engines_thread_works_on_the_models_gpu(tiny_model: Path, reference: Reference) -> None:
    generator = make(tiny_model, "cuda:1", "float32").load()
    own = generator._engine._own
    assert own is not None
    current: set[int] = set()
    own.model.register_forward_hook(lambda *_: current.add(torch.cuda.current_device()))

    assert say(generator) == [greedy(reference, prompt) for prompt in PROMPTS]
    assert current == {1}


@pytest.mark.gpu
def test_embeddings_that_stay_on_the_cpu_are_read_on_the_gpu(
    tiny_model: Path, reference: Reference
) -> None:
    parts = ("layers.0", "layers.1", "norm", "rotary_emb")
    device_map = {"model.embed_tokens": "cpu", "lm_head": 0} | {f"model.{n}": 0 for n in parts}
    generator = make(tiny_model, device_map, "float32").load()
    own = generator._engine._own
    assert own is not None

    assert own.device == "cuda:0"
    assert say(generator) == [greedy(reference, prompt) for prompt in PROMPTS]


@pytest.mark.gpu
@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_weights_lie_on_the_gpu_and_answer(tiny_model: Path, bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    generator = TransformersGenerator(
        model=str(tiny_model), dtype="float16", **{f"load_in_{bits}bit": True}
    ).load()
    own = generator._engine._own
    assert own is not None

    assert {p.device.type for p in own.model.parameters()} == {"cuda"}
    assert len(say(generator)) == len(PROMPTS)


# -- Texts -------------------------------------------------------------------------------


def test_a_batch_says_what_generate_says_of_each_prompt_alone(
    generator: TransformersGenerator, alone: Reference
) -> None:
    limits = [4, 24, 9, 17, 12]
    params = [GenerateParams(max_tokens=limit, temperature=0) for limit in limits]

    results = asyncio.run(generator.generate_texts(PROMPTS, params))

    expected = [greedy(alone, *each) for each in zip(PROMPTS, limits, strict=True)]
    assert texts(results) == expected


# The longest prompt is read at once, and in parts.
@pytest.mark.parametrize("part", [8192, 12])
@pytest.mark.parametrize("family", KINDS)
def test_models_of_all_kinds_say_in_a_batch_what_generate_says_of_each_prompt_alone(
    device: str, reference: Reference, family: str, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rigging_transformers._loop._READ_ON_CPU", part)
    monkeypatch.setattr("rigging_transformers._loop._READ", part)
    model = make_small(family, reference.tokenizer).to(device)
    alone = Reference(model, reference.tokenizer)

    said = say(TransformersGenerator.from_obj(*alone))

    assert said == [greedy(alone, prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision_each_token_of_a_batch_is_the_likeliest_but_for_rounding(
    tiny_model: Path, device: str, dtype: str
) -> None:
    # Texts may differ from those of single prompts: sums of another shape round otherwise,
    # and where two tokens are equally likely, that decides.
    reference = load_reference(tiny_model, device, dtype)
    loaded = Loaded(reference.model, reference.tokenizer, "tiny")
    rows = [
        Row(
            prompt=reference.tokenizer(prompt)["input_ids"],
            plan=Plan(Sampling(), {}),
            max_tokens=24,
            end_ids=loaded.end_ids,
            stops=[],
            deadline=None,
            continuation=loaded.continuation,
        )
        for prompt in PROMPTS
    ]
    batch = RollingBatch(loaded)

    with torch.inference_mode():
        batch.join(rows)
        while len(batch):
            batch.drop_ended()
            if len(batch):
                batch.step()
        lacking = [lack(reference, row) for row in rows]

    assert max(lacking) < 4 * torch.finfo(getattr(torch, dtype)).eps


def lack(reference: Reference, row: Row) -> float:
    """Return by how much a token's score is below the best, at most, read all at once.

    As a share of the largest score: that is how rounding goes.
    """
    ids = torch.tensor([[*row.prompt, *row.tokens]], device=reference.model.device)
    scores = reference.model(input_ids=ids).logits[0, len(row.prompt) - 1 : -1].float()
    chosen = scores.gather(1, ids[0, len(row.prompt) :, None])[:, 0]
    return float(((scores.amax(dim=1) - chosen) / scores.abs().amax(dim=1)).max())


def test_a_stream_gives_what_a_call_gives_beside_others(
    generator: TransformersGenerator, alone: Reference
) -> None:
    async def read(prompt: str) -> tuple[str, str]:
        pieces: list[str] = []
        async for piece in generator.stream_texts(prompt, GREEDY):
            if isinstance(piece, GeneratedText):
                return "".join(pieces), str(piece)
            pieces.append(piece)
        raise AssertionError("the stream ended without a result")

    async def main() -> list[tuple[str, str]]:
        return await asyncio.gather(*map(read, PROMPTS))

    expected = [greedy(alone, prompt) for prompt in PROMPTS]
    assert asyncio.run(main()) == [(text, text) for text in expected]


def test_a_seeded_request_repeats_whoever_comes_beside(generator: TransformersGenerator) -> None:
    hot = {"temperature": 1.0, "max_tokens": 24}
    seeded = [GenerateParams(seed=seed, **hot) for seed in range(len(PROMPTS))]

    async def main() -> tuple[list[str], list[str]]:
        calls = [generator.generate_texts([p], [s]) for p, s in zip(PROMPTS, seeded, strict=True)]
        single = [(await call)[0] for call in calls]
        noise = [GenerateParams(**hot)] * 7
        together = await generator.generate_texts([*PROMPTS, *["noise"] * 7], [*seeded, *noise])
        return texts(single), texts(together)[: len(PROMPTS)]

    single, together = asyncio.run(main())

    assert together == single
    assert len(set(single)) == len(PROMPTS)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_seeded_request_repeats_in_half_precision_too(
    tiny_model: Path, device: str, dtype: str
) -> None:
    generator = make(tiny_model, device, dtype)
    seeded = [GenerateParams(seed=n, temperature=1.0, max_tokens=12) for n in range(len(PROMPTS))]

    together = asyncio.run(generator.generate_texts(PROMPTS, seeded))
    alone = [
        asyncio.run(generator.generate_texts([prompt], [own]))[0]
        for prompt, own in zip(PROMPTS, seeded, strict=True)
    ]

    assert texts(together) == texts(alone)


def test_two_generators_on_one_device_do_not_disturb_each_other(
    generator: TransformersGenerator, alone: Reference, tiny_model: Path, device: str
) -> None:
    other = make(tiny_model, device, "float32")

    async def main() -> list[list[str]]:
        params = [GREEDY] * len(PROMPTS)
        both = await asyncio.gather(
            generator.generate_texts(PROMPTS, params), other.generate_texts(PROMPTS, params)
        )
        return [texts(results) for results in both]

    expected = [greedy(alone, prompt) for prompt in PROMPTS]
    assert asyncio.run(main()) == [expected, expected]
    other.unload()
    assert say(generator) == expected


# -- Memory ------------------------------------------------------------------------------


def allocated(device: str) -> int:
    """Return the bytes of all tensors that are alive on the device."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        return int(torch.cuda.memory_allocated())
    # type() instead of isinstance(): many objects of transformers import things when asked.
    tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def test_unloading_gives_the_memory_back_each_time(tiny_model: Path, device: str) -> None:
    generator = make(tiny_model, device, "float32")
    free_workspaces()  # of this thread, which other tests used
    before = allocated(device)

    for _ in range(2):
        say(generator)
        used = allocated(device) - before
        generator.unload()
        generator._engine.join()  # a thread that ends frees what is its own
        assert used > 100_000 * 4  # the weights
        assert abs(allocated(device) - before) <= 0.05 * used


@pytest.fixture
def spacious(device: str) -> Reference:
    """A model with 32 KB of keys and values for each token, so that few rows fill much."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = train_tokenizer(None)
    tokenizer.eos_token = None  # so that every answer is as long as it may be
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=16,
        num_key_value_heads=16,
        head_dim=128,
        max_position_embeddings=512,
        initializer_range=0.3,
        tie_word_embeddings=False,
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    return Reference(LlamaForCausalLM(config).eval().to(device), tokenizer)


@contextmanager
def little_room(model: Any, device: str) -> Iterator[None]:
    """Leave memory for some 64 MB, or make a model on the CPU say so above eight rows."""
    if device == "cuda":
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        room = torch.cuda.memory_reserved() + 64 * 2**20
        torch.cuda.set_per_process_memory_fraction(room / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return

    def refuse(_module: object, _args: object, kwargs: dict[str, Any]) -> None:
        if len(kwargs["input_ids"]) > 8:
            raise out_of_memory()

    with model.register_forward_pre_hook(refuse, with_kwargs=True):
        yield


def test_out_of_memory_halves_the_batch_and_goes_on(
    spacious: Reference, device: str, caplog: pytest.LogCaptureFixture
) -> None:
    generator = TransformersGenerator.from_obj(spacious.model, spacious.tokenizer)
    prompts = [f"number {n}" + " fox" * 150 for n in range(16)]
    params = GenerateParams(max_tokens=8, temperature=0)
    # Once before, because the first use of a device takes memory that stays.
    asyncio.run(generator.generate_texts(prompts[:1], [params]))

    with little_room(spacious.model, device):
        results = asyncio.run(generator.generate_texts(prompts, [params] * len(prompts)))

    assert "ran out of memory" in caplog.text
    assert texts(results) == [greedy(spacious, p, 8) for p in prompts]


# -- Where there is no GPU ---------------------------------------------------------------


def test_what_needs_a_gpu_is_named_as_not_run_where_there_is_none(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    pytester.makeini("[pytest]\nmarkers = gpu")
    pytester.makepyfile(
        test_some="""
        import pytest

        @pytest.mark.gpu
        def test_on_a_gpu(): raise AssertionError("it ran")

        def test_anywhere(): pass
        """
    )

    result = pytester.runpytest_inprocess("-p", "tests.transformers.conftest")

    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(
        ["*= not run, no GPU here: 1 =*", "test_some.py::test_on_a_gpu"], consecutive=True
    )


def test_what_needs_a_gpu_runs_where_there_is_one(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    pytester.makeini("[pytest]\nmarkers = gpu")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.gpu
        def test_on_a_gpu(): pass
        """
    )

    result = pytester.runpytest_inprocess("-p", "tests.transformers.conftest")

    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*not run, no GPU here*")
