"""The decoding loop: requests are admitted, rows join the rolling batch, and it steps.

Requests are admitted in their order while there is room: for so many rows, and as long as
the padding is bounded that long rows cause. New rows are read in groups of similar length,
one group between two steps of those that run, and a long one part by part, so that nobody
waits long for anybody.

What the rolling batch does not take (see `rigging_transformers._joining`) goes through
transformers' ``generate``, which runs the rolling batch's steps between its own.

When memory runs out, half as many rows go on. A row that does not fit beside others is put
aside until they have gone. Imports torch: import this module late.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from rigging.error import BadRequestError, GenerationError, ProviderServerError, RiggingError
from rigging.local import drop_frames
from rigging_transformers._answers import Answers
from rigging_transformers._decoding import decode, generate_options
from rigging_transformers._device import on_device
from rigging_transformers._filters import check
from rigging_transformers._grouping import fits, groups, within
from rigging_transformers._joining import (
    counts_width,
    may_pad,
    may_share,
    model_rolls,
    reads_in_parts,
    row_rolls,
    seeds_roll,
)
from rigging_transformers._memory import free_memory, is_out_of_memory
from rigging_transformers._request import prepare
from rigging_transformers._rolling import RollingBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from rigging_transformers._loaded import Loaded
    from rigging_transformers._memory import Capacity
    from rigging_transformers._row import Row
    from rigging_transformers._ticket import Ticket

__all__ = ["DecodingLoop"]

_log: Final = logging.getLogger(__name__)

# Tokens read in one forward pass, with padding; one prompt may be more if the model does not read
# it in parts. A CPU's caches hold no more, and an accelerator is not busy with less.
_READ_ON_CPU: Final = 1024
_READ: Final = 8192
# How long requests are made ready for at once while rows wait for their next token: seconds.
_ADMITTING_S: Final = 0.02


class _Reading(NamedTuple):
    """A row that is read in parts.

    Attributes:
        row: The row.
        length: Its tokens when that began.
        more: How many rows were to join soon after.
        parts: Reads one with each item.
    """

    row: Row
    length: int
    more: int
    parts: Iterator[None]


class DecodingLoop:
    """Answers the requests for one model until there are none.

    Args:
        loaded: The model.
        take: Gives what has come since it was last asked.
        room: Tells how many rows may run at once.
    """

    def __init__(
        self, loaded: Loaded, take: Callable[[], Sequence[Ticket]], room: Callable[[], Capacity]
    ) -> None:
        self._loaded = loaded
        self._take = take
        self._room = room
        self._capacity = room()
        self._options = generate_options()
        self._rolls = model_rolls(loaded)
        if not self._rolls:
            _log.info("%s does not fit the rolling batch, so generate() runs it", loaded.name)
        self._seeds_roll = seeds_roll(loaded)
        self._reads_in_parts = self._rolls and reads_in_parts(loaded)
        self._pads, self._shares = may_pad(loaded), may_share(loaded)
        self._read = _READ_ON_CPU if loaded.device == "cpu" else _READ
        self._batch = RollingBatch(loaded)
        self._answers = Answers(loaded)
        # A request goes from the first queue into one of the others.
        self._waiting: deque[Ticket] = deque()
        self._joining: deque[list[Row]] = deque()
        self._long: deque[Row] = deque()  # that join, too, but are read in parts
        self._reading: _Reading | None = None  # of the first of these
        self._others: dict[Hashable, list[Row]] = {}  # by what shares a call of ``generate``
        self._aside: list[Row] = []  # that need all the memory there is
        self._is_generating = False

    def run(self) -> None:
        """Work until nothing waits and nothing runs."""
        try:
            with torch.inference_mode(), on_device(self._loaded.device):
                while self._turn():
                    if self._aside:
                        self._run_aside()
                    elif self._others:
                        self._run_others()
        # Nobody shall wait for ever, not even where a model's own code says `sys.exit()`.
        except BaseException as error:  # noqa: BLE001 (told to all who wait)
            failure = ProviderServerError(
                f"the engine failed: {type(error).__name__}: {error}", retryable=False
            )
            self._answers.fail_all(failure)
            # What has just come, too: else, the same would happen to it over and over.
            self._waiting.extend(self._take())
            self._answers.refuse((t for t in self._waiting if t.row is None), failure)
            self._answers.send()
            _log.exception("the engine of %s failed", self._loaded.name)
        finally:
            self._answers.send()

    # -- One turn ------------------------------------------------------------------------

    def _turn(self) -> bool:
        """Let rows join, and take a step. Returns whether there is anything left to do."""
        self._aside = self._answers.wanted(self._aside)
        self._capacity = self._room()  # another one, once somebody has set it
        self._admit()
        # Those that run wait for one group only.
        for _ in range(1 if len(self._batch) else len(self._joining)):
            self._join_next()
            self._answers.send()
        self._read_on()
        self._answers.send()
        if len(self._batch):
            self._step()
        self._answers.send()
        return bool(self._is_rolling or self._waiting or self._others or self._aside)

    @property
    def _is_rolling(self) -> bool:
        return bool(len(self._batch) or self._joining or self._long or self._reading)

    def _admit(self) -> None:
        self._waiting.extend(self._take())
        if self._aside:
            return
        admitted: list[Row] = []
        joining = [row for group in self._joining for row in group]
        reading = [self._reading.row] if self._reading else []
        soon = (row.length for row in (*joining, *self._long, *reading))
        running = [*self._batch.lengths, *soon]
        is_busy = len(self._batch) or self._is_generating
        until = time.monotonic() + _ADMITTING_S if is_busy else math.inf
        while self._waiting and len(running) < self._capacity.rows and time.monotonic() < until:
            row = self._prepared(self._waiting[0])
            if row is None:
                self._waiting.popleft()
            elif not self._may_roll(row):
                self._waiting.popleft()
                self._others.setdefault(self._key(row), []).append(row)
            elif fits([*running, row.length]):
                self._waiting.popleft()
                for claimed in self._answers.claim([row]):
                    admitted.append(claimed)
                    running.append(claimed.length)
            else:
                break
        for group in groups(admitted, self._read):
            self._queue(group)

    def _queue(self, group: list[Row], *, first: bool = False) -> None:
        """Let rows that are read together join soon."""
        if self._reads_in_parts and group[0].length > self._read:
            self._long.extendleft(group) if first else self._long.extend(group)
        else:
            self._joining.appendleft(group) if first else self._joining.append(group)

    def _is_steady(self, row: Row) -> bool:
        steady = self._loaded.steady
        return steady is None or row.most <= steady

    def _is_beyond(self, row: Row) -> bool:
        """Tell whether a row is beyond what is steady from its beginning, and steady there."""
        steady = self._loaded.steady
        return steady is not None and len(row.prompt) > steady and not self._loaded.remembers

    def _may_roll(self, row: Row) -> bool:
        is_plain = self._rolls and row_rolls(row.plan, seeds=self._seeds_roll)
        return is_plain and self._is_steady(row)

    def _prepared(self, ticket: Ticket) -> Row | None:
        """Return a request's row; None if it has been answered instead."""
        row = ticket.row
        if row is None and not ticket.is_cancelled:
            try:
                row = prepare(
                    self._loaded, ticket.request, self._options, lambda: ticket.is_cancelled
                )
                check(row.plan.sampling)
            except Exception as error:  # noqa: BLE001 (values of extra may be anything)
                if ticket.claim():
                    self._answers.refuse([ticket], _refusal(error))
                return None
            self._answers.expect(ticket, row)
        return row if row is not None and self._answers.wanted([row]) else None

    # -- The rolling batch ---------------------------------------------------------------

    def _join_next(self) -> None:
        """Let the next group join, or as much of it as there are places for."""
        self._joining = deque(filter(None, map(self._answers.wanted, self._joining)))
        places = self._places - (self._reading is not None)
        if not self._joining or places < 1:
            return
        group = self._joining.popleft()
        if len(group) > places:
            self._joining.appendleft(group[places:])
        rows = group[:places]
        length = rows[0].length
        more = min(places - len(rows), self._joining_rows)
        try:
            self._batch.join(rows, more=more)
        except Exception as error:  # noqa: BLE001 (whatever a model raises)
            self._keep_out(rows, length, more, error)
        else:
            self._answers.settle(rows)

    def _read_on(self) -> None:
        """Read the next part of a long row; after the last, it has joined."""
        self._long = deque(self._answers.wanted(self._long))
        if self._reading and not self._answers.wanted([self._reading.row]):
            self._reading = None
        if self._places < 1:
            return
        if self._long and not self._reading:
            row = self._long.popleft()
            more = min(self._places - 1, self._joining_rows)
            parts = self._batch.join_in_parts(row, self._read, more=more)
            self._reading = _Reading(row, row.length, more, parts)
        if self._reading:
            self._read_part(*self._reading)

    def _read_part(self, row: Row, length: int, more: int, parts: Iterator[None]) -> None:
        try:
            is_read = next(parts, True)
        except Exception as error:  # noqa: BLE001 (whatever a model raises)
            self._reading = None
            self._keep_out([row], length, more, error)
        else:
            if is_read:
                self._reading = None
                self._answers.settle([row])

    def _keep_out(self, rows: list[Row], length: int, more: int, error: Exception) -> None:
        """Recover from what kept rows from joining, the first of which had so many tokens."""
        # Once they have been read, room is made for those that come next, too.
        beside = more if rows[0].length > length else 0
        self._recover(rows, len(self._batch) + len(rows) + beside, error)

    @property
    def _places(self) -> int:
        return self._capacity.rows - len(self._batch)

    @property
    def _joining_rows(self) -> int:
        return sum(map(len, self._joining)) + len(self._long)

    def _step(self) -> None:
        rows = list(self._batch.rows)
        try:
            self._batch.step()
        except Exception as error:  # noqa: BLE001 (whatever a model raises)
            # Those that have left may have left so much room that the others need not leave.
            room = self._batch.room
            count = room if room >= 2 * len(rows) else len(rows)
            kept = min(len(rows), count // 2) if is_out_of_memory(error) else 0
            self._recover(self._batch.drop(range(kept, len(rows))), count, error)
        else:
            self._answers.settle(rows)
            self._batch.drop_ended()
            if len(rows) >= self._capacity.rows:
                self._capacity.count_step()

    def _recover(self, rows: list[Row], count: int, error: Exception) -> None:
        """Let rows be read again if memory ran out; else, fail them.

        Args:
            rows: Those that have to leave the batch, or did not get in.
            count: How many were to run at once, or had room.
            error: What happened.
        """
        if is_out_of_memory(error):
            _let_go(error)
            self._shrink()
        # They know what they have generated, and go on from there.
        self._read_again(self._batch.drop_lost())
        rows = self._answers.wanted(rows)
        if not is_out_of_memory(error):
            self._answers.fail(rows, _failure(error))
            return
        if count > 1:
            self._halve(count)
            self._read_again(rows)
        elif self._is_generating or self._reading:
            self._aside += rows
        else:
            self._answers.fail(rows, _failure(error))

    def _shrink(self) -> None:
        try:
            self._batch.shrink()
        except Exception as error:  # noqa: BLE001 (out of memory, once more)
            _let_go(error)

    def _read_again(self, rows: Sequence[Row]) -> None:
        for group in groups(rows, self._read):
            self._queue(group, first=True)

    def _halve(self, count: int) -> None:
        self._capacity.halve(count)
        _log.warning(
            "%s ran out of memory with %d prompts at once, and goes on with at most %d: "
            "set max_batch_size to fewer",
            self._loaded.name,
            count,
            self._capacity.rows,
        )

    # -- The others ----------------------------------------------------------------------

    def _run_others(self) -> None:
        """Run the first of the others that can share one call of ``generate``."""
        key = next(iter(self._others))
        alike = self._others.pop(key)
        # As it gets longer, a batch must not become another thing to its rows.
        steady = self._loaded.steady if self._is_steady(alike[0]) else None
        rows = within(steady or self._loaded.context, alike[: self._capacity.rows])
        chosen = set(map(id, rows))
        left = [row for row in alike if id(row) not in chosen]
        if left:
            self._others[key] = left  # behind those that cannot share it
        self._generate(self._answers.claim(rows))

    def _run_aside(self) -> None:
        """Run the first of those put aside, once nobody else runs."""
        if not self._is_rolling:
            # It stays there meanwhile, so that nobody is admitted beside it.
            first = self._aside[0]
            self._generate([first])
            self._aside = [row for row in self._aside if row is not first]

    def _key(self, row: Row) -> Hashable:
        # A seeded row is a batch of its own, and its neighbours' rounding no concern of its.
        alone = (
            not self._shares
            or row.plan.alone
            or row.plan.sampling.seed is not None
            or counts_width(row.plan, self._loaded.defaults)
        )
        is_steady = self._is_steady(row)
        pads = self._pads and (is_steady or self._is_beyond(row))
        length = None if pads else len(row.prompt)
        kind = length, is_steady, id(row) if alone else None
        return repr(sorted(row.plan.kwargs.items())), kind

    def _generate(self, rows: list[Row], later: Sequence[Row] = ()) -> None:
        """Run rows by ``generate``; ``later`` are those that come next, and may run out of time."""
        rows = self._answers.wanted(rows)
        if not rows:
            return

        def after_step() -> None:
            self._answers.settle(rows)
            self._answers.wanted(later)
            self._turn()

        self._is_generating = True
        try:
            decode(self._loaded, rows, after_step)
        except GenerationError as error:
            self._answers.fail(self._answers.wanted(rows), error)
            return
        except Exception as error:  # noqa: BLE001 (out of memory, as any device says it)
            _let_go(error)
            failure = _failure(error)
        else:
            self._answers.settle(rows)
            return
        finally:
            self._is_generating = False
        left = self._answers.wanted(rows)
        if len(rows) > 1:
            self._halve(len(rows))
            half = len(left) // 2
            self._generate(left[:half], later=[*left[half:], *later])
            self._generate(left[half:], later)
        elif self._is_rolling:
            self._aside += left
        else:
            self._answers.fail(left, failure)


def _refusal(error: Exception) -> RiggingError:
    if isinstance(error, RiggingError):
        return error
    refusal = BadRequestError(f"the parameters do not fit: {error}")
    refusal.__cause__ = error
    return refusal


def _let_go(error: Exception) -> None:
    """Free what the model had in its hands when memory ran out."""
    drop_frames(error)  # these hold the tensors
    free_memory()


def _failure(error: Exception) -> ProviderServerError:
    message = f"the model failed: {type(error).__name__}: {error}"
    if is_out_of_memory(error):
        message = (
            "out of memory with one prompt alone: shorten it, lower max_tokens, or load "
            "the model with a smaller dtype"
        )
    failure = ProviderServerError(message, retryable=False)
    failure.__cause__ = error
    return failure
