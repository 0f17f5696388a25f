"""What `rigging-litellm` costs beside litellm alone, and how it gets on with rate limits.

    nox -s "bench(litellm)"

The overhead is CPU time of the client's process, 2,000 requests at concurrency 64 against
a server that answers at once; the two programs take turns, each as often first, and medians of
six count.

The rate limits are enforced by a token bucket of 50 requests a second, burst 10. All
clients make the same 1,000 requests, ten at a time, and their time counts in multiples of
the ideal one, in which the bucket would never be full. Written to `RESULTS-litellm.md`.
"""

from __future__ import annotations

import asyncio
import gc
import platform
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import backoff
import litellm
from limited_server import Settings, counts, running

import rigging as rg

ROUNDS: Final = 6
REQUESTS: Final = 2_000
CONCURRENCY: Final = 64
LIMITED: Final = 1_000
RATE, BURST, ANSWER_S = 50.0, 10, 0.02
CONNECTIONS: Final = 10
RETRIES: Final = 8  # at 20% faults, one request in 16,000 has bad luck five times
RESULTS: Final = Path(__file__).parent / "RESULTS-litellm.md"

Program = Callable[[str, int, int], Awaitable[int]]


def prompts(items: int) -> list[str]:
    """Make so many short prompts, each another."""
    return [f"prompt number {number}" for number in range(items)]


async def with_rigging(address: str, items: int, connections: int) -> int:
    """Run a batch; return how many were answered."""
    generator = rg.get_generator(
        f"openai/tiny,api_base={address},max_connections={connections},max_retries={RETRIES}"
    )
    generator.api_key = "none"
    chats = await generator.chat().run_batch(prompts(items), on_failed="skip")
    return len(chats)


async def by_hand(address: str, items: int, connections: int, **options: Any) -> int:
    """Call litellm in a pool of workers, as a user would; return how many were answered."""

    async def ask(prompt: str) -> Any:
        return await litellm.acompletion(
            model="openai/tiny",
            messages=[{"role": "user", "content": prompt}],
            api_base=address,
            api_key="none",
            **({"num_retries": 0, "max_retries": 0} | options),
        )

    return await pool(ask, items, connections)


async def with_own_retries(address: str, items: int, connections: int) -> int:
    """Let litellm retry."""
    return await by_hand(address, items, connections, num_retries=RETRIES)


async def with_backoff(address: str, items: int, connections: int) -> int:
    """Let `backoff` retry, in its plainest form."""

    @backoff.on_exception(backoff.expo, Exception, max_tries=RETRIES + 1)
    async def ask(prompt: str) -> Any:
        return await litellm.acompletion(
            model="openai/tiny",
            messages=[{"role": "user", "content": prompt}],
            api_base=address,
            api_key="none",
            num_retries=0,
            max_retries=0,
        )

    return await pool(ask, items, connections)


async def pool(ask: Callable[[str], Awaitable[Any]], items: int, workers: int) -> int:
    """Ask for all prompts with so many workers; return how many were answered."""
    source = iter(prompts(items))
    answers = []

    async def work() -> None:
        for prompt in source:
            try:
                answers.append(await ask(prompt))
            except Exception as error:  # noqa: BLE001 (counted)
                print(f"  {type(error).__name__}")

    await asyncio.gather(*(work() for _ in range(workers)))
    return len(answers)


def cpu_ms(program: Program, address: str) -> float:
    """Return milliseconds of CPU time per request."""
    gc.collect()
    start = time.process_time()
    answered = asyncio.run(_run(program, address))
    assert answered == REQUESTS
    return (time.process_time() - start) / REQUESTS * 1e3


async def _run(program: Program, address: str) -> int:
    return await program(address, REQUESTS, CONCURRENCY)


def overhead() -> list[str]:
    """Measure what rigging adds; return lines of a table."""
    programs: dict[str, Program] = {"litellm by hand": by_hand, "rigging-litellm": with_rigging}
    times: dict[str, list[float]] = {name: [] for name in programs}
    with running(Settings()) as address:
        asyncio.run(by_hand(address, 50, 8))  # imports, and what is made once
        asyncio.run(with_rigging(address, 50, 8))
        order = list(programs.items())
        for _ in range(ROUNDS):
            for name, program in order:
                times[name].append(cpu_ms(program, address))
            order.reverse()
    hand, ours = (statistics.median(times[name]) for name in programs)
    return [
        f"| {REQUESTS:,} requests, {CONCURRENCY} at a time | CPU, ms each | ratio | to reach |",
        "|---|---|---|---|",
        f"| litellm by hand | {hand:.2f} | | |",
        f"| rigging-litellm | {ours:.2f} | {ours / hand:.3f} | ≤ 1.10 |",
    ]


def limited() -> list[str]:
    """Run against limits and faults; return lines of a table."""
    programs: dict[str, Program] = {
        "rigging-litellm": with_rigging,
        "litellm's own retries": with_own_retries,
        "litellm and `backoff`": with_backoff,
    }
    servers = {
        "50/s, Retry-After": Settings(RATE, BURST, ANSWER_S),
        "50/s, without": Settings(RATE, BURST, ANSWER_S, retry_after=False),
        "5% 500, 5% dropped, 10% 429": Settings(answer_s=ANSWER_S, retry_after=False, faults=True),
    }
    ideal_s = (LIMITED - BURST) / RATE
    lines = [
        f"| {LIMITED:,} requests, {CONNECTIONS} at a time | client | answered | refused "
        "| time ÷ ideal |",
        "|---|---|---|---|---|",
    ]
    for server, settings in servers.items():
        for client, program in programs.items():
            with running(settings) as address:
                answered = asyncio.run(_limited(program, address))
                seen = counts(address)
            refused = seen.refused / (seen.answered + seen.refused + seen.failed)
            ratio = f"{seen.last_s / ideal_s:.2f}" if settings.rate else ""
            twice = f", {seen.twice} twice" if seen.twice else ""
            lines.append(f"| {server} | {client} | {answered:,}{twice} | {refused:.1%} | {ratio} |")
            print(lines[-1], flush=True)
    return lines


async def _limited(program: Program, address: str) -> int:
    return await program(address, LIMITED, CONNECTIONS)


def report() -> str:
    """Measure everything; return the tables."""
    lines = [
        "# Results of the litellm provider",
        "",
        f'`nox -s "bench(litellm)"` on {platform.machine()} {platform.system()}, '
        f"Python {platform.python_version()}, one run, medians of {ROUNDS}.",
        "",
        *overhead(),
        "",
        *limited(),
        "",
        "To reach at 50 requests a second: all answered, ≤ 1.25 times the ideal time, ≤ 10%",
        "refused; with faults: all answered, none twice.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    text = report()
    print(text)
    RESULTS.write_text(text, encoding="utf-8")
