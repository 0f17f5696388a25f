"""The scheduler: what waits goes out together, bounded, and cancelled with its callers."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

import rigging as rg
from rigging.error import InvalidGeneratorError, ResponseError


class Engine(rg.Generator):
    """Works on a call for as long as its gate is shut, and notes what it was given."""

    batch_size: int | None = None
    max_calls: int | None = None

    _calls: list[list[str]] = []
    _cancelled: list[int] = []
    _gate: Any = None
    _running: int = 0
    _peak: int = 0

    async def generate_texts(
        self, texts: Sequence[str], params: Sequence[rg.GenerateParams]
    ) -> Sequence[rg.GeneratedText | BaseException]:
        self._calls.append(list(texts))
        self._running += 1
        self._peak = max(self._peak, self._running)
        try:
            if self._gate is not None:
                await self._gate.wait()
            else:
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self._cancelled.append(len(texts))
            raise
        finally:
            self._running -= 1
        return [
            ValueError(text) if text.startswith("bad") else rg.GeneratedText.from_text(text)
            for text in texts
        ]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_separate_runs_that_wait_together_are_one_call() -> None:
    engine = Engine(model="x")

    async def main() -> list[rg.Completion]:
        return await asyncio.gather(*(engine.complete(str(n)).run() for n in range(64)))

    assert [one.generated for one in asyncio.run(main())] == [str(n) for n in range(64)]
    assert engine._calls == [[str(n) for n in range(64)]]


@pytest.mark.parametrize(("size", "calls"), [(1, 5), (2, 3), (5, 1)])
def test_a_call_carries_at_most_batch_size(size: int, calls: int) -> None:
    engine = Engine(model="x", batch_size=size)

    asyncio.run(engine.complete("a").run_many(5))

    assert len(engine._calls) == calls
    assert max(map(len, engine._calls)) == size


def test_what_arrives_while_all_calls_are_busy_joins_the_next() -> None:
    async def main() -> None:
        engine = Engine(model="x", max_calls=1)
        engine._gate = asyncio.Event()
        runs = [asyncio.create_task(engine.complete("first").run())]
        await settle()
        for n in range(5):
            runs.append(asyncio.create_task(engine.complete(str(n)).run()))
            await settle()
        assert engine._calls == [["first"]]
        engine._gate.set()
        await asyncio.gather(*runs)
        assert engine._calls == [["first"], ["0", "1", "2", "3", "4"]]
        assert engine._peak == 1

    asyncio.run(main())


def test_single_requests_are_bounded_by_max_calls_too() -> None:
    engine = Engine(model="x", batch_size=1, max_calls=3)

    asyncio.run(engine.complete("a").run_many(20))

    assert engine._peak == 3
    assert len(engine._calls) == 20


@pytest.mark.parametrize("max_calls", [None, 1])
@pytest.mark.parametrize("size", [None, 1, 3])
def test_a_failure_is_its_own_requests_only(size: int | None, max_calls: int | None) -> None:
    engine = Engine(model="x", batch_size=size, max_calls=max_calls)

    async def main() -> list[Any]:
        runs = (engine.complete(text).run() for text in ("a", "bad", "c"))
        return await asyncio.gather(*runs, return_exceptions=True)

    first, failed, last = asyncio.run(main())
    assert (first.generated, last.generated) == ("a", "c")
    assert isinstance(failed, ValueError)


@pytest.mark.parametrize("size", [None, 1])
def test_cancelling_a_caller_cancels_what_it_alone_waits_for(size: int | None) -> None:
    async def main() -> None:
        engine = Engine(model="x", batch_size=size)
        engine._gate = asyncio.Event()
        one, other = (asyncio.create_task(engine.complete(text).run()) for text in "ab")
        await settle()
        one.cancel()
        await asyncio.wait([one])
        assert engine._cancelled == ([] if size is None else [1])
        engine._gate.set()
        assert (await other).generated == "b"
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_call_that_nobody_waits_for_is_cancelled_and_has_ended() -> None:
    async def main() -> None:
        engine = Engine(model="x")
        engine._gate = asyncio.Event()
        run = asyncio.create_task(engine.complete("a").run_many(3))
        await settle()
        run.cancel()
        await asyncio.wait([run])
        assert engine._cancelled == [3]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_caller_that_is_cancelled_while_it_waits_is_never_sent() -> None:
    async def main() -> None:
        engine = Engine(model="x", max_calls=1)
        engine._gate = asyncio.Event()
        first, second, third = (
            asyncio.create_task(engine.complete(t).run()) for t in ("a", "b", "c")
        )
        del second
        await settle()
        assert engine._calls == [["a", "b", "c"]]
        fourth, fifth = (asyncio.create_task(engine.complete(t).run()) for t in ("d", "e"))
        await settle()
        fourth.cancel()
        engine._gate.set()
        await fifth
        await asyncio.gather(first, third)
        assert engine._calls == [["a", "b", "c"], ["e"]]

    asyncio.run(main())


def test_a_call_that_raises_fails_all_its_requests_and_the_next_goes_on() -> None:
    class Broken(rg.Generator):
        _calls: int = 0

        async def generate_texts(self, texts: Any, params: Any) -> Any:
            self._calls += 1
            if self._calls == 1:
                raise ResponseError("broken")
            return [rg.GeneratedText.from_text(text) for text in texts]

    generator = Broken(model="x")

    async def main() -> None:
        runs = [generator.complete(text).run() for text in "ab"]
        failed = await asyncio.gather(*runs, return_exceptions=True)
        assert [type(error) for error in failed] == [ResponseError] * 2
        assert (await generator.complete("c").run()).generated == "c"

    asyncio.run(main())


def test_schedulers_do_not_keep_event_loops_alive() -> None:
    engine = Engine(model="x")
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def main() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await engine.complete("a").run()

    for _ in range(3):
        asyncio.run(main())
    gc.collect()

    assert [ref() for ref in loops] == [None] * 3


@pytest.mark.parametrize("name", ["batch_size", "max_calls"])
@pytest.mark.parametrize("value", [0, -1, True, "2"])
def test_a_bound_that_is_none_is_refused(name: str, value: Any) -> None:
    engine = Engine.model_construct(model="x", **{name: value})

    with pytest.raises(InvalidGeneratorError, match=f"Engine.{name} is .*at least 1"):
        asyncio.run(engine.complete("a").run())
