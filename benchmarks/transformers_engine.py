"""What the transformers engine costs beside hand-written loops, in CPU time.

    nox -s "bench(transformers)"

The model is a small Llama of random weights, made on the spot, on one thread. The programs
take turns within one run and medians are compared, because machines are shared and noisy:
the ratios count, not the tokens per second. The tables are printed, and written to
`benchmarks/RESULTS-transformers.md`.
"""

from __future__ import annotations

import asyncio
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

import rigging as rg
from rigging_transformers import TransformersGenerator

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.tiny_model import train_tokenizer

ROUNDS: Final = 5
PROMPTS: Final = 64
NEW_TOKENS: Final = 32
BATCH_SIZES: Final = (8, 16, 32, 64)
RESULTS: Final = Path(__file__).parent / "RESULTS-transformers.md"
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


def make_model() -> tuple[Any, Any]:
    """Return a Llama of some 3 M parameters and its tokenizer."""
    tokenizer = train_tokenizer(None)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=2048,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=None,  # so that every answer is as long as it may be
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = None
    tokenizer.eos_token = None
    return model, tokenizer


def make_prompts() -> list[str]:
    """Return prompts of some 10 to 150 tokens."""
    draw = random.Random(1)  # noqa: S311
    return [" ".join(draw.choices(WORDS, k=draw.randint(4, 64))) for _ in range(PROMPTS)]


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
            output = self.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=max(limits[i] for i in chosen),
                do_sample=False,
            )
            width = inputs["input_ids"].shape[1]
            for row, i in enumerate(chosen):
                texts[i] = self.tokenizer.decode(
                    output[row, width : width + limits[i]], skip_special_tokens=True
                )
        return texts


def cpu_seconds(program: Callable[[], Any]) -> float:
    """Return the CPU time of one run, all threads together."""
    start = time.process_time()
    program()
    return time.process_time() - start


def take_turns(programs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Run programs in turn; return the median of each, in CPU seconds."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(ROUNDS + 1):
        for name, program in programs.items():
            seconds = cpu_seconds(program)
            if number:  # the first is for nothing
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def run_batch(
    generator: TransformersGenerator, prompts: Sequence[str], limits: Sequence[int]
) -> list[str]:
    """Run all prompts by one call of a pipeline."""
    params = [rg.GenerateParams(max_tokens=limit) for limit in limits]
    done = generator.complete("").with_(temperature=0).run_batch_sync(list(prompts), params=params)
    return [completion.generated for completion in done]


def run_each(
    generator: TransformersGenerator, prompts: Sequence[str], limits: Sequence[int]
) -> list[str]:
    """Run each prompt by a call of its own, all at once."""

    async def main() -> list[str]:
        runs = [
            generator.complete(prompt).with_(temperature=0, max_tokens=limit).run()
            for prompt, limit in zip(prompts, limits, strict=True)
        ]
        return [completion.generated for completion in await asyncio.gather(*runs)]

    return asyncio.run(main())


def steps_to_first_token(generator: TransformersGenerator, model: Any) -> int:
    """Return how many forward passes begin before a stream among 32 rows gives a text."""
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    async def main() -> int:
        params = rg.GenerateParams(temperature=0, max_tokens=200)
        running = asyncio.ensure_future(
            generator.generate_texts(make_prompts()[:32], [params] * 32)
        )
        while passes < 20:  # noqa: ASYNC110 (another thread counts)
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


def peak_memory(program: str) -> tuple[float, float]:
    """Return a program's peak memory in MB, in a new process, and by how much it rose.

    Args:
        program: ``rolling``, or the batch size of the loop by hand.
    """
    code = f"import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]\n"
    code += f"import transformers_engine; transformers_engine.child({program!r})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    peak, rise = done.stdout.split()
    return float(peak), float(rise)


def child(program: str) -> None:
    """Run in the process that `peak_memory` starts; print its peak in MB."""
    torch.set_num_threads(1)
    model, tokenizer = make_model()
    prompts, limits = make_prompts(), [NEW_TOKENS] * PROMPTS
    before = _peak()
    if program == "rolling":
        run_batch(TransformersGenerator.from_obj(model, tokenizer), prompts, limits)
    else:
        Loop(model, tokenizer)(prompts, limits, int(program))
    print(_peak(), _peak() - before)


def _peak() -> float:
    """Return the most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure everything and print the table."""
    torch.set_num_threads(1)
    # First, because a process's peak begins with that of the one that started it.
    rolling, small, large = map(peak_memory, ("rolling", "16", "64"))
    model, tokenizer = make_model()
    loop = Loop(model, tokenizer)
    generator = TransformersGenerator.from_obj(model, tokenizer)
    prompts, limits = make_prompts(), [NEW_TOKENS] * PROMPTS
    draw = random.Random(2)  # noqa: S311
    varied = [draw.randint(4, 64) for _ in prompts]

    expected = loop(prompts, varied, 1)
    assert run_batch(generator, prompts, varied) == expected, "the texts differ"
    by_hand = {f"by hand, {size}": size for size in BATCH_SIZES}
    cpu = take_turns(
        {
            **{name: lambda s=size: loop(prompts, limits, s) for name, size in by_hand.items()},
            "one by one": lambda: loop(prompts, limits, 1),
            "run_batch": lambda: run_batch(generator, prompts, limits),
            "64 run()": lambda: run_each(generator, prompts, limits),
            "varied, by hand": lambda: loop(prompts, varied, PROMPTS),
            "varied, run_batch": lambda: run_batch(generator, prompts, varied),
        }
    )
    best = min(by_hand, key=lambda name: cpu[name])
    rows = [
        (f"run_batch beside {best}", cpu[best] / cpu["run_batch"], "≥ 0.9"),
        ("run_batch beside one by one", cpu["one by one"] / cpu["run_batch"], "≥ 4"),
        ("varied: beside one batch", cpu["varied, by hand"] / cpu["varied, run_batch"], "≥ 1.3"),
        ("64 run() beside run_batch", cpu["run_batch"] / cpu["64 run()"], "≥ 0.85"),
        ("steps to a stream's first token", steps_to_first_token(generator, model), "≤ 3"),
        ("peak memory beside by hand, 16", rolling[0] / small[0], "≤ 1.2"),
        ("peak memory beside by hand, 64", rolling[0] / large[0], "≤ 1.2"),
        ("what it rose by, beside by hand, 16", rolling[1] / small[1], ""),
        ("what it rose by, beside by hand, 64", rolling[1] / large[1], ""),
    ]
    text = [
        "# Results of the transformers engine",
        "",
        f"`benchmarks/transformers_engine.py` on {platform.machine()} {platform.system()}, torch "
        f"{torch.__version__}, transformers {transformers.__version__}; one thread, medians of "
        f"{ROUNDS}, CPU time, one run.",
        "",
        "| 64 prompts, 3.4 M parameters | CPU, s | tokens/s |",
        "|---|---|---|",
    ]
    for name, seconds in cpu.items():
        tokens = sum(varied) if name.startswith("varied") else sum(limits)
        text.append(f"| {name} | {seconds:.2f} | {tokens / seconds:.0f} |")
    text += ["", "| compared | ratio | to reach |", "|---|---|---|"]
    text += [f"| {name} | {ratio:.2f} | {goal} |" for name, ratio, goal in rows]
    RESULTS.write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
