"""Rules of many callers: at once, cancelled, gone, and out of time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from rigging.error import ProviderTimeoutError
from rigging.params import GenerateParams
from rigging.testing._contract._kinds import WAYS, Kind, Way, raised
from rigging.testing._contract._subject import PROMPTS, Subject, needs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rigging.generator import Generator
    from rigging.testing._contract._runner import Runner
    from rigging.testing._situations import SlowRequest

__all__ = ["CallerRules"]

_LEFT: Final = 10  # streams that nobody reads to their end
_LATE_S: Final = 5.0  # by which a machine that is busy may be late


class CallerRules(Subject):
    """One generator serves any number of callers, and none of them suffers from another."""

    def test_many_callers_at_once(self, generator: Generator, kind: Kind, runner: Runner) -> None:
        # Long enough to tell one answer from another.
        params = self.params(max_tokens=8)
        alone = [str(runner.run(kind.ask(generator, prompt, params))) for prompt in PROMPTS]
        assert not self.deterministic or len(set(alone)) > 1, (
            f"different prompts give different answers, or nobody can tell whose answer came "
            f"(or say `deterministic = False`): all of {len(PROMPTS)} gave {alone[0]!r}"
        )
        for way in WAYS:
            answers = runner.run(self._ask_all(way, generator, kind, params))
            failed = [raised(one) for one in answers if isinstance(one, BaseException)]
            assert not failed, (
                f"{self.callers} callers at once each get an answer to a {way}: {len(failed)} "
                f"failed, the first with {failed[0]!r}"
            )
            for number, prompt in enumerate(PROMPTS if self.deterministic else ()):
                mixed_up = {str(answer) for answer in answers[number :: len(PROMPTS)]}
                mixed_up -= {alone[number]}
                assert not mixed_up, (
                    f"callers at once each get their own answer: {prompt!r} gives "
                    f"{alone[number]!r}, and here came {mixed_up} of a {way}"
                )

    @needs("takes_time")
    def test_a_cancelled_request_frees_its_place(
        self, generator: Generator, kind: Kind, slow: SlowRequest, runner: Runner
    ) -> None:
        async def cancel_and_ask() -> None:
            await kind.ask(generator, PROMPTS[0], self.params())  # whatever is to load, is loaded
            for way in WAYS:
                running = [_start(way, generator, kind, slow) for _ in range(slow.places)]
                await self._cancel(running, slow)
                await self._ask_again(generator, kind, "a request that is cancelled")

        runner.run(cancel_and_ask())

    @needs("takes_time")
    def test_a_cancelled_request_fails_no_other(
        self, generator: Generator, kind: Kind, slow: SlowRequest, runner: Runner
    ) -> None:
        async def cancel_beside_others(way: Way) -> None:
            cancelled, beside = (_start(way, generator, kind, slow) for _ in range(2))
            await self._cancel([cancelled], slow)
            await asyncio.wait([beside], timeout=slow.after_s)
            if beside.done():
                _check_answered(beside)
            beside.cancel()
            await asyncio.wait([beside], timeout=self.patience_s)

        async def cancel_before_others(way: Way) -> None:
            cancelled = _start(way, generator, kind, slow)
            others = [
                asyncio.ensure_future(kind.answer(way, generator, prompt, self.params()))
                for prompt in PROMPTS
            ]
            await self._cancel([cancelled], slow)
            _, left = await asyncio.wait(others, timeout=self.patience_s)
            assert not left, (
                f"cancelling one request leaves the others as they are: {len(left)} of "
                f"{len(others)} {way}s beside it had no answer within {self.patience_s:g} s"
            )
            for other in others:
                _check_answered(other)

        async def cancel_all() -> None:
            await kind.ask(generator, PROMPTS[0], self.params())  # whatever is to load, is loaded
            for way in WAYS:
                await cancel_beside_others(way)
                await cancel_before_others(way)

        runner.run(cancel_all())

    def test_a_stream_that_is_left_frees_its_place(
        self, generator: Generator, kind: Kind, runner: Runner
    ) -> None:
        async def leave() -> None:
            asked = kind.streaming(generator, PROMPTS[0], self.params(max_tokens=64))
            async with asked as stream:
                await anext(stream)

        async def leave_and_ask() -> None:
            await kind.ask(generator, PROMPTS[0], self.params())  # whatever is to load, is loaded
            for _ in range(_LEFT):
                try:
                    async with asyncio.timeout(self.patience_s):
                        await leave()
                except Exception as error:  # noqa: BLE001 (reported as a broken rule)
                    pytest.fail(
                        f"a stream may be left after its first piece, and closed: of "
                        f"{_LEFT} in a row, one ended with {raised(error)!r} "
                        f"(within {self.patience_s:g} s)"
                    )
            await self._ask_again(generator, kind, "a stream that is left after its first piece")

        runner.run(leave_and_ask())

    @needs("takes_time", "supports_timeout")
    def test_a_timeout_ends_a_request(
        self, generator: Generator, kind: Kind, slow: SlowRequest, runner: Runner
    ) -> None:
        timed = slow.params.merge_with(GenerateParams(timeout=slow.after_s))
        limit_s = slow.after_s + min(_LATE_S, self.patience_s)

        async def ask_in_time(way: Way) -> object:
            await kind.ask(generator, PROMPTS[0], self.params())  # whatever is to load, is loaded
            slow.arrange()
            try:
                async with asyncio.timeout(limit_s):
                    return await kind.answer(way, generator, slow.prompt, timed)
            except Exception as error:  # noqa: BLE001 (reported as a broken rule)
                return raised(error)

        for way in WAYS:
            started = time.monotonic()
            answer = runner.run(ask_in_time(way))
            assert isinstance(answer, ProviderTimeoutError), (
                f"a {way} that takes longer than `params.timeout` ({slow.after_s:g} s) ends with a "
                f"ProviderTimeoutError, and in time: after {time.monotonic() - started:.1f} s came "
                f"{answer!r} (or say `supports_timeout = False`)"
            )

    async def _ask_all(
        self, way: Way, generator: Generator, kind: Kind, params: GenerateParams
    ) -> list[Any]:
        prompts = (PROMPTS[number % len(PROMPTS)] for number in range(self.callers))
        asked = (kind.answer(way, generator, prompt, params) for prompt in prompts)
        return await asyncio.gather(*asked, return_exceptions=True)

    async def _cancel(self, running: Sequence[asyncio.Future[Any]], slow: SlowRequest) -> None:
        """Cancel requests that are under way, and wait for their end."""
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
                f"a request that is cancelled raises CancelledError: here came "
                f"{_outcome(request)!r}"
            )

    async def _ask_again(self, generator: Generator, kind: Kind, after: str) -> None:
        try:
            async with asyncio.timeout(self.patience_s):
                await kind.ask(generator, PROMPTS[0], self.params())
        except TimeoutError:
            pytest.fail(
                f"{after} frees its place: the next one was not answered within "
                f"{self.patience_s:g} s"
            )


def _start(way: Way, generator: Generator, kind: Kind, slow: SlowRequest) -> asyncio.Future[Any]:
    slow.arrange()
    return asyncio.ensure_future(kind.answer(way, generator, slow.prompt, slow.params))


def _outcome(request: asyncio.Future[Any]) -> object:
    """Return what came of a request: its result, or what it raised."""
    if request.cancelled():
        return asyncio.CancelledError()
    error = request.exception()
    return request.result() if error is None else raised(error)


def _check_answered(request: asyncio.Future[Any]) -> None:
    outcome = _outcome(request)
    assert not isinstance(outcome, BaseException), (
        f"cancelling one request leaves the others as they are: one beside it ended with "
        f"{outcome!r}"
    )
