"""Requests that wait on event loops while an engine works in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from rigging.error import AuthenticationError, BadRequestError
from rigging.local import (
    Outbox,
    Ticket,
    answers,
    check_hub_token,
    drop_frames,
    template_variables,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Question(Ticket[int]):
    def run_out(self) -> None:
        self.receive(TimeoutError("too late"))


@pytest.fixture
def engine() -> Iterator[Callable[..., None]]:
    """Have a ticket told things, one after the other, by a thread."""
    with ThreadPoolExecutor(1) as thread:

        def tell(ticket: Question, *news: str | int | Exception) -> None:
            def work() -> None:
                for each in news:
                    outbox = Outbox[int]()
                    outbox.put(ticket, each)
                    outbox.send()

            thread.submit(work)

        yield tell


def test_answers_come_in_the_order_of_their_tickets(engine: Callable[..., None]) -> None:
    failure = ValueError("no")

    async def main() -> list[Any]:
        tickets = [Question(None) for _ in range(3)]
        for number in (2, 0, 1):
            engine(tickets[number], failure if number == 1 else number)
        return await answers(tickets)

    assert asyncio.run(main()) == [0, failure, 2]


def test_what_is_late_fails_and_an_answer_after_that_changes_nothing(
    engine: Callable[..., None],
) -> None:
    async def main() -> None:
        ticket, patient = Question(time.monotonic() + 0.01), Question(time.monotonic() + 60)
        (late,) = await answers([ticket])
        assert isinstance(late, TimeoutError)
        assert ticket.is_closed

        engine(ticket, 1)
        engine(patient, 2)
        assert await answers([ticket, patient]) == [late, 2]

    asyncio.run(main())


def test_who_is_cancelled_closes_the_tickets() -> None:
    async def main() -> None:
        tickets = [Question(None), Question(None)]
        waiting = asyncio.create_task(answers(tickets))
        await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting

        assert [ticket.is_closed for ticket in tickets] == [True, True]
        assert all(ticket.answer.cancelled() for ticket in tickets)

    asyncio.run(main())


def test_a_stream_yields_pieces_then_the_answer(engine: Callable[..., None]) -> None:
    async def main() -> list[Any]:
        ticket = Question(None, streams=True)
        engine(ticket, "a", "b", 3)
        return [piece async for piece in ticket.stream()]

    assert asyncio.run(main()) == ["a", "b", 3]


def test_a_stream_that_fails_raises_after_its_pieces(engine: Callable[..., None]) -> None:
    async def main() -> None:
        ticket = Question(None, streams=True)
        engine(ticket, "a", ValueError("no"))
        pieces = ticket.stream()

        assert await anext(pieces) == "a"
        with pytest.raises(ValueError, match="no"):
            await anext(pieces)

    asyncio.run(main())


def test_leaving_a_stream_closes_its_ticket(engine: Callable[..., None]) -> None:
    async def main() -> None:
        ticket = Question(None, streams=True)
        engine(ticket, "a")
        async with contextlib.aclosing(ticket.stream()) as pieces:
            assert await anext(pieces) == "a"

        assert ticket.is_closed

    asyncio.run(main())


def test_what_goes_to_one_loop_goes_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop, calls = asyncio.get_running_loop(), 0
        call_soon = loop.call_soon_threadsafe

        def count(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            return call_soon(*args, **kwargs)

        monkeypatch.setattr(loop, "call_soon_threadsafe", count)
        tickets = [Question(None) for _ in range(9)]
        outbox = Outbox[int]()
        assert [outbox.put(ticket, 1) for ticket in tickets] == [True] + [False] * 8
        outbox.send()
        outbox.send()

        assert await answers(tickets) == [1] * 9
        assert calls == 1

    asyncio.run(main())


def test_a_loop_that_has_closed_keeps_nothing_from_others() -> None:
    async def ask() -> Question:
        return Question(None, streams=True)

    gone = asyncio.run(ask())

    async def main() -> None:
        ticket = Question(None)
        outbox = Outbox[int]()
        outbox.put(gone, 1)
        outbox.put(ticket, 2)
        thread = threading.Thread(target=outbox.send)
        thread.start()
        assert await answers([ticket]) == [2]
        thread.join()

    asyncio.run(main())
    gone.close()
    assert gone.is_closed


@pytest.mark.parametrize("token", ["", "hf_planted\n", "hf planted", "hf_planted_\xfc"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(AuthenticationError, match="api_key is no hub token") as caught:
        check_hub_token(token, provider="acme", model="m")

    assert "planted" not in str(caught.value)
    assert (caught.value.provider, caught.value.model) == ("acme", "m")


@pytest.mark.parametrize("token", [None, True, "hf_planted_5D"])
def test_a_token_that_can_be_sent_is_let_pass(token: object) -> None:
    check_hub_token(token, provider="acme", model="m")


def test_an_error_without_frames_keeps_nothing_alive() -> None:
    class Model:
        pass

    def fail(cause: Exception) -> None:
        model = Model()
        models.append(weakref.ref(model))
        raise ValueError("no") from cause

    models: list[weakref.ref[Model]] = []
    with pytest.raises(KeyError) as first:
        raise KeyError
    with pytest.raises(ValueError, match="no") as caught:
        fail(first.value)
    error = caught.value
    assert models[0]() is not None

    drop_frames(error)
    del caught
    gc.collect()

    assert models[0]() is None
    assert error.__cause__ is first.value


def test_errors_that_cause_each_other_lose_their_frames_once() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__context__ = other, one

    drop_frames(one)

    assert one.__cause__ is other


def test_variables_of_a_template_are_a_copy() -> None:
    given = {"enable_thinking": False}

    variables = template_variables({"chat_template_kwargs": given}, reserved=())
    variables["more"] = 1

    assert given == {"enable_thinking": False}
    assert template_variables({}, reserved=()) == {}
    assert template_variables({"chat_template_kwargs": None}, reserved=()) == {}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("enable_thinking", "got str"),
        ({"tools": []}, "cannot set 'tools'"),
        ({1: 2}, "cannot set 1"),
    ],
)
def test_what_is_no_variable_is_refused(given: object, reason: str) -> None:
    with pytest.raises(BadRequestError, match=f"extra.chat_template_kwargs .*{reason}"):
        template_variables({"chat_template_kwargs": given}, reserved={"tools"})
