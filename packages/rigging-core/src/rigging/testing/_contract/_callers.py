"""Rules of many callers: at once, on any event loop, cancelled, and out of time."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest

from rigging.error import ProviderTimeoutError
from rigging.params import GenerateParams
from rigging.testing._contract._heartbeat import Heartbeat, listen
from rigging.testing._contract._subject import PROMPTS, Subject, needs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rigging.generator import Generator
    from rigging.testing._contract._kinds import Kind
    from rigging.testing._contract._runner import Runner
    from rigging.testing._situations import SlowRequest

__all__ = ["CallerRules"]

_TRIES: Final = 3  # a busy machine may stall any loop once


class CallerRules(Subject):
    """One generator serves any number of callers, and none of them waits for another's sake."""

    def test_many_callers_at_once(self, generator: Generator, kind: Kind, runner: Runner) -> None:
        params = self.params(max_tokens=2)

        async def ask_all() -> list[Any]:
            prompts = (PROMPTS[number % len(PROMPTS)] for number in range(self.callers))
            asked = (kind.ask(generator, prompt, params) for prompt in prompts)
            return await asyncio.gather(*asked, return_exceptions=True)

        answers = runner.run(ask_all())
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        assert not failed, (
            f"{self.callers} callers at once each get an answer: {len(failed)} failed, the first "
            f"with {failed[0]!r}"
        )
        if self.deterministic:
            for number, prompt in enumerate(PROMPTS):
                alone = str(runner.run(kind.ask(generator, prompt, params)))
                mixed_up = {str(answer) for answer in answers[number :: len(PROMPTS)]} - {alone}
                assert not mixed_up, (
                    f"callers at once each get their own answer: {prompt!r} gives {alone!r}, and "
                    f"here came {mixed_up}"
                )

    def test_one_event_loop_after_another(self, generator: Generator, kind: Kind) -> None:
        for which in ("first", "second"):
            try:
                asyncio.run(kind.ask(generator, PROMPTS[0], self.params()))
            except Exception as error:  # noqa: BLE001 (reported as a broken rule)
                pytest.fail(
                    f"a generator works on one event loop after another, since each asyncio.run "
                    f"makes one: on the {which} came {error!r}"
                )

    def test_two_event_loops_at_once(self, generator: Generator, kind: Kind) -> None:
        barrier = threading.Barrier(2, timeout=self.patience_s)
        failures: list[BaseException] = []

        async def ask_some() -> None:
            barrier.wait()  # both loops run from here on
            for _ in range(3):
                await kind.ask(generator, PROMPTS[0], self.params())
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
                failures.append(TimeoutError(f"no answer for {self.patience_s} s"))
        told = [error for error in failures if not isinstance(error, threading.BrokenBarrierError)]
        assert not failures, (
            f"a generator works on two event loops at once, in two threads: {told or failures}"
        )

    @needs("takes_time")
    def test_a_cancelled_request_frees_its_place(
        self, generator: Generator, kind: Kind, slow: SlowRequest, runner: Runner
    ) -> None:
        async def cancel_all(ask: Callable[..., Awaitable[Any]]) -> None:
            running = []
            for _ in range(slow.places):
                slow.arrange()
                running.append(asyncio.ensure_future(ask(generator, slow.prompt, slow.params)))
            await asyncio.sleep(slow.after_s)
            for request in running:
                assert not request.done(), (
                    f"the fixture `slow` gives a request that lasts: this one had ended after "
                    f"{slow.after_s} s"
                )
                request.cancel()
            _, left = await asyncio.wait(running, timeout=self.patience_s)
            assert not left, f"a request that is cancelled ends: it went on for {self.patience_s} s"
            for request in running:
                assert request.cancelled(), (
                    f"a request that is cancelled raises CancelledError, not "
                    f"{request.exception()!r}"
                )

        async def cancel_and_ask() -> None:
            await kind.ask(generator, PROMPTS[0], self.params())  # whatever is to load, is loaded
            for ask in (kind.ask, kind.stream):
                await cancel_all(ask)
                try:
                    async with asyncio.timeout(self.patience_s):
                        await kind.ask(generator, PROMPTS[0], self.params())
                except TimeoutError:
                    pytest.fail(
                        f"a request that is cancelled frees its place: the next one was not "
                        f"answered within {self.patience_s} s"
                    )

        runner.run(cancel_and_ask())

    @needs("takes_time", "supports_timeout")
    def test_a_timeout_ends_a_request(
        self, generator: Generator, kind: Kind, slow: SlowRequest, runner: Runner
    ) -> None:
        timed = slow.params.merge_with(GenerateParams(timeout=slow.after_s))

        async def ask_in_time() -> object:
            await kind.ask(generator, PROMPTS[0], self.params())  # whatever is to load, is loaded
            slow.arrange()
            try:
                async with asyncio.timeout(self.patience_s):
                    return await kind.ask(generator, slow.prompt, timed)
            except TimeoutError as error:  # a ProviderTimeoutError is one, too
                return error

        answer = runner.run(ask_in_time())
        assert isinstance(answer, ProviderTimeoutError), (
            f"a request that takes longer than `params.timeout` ({slow.after_s} s) ends with a "
            f"ProviderTimeoutError, and in time: here came {answer!r} (or say "
            f"`supports_timeout = False`)"
        )

    def test_requests_never_block_the_event_loop(
        self, generator: Generator, runner: Runner
    ) -> None:
        async def listen_to_requests() -> Heartbeat:
            await self._ask_five(generator, self.kinds()[:1])  # whatever is to load, is loaded
            return await listen(self._ask_five(generator, self.kinds()))

        self._check_steady(listen_to_requests, runner, "while requests run")

    def test_loading_never_blocks_the_event_loop(
        self, generator: Generator, runner: Runner
    ) -> None:
        async def listen_to_loading() -> Heartbeat:
            generator.unload()
            return await listen(self._ask_five(generator, self.kinds()[:1]))

        self._check_steady(listen_to_loading, runner, "while the first use loads what it needs")

    async def _ask_five(self, generator: Generator, kinds: list[Kind]) -> None:
        prompts = [*PROMPTS, PROMPTS[0]]
        for kind in kinds:
            await kind.call(generator, prompts, [self.params()] * len(prompts))

    def _check_steady(self, attempt: Callable[[], Any], runner: Runner, when: str) -> None:
        heard = runner.run(attempt())
        for _ in range(_TRIES - 1):
            if heard.is_steady(self.max_stall_s):
                break
            heard = runner.run(attempt())
        assert heard.is_steady(self.max_stall_s), (
            f"the event loop goes on {when}: nothing else ran for {heard.stalled_s:.2f} of "
            f"{heard.total_s:.2f} s, {_TRIES} times in a row. What blocks, runs in a thread "
            f"(asyncio.to_thread)"
        )
