"""What rigging-vllm costs beside vLLM itself: throughput, and CPU time per request.

    nox -s "bench(vllm)"

One random model, made on the spot; two engines with the same arguments, side by side in the
same run, each in a process of its own: `vllm.LLM` with its ``generate``, and that of a
`VLLMGenerator`. Rounds alternate, and the best of each counts, because whatever else the
machine does only ever adds. Prints a table and writes it to `benchmarks/RESULTS-vllm.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import sys
import tempfile
import time
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
    from collections.abc import Awaitable, Callable

RESULTS: Final = Path(__file__).with_name("RESULTS-vllm.md")
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


class Cost(NamedTuple):
    """What one round took, in seconds."""

    wall_s: float
    cpu_s: float  # of this process: what the engine's own takes is not in it

    @classmethod
    def best(cls, rounds: list[Cost]) -> Cost:
        return cls(min(r.wall_s for r in rounds), min(r.cpu_s for r in rounds))


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
    options.add_argument("--rounds", type=int, default=5, help="rounds of each (default: 5)")
    rounds = options.parse_args().rounds
    # Both engines in processes of their own, as users have them.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder))
        table = compare(folder, rounds)
    print(table)
    RESULTS.write_text(table, encoding="utf-8")


def make_model(folder: Path) -> None:
    """Write a random model of some 10 million parameters."""
    tokenizer = train_tokenizer(None)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def compare(model: str, rounds: int) -> str:
    """Return the table."""
    work = Workload()
    llm = vllm.LLM(model, **ENGINE)
    generator = VLLMGenerator(model=model, **ENGINE).load()
    ways: dict[str, Callable[[], None]] = {
        "`vllm.LLM.generate`": lambda: generate(llm, work),
        "`AsyncLLM.generate`, bare": lambda: bare(generator, work),
        "`run_batch`": lambda: asyncio.run(run_batch(generator, work)),
        "256 concurrent `run()`": lambda: asyncio.run(run_each(generator, work)),
    }
    for way in ways.values():
        way()  # once for nothing: first calls compile and cache
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            costs[name].append(measured(way))
    generator.unload()
    llm.llm_engine.engine_core.shutdown()
    return written({name: Cost.best(found) for name, found in costs.items()}, sum(work.lengths))


def measured(way: Callable[[], None]) -> Cost:
    """Return what one round of a way takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    way()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


# -- The four ways -----------------------------------------------------------------------


def generate(llm: Any, work: Workload) -> None:
    """Ask vLLM's own class for batches."""
    outputs = llm.generate(work.prompts, work.sampling(), use_tqdm=False)
    check([len(output.outputs[0].token_ids) for output in outputs], work)


def bare(generator: VLLMGenerator, work: Workload) -> None:
    """Ask the generator's own engine, on its own loop, with nothing of ours in between."""
    worker = generator._engine._worker  # type: ignore[attr-defined]
    asyncio.run_coroutine_threadsafe(_bare(worker._llm, work), worker._loop).result()


async def _bare(llm: Any, work: Workload) -> None:
    async def one(number: int, text: str, params: Any) -> int:
        parsed = parse_model_prompt(llm.model_config, text)
        (prompt,) = await llm.renderer.render_cmpl_async([parsed])
        length = 0
        async for output in llm.generate(prompt, params, f"bare-{number}"):
            length = len(output.outputs[0].token_ids)
        return length

    sampling = work.sampling(output_kind=RequestOutputKind.FINAL_ONLY)
    numbered = enumerate(zip(work.prompts, sampling, strict=True))
    check(await gathered([one(number, *given) for number, given in numbered]), work)


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


async def gathered(calls: list[Awaitable[Any]]) -> list[Any]:
    """Await all at once."""
    return list(await asyncio.gather(*calls))


def check(lengths: list[int], work: Workload) -> None:
    """A way that leaves something out would win."""
    assert lengths == work.lengths, "not every request was answered in full"


def written(best: dict[str, Cost], tokens: int) -> str:
    """Return the table."""
    base = best["`vllm.LLM.generate`"].wall_s
    own = best["`AsyncLLM.generate`, bare"].cpu_s
    rows = [
        f"| {name} | {cost.wall_s:.2f} | {tokens / cost.wall_s:,.0f} | {base / cost.wall_s:.2f} "
        f"| {1e6 * cost.cpu_s / REQUESTS:,.0f} | {1e6 * (cost.cpu_s - own) / REQUESTS:+,.0f} |"
        for name, cost in best.items()
    ]
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return f"""# What the vLLM engine costs beside vLLM itself

`benchmarks/vllm_engine.py` on {platform.machine()} {platform.system()}, vLLM {vllm.__version__}, \
{os.cpu_count()} CPU cores, {threads} thread(s) for the engine; the best of the rounds, one run.

{REQUESTS} prompts of 4 to 100 words, answers of 8 to 64 tokens, a random model of some 10 million
parameters in float32, 64 rows at once. All ways have the same engine arguments, and an engine in
a process of its own. CPU time is that of the caller's process, without the engine's.

| | seconds | tokens/s | beside `generate` | CPU per request, us | beyond the bare engine, us |
|---|---|---|---|---|---|
""" + "".join(f"{row}\n" for row in rows)


if __name__ == "__main__":
    main()
