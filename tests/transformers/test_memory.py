"""Memory that runs out, and memory that is given back, as the devices say it.

Where there is no GPU, what only one can say is put into torch's mouth.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import torch

from rigging import GenerateParams
from rigging.error import ProviderServerError
from rigging_transformers import TransformersGenerator
from rigging_transformers._cache import RollingCache
from rigging_transformers._device import on_device
from rigging_transformers._layers import RollingLayer, _zeros
from rigging_transformers._memory import Capacity, free_memory, is_out_of_memory
from tests.support.memory import out_of_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.transformers.conftest import Reference, Steps

# Of torch since 2.8, and a RuntimeError.
AcceleratorError = getattr(torch, "AcceleratorError", RuntimeError)
SHORT = GenerateParams(max_tokens=3, temperature=0)


def say(generator: TransformersGenerator, prompts: list[str], params: GenerateParams) -> list[str]:
    results = asyncio.run(generator.generate_texts(prompts, [params] * len(prompts)))
    return [str(result) for result in results]


# -- Running out -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        out_of_memory(),
        AcceleratorError("CUDA error: out of memory"),
        MemoryError(),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError(
            "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"
        ),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
        RuntimeError("MPS backend out of memory (MPS allocated: 5.00 GB, max allowed: 5.10 GB)"),
        RuntimeError("Error CUDA out of memory at line 380 in file ops.cu"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("level_zero failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
    ],
    ids=str,
)
def test_memory_that_does_not_suffice_is_known_however_it_is_said(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        AcceleratorError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm`"),
        ValueError("the prompt is about being out of memory"),
    ],
    ids=str,
)
def test_what_has_nothing_to_do_with_memory_is_no_lack_of_it(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_running_out_of_memory_never_makes_room_for_more() -> None:
    capacity = Capacity(64)

    # What was begun before the first may run out after it.
    capacity.halve(8)
    capacity.halve(60)

    assert capacity.rows == 4


@pytest.mark.parametrize("read", [4, 13, 23, 8192], ids=["in-parts", "by-one", "by-few", "all"])
def test_buffers_that_do_not_fit_halve_the_batch_they_were_for(
    borrowing: TransformersGenerator,
    reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    read: int,
) -> None:
    def zeros(like: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        if rows > 18:
            raise out_of_memory()
        return _zeros(like, rows, columns)

    monkeypatch.setattr("rigging_transformers._layers._zeros", zeros)
    monkeypatch.setattr("rigging_transformers._loop._READ_ON_CPU", read)
    borrowing.max_batch_size = 32
    prompts = [f"number {n}" for n in range(32)]

    said = say(borrowing, prompts, GenerateParams(max_tokens=40, temperature=0))

    assert said == [reference.text(reference.new_tokens(p, max_new_tokens=40)) for p in prompts]
    assert "with 32 prompts at once, and goes on with at most 16" in caplog.text
    assert caplog.text.count("ran out of memory") == 1


def test_a_cache_that_cannot_begin_keeps_no_buffers(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[torch.Tensor]] = []

    def zeros(*args: Any) -> torch.Tensor:
        if len(made) == 3:
            raise out_of_memory()
        new = _zeros(*args)
        made.append(weakref.ref(new))
        return new

    monkeypatch.setattr("rigging_transformers._layers._zeros", zeros)
    with torch.inference_mode():
        prefilled = reference.prefilled(torch.ones(2, 5, dtype=torch.long))
    cache = RollingCache()

    with pytest.raises(torch.OutOfMemoryError) as caught:
        cache.add(prefilled, [0, 1], [5, 5])

    del caught
    assert [buffer() for buffer in made] == [None] * 3


def test_who_has_no_memory_beside_a_prompt_that_is_read_waits_for_that(
    borrowing: TransformersGenerator,
    reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
    steps: Steps,
) -> None:
    monkeypatch.setattr("rigging_transformers._loop._READ_ON_CPU", 8)
    long = "The quick brown fox " * 8
    failed: list[int] = []
    length = len(reference.tokenizer(long)["input_ids"])
    expected = [reference.text(reference.new_tokens(p, max_new_tokens=3)) for p in ("One", long)]
    steps.count = 0

    def fail(_module: object, _inputs: object, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].shape[1] < 8 and 8 * (steps.count + 1) < length:
            failed.append(steps.count)
            raise out_of_memory()

    async def ask(prompt: str) -> str:
        return str(*await borrowing.generate_texts([prompt], [SHORT]))

    async def both() -> list[str]:
        first = asyncio.create_task(ask(long))
        await steps.reach(2)
        return [await ask("One"), await first]

    with reference.model.register_forward_pre_hook(fail, with_kwargs=True):
        said = asyncio.run(both())

    assert said == expected
    assert failed


@pytest.mark.parametrize("most", [1, 2, 4, 7])
def test_buffers_that_a_step_has_no_memory_beside_become_smaller(
    borrowing: TransformersGenerator, reference: Reference, most: int
) -> None:
    prompts = [f"number {n}" for n in range(8)]

    def fail(_module: object, _inputs: object, kwargs: dict[str, Any]) -> None:
        layers = kwargs[reference.cache_name].layers
        if any(isinstance(layer, RollingLayer) and layer.window.room > most for layer in layers):
            raise out_of_memory()

    with reference.model.register_forward_pre_hook(fail, with_kwargs=True):
        said = say(borrowing, prompts, GenerateParams(max_tokens=20, temperature=0))

    assert said == [reference.text(reference.new_tokens(p, max_new_tokens=20)) for p in prompts]


def test_rows_whose_buffers_cannot_even_become_smaller_are_read_again(
    borrowing: TransformersGenerator, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [f"number {n}" for n in range(8)]
    failures: list[str] = []

    def fail(_module: object, _inputs: object, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].shape == (8, 1) and not failures:
            failures.append("step")
            raise out_of_memory()

    def zeros(like: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        if failures == ["step"]:
            failures.append("buffers")
            raise out_of_memory()
        return _zeros(like, rows, columns)

    monkeypatch.setattr("rigging_transformers._layers._zeros", zeros)
    with reference.model.register_forward_pre_hook(fail, with_kwargs=True):
        said = say(borrowing, prompts, GenerateParams(max_tokens=20, temperature=0))

    assert said == [reference.text(reference.new_tokens(p, max_new_tokens=20)) for p in prompts]
    assert failures == ["step", "buffers"]


@pytest.mark.parametrize("options", [{}, {"remove_invalid_values": True}], ids=["rolling", "other"])
def test_nothing_that_led_to_the_lack_of_memory_is_held_while_fewer_go_on(
    borrowing: TransformersGenerator, reference: Reference, options: dict[str, Any]
) -> None:
    large: list[weakref.ref[torch.Tensor]] = []
    held: list[bool] = []

    def allocate() -> None:
        tensor = torch.zeros(8)
        large.append(weakref.ref(tensor))
        raise RuntimeError("CUDA error: out of memory")

    def refuse(_module: object, _args: object, kwargs: dict[str, Any]) -> None:
        if len(kwargs["input_ids"]) > 2:
            try:
                allocate()
            except RuntimeError as error:
                raise out_of_memory() from error
        held.append(large[0]() is not None)

    params = SHORT.merge_with(GenerateParams(extra=options))
    with reference.model.register_forward_pre_hook(refuse, with_kwargs=True):
        say(borrowing, ["one", "two", "three", "four"], params)

    assert held
    assert not any(held)


@pytest.fixture
def scarce(reference: Reference) -> Iterator[list[int]]:
    """Memory for four rows; the rows of each forward pass."""
    widths: list[int] = []

    def refuse(_module: object, _args: object, kwargs: dict[str, Any]) -> None:
        widths.append(len(kwargs["input_ids"]))
        if widths[-1] > 4:
            raise out_of_memory()

    with reference.model.register_forward_pre_hook(refuse, with_kwargs=True):
        yield widths


def test_what_did_not_fit_is_remembered_while_nothing_runs(
    borrowing: TransformersGenerator, scarce: list[int]
) -> None:
    prompts = [f"number {n}" for n in range(8)]
    say(borrowing, prompts, SHORT)
    assert max(scarce) == 8
    scarce.clear()

    say(borrowing, prompts, SHORT)

    assert max(scarce) == 4


def test_a_batch_size_that_is_set_anew_is_tried(
    borrowing: TransformersGenerator, scarce: list[int]
) -> None:
    prompts = [f"number {n}" for n in range(8)]
    say(borrowing, prompts, SHORT)
    scarce.clear()

    borrowing.max_batch_size = 6
    say(borrowing, prompts, SHORT)

    assert max(scarce) == 6


# -- Giving it back ----------------------------------------------------------------------


@pytest.fixture
def freed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was given back, in order, on a machine that seems to have a GPU."""
    freed: list[str] = []
    monkeypatch.setattr(
        torch._C, "_cuda_clearCublasWorkspaces", lambda: freed.append("workspaces"), raising=False
    )
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr("rigging_transformers._memory._empty_cache", lambda: freed.append("blocks"))
    return freed


def test_unloading_frees_what_matrix_multiplications_keep(
    generator: TransformersGenerator, request: pytest.FixtureRequest
) -> None:
    generator.load()
    freed = request.getfixturevalue("freed")

    generator.unload()

    assert freed == ["workspaces", "blocks"]


def test_unloading_takes_nothing_from_an_engine_that_runs(
    generator: TransformersGenerator,
    borrowing: TransformersGenerator,
    steps: Steps,
    request: pytest.FixtureRequest,
) -> None:
    generator.load()
    freed = request.getfixturevalue("freed")

    async def main() -> None:
        long = GenerateParams(max_tokens=100, temperature=0)
        running = asyncio.create_task(borrowing.generate_texts(["one"], [long]))
        await steps.reach(2)
        await asyncio.to_thread(generator.unload)
        assert not running.done()
        await running

    asyncio.run(main())

    assert freed == ["blocks"]


def test_any_kind_of_accelerator_gives_back_what_its_allocator_keeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    emptied: list[bool] = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.accelerator, "empty_cache", lambda: emptied.append(True), raising=False
    )

    free_memory()

    assert emptied == [True]


def test_unloading_goes_on_where_the_device_has_failed(
    generator: TransformersGenerator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    generator.load()
    own = generator._engine._own
    assert own is not None
    model = weakref.ref(own.model)
    del own

    def fail() -> None:
        raise AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "empty_cache", fail, raising=False)
    generator.unload()

    assert model() is None
    assert "restart it (CUDA error: device-side assert triggered)" in caplog.text


# -- The device of the engine's thread ---------------------------------------------------


@pytest.mark.parametrize(
    ("device", "expected"), [("cuda:1", ["cuda:1"]), ("cpu", []), ("mps:0", [])]
)
def test_a_cuda_gpu_is_made_the_threads_own(
    monkeypatch: pytest.MonkeyPatch, device: str, expected: list[str]
) -> None:
    chosen: list[str] = []

    @contextlib.contextmanager
    def choose(device: str) -> Iterator[None]:
        chosen.append(device)
        yield

    monkeypatch.setattr(torch.cuda, "device", choose)

    with on_device(device):
        assert chosen == expected


def test_cudnn_computes_no_attention_while_any_thread_is_on_a_cuda_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    is_on = torch.backends.cuda.cudnn_sdp_enabled
    first, second = on_device("cuda:0"), on_device("cuda:1")
    assert is_on()

    with on_device("cpu"):
        assert is_on()
    with first:
        second.__enter__()
        assert not is_on()
    assert not is_on()
    second.__exit__(None, None, None)
    assert is_on()

    with pytest.raises(KeyError), on_device("cuda:0"):
        raise KeyError
    assert is_on()


def test_cudnn_that_was_off_stays_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    torch.backends.cuda.enable_cudnn_sdp(enabled=False)
    try:
        with on_device("cuda:0"):
            pass
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(enabled=True)


def test_a_device_that_cannot_be_entered_fails_the_requests(
    borrowing: TransformersGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str) -> contextlib.AbstractContextManager[None]:
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")

    monkeypatch.setattr("rigging_transformers._loop.on_device", refuse)

    (result,) = asyncio.run(borrowing.generate_texts(["one"], [SHORT]))

    assert isinstance(result, ProviderServerError)
    assert "Cannot re-initialize CUDA in forked subprocess" in str(result)


def test_a_model_runs_on_its_own_device(
    borrowing: TransformersGenerator, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    current: list[str] = []
    seen: list[list[str]] = []

    @contextlib.contextmanager
    def choose(device: str) -> Iterator[None]:
        current.append(device)
        yield
        current.remove(device)

    monkeypatch.setattr("rigging_transformers._loop.on_device", choose)
    with reference.model.register_forward_hook(lambda *_: seen.append([*current])):
        say(borrowing, ["one"], SHORT)

    assert seen == [["cpu"]] * 3
