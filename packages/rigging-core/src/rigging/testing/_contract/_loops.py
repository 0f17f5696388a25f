"""Rules of event loops: any of them will do, also several at once, and none is ever blocked."""

from __future__ import annotations

import asyncio
import pickle
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest

from rigging.testing._contract._assigning import made_anew
from rigging.testing._contract._children import answer_in_child
from rigging.testing._contract._heartbeat import listen
from rigging.testing._contract._kinds import WAYS, Kind, raised
from rigging.testing._contract._runner import Runner
from rigging.testing._contract._subject import PROMPTS, Subject, needs

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from rigging.generator import Generator

__all__ = ["LoopRules"]

_TRIES: Final = 3  # a busy machine may stall any loop once


class LoopRules(Subject):
    """A generator belongs to no event loop, and leaves each of them to all that run on it."""

    def test_one_event_loop_after_another(self, generator: Generator, kind: Kind) -> None:
        for which in ("first", "second"):
            for way in WAYS:
                try:
                    with Runner(self.patience_s) as runner:
                        runner.run(kind.answer(way, generator, PROMPTS[0], self.params()))
                except Exception as error:  # noqa: BLE001 (reported as a broken rule)
                    pytest.fail(
                        f"a generator works on one event loop after another, since each "
                        f"asyncio.run makes one: the {which} {way} raised {raised(error)!r}"
                    )

    def test_two_event_loops_at_once(self, generator: Generator, kind: Kind) -> None:
        barrier = threading.Barrier(2, timeout=self.patience_s)
        failures: list[BaseException] = []

        async def ask_some() -> None:
            barrier.wait()  # both loops run from here on
            for way in WAYS * 2:
                await kind.answer(way, generator, PROMPTS[0], self.params())
            await asyncio.to_thread(barrier.wait)  # and until both are done

        def run() -> None:
            try:
                asyncio.run(ask_some())
            except Exception as error:  # noqa: BLE001 (reported by the other thread)
                barrier.abort()
                failures.append(error)

        threads = [threading.Thread(target=run, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self.patience_s)
            if thread.is_alive():
                failures.append(TimeoutError(f"no answer for {self.patience_s:g} s"))
        told = [error for error in failures if not isinstance(error, threading.BrokenBarrierError)]
        assert not failures, (
            f"a generator works on two event loops at once, in two threads: here came "
            f"{raised((told or failures)[0])!r}"
        )

    def test_requests_never_block_the_event_loop(
        self, generator: Generator, runner: Runner
    ) -> None:
        async def ask_five_of_each() -> None:
            for kind in self.kinds():
                await self._ask_five(generator, kind)

        def hear() -> float:
            # Whatever is to load, is loaded.
            runner.run(self._ask_five(generator, self.kinds()[0]))
            return _stall_of(ask_five_of_each(), runner)

        self._check_steady(hear, "while requests run")

    def test_loading_never_blocks_the_event_loop(
        self, generator: Generator, runner: Runner
    ) -> None:
        def hear() -> float:
            generator.unload()
            if not self.answers_when_spawned:  # nor is there time to load another one
                return _stall_of(self._ask_five(generator, self.kinds()[0]), runner)
            # What happens once for each generator happens to this one.
            with made_anew(generator) as another:
                return _stall_of(self._ask_five(another, self.kinds()[0]), runner)

        self._check_steady(hear, "while the first use loads what it needs")

    @needs("answers_when_spawned")
    def test_the_first_request_never_blocks_the_event_loop(self, generator: Generator) -> None:
        def hear() -> float:
            there = answer_in_child(
                pickle.dumps(generator),
                kind=self.kinds()[0].name,
                prompt=PROMPTS[0],
                params=self.params().to_dict(),
            )
            return there.stalled_s

        try:
            self._check_steady(hear, "during the first request of a process, imports included")
        except RuntimeError as error:
            pytest.fail(f"a generator answers in a process of its own: {error}")

    async def _ask_five(self, generator: Generator, kind: Kind) -> None:
        prompts = [*PROMPTS, PROMPTS[0]]
        await kind.call(generator, prompts, [self.params()] * len(prompts))
        await kind.stream(generator, PROMPTS[0], self.params())

    def _check_steady(self, hear: Callable[[], float], when: str) -> None:
        """Fail if the loop stands still for too long, whenever it is listened to."""
        stalls_s = [hear()]
        while stalls_s[-1] > self.max_stall_s and len(stalls_s) < _TRIES:
            stalls_s.append(hear())
        assert stalls_s[-1] <= self.max_stall_s, (
            f"the event loop goes on {when}: nothing else ran for "
            f"{min(stalls_s):.2f} s, at least, {_TRIES} times in a row. What blocks, runs in a "
            f"thread (asyncio.to_thread)"
        )


def _stall_of(work: Coroutine[Any, Any, object], runner: Runner) -> float:
    _, stall_s = runner.run(listen(work))
    return stall_s
