"""The limiter: bounds that hold, retries that wait, endpoints that refuse and die.

On a clock that runs by itself, so the times are exact and nothing is waited for.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import itertools
import logging
import random
import threading
import weakref
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rigging._quota import Allowance
from rigging.error import (
    BadRequestError,
    GenerationError,
    ProviderServerError,
    RateLimitError,
)
from rigging.limits import Left, Limiter, Limits, Quota
from tests.support import virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Server:
    """Answers after a while, and says no as it is told to.

    Attributes:
        replies: What to answer with in turn; None is a success, and the usual answer.
        answer_s: How long an answer takes.
    """

    replies: list[GenerationError | None] = field(default_factory=list)
    answer_s: float = 0.1
    starts: list[float] = field(default_factory=list)
    peak: int = 0
    _in_flight: int = 0

    async def answer(self, left: Left) -> str:
        left()
        self.starts.append(now())
        self._in_flight += 1
        self.peak = max(self.peak, self._in_flight)
        try:
            reply = self.replies.pop(0) if self.replies else None
            await asyncio.sleep(self.answer_s)
        finally:
            self._in_flight -= 1
        if reply is not None:
            raise reply
        return "answer"


async def ask(
    server: Server, limits: Limits, count: int, limiter: Limiter | None = None
) -> list[str | BaseException]:
    limiter = limiter or Limiter()
    asked = (limiter.run(server.answer, limits, endpoint="x") for _ in range(count))
    return await asyncio.gather(*asked, return_exceptions=True)


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(times)]


# -- Bounds ------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "peak"), [(1, 1), (4, 4), (0, 20)])
def test_no_more_are_in_flight_than_allowed(most: int, peak: int) -> None:
    server = Server()
    assert virtual_time.run(ask(server, Limits(max_connections=most), 20)) == ["answer"] * 20
    assert server.peak == peak


def test_endpoints_share_the_bound_and_the_delay() -> None:
    server, limiter = Server(), Limiter()
    limits = Limits(max_connections=3, min_delay_s=0.02)

    async def main() -> None:
        await asyncio.gather(
            *(limiter.run(server.answer, limits, endpoint=n % 4) for n in range(12))
        )

    virtual_time.run(main())
    assert server.peak == 3
    assert min(gaps(server.starts)) >= 0.02 - 1e-9


@given(
    count=st.integers(1, 30),
    most=st.integers(0, 5),
    delay_s=st.sampled_from([0.0, 0.01, 0.5]),
    answer_s=st.sampled_from([0.0, 0.1, 3.0]),
)
def test_bounds_hold_and_everything_is_answered(
    count: int, most: int, delay_s: float, answer_s: float
) -> None:
    server = Server(answer_s=answer_s)
    results = virtual_time.run(ask(server, Limits(most, delay_s), count))
    assert results == ["answer"] * count
    assert server.peak <= (most or count)
    assert all(gap >= delay_s - 1e-9 for gap in gaps(server.starts))


def test_the_delay_counts_from_when_a_request_has_left() -> None:
    starts: list[float] = []

    async def slow_to_leave(left: Left) -> None:
        starts.append(now())
        await asyncio.sleep(1.0)
        threading.Thread(target=left).start()
        await asyncio.sleep(5.0)

    async def main() -> None:
        limiter, limits = Limiter(), Limits(min_delay_s=0.5)
        await asyncio.gather(*(limiter.run(slow_to_leave, limits, endpoint="x") for _ in "abc"))

    virtual_time.run(main())
    assert all(gap >= 1.5 for gap in gaps(starts))
    assert starts[-1] < 5.0, "nobody waits for the answer"


def test_a_bound_can_be_raised_while_requests_wait() -> None:
    server, limiter = Server(answer_s=1.0), Limiter()

    async def main() -> None:
        narrow = asyncio.create_task(ask(server, Limits(1), 4, limiter))
        await asyncio.sleep(0.5)
        await ask(server, Limits(4), 1, limiter)
        await narrow

    virtual_time.run(main())
    assert server.peak == 4


@pytest.mark.parametrize("waits_s", [0.0, 0.05, 0.5, 1.5], ids=lambda s: f"after-{s}")
def test_callers_that_are_cancelled_leave_no_place_taken(waits_s: float) -> None:
    server, limiter = Server([RateLimitError("no")], answer_s=0.4), Limiter()
    limits = Limits(max_connections=2, min_delay_s=0.1)

    async def main() -> list[str | BaseException]:
        tasks = [asyncio.create_task(ask(server, limits, 1, limiter)) for _ in range(6)]
        await asyncio.sleep(waits_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return await ask(server, limits, 6, limiter)

    assert virtual_time.run(main()) == ["answer"] * 6


def test_a_place_that_comes_with_the_cancellation_is_handed_on() -> None:
    async def main() -> str:
        limiter, limits, server = Limiter(), Limits(max_connections=1), Server(answer_s=0.0)
        ending = asyncio.Event()

        async def holds_the_place(left: Left) -> None:
            left()
            await ending.wait()

        first = asyncio.create_task(limiter.run(holds_the_place, limits, endpoint="x"))
        second, third = (
            asyncio.create_task(limiter.run(server.answer, limits, endpoint="x")) for _ in "ab"
        )
        await asyncio.sleep(0)
        ending.set()
        await asyncio.sleep(0)  # the place goes to the second, who cannot know it yet
        assert first.done()
        second.cancel()
        return await third

    assert virtual_time.run(main()) == "answer"


@dataclass
class Caller:
    """Somebody who asks, and may lose patience."""

    endpoint: str
    asks_at: float
    patience_s: float
    reply: GenerationError | None


CALLERS = st.builds(
    Caller,
    endpoint=st.sampled_from("xy"),
    asks_at=st.sampled_from([0.0, 0.1, 0.2, 0.5]),
    patience_s=st.sampled_from([0.0, 0.05, 0.1, 0.3, 1.0, 1e6]),
    reply=st.sampled_from(
        [
            None,
            None,
            RateLimitError("no"),
            RateLimitError("no", retry_after=0.2),
            ProviderServerError("no"),
            BadRequestError("no", status=400),
        ]
    ),
)


@given(
    callers=st.lists(CALLERS, min_size=1, max_size=25),
    most=st.integers(0, 3),
    delay_s=st.sampled_from([0.0, 0.05]),
    retries=st.sampled_from([0, 3]),
)
def test_whoever_comes_and_goes_the_bounds_hold_and_no_place_is_lost(
    callers: list[Caller], most: int, delay_s: float, retries: int
) -> None:
    servers = {name: Server() for name in "xy"}
    limiter, limits = Limiter(), Limits(most, delay_s, retries)

    async def call(caller: Caller) -> None:
        await asyncio.sleep(caller.asks_at)
        server = servers[caller.endpoint]
        server.replies.append(caller.reply)
        async with asyncio.timeout(caller.patience_s):
            await limiter.run(server.answer, limits, endpoint=caller.endpoint)

    async def main() -> None:
        await asyncio.gather(*map(call, callers), return_exceptions=True)
        await asyncio.sleep(3600)  # until no endpoint is given up any more
        for name, server in servers.items():
            server.replies.clear()
            asked = (limiter.run(server.answer, limits, endpoint=name) for _ in range(4))
            async with asyncio.timeout(3600):  # the pace may have become slow
                assert await asyncio.gather(*asked) == ["answer"] * 4

    virtual_time.run(main())
    starts = sorted(time for server in servers.values() for time in server.starts)
    assert all(gap >= delay_s - 1e-9 for gap in gaps(starts))
    assert all(server.peak <= (most or len(callers) + 4) for server in servers.values())


def test_each_loop_has_its_own_state_which_goes_with_it() -> None:
    limiter, loops = Limiter(), []

    async def main() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await ask(Server(), Limits(1, 0.01), 5, limiter)

    for _ in range(3):
        virtual_time.run(main())
    gc.collect()
    assert [loop() for loop in loops] == [None] * 3


def test_a_copy_shares_no_state() -> None:
    server, limiter = Server(), Limiter()

    async def main() -> None:
        await asyncio.gather(
            ask(server, Limits(1), 2, limiter), ask(server, Limits(1), 2, copy.deepcopy(limiter))
        )

    virtual_time.run(main())
    assert server.peak == 2


# -- Retries -----------------------------------------------------------------------------


def test_a_failure_that_may_pass_is_tried_again() -> None:
    server = Server([ProviderServerError("once"), RateLimitError("twice"), None])
    assert virtual_time.run(ask(server, Limits(), 1)) == ["answer"]
    assert len(server.starts) == 3


def test_another_failure_is_not() -> None:
    failure = BadRequestError("no")
    server = Server([failure])
    assert virtual_time.run(ask(server, Limits(), 1)) == [failure]
    assert len(server.starts) == 1


def test_an_error_that_is_no_generation_error_passes_through() -> None:
    async def broken(left: Left) -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError, match="bug"):
        virtual_time.run(Limiter().run(broken, Limits(), endpoint="x"))


@pytest.mark.parametrize("retries", [0, 1, 5])
def test_after_max_retries_the_last_error_is_the_result(retries: int) -> None:
    failures = [ProviderServerError(f"number {n}") for n in range(10)]
    server = Server(list(failures))
    assert virtual_time.run(ask(server, Limits(max_retries=retries), 1)) == [failures[retries]]
    assert len(server.starts) == retries + 1


def test_waits_grow_and_vary() -> None:
    def waits() -> list[float]:
        server = Server([ProviderServerError("no")] * 5, answer_s=0.0)
        virtual_time.run(ask(server, Limits(), 1))
        return gaps(server.starts)

    first, second = waits(), waits()
    for wait_s, longest_s in zip(first, [0.5, 1, 2, 4, 8], strict=True):
        assert longest_s / 2 <= wait_s <= longest_s
    assert first != second


def test_a_request_that_waits_for_its_retry_holds_no_place() -> None:
    server = Server([ProviderServerError("once")], answer_s=0.01)

    async def main() -> float:
        limiter = Limiter()
        slow = asyncio.create_task(ask(server, Limits(1), 1, limiter))
        await asyncio.sleep(0)
        await ask(server, Limits(1), 10, limiter)
        others_done = now()
        await slow
        return others_done

    assert virtual_time.run(main()) < 0.25, "the first retry is 0.25 s away at least"


def test_retry_after_keeps_everybody_away_for_as_long_and_a_little_longer() -> None:
    server = Server([RateLimitError("no", retry_after=7.0)], answer_s=0.1)

    async def main() -> list[str | BaseException]:
        limiter = Limiter()
        early = asyncio.create_task(ask(server, Limits(1), 3, limiter))
        await asyncio.sleep(3.0)
        late = await ask(server, Limits(1), 2, limiter)
        return [*await early, *late]

    assert virtual_time.run(main()) == ["answer"] * 5
    first, *others = server.starts
    assert first == 0.0
    assert all(start > 7.1 for start in others)
    assert others[0] < 8.0


def test_an_unavailable_server_may_ask_for_a_pause_too() -> None:
    server = Server([ProviderServerError("busy", status=503, retry_after=5.0)], answer_s=0.0)
    virtual_time.run(ask(server, Limits(1), 2))
    assert all(start > 5.0 for start in server.starts[1:])


def test_without_retries_the_limiter_learns_nothing() -> None:
    refusal = RateLimitError("no", retry_after=60.0)
    server = Server([refusal] * 10)
    results = virtual_time.run(ask(server, Limits(max_connections=5, max_retries=0), 20))
    assert results == [refusal] * 10 + ["answer"] * 10
    assert server.starts[-1] == pytest.approx(0.3)


# -- What the endpoint refuses -----------------------------------------------------------


@dataclass
class Full(Server):
    """Refuses who comes when so many are there already."""

    room: int = 4
    refused: int = 0

    async def answer(self, left: Left) -> str:
        if self._in_flight >= self.room:
            self.refused += 1
            raise RateLimitError("too many at once")
        return await Server.answer(self, left)


@dataclass
class Bucket(Server):
    """Gives each request a token, of which so many flow in per second, up to ``burst``.

    Attributes:
        tells: Says in whole seconds how long to stay away.
    """

    rate: float = 50.0
    burst: int = 10
    tells: bool = True
    refused: int = 0
    ended_at: float = 0.0
    _tokens: float = 10.0
    _filled_at: float = 0.0

    async def answer(self, left: Left) -> str:
        self._tokens = min(self.burst, self._tokens + self.rate * (now() - self._filled_at))
        self._filled_at = now()
        if self._tokens < 1:
            self.refused += 1
            await asyncio.sleep(0.001)
            raise RateLimitError("slow down", retry_after=1.0 if self.tells else None)
        self._tokens -= 1
        said = await Server.answer(self, left)
        self.ended_at = now()
        return said


@pytest.mark.parametrize("tells", [True, False], ids=["with-retry-after", "without"])
@pytest.mark.parametrize("answer_s", [0.005, 0.02, 0.1])
def test_a_rate_limit_is_found_and_kept(answer_s: float, tells: bool) -> None:
    server = Bucket(answer_s=answer_s, tells=tells)
    assert virtual_time.run(ask(server, Limits(), 1_000)) == ["answer"] * 1_000
    ideal_s = (1_000 - server.burst) / server.rate
    # With whole seconds for a limiter of 50 a second, most of each pause is for nothing.
    assert server.ended_at < ideal_s * (1.35 if tells else 1.15)
    assert server.refused < 100


def test_an_endpoint_that_refuses_at_random_is_not_slowed_down_to_a_crawl() -> None:
    chance = random.Random(5)  # noqa: S311
    replies = [RateLimitError("busy") if chance.random() < 0.1 else None for _ in range(9_999)]
    server = Server(replies, answer_s=0.02)

    assert virtual_time.run(ask(server, Limits(), 2_000)) == ["answer"] * 2_000
    assert server.starts[-1] < 80


def test_a_rate_limit_that_is_lowered_and_raised_is_followed() -> None:
    server, limiter = Bucket(answer_s=0.02, tells=False), Limiter()
    took: list[float] = []

    async def main() -> None:
        for server.rate in [50.0, 10.0, 100.0]:
            began = now()
            server.refused = 0
            await ask(server, Limits(max_connections=20), 1_000, limiter)
            assert server.refused < 100
            took.append(now() - began)

    virtual_time.run(main())
    assert took[0] < 25
    assert took[1] < 130
    assert took[2] < 40


def test_a_bound_on_connections_is_found_and_kept() -> None:
    server = Full(answer_s=1.0)
    assert virtual_time.run(ask(server, Limits(max_connections=32), 400)) == ["answer"] * 400
    assert server.refused < 80
    assert server.starts[-1] < 1.4 * 400 / server.room


def test_connections_are_halved_once_per_burst() -> None:
    burst = [RateLimitError("no")] * 8
    server, limiter = Server(burst, answer_s=1.0), Limiter()

    async def main() -> int:
        await ask(server, Limits(max_connections=8), 8, limiter)
        server.peak = 0
        await ask(server, Limits(max_connections=8), 5, limiter)
        return server.peak

    assert virtual_time.run(main()) == 4


def test_connections_come_back_but_never_above_the_bound() -> None:
    server, limiter = Server([RateLimitError("no")] * 8, answer_s=1.0), Limiter()

    async def main() -> int:
        await ask(server, Limits(max_connections=8), 300, limiter)
        server.peak = 0
        await ask(server, Limits(max_connections=8), 100, limiter)
        return server.peak

    assert virtual_time.run(main()) == 8


def test_where_there_is_no_bound_half_of_what_was_in_flight_is_left() -> None:
    server, limiter = Server([RateLimitError("no")] * 20, answer_s=1.0), Limiter()

    async def main() -> int:
        await ask(server, Limits(max_connections=0), 20, limiter)
        server.peak = 0
        await ask(server, Limits(max_connections=0), 12, limiter)
        return server.peak

    assert virtual_time.run(main()) == 10


def test_an_endpoint_that_refuses_does_not_slow_another_down() -> None:
    refuses = Server([RateLimitError("no", retry_after=60.0)], answer_s=0.1)
    answers, limiter = Server(answer_s=0.1), Limiter()

    async def main() -> float:
        first = asyncio.create_task(ask(refuses, Limits(2), 4, limiter))
        await asyncio.sleep(1.0)
        asked = (limiter.run(answers.answer, Limits(2), endpoint="y") for _ in range(4))
        await asyncio.gather(*asked)
        done = now()
        await first
        return done

    assert virtual_time.run(main()) < 2.0


def test_what_is_learned_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rigging.limits")
    server = Server([RateLimitError("slow down")], answer_s=1.0)
    virtual_time.run(ask(server, Limits(max_connections=4), 4))
    fall, retry = [record.getMessage() for record in caplog.records]
    assert fall.startswith("slow down: 2 connections and ")
    assert retry.startswith("slow down; retry 1 of 5 in ")


def test_retries_are_logged_and_stand_out_where_nothing_ever_worked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "rigging.limits")
    limiter = Limiter()

    async def main() -> None:
        await ask(Server([ProviderServerError("down")] * 3), Limits(), 1, limiter)
        await ask(Server([ProviderServerError("down")]), Limits(), 1, limiter)

    virtual_time.run(main())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "INFO", "INFO"]


# -- An endpoint that is dead ------------------------------------------------------------


def dead(retry_after: float | None = None) -> list[GenerationError | None]:
    return [ProviderServerError("down", status=503, retry_after=retry_after) for _ in range(9_999)]


def test_a_dead_endpoint_is_given_up_in_bounded_time(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(dead(), answer_s=0.1)

    async def main() -> tuple[list[str | BaseException], float]:
        results = await ask(server, Limits(), 5_000)
        return results, now()

    results, took_s = virtual_time.run(main())
    assert {type(result) for result in results} == {ProviderServerError}
    assert took_s < 60
    assert len(server.starts) < 3_000, "most of them were never sent"
    assert "gave up for 30 s: down" in caplog.text


def test_a_request_that_is_not_sent_says_so_and_why() -> None:
    server = Server(dead(), answer_s=0.1)

    async def main() -> BaseException:
        limiter = Limiter()
        (first,) = await ask(server, Limits(max_retries=1), 1, limiter)
        assert isinstance(first, ProviderServerError)
        assert not hasattr(first, "__notes__")
        sent = len(server.starts)
        (second,) = await ask(server, Limits(max_retries=1), 1, limiter)
        assert len(server.starts) == sent
        assert isinstance(second, BaseException)
        assert str(second) == str(first)
        return second

    error = virtual_time.run(main())
    assert isinstance(error, ProviderServerError)
    assert error.status == 503
    assert "was not sent" in error.__notes__[0]


def test_an_endpoint_that_comes_back_is_used_again() -> None:
    server, limiter = Server(dead(), answer_s=0.1), Limiter()

    async def main() -> list[str | BaseException]:
        await ask(server, Limits(max_retries=1), 5, limiter)
        server.replies.clear()
        await asyncio.sleep(31)
        return await ask(server, Limits(max_retries=1), 50, limiter)

    assert virtual_time.run(main()) == ["answer"] * 50


def test_after_a_while_one_request_tries_whether_it_is_still_dead() -> None:
    server, limiter = Server(dead(), answer_s=0.1), Limiter()

    async def main() -> int:
        await ask(server, Limits(max_retries=1), 5, limiter)
        await asyncio.sleep(31)
        sent = len(server.starts)
        await ask(server, Limits(max_retries=1), 50, limiter)
        return len(server.starts) - sent

    assert virtual_time.run(main()) == 1


def test_a_request_out_of_luck_gives_up_for_itself_alone() -> None:
    limiter, unlucky = Limiter(), Server(dead(), answer_s=0.1)
    server = Server(answer_s=0.1)

    async def main() -> list[str | BaseException]:
        first = asyncio.create_task(ask(unlucky, Limits(max_retries=1), 1, limiter))
        await asyncio.sleep(0.2)
        await ask(server, Limits(), 10, limiter)
        return [*await first, *await ask(server, Limits(), 1, limiter)]

    failed, answered = virtual_time.run(main())
    assert isinstance(failed, ProviderServerError)
    assert answered == "answer"


def test_an_endpoint_that_fails_now_and_then_is_not_given_up() -> None:
    replies = [ProviderServerError("now and then") if n % 10 == 0 else None for n in range(2_000)]
    server = Server(replies, answer_s=0.1)
    results = virtual_time.run(ask(server, Limits(), 1_000))
    assert results == ["answer"] * 1_000


def test_an_endpoint_that_wants_an_hour_is_given_up_for_an_hour() -> None:
    refusal = RateLimitError("come back tomorrow", retry_after=3_600.0)
    server, limiter = Server([refusal], answer_s=0.1), Limiter()

    async def main() -> tuple[float, list[str | BaseException], list[str | BaseException]]:
        assert await ask(server, Limits(), 1, limiter) == [refusal]
        refused_at = now()
        await asyncio.sleep(3_000)
        early = await ask(server, Limits(), 1, limiter)
        await asyncio.sleep(700)
        return refused_at, early, await ask(server, Limits(), 1, limiter)

    refused_at, early, late = virtual_time.run(main())
    assert refused_at == pytest.approx(0.1)
    assert [type(error) for error in early] == [RateLimitError]
    assert late == ["answer"]


@pytest.mark.parametrize("asked_s", [7_200.0, 1e9, 1e300])
def test_an_endpoint_that_wants_years_is_asked_again_after_an_hour(asked_s: float) -> None:
    refusal = RateLimitError("come back in another life", retry_after=asked_s)
    server, limiter = Server([refusal], answer_s=0.1), Limiter()

    async def main() -> list[list[str | BaseException]]:
        found = [await ask(server, Limits(), 1, limiter)]
        for _ in range(2):
            await asyncio.sleep(1_810)
            found.append(await ask(server, Limits(), 1, limiter))
        return found

    refused, early, late = virtual_time.run(main())
    assert refused == [refusal]
    assert [type(error) for error in early] == [RateLimitError]
    assert late == ["answer"]
    assert len(server.starts) == 2


def test_an_endpoint_that_refuses_what_it_is_asked_is_not_dead() -> None:
    server, limiter = Server(answer_s=0.1), Limiter()
    server.replies = [BadRequestError("no such content", status=400) for _ in range(9_999)]
    unlucky = Server(dead(), answer_s=0.1)

    async def main() -> list[str | BaseException]:
        failing = asyncio.create_task(ask(unlucky, Limits(max_retries=2), 1, limiter))
        results = await ask(server, Limits(max_retries=2), 300, limiter)
        await failing
        return results

    results = virtual_time.run(main())
    assert {type(result) for result in results} == {BadRequestError}
    assert len(server.starts) == 300


@pytest.mark.parametrize("name", ["max_connections", "min_delay_s", "max_retries"])
def test_limits_below_zero_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be 0 or more, got -1"):
        Limits(**{name: -1})


def test_an_endpoint_is_not_dead_while_it_may_still_answer() -> None:
    # It takes ten at once and answers slowly; all others are refused, and sent back soon.
    server = Bucket(rate=1.0, answer_s=10.0)

    results = virtual_time.run(ask(server, Limits(max_connections=100), 100))

    assert results.count("answer") > 95


@pytest.mark.parametrize("per_minute", [5, 20, 60])
def test_a_limit_per_minute_that_is_never_said_is_outlasted(per_minute: int) -> None:
    @dataclass
    class Window(Server):
        minute: int = -1
        taken: int = 0

        async def answer(self, left: Left) -> str:
            if int(now() / 60) != self.minute:
                self.minute, self.taken = int(now() / 60), 0
            self.taken += 1
            if self.taken > per_minute:
                raise RateLimitError("too many in a minute")
            return await Server.answer(self, left)

    server = Window(answer_s=5.0)
    assert virtual_time.run(ask(server, Limits(), 100)).count("answer") == 100


def test_requests_on_their_way_out_respect_a_rest() -> None:
    server = Server([RateLimitError("no", retry_after=60.0)], answer_s=0.1)
    virtual_time.run(ask(server, Limits(max_connections=10, min_delay_s=1.0), 10))
    assert server.starts[0] == 0.0
    assert min(server.starts[1:]) > 60.0


def test_who_waits_for_a_rest_fails_when_the_endpoint_is_given_up() -> None:
    replies = [RateLimitError("no", retry_after=300.0), RateLimitError("no", retry_after=9_999.0)]
    server = Server(list(replies), answer_s=1.0)

    async def main() -> float:
        await ask(server, Limits(max_connections=2), 10)
        return now()

    assert virtual_time.run(main()) < 2.0


def test_a_success_after_a_give_up_lets_failures_be_retried_again() -> None:
    server, limiter = Server(dead(), answer_s=0.1), Limiter()

    async def main() -> list[str | BaseException]:
        await ask(server, Limits(max_retries=1), 5, limiter)
        await asyncio.sleep(31)
        server.replies.clear()
        await ask(server, Limits(), 1, limiter)
        server.replies.append(ProviderServerError("once"))
        return await ask(server, Limits(), 1, limiter)

    assert virtual_time.run(main()) == ["answer"]


def test_answers_survive_any_time_of_waiting() -> None:
    server, limiter = Server([RateLimitError("no")], answer_s=60.0), Limiter()
    server.replies += [BadRequestError("no", status=400) for _ in range(300)]

    async def main() -> list[str | BaseException]:
        await ask(server, Limits(max_connections=1), 300, limiter)
        return await ask(server, Limits(max_connections=1), 3, limiter)

    assert virtual_time.run(main()) == ["answer"] * 3


def test_a_loop_goes_although_its_endpoint_was_given_up() -> None:
    limiter, loops = Limiter(), []

    async def main() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await ask(Server(dead(), answer_s=0.1), Limits(max_retries=1), 3, limiter)

    virtual_time.run(main())
    gc.collect()
    assert loops[0]() is None


# -- Streams -----------------------------------------------------------------------------


@dataclass
class Stream:
    """Answers in pieces; each attempt by the next of ``scripts``."""

    scripts: list[list[str | GenerationError]]
    attempts: int = 0
    closed: int = 0

    async def answer(self, left: Left) -> AsyncGenerator[str, None]:
        script = self.scripts[self.attempts]
        self.attempts += 1
        try:
            for piece in script:
                await asyncio.sleep(1.0)
                if isinstance(piece, GenerationError):
                    raise piece
                yield piece
        finally:
            self.closed += 1


async def collect(stream: Stream, limiter: Limiter, limits: Limits, pieces: list[str]) -> None:
    async for piece in limiter.stream(stream.answer, limits, endpoint="x"):
        pieces.append(piece)  # noqa: PERF401 (what came before a failure counts)


def test_a_stream_that_fails_before_its_first_piece_is_tried_again() -> None:
    stream, pieces = Stream([[ProviderServerError("no")], ["a", "b"]]), list[str]()
    virtual_time.run(collect(stream, Limiter(), Limits(), pieces))
    assert (pieces, stream.attempts) == (["a", "b"], 2)


def test_a_stream_that_breaks_is_not_tried_again() -> None:
    stream, pieces = Stream([["a", ProviderServerError("broken")]]), list[str]()
    with pytest.raises(ProviderServerError, match="broken"):
        virtual_time.run(collect(stream, Limiter(), Limits(), pieces))
    assert (pieces, stream.attempts, stream.closed) == (["a"], 1, 1)


def test_streams_that_are_left_early_count_as_answers() -> None:
    limiter, unlucky = Limiter(), Server(dead(), answer_s=0.1)
    stream = Stream([["a", "b"]] * 20)

    async def leave_early() -> None:
        pieces = limiter.stream(stream.answer, Limits(), endpoint="x")
        assert await anext(pieces) == "a"
        await pieces.aclose()

    async def main() -> list[str | BaseException]:
        failing = asyncio.create_task(ask(unlucky, Limits(max_retries=1), 1, limiter))
        await asyncio.gather(*(leave_early() for _ in range(5)))
        await failing
        return await ask(Server(), Limits(), 1, limiter)

    assert virtual_time.run(main()) == ["answer"]


def test_a_stream_is_in_flight_until_it_ends() -> None:
    stream, limiter = Stream([["a", "b", "c"]] * 2), Limiter()

    async def main() -> float:
        await asyncio.gather(*(collect(stream, limiter, Limits(1), []) for _ in range(2)))
        return now()

    assert virtual_time.run(main()) == pytest.approx(6.0)


def test_a_stream_that_is_left_is_closed_and_frees_its_place() -> None:
    stream, limiter = Stream([["a", "b", "c"]] * 2), Limiter()

    async def main() -> list[str]:
        pieces: list[str] = []
        left_early = limiter.stream(stream.answer, Limits(1), endpoint="x")
        pieces.append(await anext(left_early))
        await left_early.aclose()
        assert stream.closed == 1
        await collect(stream, limiter, Limits(1), pieces)
        return pieces

    assert virtual_time.run(main()) == ["a", "a", "b", "c"]


# -- What an endpoint says is left -------------------------------------------------------


class TellingBucket:
    """A bucket that fills evenly, and says of each request how much is left in it."""

    def __init__(self, size: int, per_s: float, *, says_limit: bool = True) -> None:
        self.size, self.per_s, self.says_limit = size, per_s, says_limit
        self.tokens, self.filled_at = float(size), 0.0
        self.refused = 0
        self.starts: list[float] = []

    async def answer(self, left: Left) -> str:
        left()
        self.starts.append(now())
        self.tokens = min(self.size, self.tokens + (now() - self.filled_at) * self.per_s)
        self.filled_at = now()
        if self.tokens < 1 - 1e-6:
            self.refused += 1
            raise RateLimitError("slow down")
        self.tokens -= 1
        quota = Quota(
            remaining=self.tokens // 1,
            resets_s=(self.size - self.tokens) / self.per_s,
            limit=self.size if self.says_limit else None,
        )
        await asyncio.sleep(0.5)
        left.quota(quota)
        return "answer"


@pytest.mark.parametrize("connections", [1, 4, 10])
def test_an_endpoint_that_says_what_is_left_refuses_nothing(connections: int) -> None:
    bucket = TellingBucket(size=12, per_s=2.0)

    async def main() -> float:
        limiter, limits = Limiter(), Limits(max_connections=connections)
        asked = (limiter.run(bucket.answer, limits, endpoint="x") for _ in range(60))
        await asyncio.gather(*asked)
        return now()

    ideal_s = (60 - 12) / 2.0
    assert virtual_time.run(main()) < 1.35 * ideal_s + 0.5
    assert bucket.refused == 0


def test_without_a_limit_nothing_starts_until_the_reset() -> None:
    bucket = TellingBucket(size=3, per_s=0.1, says_limit=False)

    async def main() -> None:
        limiter, limits = Limiter(), Limits(max_connections=1)
        for _ in range(4):
            await limiter.run(bucket.answer, limits, endpoint="x")

    virtual_time.run(main())
    assert bucket.starts[3] - bucket.starts[2] >= 25
    assert bucket.refused == 0


def test_what_is_left_at_one_endpoint_is_nothing_to_another() -> None:
    async def empty(left: Left) -> None:
        left.quota(Quota(remaining=0, resets_s=40))

    async def main() -> list[float]:
        limiter, limits = Limiter(), Limits()
        times = []
        for endpoint in "xyx":
            await limiter.run(empty, limits, endpoint=endpoint)
            times.append(now())
        return times

    assert virtual_time.run(main()) == [0, 0, 40]


@pytest.mark.parametrize("resets_s", [61.0, 86_400.0, 1e300])
def test_what_is_more_than_a_minute_away_holds_nobody_up(resets_s: float) -> None:
    async def empty(left: Left) -> None:
        left.quota(Quota(remaining=0, resets_s=resets_s))

    async def main() -> float:
        limiter = Limiter()
        for _ in range(10):
            await limiter.run(empty, Limits(), endpoint="x")
        return now()

    assert virtual_time.run(main()) == 0


def test_a_limit_of_a_day_does_not_hide_one_of_a_minute() -> None:
    async def empty(left: Left) -> None:
        left.quota(Quota(remaining=0, resets_s=86_400), Quota(remaining=0, resets_s=20))

    async def main() -> float:
        limiter = Limiter()
        for _ in range(2):
            await limiter.run(empty, Limits(), endpoint="x")
        return now()

    assert virtual_time.run(main()) == 20


def test_the_answer_to_the_later_request_counts() -> None:
    said = [Quota(remaining=0, resets_s=30), Quota(remaining=9, resets_s=30)]
    waits = [2.0, 1.0]  # so that the later one is answered first

    async def answer(left: Left) -> None:
        quota, wait_s = said.pop(0), waits.pop(0)
        await asyncio.sleep(wait_s)
        left.quota(quota)

    async def quick(left: Left) -> None:
        """Say nothing."""

    async def main() -> float:
        limiter, limits = Limiter(), Limits()
        await asyncio.gather(*(limiter.run(answer, limits, endpoint="x") for _ in range(2)))
        await limiter.run(quick, limits, endpoint="x")
        return now()

    assert virtual_time.run(main()) == 2.0


def test_without_retries_nothing_is_learned_from_what_is_left() -> None:
    async def empty(left: Left) -> None:
        left.quota(Quota(remaining=0, resets_s=40))

    async def main() -> float:
        limiter = Limiter()
        for _ in range(3):
            await limiter.run(empty, Limits(max_retries=0), endpoint="x")
        return now()

    assert virtual_time.run(main()) == 0


@pytest.mark.parametrize(
    ("quotas", "number", "wait_s"),
    [
        ((), 5, 0.0),
        ((Quota(3, 60),), 3, 0.0),
        ((Quota(3, 60),), 4, 60.0),
        ((Quota(0, 10, limit=10),), 1, 1.0),
        ((Quota(0, 10, limit=10),), 5, 5.0),
        ((Quota(5, 10, limit=10),), 6, 2.0),
        ((Quota(0, 10, limit=10),), 50, 10.0),
        ((Quota(0, 10, limit=10), Quota(0, 8)), 1, 8.0),
        ((Quota(2, 10, limit=2),), 3, 10.0),
    ],
)
def test_how_long_a_request_waits_by_what_is_left(
    quotas: tuple[Quota, ...], number: int, wait_s: float
) -> None:
    allowance = Allowance()
    allowance.say(quotas, 0, 100.0)

    assert allowance.wait_s(number, 100.0) == wait_s
    assert allowance.wait_s(number, 100.0 + wait_s) <= 0
