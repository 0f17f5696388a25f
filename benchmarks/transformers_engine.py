"""What the transformers engine costs beside hand-written loops.

    nox -s "bench(transformers)"        # on the CPU
    nox -s bench -- --gpu               # on a CUDA GPU

The model is a Llama of random weights, made on the spot. The programs take turns within
one run and medians are compared, because machines are shared and noisy: the ratios count,
not the tokens per second. On the CPU, time is CPU time on one thread; on a GPU it is wall
time, up to when the GPU has done its work. The tables are printed, and written to
`benchmarks/RESULTS-transformers.md` or `benchmarks/RESULTS-transformers-gpu.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

if __name__ == "__main__":
    # Before torch is imported, which takes seconds.
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gpu", action="store_true", help="measure on a CUDA GPU")
    parser.add_argument("--memory-of", metavar="PROGRAM", help=argparse.SUPPRESS)
    OPTIONS = parser.parse_args()

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

import rigging as rg
from rigging_transformers import TransformersGenerator

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.tiny_model import train_tokenizer

NEW_TOKENS: Final = 32
HERE: Final = Path(__file__).parent
WORDS: Final = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "red",
    "green",
    "blue",
    "yellow",
    "fox",
    "dog",
]


@dataclass(frozen=True)
class Setting:
    """What is measured on one kind of device.

    Attributes:
        device: Of torch.
        dtype: Of the weights.
        vocabulary: Tokens; None for the few of the tests' tokenizer.
        shape: Of the model, as `LlamaConfig` names it.
        prompts: How many there are.
        alone: How many of them are run one by one, which is slow.
        sampled: How many are sampled.
        seeded: How many are sampled with a seed; in half precision those run one by one.
        sizes: Batch sizes of the loop by hand.
        memory_sizes: Those whose memory is measured.
        rounds: How often each program is run.
        results: The file to write.
    """

    device: str
    dtype: torch.dtype
    vocabulary: int | None
    shape: dict[str, int]
    prompts: int
    alone: int
    sampled: int
    seeded: int
    sizes: tuple[int, ...]
    memory_sizes: tuple[int, ...]
    rounds: int
    results: Path

    @property
    def is_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device == "cuda"

    @property
    def is_exact(self) -> bool:
        """Whether texts do not depend on the shape of a batch: half precision rounds."""
        return self.dtype is torch.float32


CPU: Final = Setting(
    device="cpu",
    dtype=torch.float32,
    vocabulary=None,
    shape={
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    },
    prompts=64,
    alone=64,
    sampled=64,
    seeded=64,
    sizes=(8, 16, 32, 64),
    memory_sizes=(16, 64),
    rounds=5,
    results=HERE / "RESULTS-transformers.md",
)
GPU: Final = Setting(
    device="cuda",
    dtype=torch.bfloat16,
    vocabulary=32_768,
    shape={
        "hidden_size": 1536,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
    },
    prompts=256,
    alone=16,
    sampled=64,
    seeded=16,
    sizes=(16, 64, 256),
    memory_sizes=(64, 256),
    rounds=3,
    results=HERE / "RESULTS-transformers-gpu.md",
)


# --- The model and its prompts ---------------------------------------------------------------


def make_tokenizer(vocabulary: int | None) -> Any:
    """Return a byte-level tokenizer of so many tokens, trained on made-up words."""
    if vocabulary is None:
        return train_tokenizer(None)
    draw = random.Random(0)  # noqa: S311
    syllables = [first + second for first in "bcdfghjklmnprstvwz" for second in "aeiou"]
    words = ["".join(draw.choices(syllables, k=draw.randint(2, 5))) for _ in range(2 * vocabulary)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|pad|>", "<|start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS), " ".join(words)], trainer)
    special = {"bos_token": "<|start|>", "pad_token": "<|pad|>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def make_model(setting: Setting) -> tuple[Any, Any]:
    """Return a Llama of random weights and its tokenizer."""
    tokenizer = make_tokenizer(setting.vocabulary)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=2048,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=None,  # so that every answer is as long as it may be
        pad_token_id=tokenizer.pad_token_id,
        **setting.shape,
    )
    torch.manual_seed(0)
    with torch.device(setting.device):
        model = AutoModelForCausalLM.from_config(config, dtype=setting.dtype).eval()
    model.generation_config.eos_token_id = None
    tokenizer.eos_token = None
    return model, tokenizer


def make_prompts(setting: Setting) -> list[str]:
    """Return prompts of 4 to 64 words."""
    draw = random.Random(1)  # noqa: S311
    return [" ".join(draw.choices(WORDS, k=draw.randint(4, 64))) for _ in range(setting.prompts)]


def greedy(limits: Sequence[int]) -> list[rg.GenerateParams]:
    """Return parameters for rows of so many tokens."""
    return [rg.GenerateParams(temperature=0, max_tokens=limit) for limit in limits]


def sampled(count: int, *, seeded: bool) -> list[rg.GenerateParams]:
    """Return parameters for so many rows that are drawn."""
    return [
        rg.GenerateParams(temperature=1, max_tokens=NEW_TOKENS, seed=row if seeded else None)
        for row in range(count)
    ]


# --- What is compared ------------------------------------------------------------------------


class Loop:
    """What a user writes by hand: prompts sorted by length, padded on the left."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        tokenizer.padding_side = "left"

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[str], limits: Sequence[int], size: int) -> list[str]:
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        texts = [""] * len(prompts)
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            inputs = self.tokenizer([prompts[i] for i in chosen], return_tensors="pt", padding=True)
            inputs = inputs.to(self.model.device)
            output = self.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=max(limits[i] for i in chosen),
                do_sample=False,
            ).tolist()
            width = inputs["input_ids"].shape[1]
            for row, i in enumerate(chosen):
                texts[i] = self.tokenizer.decode(
                    output[row][width : width + limits[i]], skip_special_tokens=True
                )
        return texts


def run_batch(
    generator: TransformersGenerator, prompts: Sequence[str], params: Sequence[rg.GenerateParams]
) -> list[str]:
    """Run all prompts by one call of a pipeline."""
    done = generator.complete("").run_batch_sync(list(prompts), params=params)
    return [completion.generated for completion in done]


def run_each(
    generator: TransformersGenerator, prompts: Sequence[str], params: Sequence[rg.GenerateParams]
) -> list[str]:
    """Run each prompt by a call of its own, all at once."""

    async def main() -> list[str]:
        runs = [
            generator.complete(prompt).with_(own).run()
            for prompt, own in zip(prompts, params, strict=True)
        ]
        return [completion.generated for completion in await asyncio.gather(*runs)]

    return asyncio.run(main())


# --- Measuring -------------------------------------------------------------------------------


class Program(NamedTuple):
    """One of the programs that take turns.

    Attributes:
        run: Called without arguments.
        tokens: How many it generates that were asked for.
    """

    run: Callable[[], Any]
    tokens: int


def seconds(setting: Setting, program: Program) -> float:
    """Return the time of one run: CPU time of all threads together, or the GPU's wall time."""
    if not setting.is_gpu:
        start = time.process_time()
        program.run()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    program.run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def take_turns(setting: Setting, programs: dict[str, Program]) -> dict[str, float]:
    """Run programs in turn; return the median of each, in seconds."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(setting.rounds + 1):
        for name, program in programs.items():
            elapsed = seconds(setting, program)
            if number:  # the first is for nothing
                times[name].append(elapsed)
    return {name: statistics.median(values) for name, values in times.items()}


def steps_to_first_token(
    generator: TransformersGenerator, model: Any, prompts: Sequence[str]
) -> int:
    """Return how many forward passes begin before a stream among the prompts gives a text.

    Raises:
        RuntimeError: If the prompts fail before they run.
    """
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    async def main() -> int:
        params = rg.GenerateParams(temperature=0, max_tokens=200)
        running = asyncio.ensure_future(generator.generate_texts(prompts, [params] * len(prompts)))
        while passes < 20:
            if running.done():
                raise RuntimeError(f"the prompts ran for {passes} steps only: {running.result()}")
            await asyncio.sleep(0.001)
        before = passes
        async for _ in generator.stream_texts("One two", params):
            after = passes
            break
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return after - before

    handle = model.register_forward_hook(count)
    try:
        return asyncio.run(main())
    finally:
        handle.remove()


def peak_memory(setting: Setting, program: str) -> tuple[float, float]:
    """Return a program's peak memory in MB, in a new process, and by how much it rose.

    Args:
        setting: What is measured.
        program: ``rolling`` or ``hand``, a comma and the batch size.
    """
    command = [sys.executable, __file__, "--memory-of", program]
    done = subprocess.run(
        [*command, *(["--gpu"] if setting.is_gpu else [])],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    peak, rise = done.stdout.split()
    return float(peak), float(rise)


def print_memory(setting: Setting, program: str) -> None:
    """Run in the process that `peak_memory` starts; print its peak and how much it rose, in MB."""
    model, tokenizer = make_model(setting)
    prompts, limits = make_prompts(setting), [NEW_TOKENS] * setting.prompts
    if setting.is_gpu:
        # From here on, so that what the making of the model took does not count.
        torch.cuda.reset_peak_memory_stats()
    before = _peak(setting)
    kind, size = program.split(",")
    if kind == "rolling":
        run_batch(_wrap(model, tokenizer, int(size)), prompts, greedy(limits))
    else:
        Loop(model, tokenizer)(prompts, limits, int(size))
    print(_peak(setting), _peak(setting) - before)


def _peak(setting: Setting) -> float:
    """Return the most memory that this process has had on the device, in MB."""
    if setting.is_gpu:
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _wrap(model: Any, tokenizer: Any, size: int) -> TransformersGenerator:
    return TransformersGenerator.from_obj(model, tokenizer, max_batch_size=size)


# --- The report ------------------------------------------------------------------------------


def measure(setting: Setting) -> Iterator[str]:
    """Measure everything; give each table as soon as its figures are there."""
    # First, because a process's peak begins with that of the one that started it.
    memory = {name: peak_memory(setting, name) for name in _memory_names(setting)}
    model, tokenizer = make_model(setting)
    loop = Loop(model, tokenizer)
    generator = _wrap(model, tokenizer, max(setting.sizes))
    prompts, limits = make_prompts(setting), [NEW_TOKENS] * setting.prompts
    draw = random.Random(2)  # noqa: S311
    varied = [draw.randint(4, 64) for _ in prompts]
    few = prompts[: setting.alone]
    drawn, seeded = prompts[: setting.sampled], prompts[: setting.seeded]

    equal = _share_equal(
        run_batch(generator, prompts, greedy(varied)), loop(few, varied[: setting.alone], 1)
    )
    if setting.is_exact:
        assert equal == 1, "the texts differ"
    by_hand = {f"by hand, {size}": size for size in setting.sizes}
    all_tokens, varied_tokens = sum(limits), sum(varied)
    programs = {
        **{
            name: Program(lambda size=size: loop(prompts, limits, size), all_tokens)
            for name, size in by_hand.items()
        },
        "one by one": Program(
            lambda: loop(few, limits[: setting.alone], 1), sum(limits[: setting.alone])
        ),
        "run_batch": Program(lambda: run_batch(generator, prompts, greedy(limits)), all_tokens),
        "each its own run()": Program(
            lambda: run_each(generator, prompts, greedy(limits)), all_tokens
        ),
        "varied, by hand in one batch": Program(
            lambda: loop(prompts, varied, setting.prompts), varied_tokens
        ),
        "varied, run_batch": Program(
            lambda: run_batch(generator, prompts, greedy(varied)), varied_tokens
        ),
        "sampled": Program(
            lambda: run_batch(generator, drawn, sampled(len(drawn), seeded=False)),
            len(drawn) * NEW_TOKENS,
        ),
        "sampled, each with a seed": Program(
            lambda: run_batch(generator, seeded, sampled(len(seeded), seeded=True)),
            len(seeded) * NEW_TOKENS,
        ),
    }
    times = take_turns(setting, programs)
    speeds = {name: programs[name].tokens / elapsed for name, elapsed in times.items()}
    parameters = sum(weights.numel() for weights in model.parameters())
    yield "\n".join(
        [
            f"# Results of the transformers engine on a {'GPU' if setting.is_gpu else 'CPU'}",
            "",
            f"`benchmarks/transformers_engine.py` on {_machine(setting)}; medians of "
            f"{setting.rounds}, {'wall time' if setting.is_gpu else 'CPU time'}, one run. A Llama "
            f"of {parameters / 1e6:.1f} M parameters in {str(setting.dtype).removeprefix('torch.')}"
            f", {setting.prompts} prompts, of which {setting.alone} one by one, {setting.sampled} "
            f"sampled, and {setting.seeded} with a seed.",
            "",
            "| program | time, s | tokens/s |",
            "|---|---|---|",
            *(f"| {name} | {times[name]:.2f} | {speeds[name]:.0f} |" for name in programs),
            "",
        ]
    )
    best = max(by_hand, key=lambda name: speeds[name])
    compared = [
        *(
            (f"{name} beside {other}", speeds[name] / speeds[other], goal)
            for name, other, goal in [
                ("run_batch", best, "≥ 0.9"),
                ("run_batch", "one by one", "≥ 4"),
                ("varied, run_batch", "varied, by hand in one batch", "≥ 1.3"),
                ("each its own run()", "run_batch", "≥ 0.85"),
                ("sampled, each with a seed", "sampled", ""),
            ]
        ),
        (
            "steps to a stream's first token, 32 rows running",
            steps_to_first_token(generator, model, prompts[:32]),
            "≤ 3",
        ),
        *_compared_memory(setting, memory),
        ("share of texts as one by one", equal, "1" if setting.is_exact else ""),
    ]
    yield "\n".join(
        [
            "",
            "| compared | | to reach |",
            "|---|---|---|",
            *(f"| {name} | {value:.2f} | {goal} |" for name, value, goal in compared),
            "",
        ]
    )


def _memory_names(setting: Setting) -> list[str]:
    return [f"{kind},{size}" for size in setting.memory_sizes for kind in ("rolling", "hand")]


def _compared_memory(
    setting: Setting, memory: dict[str, tuple[float, float]]
) -> list[tuple[str, float, str]]:
    rows = []
    for size in setting.memory_sizes:
        peak, rise = memory[f"rolling,{size}"]
        other_peak, other_rise = memory[f"hand,{size}"]
        rows.append((f"peak memory beside by hand, {size}", peak / other_peak, "≤ 1.2"))
        if other_rise:  # a small batch may fit into what the process has had already
            rows.append((f"what it rose by, beside by hand, {size}", rise / other_rise, ""))
    return rows


def _share_equal(texts: Sequence[str], expected: Sequence[str]) -> float:
    """Return the share of ``expected`` that the first texts equal."""
    return statistics.mean(text == other for text, other in zip(texts, expected, strict=False))


def _machine(setting: Setting) -> str:
    software = f"torch {torch.__version__}, transformers {transformers.__version__}"
    if setting.is_gpu:
        gigabytes = torch.cuda.get_device_properties(0).total_memory / 2**30
        return f"{torch.cuda.get_device_name(0)} ({gigabytes:.0f} GiB), {software}"
    return f"{platform.machine()} {platform.system()}, {software}; one thread"


def main(options: argparse.Namespace) -> None:
    """Measure on the device asked for, print the tables and write them."""
    if options.gpu and not torch.cuda.is_available():
        raise SystemExit(
            f"nothing was measured: torch {torch.__version__} finds no GPU here. It takes a CUDA "
            f"GPU and a CUDA build of torch"
        )
    torch.set_num_threads(1)
    setting = GPU if options.gpu else CPU
    if setting.is_gpu:
        # As in the engine: on some GPUs, cuDNN plans attention anew for each length.
        torch.backends.cuda.enable_cudnn_sdp(enabled=False)
    if options.memory_of:
        print_memory(setting, options.memory_of)
        return
    text = ""
    for table in measure(setting):
        print(table, flush=True)
        # At once: what comes after may fail.
        text += table
        setting.results.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(OPTIONS)
