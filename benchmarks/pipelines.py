"""What a pipeline costs per item beside a hand-written worker pool, in CPU time.

    nox -s bench

The generator is in process and answers at once, so that what is measured is Rigging. The
programs take turns, each round gives a ratio of two neighbours in time, and the median of these
counts, because machines are shared and noisy. The tables are printed, and
written to `benchmarks/RESULTS.md`.
"""

from __future__ import annotations

import asyncio
import gc
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import rigging as rg

# Many short rounds: what a machine does to one of them is done to its neighbour, too.
ROUNDS, ITEMS = 120, 1_000
CHECKPOINT_ROUNDS: Final = 15
STREAM_ROUNDS: Final = 5  # in processes of their own
CHECKPOINT_ITEMS: Final = 10_000
FEW, MANY = 1_000, 100_000
WORKERS: Final = 64
RESULTS: Final = Path(__file__).parent / "RESULTS.md"


class Instant(rg.Generator):
    """Answers each prompt with itself, without waiting for anything."""

    async def generate_messages(
        self, messages: Sequence[Sequence[rg.Message]], params: Sequence[rg.GenerateParams]
    ) -> Sequence[rg.GeneratedMessage | BaseException]:
        return [rg.GeneratedMessage.from_text(conversation[-1].text) for conversation in messages]

    async def generate_texts(
        self, texts: Sequence[str], params: Sequence[rg.GenerateParams]
    ) -> Sequence[rg.GeneratedText | BaseException]:
        return [rg.GeneratedText.from_text(text) for text in texts]


class Listener:
    """A plugin that is told of each request twice, and does nothing."""

    def rigging_request_started(self, event: rg.events.RequestStarted) -> None:
        """Be told."""

    def rigging_request_finished(self, event: rg.events.RequestFinished) -> None:
        """Be told."""


class Unobserved(rg.ChatPipeline):
    """A pipeline that looks for no listeners."""

    def _observer(self, name: str | None) -> None:
        """Tell nobody."""


def prompts(items: int) -> list[str]:
    """Make so many short prompts, each another."""
    return [f"prompt number {number}" for number in range(items)]


async def by_hand(items: int) -> list[Any]:
    """Do what a user would write: a pool of workers, two messages and a result per item."""
    source = iter(prompts(items))
    finished = []

    async def answer(message: rg.Message) -> rg.GeneratedMessage:
        return rg.GeneratedMessage(
            message=rg.Message("assistant", message.text), stop_reason=rg.StopReason.stop
        )

    async def worker() -> None:
        for prompt in source:
            message = rg.Message("user", prompt)
            finished.append((message, await answer(message)))

    await asyncio.gather(*(worker() for _ in range(WORKERS)))
    return finished


def cpu_per_item(program: Callable[[], Awaitable[Any]], items: int) -> float:
    """Run a program once; return microseconds of CPU time per item, all threads together."""
    gc.collect()
    start = time.process_time()
    asyncio.run(_awaited(program))
    return (time.process_time() - start) / items * 1e6


async def _awaited(program: Callable[[], Awaitable[Any]]) -> None:
    await program()


def take_turns(
    programs: dict[str, Callable[[], Awaitable[Any]]], items: int, rounds: int
) -> dict[str, list[float]]:
    """Run programs in turn; return what each took per item, round by round."""
    for program in programs.values():
        cpu_per_item(program, items)  # once for nothing
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            times[name].append(cpu_per_item(program, items))
    return times


def measure_overhead() -> list[str]:
    """Return the rows of a table."""
    generator = Instant(model="instant")
    chat, text = generator.chat(), generator.complete("")
    then = chat.then(lambda _: None)
    given, more = prompts(ITEMS), prompts(CHECKPOINT_ITEMS)

    async def with_listener() -> None:
        with rg.plugins.manager.register(Listener()):
            await chat.run_batch(given)

    async def without_hooks() -> None:
        # As if there were none to look for listeners of.
        await Unobserved(generator).run_batch(given)

    async def with_checkpoint() -> None:
        with tempfile.TemporaryDirectory() as folder:
            await chat.run_batch(more, checkpoint=Path(folder) / "run.db")

    short = {
        "worker pool by hand": lambda: by_hand(ITEMS),
        "run_batch without hooks": without_hooks,
        "run_batch of chats": lambda: chat.run_batch(given),
        "run_batch with a listener": with_listener,
        "run_batch with one then": lambda: then.run_batch(given),
        "run_batch of completions": lambda: text.run_batch(given),
    }
    long = {
        "run_batch, 10,000 items": lambda: chat.run_batch(more),
        "the same with a checkpoint": with_checkpoint,
    }
    times = take_turns(short, ITEMS, ROUNDS) | take_turns(long, CHECKPOINT_ITEMS, CHECKPOINT_ROUNDS)
    compared = [
        ("run_batch of chats", "worker pool by hand", "≤ 2.5"),
        ("run_batch of chats", "run_batch without hooks", "≤ 1.02"),
        ("run_batch with a listener", "run_batch of chats", "≤ 5 μs more"),
        ("run_batch with one then", "run_batch of chats", "≤ 1.6"),
        ("run_batch of completions", "run_batch of chats", "≤ 1.0"),
        ("the same with a checkpoint", "run_batch, 10,000 items", "≤ 2.0"),
    ]
    by_hand_us = statistics.median(times["worker pool by hand"])
    return [
        f"| worker pool by hand | {by_hand_us:.1f} | | | | |",
        *(_row(name, times[name], beside, times[beside], goal) for name, beside, goal in compared),
    ]


def _row(name: str, costs: list[float], beside: str, others: list[float], goal: str) -> str:
    pairs = list(zip(costs, others, strict=True))
    ratio = statistics.median(cost / other for cost, other in pairs)
    more = statistics.median(cost - other for cost, other in pairs)
    cost = statistics.median(costs)
    return f"| {name} | {cost:.1f} | {beside} | {more:+.1f} | {ratio:.2f} | {goal} |"


async def stream(items: int) -> None:
    """Run a stream of items and keep none."""
    pipeline = Instant(model="instant").chat()
    source = (f"prompt number {number}" for number in range(items))
    async for _ in pipeline.iter_batch(source):
        pass


def measure_stream(items: int) -> tuple[float, float]:
    """Run a stream in a process of its own; return μs per item and its peak memory in MB."""
    code = f"import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]\n"
    code += f"import pipelines; pipelines.child({items})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    cpu, peak = done.stdout.split()
    return float(cpu), float(peak)


def child(items: int) -> None:
    """Run in the process that `measure_stream` starts."""
    asyncio.run(stream(500))  # imports, and what is made once
    # As many items in all, whatever the length: a machine that changes its speed does so in both.
    cpu = statistics.mean(cpu_per_item(lambda: stream(items), items) for _ in range(MANY // items))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(cpu, peak / (1024 if sys.platform == "linux" else 1024**2))


def retained_bytes() -> float:
    """Return the memory that a finished chat of two short messages holds."""
    pipeline = Instant(model="instant").chat()
    asyncio.run(pipeline.run_batch(prompts(10)))
    gc.collect()
    tracemalloc.start()
    chats = asyncio.run(pipeline.run_batch(prompts(ITEMS)))
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held / len(chats)


def report() -> str:
    """Measure everything; return the tables."""
    lines = [
        "# Results",
        "",
        f"`nox -s bench` on {platform.machine()} {platform.system()}, "
        f"Python {platform.python_version()}; medians of {ROUNDS} rounds, CPU time, one run.",
        "",
        "| in process, no I/O | μs per item | beside | more, μs | ratio | to reach |",
        "|---|---|---|---|---|---|",
    ]
    lines += measure_overhead()
    few, many = (
        [min(column) for column in zip(*map(measure_stream, [items] * STREAM_ROUNDS), strict=True)]
        for items in (FEW, MANY)
    )
    slower = many[0] / few[0]
    lines += [
        "",
        f"| iter_batch | {FEW:,} items | {MANY:,} items | | to reach |",
        "|---|---|---|---|---|",
        f"| CPU, μs per item | {few[0]:.1f} | {many[0]:.1f} | ratio {slower:.2f} | ≤ 1.2 |",
        f"| peak memory, MB | {few[1]:.1f} | {many[1]:.1f} | {many[1] - few[1]:+.1f} | ≤ +10 |",
        "",
        f"A finished chat of two short messages holds {retained_bytes() / 1024:.1f} KB "
        f"(to reach: ≤ 4).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    text = report()
    print(text)
    RESULTS.write_text(text, encoding="utf-8")
