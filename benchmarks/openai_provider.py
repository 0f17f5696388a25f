"""What `rigging-openai` costs beside its HTTP client alone, and beside other libraries.

    nox -s "bench(openai)"

CPU time of the client's process and wall time, 2,000 requests against a server in a process of
its own. All programs take turns; medians count, also of the ratios, each of two neighbours in
time, since machines are shared and their speed changes. Peers run in the processes that are
named as arguments, ``name=python``, since each needs an environment of its own; who has none is
left out, and the table says so. Written to `RESULTS-openai.md`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final

from openai_server import CHUNKS, running

ROUNDS: Final = 9
REQUESTS: Final = 2_000
STREAMS: Final = 200
RESULTS: Final = Path(__file__).parent / "RESULTS-openai.md"

# Concurrency, and seconds that an answer takes.
SETTINGS: Final = ((32, 0.0), (256, 0.05))

# How much cheaper than each peer it is to be.
PEERS: Final = {"openai": 4, "litellm": 12, "langchain-openai": 8, "pydantic-ai": 6}

Program = Callable[[str, int, int], Awaitable[None]]


def prompts(items: int) -> Iterator[str]:
    """Make so many short prompts, each another."""
    return (f"prompt number {number}" for number in range(items))


async def pool(ask: Callable[[str], Awaitable[Any]], items: int, workers: int) -> None:
    """Ask for all prompts with so many workers, as one does by hand."""
    source = prompts(items)

    async def work() -> None:
        for prompt in source:
            assert await ask(prompt)

    await asyncio.gather(*(work() for _ in range(workers)))


# -- Rigging, and its HTTP client alone --------------------------------------------------


async def with_rigging(address: str, items: int, workers: int) -> None:
    """Run a batch."""
    import rigging as rg  # noqa: PLC0415 (a peer's process need not have it)

    generator = rg.get_generator(f"openai!tiny,api_base={address},max_connections={workers}")
    generator.api_key = "none"
    assert len(await generator.chat().run_batch(list(prompts(items)))) == items


async def with_aiohttp(address: str, items: int, workers: int) -> None:
    """Post by hand."""
    import aiohttp  # noqa: PLC0415

    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Authorization": "Bearer none"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def ask(prompt: str) -> Any:
            body = {"model": "tiny", "messages": [{"role": "user", "content": prompt}]}
            async with session.post(f"{address}/chat/completions", json=body) as response:
                return (await response.json())["choices"][0]["message"]["content"]

        await pool(ask, items, workers)


async def streams_with_rigging(address: str, items: int, workers: int) -> None:
    """Stream, and look at each piece."""
    import rigging as rg  # noqa: PLC0415

    generator = rg.get_generator(f"openai!tiny,api_base={address},max_connections={workers}")
    generator.api_key = "none"

    async def ask(prompt: str) -> Any:
        pieces = [piece async for piece in generator.chat(prompt).stream()]
        assert len(pieces) == CHUNKS
        return pieces

    await pool(ask, items, workers)


async def streams_with_aiohttp(address: str, items: int, workers: int) -> None:
    """Read the lines of a stream by hand."""
    import aiohttp  # noqa: PLC0415

    headers = {"Authorization": "Bearer none"}
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), headers=headers
    ) as session:

        async def ask(prompt: str) -> Any:
            pieces = []
            body = {"model": "tiny", "messages": [{"role": "user", "content": prompt}]}
            async with session.post(
                f"{address}/chat/completions", json={**body, "stream": True}
            ) as response:
                async for line in response.content:
                    if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                        delta = json.loads(line[6:])["choices"][0]["delta"]
                        pieces.append(delta.get("content", ""))
            assert len(pieces) == CHUNKS
            return pieces

        await pool(ask, items, workers)


# -- Others ------------------------------------------------------------------------------


async def with_openai(address: str, items: int, workers: int) -> None:
    """Use OpenAI's SDK."""
    import openai  # noqa: PLC0415

    async with openai.AsyncOpenAI(base_url=address, api_key="none", max_retries=0) as client:

        async def ask(prompt: str) -> Any:
            answer = await client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": prompt}]
            )
            return answer.choices[0].message.content

        await pool(ask, items, workers)


async def with_litellm(address: str, items: int, workers: int) -> None:
    """Use litellm."""
    import litellm  # noqa: PLC0415

    async def ask(prompt: str) -> Any:
        answer = await litellm.acompletion(
            model="openai/tiny",
            messages=[{"role": "user", "content": prompt}],
            api_base=address,
            api_key="none",
            num_retries=0,
            max_retries=0,
        )
        return answer.choices[0].message.content

    await pool(ask, items, workers)


async def with_langchain(address: str, items: int, workers: int) -> None:
    """Use LangChain's chat model."""
    from langchain_openai import ChatOpenAI  # noqa: PLC0415

    model = ChatOpenAI(model="tiny", base_url=address, api_key="none", max_retries=0)

    async def ask(prompt: str) -> Any:
        return (await model.ainvoke(prompt)).content

    await pool(ask, items, workers)


async def with_pydantic_ai(address: str, items: int, workers: int) -> None:
    """Use pydantic-ai's direct request."""
    from pydantic_ai.direct import model_request  # noqa: PLC0415
    from pydantic_ai.messages import ModelRequest  # noqa: PLC0415
    from pydantic_ai.models.openai import OpenAIChatModel  # noqa: PLC0415
    from pydantic_ai.providers.openai import OpenAIProvider  # noqa: PLC0415

    provider = OpenAIProvider(base_url=address, api_key="none")
    model = OpenAIChatModel("tiny", provider=provider)

    async def ask(prompt: str) -> Any:
        return (await model_request(model, [ModelRequest.user_text_prompt(prompt)])).parts

    await pool(ask, items, workers)


PROGRAMS: Final[dict[str, Program]] = {
    "rigging-openai": with_rigging,
    "aiohttp by hand": with_aiohttp,
    "streams, rigging-openai": streams_with_rigging,
    "streams, aiohttp by hand": streams_with_aiohttp,
    "openai": with_openai,
    "litellm": with_litellm,
    "langchain-openai": with_langchain,
    "pydantic-ai": with_pydantic_ai,
}


# -- Measuring ---------------------------------------------------------------------------


def measure(
    name: str,
    address: str,
    items: int,
    workers: int,
    run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run,
) -> tuple[float, float]:
    """Run a program once; return microseconds of CPU per request, and seconds in all."""
    gc.collect()
    cpu, began = time.process_time(), time.perf_counter()
    run(_awaited(PROGRAMS[name], address, items, workers))
    return (time.process_time() - cpu) / items * 1e6, time.perf_counter() - began


async def _awaited(program: Program, address: str, items: int, workers: int) -> None:
    await program(address, items, workers)


class Peer:
    """A program in another environment's process, which measures when it is told to.

    Args:
        name: Of the program.
        python: Of the environment.
    """

    def __init__(self, name: str, python: str) -> None:
        self._process = subprocess.Popen(
            [python, str(Path(__file__)), "--serve", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def measure(self, address: str, items: int, workers: int) -> tuple[float, float]:
        """Run it once, as `measure`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([address, items, workers]), file=self._process.stdin, flush=True)
        while not (line := self._process.stdout.readline()).startswith("measured "):
            if not line:
                raise RuntimeError("the peer's process has ended")
        cpu, wall = json.loads(line.removeprefix("measured "))
        return cpu, wall

    def close(self) -> None:
        """End its process."""
        self._process.kill()
        self._process.communicate()


def serve(name: str) -> None:
    """Measure as often as a line of input says, and print what was seen."""
    # On one loop: some keep a client for all requests, which works on no other.
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            address, items, workers = json.loads(line)
            found = measure(name, address, items, workers, runner.run)
            print("measured", json.dumps(found), flush=True)


def beside_the_client() -> list[str]:
    """Compare with the HTTP client alone; return lines of a table."""
    lines = [
        f"| {REQUESTS:,} requests | CPU, μs each | ratio | to reach | wall, s | N·L/C, s |",
        "|---|---|---|---|---|---|",
    ]
    for workers, answer_s in SETTINGS:
        names = ("aiohttp by hand", "rigging-openai")
        hand, ours, ratio = _medians(names, answer_s, REQUESTS, workers)
        least_s = f"{REQUESTS * answer_s / workers:.2f}" if answer_s else ""
        setting = f"{workers} at a time, {answer_s * 1e3:.0f} ms"
        lines += [
            f"| {setting}: aiohttp by hand | {hand[0]:.0f} | | | {hand[1]:.2f} | {least_s} |",
            f"| {setting}: rigging-openai | {ours[0]:.0f} | {ratio:.2f} | ≤ 2.0 "
            f"| {ours[1]:.2f} | {least_s} |",
        ]
    names = ("streams, aiohttp by hand", "streams, rigging-openai")
    hand, ours, ratio = _medians(names, 0.0, STREAMS, 32)
    return [
        *lines,
        f"| {STREAMS} streams of {CHUNKS} chunks, 32 at a time: by hand | {hand[0]:.0f} | | "
        f"| {hand[1]:.2f} | |",
        f"| the same: rigging-openai | {ours[0]:.0f} | {ratio:.2f} | ≤ 2.5 | {ours[1]:.2f} | |",
    ]


def _medians(
    names: tuple[str, str], answer_s: float, items: int, workers: int
) -> tuple[tuple[float, float], tuple[float, float], float]:
    """Return CPU and wall time of two programs, and how much more CPU the second one takes."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with running(answer_s) as address:
        for round_ in range(ROUNDS + 1):
            for name in names:
                result = measure(name, address, items, workers)
                if round_:  # the first one imports, and warms up
                    seen[name].append(result)
    first, second = (
        (statistics.median(cpu for cpu, _ in found), statistics.median(wall for _, wall in found))
        for found in seen.values()
    )
    pairs = zip(*seen.values(), strict=True)
    return first, second, statistics.median(ours[0] / hand[0] for hand, ours in pairs)


def beside_peers(pythons: dict[str, str]) -> list[str]:
    """Compare with other libraries; return lines of a table."""
    workers = SETTINGS[0][0]
    peers = {name: Peer(name, python) for name, python in pythons.items()}
    seen: dict[str, list[float]] = {name: [] for name in (*peers, "rigging-openai")}
    with running() as address:
        for round_ in range(ROUNDS + 1):
            ours, _ = measure("rigging-openai", address, REQUESTS, workers)
            found = {
                name: peer.measure(address, REQUESTS, workers)[0] for name, peer in peers.items()
            }
            if round_:
                for name, cpu in {**found, "rigging-openai": ours}.items():
                    seen[name].append(cpu)
    for peer in peers.values():
        peer.close()
    ours = seen.pop("rigging-openai")
    lines = [
        f"| {REQUESTS:,} requests, {workers} at a time, 0 ms | CPU, μs each | times ours "
        "| to reach |",
        "|---|---|---|---|",
        f"| rigging-openai | {statistics.median(ours):.0f} | 1 | |",
    ]
    for name, least in PEERS.items():
        if name in seen:
            cpu = statistics.median(seen[name])
            times = statistics.median(a / b for a, b in zip(seen[name], ours, strict=True))
            lines.append(f"| {name} | {cpu:.0f} | {times:.1f} | ≥ {least} |")
        else:
            lines.append(f"| {name} | did not install here | | ≥ {least} |")
    return lines


def report(pythons: dict[str, str]) -> str:
    """Measure everything; return the tables."""
    lines = [
        "# Results of the openai provider",
        "",
        f'`nox -s "bench(openai)"` on {platform.machine()} {platform.system()}, '
        f"Python {platform.python_version()}, one run, medians of {ROUNDS}.",
        "",
        *beside_the_client(),
        "",
        *beside_peers(pythons),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
    else:
        text = report(dict(argument.split("=", 1) for argument in sys.argv[1:]))
        print(text)
        RESULTS.write_text(text, encoding="utf-8")
