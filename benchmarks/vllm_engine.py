"""What rigging-vllm costs beside vLLM itself: throughput, and CPU time per request.

    nox -s "bench(vllm)"

Random models, made on the spot; two engines with the same arguments, side by side in the
same run, each in a process of its own: `vllm.LLM` with its ``generate``, and that of a
`VLLMGenerator`. Each round of a way has one of the bare engine beside it. Throughput is the best
of a few with a model that keeps the engine busy. CPU time is that of the caller's process, and
differs more between two rounds than between two ways, so it is the median of many short ones, with
a tiny model: they cost the caller the same.

Two threads are shown by themselves: the one that asks, which does nothing of `AsyncLLM`'s own work
and nearly all of Rigging's, and that of the engine's event loop. What an engine in a thread of its
own costs at the least is shown, too, "from another loop, by hand": each request goes over to that
loop, and its answer comes back and wakes the asking one up.

Prints tables and writes them to `benchmarks/RESULTS-vllm.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
import vllm
from transformers import LlamaConfig, LlamaForCausalLM
from vllm import SamplingParams
from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.sampling_params import RequestOutputKind

import rigging as rg
from rigging_vllm import VLLMGenerator

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.tiny_model import train_tokenizer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

RESULTS: Final = Path(__file__).with_name("RESULTS-vllm.md")
GENERATE: Final = "`vllm.LLM.generate`"
BARE: Final = "`AsyncLLM.generate`, bare"
REQUESTS: Final = 256
ENGINE: Final[dict[str, Any]] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 512,
    "max_num_seqs": 64,
    # Every round has the same prompts, and shall cost the same.
    "enable_prefix_caching": False,
    "distributed_executor_backend": "uni",
}


class Size(NamedTuple):
    """Of a model."""

    width: int
    layers: int


BUSY: Final = Size(width=384, layers=6)
TINY: Final = Size(width=64, layers=1)


class Cost(NamedTuple):
    """What one round took, in seconds."""

    wall_s: float
    cpu_s: float  # of this process: what the engine's own takes is not in it
    asking_s: float  # of that, in the thread that asks
    engine_s: float  # of that, in the thread of the engine's event loop


class Round(NamedTuple):
    """What a way took, and the bare engine just before or after it."""

    cost: Cost
    bare: Cost


class Workload:
    """Prompts and lengths of answers, mixed, the same in every run."""

    def __init__(self) -> None:
        dice = random.Random(0)  # noqa: S311 (the same in every run)
        words = ["red", "green", "blue", "one", "two", "three", "four", "five"]
        self.prompts = [
            " ".join(dice.choices(words, k=dice.randint(4, 100))) for _ in range(REQUESTS)
        ]
        self.lengths = [dice.randint(8, 64) for _ in range(REQUESTS)]
        self.params = [
            rg.GenerateParams(temperature=0, max_tokens=length, extra={"ignore_eos": True})
            for length in self.lengths
        ]

    def sampling(self, **fields: Any) -> list[Any]:
        """Return the same as vLLM's own parameters."""
        return [
            SamplingParams(temperature=0, max_tokens=length, ignore_eos=True, **fields)
            for length in self.lengths
        ]


def main() -> None:
    """Run it all."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--rounds", type=int, default=4, help="of the busy one (default: 4)")
    options.add_argument("--short-rounds", type=int, default=40, help="of the tiny one (40)")
    given = options.parse_args()
    # Both engines in processes of their own, as users have them.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
    short = compare(TINY, given.short_rounds)
    text = written(throughput(compare(BUSY, given.rounds)), cpu_times(short))
    print(text)
    RESULTS.write_text(text, encoding="utf-8")


def make_model(folder: Path, size: Size) -> None:
    """Write a random model."""
    tokenizer = train_tokenizer(None)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        intermediate_size=size.width * 8 // 3,
        num_hidden_layers=size.layers,
        num_attention_heads=size.width // 64,
        num_key_value_heads=size.width // 64,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def compare(size: Size, rounds: int) -> dict[str, list[Round]]:
    """Return what each way took in each round."""
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), size)
        return compared(folder, rounds)


def compared(model: str, rounds: int) -> dict[str, list[Round]]:
    """Return what each way took in each round, with a model that lies in a directory."""
    work = Workload()
    llm = vllm.LLM(model, **ENGINE)
    generator = VLLMGenerator(model=model, **ENGINE).load()
    ways: dict[str, Callable[[], None]] = {
        GENERATE: lambda: generate(llm, work),
        "the same from another loop, by hand": lambda: asyncio.run(by_hand(generator, work)),
        "`run_batch`": lambda: asyncio.run(run_batch(generator, work)),
        "256 concurrent `run()`": lambda: asyncio.run(run_each(generator, work)),
    }
    beside = partial(bare, generator, work)
    for way in (*ways.values(), beside):
        way()  # once for nothing: first calls compile and cache
    # A collection of all that vLLM has imported takes as long as a round: by chance, of one way.
    gc.collect()
    gc.freeze()
    costs: dict[str, list[Round]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            # Each of the two goes first in every second round.
            pair = (way, beside) if number % 2 else (beside, way)
            took = {one: measured(one, generator) for one in pair}
            costs[name].append(Round(took[way], took[beside]))
    generator.unload()
    llm.llm_engine.engine_core.shutdown()
    return costs


def worker_of(generator: VLLMGenerator) -> Any:
    """Return what has the generator's own engine, its event loop and its thread."""
    return generator._engine._worker  # type: ignore[attr-defined]


def measured(way: Callable[[], None], generator: VLLMGenerator) -> Cost:
    """Return what one round of a way takes."""
    clock_of_engine = time.pthread_getcpuclockid(worker_of(generator)._thread.ident)
    clocks = (
        time.perf_counter,
        time.process_time,
        time.thread_time,
        lambda: time.clock_gettime(clock_of_engine),
    )
    began = [clock() for clock in clocks]
    way()
    return Cost(*(clock() - start for clock, start in zip(clocks, began, strict=True)))


# -- The ways ----------------------------------------------------------------------------


def generate(llm: Any, work: Workload) -> None:
    """Ask vLLM's own class for batches."""
    outputs = llm.generate(work.prompts, work.sampling(), use_tqdm=False)
    check([len(output.outputs[0].token_ids) for output in outputs], work)


def bare(generator: VLLMGenerator, work: Workload) -> None:
    """Ask the generator's own engine, on its own loop, with nothing of ours in between."""
    worker = worker_of(generator)
    asyncio.run_coroutine_threadsafe(_bare(worker._llm, work), worker._loop).result()


async def _bare(llm: Any, work: Workload) -> None:
    check(await gathered(answers(llm, work)), work)


def answers(llm: Any, work: Workload) -> list[Coroutine[Any, Any, int]]:
    """Return what asks an `AsyncLLM` for each prompt, for the length of its answer."""

    async def one(number: int, text: str, params: Any) -> int:
        parsed = parse_model_prompt(llm.model_config, text)
        (prompt,) = await llm.renderer.render_cmpl_async([parsed])
        length = 0
        async for output in llm.generate(prompt, params, f"bare-{number}"):
            length = len(output.outputs[0].token_ids)
        return length

    sampling = work.sampling(output_kind=RequestOutputKind.FINAL_ONLY)
    return [
        one(number, *given) for number, given in enumerate(zip(work.prompts, sampling, strict=True))
    ]


async def by_hand(generator: VLLMGenerator, work: Workload) -> None:
    """Ask the generator's own engine from this loop, with nothing of ours in between."""
    worker = worker_of(generator)
    calls = [
        asyncio.wrap_future(asyncio.run_coroutine_threadsafe(one, worker._loop))
        for one in answers(worker._llm, work)
    ]
    check(await gathered(calls), work)


async def run_batch(generator: VLLMGenerator, work: Workload) -> None:
    """Ask for all in one call."""
    completions = await generator.complete("").run_batch(work.prompts, params=work.params)
    check([one.usage.output_tokens for one in completions if one.usage], work)


async def run_each(generator: VLLMGenerator, work: Workload) -> None:
    """Ask for each in a call of its own, all at once."""
    calls = [
        generator.complete(prompt).with_(params).run()
        for prompt, params in zip(work.prompts, work.params, strict=True)
    ]
    check([one.usage.output_tokens for one in await gathered(calls) if one.usage], work)


async def gathered(calls: Sequence[Awaitable[Any]]) -> list[Any]:
    """Await all at once."""
    return list(await asyncio.gather(*calls))


def check(lengths: list[int], work: Workload) -> None:
    """A way that leaves something out would win."""
    assert lengths == work.lengths, "not every request was answered in full"


def with_bare(costs: dict[str, list[Round]]) -> dict[str, list[Round]]:
    """Add a row for the bare engine, behind the first."""
    first, *others = costs
    rounds = [Round(one.bare, one.bare) for found in costs.values() for one in found]
    return {first: costs[first], BARE: rounds, **{name: costs[name] for name in others}}


def throughput(costs: dict[str, list[Round]]) -> str:
    """Return a table of the best rounds."""
    tokens = sum(Workload().lengths)
    best = {name: min(one.cost.wall_s for one in found) for name, found in with_bare(costs).items()}
    rows = [
        f"| {name} | {wall_s:.2f} | {tokens / wall_s:,.0f} | {best[GENERATE] / wall_s:.2f} |"
        for name, wall_s in best.items()
    ]
    head = ["| | seconds | tokens/s | beside `generate` |", "|---|---|---|---|"]
    return "\n".join([*head, *rows])


def cpu_times(costs: dict[str, list[Round]]) -> str:
    """Return a table of medians over rounds, also of the differences within each round."""
    rows = []
    for name, found in with_bare(costs).items():
        cpu, asking, engine = (
            statistics.median(1e6 * of(one.cost) / REQUESTS for one in found)
            for of in (attrgetter("cpu_s"), attrgetter("asking_s"), attrgetter("engine_s"))
        )
        more = [1e6 * (one.cost.cpu_s - one.bare.cpu_s) / REQUESTS for one in found]
        low, middle, high = statistics.quantiles(more, n=4)
        rows.append(
            f"| {name} | {cpu:,.0f} | {middle:+,.0f} | {low:+,.0f} to {high:+,.0f} "
            f"| {asking:,.0f} | {engine:,.0f} |"
        )
    head = [
        "| | CPU per request, us | beyond the bare engine, us | half of the rounds "
        "| in the thread that asks, us | in the engine's, us |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *rows])


def written(throughput: str, cpu_times: str) -> str:
    """Return the page."""
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return f"""# What the vLLM engine costs beside vLLM itself

`benchmarks/vllm_engine.py` on {platform.machine()} {platform.system()}, vLLM {vllm.__version__}, \
{os.cpu_count()} CPU cores, {threads} thread(s) for the engine; one run.

{REQUESTS} prompts of 4 to 100 words, answers of 8 to 64 tokens, random models in float32, 64 rows
at once. All ways have the same engine arguments, and an engine in a process of its own.

With a model of {BUSY.layers} layers of {BUSY.width}, the best of the rounds:

{throughput}

With one layer of {TINY.width}, medians of the rounds; CPU time of the caller's process, not
of the engine's:

{cpu_times}
"""


if __name__ == "__main__":
    main()
