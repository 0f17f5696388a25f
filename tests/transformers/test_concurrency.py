from __future__ import annotations

import asyncio
import copy
import itertools
import logging
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from rigging import GeneratedText, GenerateParams
from rigging.error import ProviderServerError, ProviderTimeoutError
from rigging_transformers import TransformersGenerator
from rigging_transformers._request import prepare

if TYPE_CHECKING:
    from pathlib import Path

    from tests.transformers.conftest import Reference, Steps

LONG = GenerateParams(max_tokens=200, temperature=0)
SHORT = GenerateParams(max_tokens=3, temperature=0)


def test_the_event_loop_runs_on_while_a_batch_is_generated(
    borrowing: TransformersGenerator,
) -> None:
    kinds = [
        GenerateParams(temperature=0),
        GenerateParams(temperature=1.0, top_p=0.9),
        GenerateParams(temperature=1.0, seed=5),
        GenerateParams(temperature=0, frequency_penalty=0.5, stop=["never said"]),
    ]
    params = [own.merge_with(GenerateParams(max_tokens=30)) for own in kinds * 8]

    async def longest_stall() -> float:
        stalls: list[float] = []

        async def beat() -> None:
            while True:
                before = time.perf_counter()
                await asyncio.sleep(0.001)
                stalls.append(time.perf_counter() - before)

        heart = asyncio.create_task(beat())
        await borrowing.generate_texts(["Hello there"] * 32, params)
        heart.cancel()
        return max(stalls)

    # Other work on the machine stalls a loop now and then, and the engine would each time.
    runs = (asyncio.run(longest_stall()) for _ in range(20))

    assert any(stall < 0.05 for stall in runs)


def test_cancelling_ends_the_generation_within_a_step(
    borrowing: TransformersGenerator, steps: Steps
) -> None:
    cancelled = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(borrowing.generate_texts(["Hello"] * 2, [LONG] * 2))

        def cancel(step: int) -> None:
            if step == 3:
                loop.call_soon_threadsafe(task.cancel)
                cancelled.wait(10)

        steps.then = cancel
        with pytest.raises(asyncio.CancelledError):
            await task
        cancelled.set()
        # The thread is free: what is asked next is answered.
        (result,) = await borrowing.generate_texts(["Hello"], [SHORT])
        assert isinstance(result, GeneratedText)

    asyncio.run(main())

    assert steps.count == 3 + 3


def test_cancelling_a_waiting_call_takes_it_out_of_the_queue(
    borrowing: TransformersGenerator, steps: Steps
) -> None:
    async def main() -> None:
        first = asyncio.create_task(borrowing.generate_texts(["Hello"], [SHORT]))
        second = asyncio.create_task(borrowing.generate_texts(["Hello"], [LONG]))
        await asyncio.sleep(0)
        second.cancel()
        await first
        await asyncio.gather(second, return_exceptions=True)
        await borrowing.generate_texts(["Hello"], [SHORT])

    asyncio.run(main())

    # At most one step of the cancelled call, if it had begun.
    assert steps.count <= 3 + 1 + 3


def test_a_timeout_fails_its_own_item_only(borrowing: TransformersGenerator, steps: Steps) -> None:
    steps.then = lambda _: time.sleep(0.05)
    hurried = SHORT.merge_with(GenerateParams(max_tokens=100, timeout=0.2))

    late, fine = asyncio.run(borrowing.generate_texts(["Hello"] * 2, [hurried, SHORT]))

    assert isinstance(late, ProviderTimeoutError)
    assert "no answer within 0.2 s" in str(late)
    assert late.retryable
    assert isinstance(fine, GeneratedText)
    assert 3 <= steps.count <= 6


def test_a_timeout_ends_other_loops_too(borrowing: TransformersGenerator, steps: Steps) -> None:
    steps.then = lambda _: time.sleep(0.05)
    hurried = GenerateParams(max_tokens=100, timeout=0.2, extra={"num_beams": 2})

    (late,) = asyncio.run(borrowing.generate_texts(["Hello"], [hurried]))

    assert isinstance(late, ProviderTimeoutError)
    assert steps.count <= 6


def test_a_request_that_waits_too_long_fails_in_time_and_is_never_begun(
    borrowing: TransformersGenerator, steps: Steps
) -> None:
    borrowing.max_batch_size = 1
    steps.then = lambda _: time.sleep(0.05)

    async def main() -> None:
        running = asyncio.create_task(
            borrowing.generate_texts(["Hello"], [GenerateParams(max_tokens=20)])
        )
        await asyncio.sleep(0.05)
        hurried = SHORT.merge_with(GenerateParams(timeout=0.1))
        (late,) = await borrowing.generate_texts(["Hello"], [hurried])
        assert isinstance(late, ProviderTimeoutError)
        assert not running.done()
        await running

    asyncio.run(main())

    assert steps.count == 20


@pytest.mark.parametrize("end", ["closed", "abandoned"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=["rolling", "other"])
def test_python_exits_within_a_step_when_nobody_can_get_an_answer(
    tiny_model: Path, end: str, options: dict[str, int]
) -> None:
    program = f"""
import asyncio, atexit, sys, threading, time
from rigging import GenerateParams
from rigging_transformers import TransformersGenerator

generator = TransformersGenerator(model={str(tiny_model)!r}).load()
steps = []
generator._engine._own.model.register_forward_hook(lambda *_: (time.sleep(0.2), steps.append(1)))
loop = asyncio.new_event_loop()
params = GenerateParams(max_tokens=200, temperature=0, extra={options!r})
task = loop.create_task(generator.generate_texts(["Hello"], [params]))
if {end!r} == "closed":
    loop.run_until_complete(asyncio.sleep(0.5))
    loop.close()
else:
    threading.Thread(target=loop.run_forever, daemon=True).start()
    time.sleep(0.5)
print(len(steps))
atexit.register(lambda: print(len(steps), flush=True))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )

    at_end, at_exit = map(int, done.stdout.split())
    assert at_exit <= at_end + 3 < 100


# Each child is a Python of its own that exits in the midst of something; forks, because torch
# takes seconds to import.
EXITS = """
import asyncio, atexit, contextlib, os, sys, threading, time
import rigging_transformers._loading, rigging_transformers._loop
from rigging import GenerateParams
from rigging.error import RiggingError
from rigging_transformers import TransformersGenerator

generator = TransformersGenerator(model=sys.argv[1])

async def ask(rows, tokens):
    params = GenerateParams(max_tokens=tokens, temperature=0)
    return await generator.generate_texts(["Hello"] * rows, [params] * rows)

async def ask_on():
    while True:
        await ask(1, 2)

def behind(call):
    def quietly():
        with contextlib.suppress(RiggingError):  # what the thread is told, and may show
            call()

    threading.Thread(target=quietly, daemon=True).start()

def exit_while_a_batch_runs():
    generator.load()
    behind(lambda: asyncio.run(ask(3000, 200)))

def exit_while_it_loads():
    behind(generator.load)

def exit_while_others_ask():
    generator.load()
    atexit.register(time.sleep, 0.3)
    behind(lambda: asyncio.run(ask_on()))

def ask_while_it_exits():
    generator.load()
    atexit.register(lambda: print(asyncio.run(ask(1, 2))[0], flush=True))

for how in sys.argv[2:]:
    child = os.fork()
    if child == 0:
        globals()[how]()
        time.sleep(0.05)
        sys.exit()
    _, status = os.waitpid(child, 0)
    print(how, "status", status, flush=True)
"""
EXITING: Final = (
    "exit_while_a_batch_runs",
    "exit_while_it_loads",
    "exit_while_others_ask",
    "ask_while_it_exits",
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_python_exits_without_a_noise_whatever_the_engine_does(tiny_model: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EXITS, str(tiny_model), *EXITING],
        capture_output=True,
        text=True,
        # One thread: what is looked for is not in the kernels, and forked pools are slow.
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        check=True,
    )

    statuses = [line for line in done.stdout.splitlines() if " status " in line]
    others = [line for line in done.stdout.splitlines() if line not in statuses]
    assert statuses == [f"{how} status 0" for how in EXITING]
    assert len(others) == 1
    assert others[0].startswith("the engine cannot run: Python is exiting")
    assert "FATAL" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_uses_the_generator_while_its_parent_does(tiny_model: Path) -> None:
    program = f"""
import asyncio, os, signal, threading
from rigging import GenerateParams
from rigging_transformers import TransformersGenerator

generator = TransformersGenerator(model={str(tiny_model)!r}).load()
is_running, has_forked = threading.Event(), threading.Event()

def wait(*_):
    is_running.set()
    has_forked.wait(60)

handle = generator._engine._own.model.register_forward_hook(wait)

def say(tokens):
    params = GenerateParams(max_tokens=tokens, temperature=0)
    print(asyncio.run(generator.generate_texts(["Hello"], [params]))[0], flush=True)

caller = threading.Thread(target=say, args=[5])
caller.start()
is_running.wait(60)
child = os.fork()
handle.remove()
if child == 0:
    signal.alarm(60)
    say(3)
    generator.unload()
    os._exit(0)
_, status = os.waitpid(child, 0)
has_forked.set()
caller.join()
print("status", status)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], check=True, capture_output=True, text=True
    )

    child, parent, status = done.stdout.splitlines()
    assert parent.startswith(child)
    assert status == "status 0"


def test_one_event_loop_after_another(generator: TransformersGenerator) -> None:
    first, second = (asyncio.run(generator.generate_texts(["Hello"], [SHORT])) for _ in range(2))

    assert [str(result) for result in first] == [str(result) for result in second]


def test_event_loops_in_several_threads_share_the_engine(
    borrowing: TransformersGenerator,
) -> None:
    expected = asyncio.run(borrowing.complete("Hello").with_(SHORT).run()).generated
    said: list[str] = []

    def run() -> None:
        pipeline = borrowing.complete("Hello").with_(SHORT)
        said.append(asyncio.run(pipeline.run()).generated)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert said == [expected] * 4


def test_copies_of_a_generator_around_a_model_share_its_batch(
    borrowing: TransformersGenerator, widths: list[int]
) -> None:
    copied = copy.copy(borrowing)

    async def main() -> None:
        await asyncio.gather(
            *(each.generate_texts(["Hello"], [SHORT]) for each in (borrowing, copied))
        )

    asyncio.run(main())

    assert widths == [2, 2, 2]


def test_a_batch_size_that_is_set_meanwhile_holds_at_once(
    borrowing: TransformersGenerator, steps: Steps, widths: list[int]
) -> None:
    borrowing.max_batch_size = 8

    async def ask(tokens: int) -> None:
        await borrowing.generate_texts(["Hello"], [GenerateParams(max_tokens=tokens)])

    async def main() -> None:
        asked = asyncio.gather(*map(ask, [*range(5, 13), *[9] * 32]))
        await steps.reach(3)
        borrowing.max_batch_size = 2
        # Who asks next brings it along.
        await asyncio.gather(asked, ask(9))

    asyncio.run(main())

    assert max(widths[:4]) == 8
    assert max(widths[16:]) == 2


def test_who_is_made_ready_holds_nobody_up_who_runs(
    borrowing: TransformersGenerator, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    others = GenerateParams(max_tokens=2, temperature=0, extra={"min_new_tokens": 1})

    def slowly(*args: Any) -> Any:
        events.append("ready")
        time.sleep(0.03)
        return prepare(*args)

    async def main() -> None:
        running = asyncio.create_task(borrowing.generate_texts(["Hello"], [LONG]))
        await steps.reach(2)
        monkeypatch.setattr("rigging_transformers._loop.prepare", slowly)
        steps.then = lambda _: events.append("step")
        await asyncio.gather(running, borrowing.generate_texts(["One"] * 8, [others] * 8))

    asyncio.run(main())

    assert events.count("ready") == 8
    assert ("ready", "ready") not in itertools.pairwise(events)


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
def test_a_log_that_fails_keeps_no_answer_back(
    borrowing: TransformersGenerator, reference: Reference, kind: type[BaseException]
) -> None:
    class Full(logging.Handler):
        def emit(self, _: logging.LogRecord) -> None:
            raise kind("the disk is full")

    def ask() -> list[object]:
        async def main() -> list[object]:
            two = borrowing.generate_texts(["Hello"] * 2, [SHORT] * 2)
            return list(await asyncio.wait_for(two, 60))

        return asyncio.run(main())

    def fail(*_: object) -> None:
        raise SystemExit

    log, handler = logging.getLogger("rigging_transformers"), Full()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        with reference.model.register_forward_pre_hook(fail):
            failed = ask()
    finally:
        log.setLevel(level)
        log.removeHandler(handler)

    assert [type(result) for result in failed] == [ProviderServerError] * 2
    assert [type(result) for result in ask()] == [GeneratedText] * 2


def test_many_callers_each_get_their_own(borrowing: TransformersGenerator) -> None:
    prompts = [f"number {n}" for n in range(10)]

    async def main() -> list[str]:
        pipelines = [borrowing.complete(prompt).with_(SHORT) for prompt in prompts]
        done = await asyncio.gather(*(pipeline.run() for pipeline in pipelines))
        return [completion.generated for completion in done]

    together = asyncio.run(main())
    batch = asyncio.run(borrowing.generate_texts(prompts, [SHORT] * 10))

    assert together == [str(result) for result in batch]


@pytest.mark.parametrize(("size", "expected"), [(64, [5]), (2, [2, 2, 1]), (1, [1] * 5)])
def test_a_batch_size_bounds_what_is_generated_for_at_once(
    reference: Reference, widths: list[int], size: int, expected: list[int]
) -> None:
    generator = TransformersGenerator.from_obj(
        reference.model, reference.tokenizer, max_batch_size=size
    )
    asyncio.run(generator.complete("Hello").with_(max_tokens=1, temperature=0).run_many(5))

    assert widths == expected
