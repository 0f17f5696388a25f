"""The decoding loop: admits requests, steps the rolling batch, hands results out.

Requests are admitted in their order while there is room: for so many rows, and as long as
the padding is bounded that long rows cause. New rows are read in groups of similar length,
one group between two steps of those that run, so that nobody waits long for anybody.

What the rolling batch does not take (see `rigging_transformers._joining`) goes through
transformers' ``generate``, which runs the rolling batch's steps between its own. Imports
torch: import this module late.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import torch

from rigging.error import GenerationError, ProviderServerError, RiggingError
from rigging_transformers._decoding import decode, generate_options
from rigging_transformers._joining import model_rolls, row_rolls
from rigging_transformers._memory import free_memory, is_out_of_memory
from rigging_transformers._pieces import Pieces
from rigging_transformers._request import fresh, outcome, placed, prepare
from rigging_transformers._rolling import RollingBatch
from rigging_transformers._ticket import Outbox

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from rigging_transformers._loaded import Loaded
    from rigging_transformers._row import Row
    from rigging_transformers._ticket import Ticket

__all__ = ["DecodingLoop"]

_log: Final = logging.getLogger(__name__)

# Tokens read in one forward pass, with padding; one long prompt may be more. A CPU's caches
# hold no more, and an accelerator is not busy with less.
_READ_ON_CPU: Final = 1024
_READ: Final = 8192
# How much longer than the shortest prompt of a group the longest may be: by this factor,
# and so many tokens.
_STRETCH: Final = 1.5
_NEAR: Final = 8
# Cells of the cache (rows times columns) that may be padding without being looked at, and
# above that, how many cells there may be for one token.
_FREE_CELLS: Final = 1 << 16
_CELLS_PER_TOKEN: Final = 4


class DecodingLoop:
    """Answers the requests for one model until there are none.

    Args:
        loaded: The model.
        take: Gives what has come since it was last asked.
        max_rows: How many rows may run at once; lowered when memory does not suffice.
    """

    def __init__(self, loaded: Loaded, take: Callable[[], Sequence[Ticket]], max_rows: int) -> None:
        self.max_rows = max_rows
        self._loaded = loaded
        self._take = take
        self._options = generate_options()
        self._rolls = model_rolls(loaded)
        self._batch = RollingBatch(loaded)
        self._outbox = Outbox()
        # A request goes from the first queue into one of the two others.
        self._waiting: deque[Ticket] = deque()
        self._joining: deque[list[Row]] = deque()
        self._others: list[Row] = []
        self._tickets: dict[int, Ticket] = {}  # of prepared rows, by their id
        self._pieces: dict[int, Pieces] = {}

    def run(self) -> None:
        """Work until nothing waits and nothing runs."""
        try:
            with torch.inference_mode():
                while self._turn():
                    if self._others:
                        self._run_others()
        except Exception as error:  # noqa: BLE001 (told to all who wait)
            _log.exception("the engine of %s failed", self._loaded.name)
            # Nobody shall wait for ever.
            failure = ProviderServerError(f"the engine failed: {error}", retryable=False)
            for ticket in (*self._tickets.values(), *self._waiting):
                self._outbox.put(ticket, placed(fresh(failure), self._loaded))
        finally:
            self._outbox.send()

    # -- One turn ------------------------------------------------------------------------

    def _turn(self) -> bool:
        """Let rows join, and take a step. Returns whether there is anything left to do."""
        self._admit()
        # Those that run wait for one group only.
        for _ in range(1 if len(self._batch) else len(self._joining)):
            self._join_next()
            self._outbox.send()
        if len(self._batch):
            self._step()
        self._outbox.send()
        return bool(len(self._batch) or self._joining or self._waiting or self._others)

    def _admit(self) -> None:
        self._waiting.extend(self._take())
        admitted: list[Row] = []
        running = [*self._batch.lengths, *(len(row.prompt) for g in self._joining for row in g)]
        while self._waiting and len(running) < self.max_rows:
            row = self._prepared(self._waiting[0])
            if row is None:
                self._waiting.popleft()
            elif not (self._rolls and row_rolls(row.plan)):
                self._waiting.popleft()
                self._others.append(row)
            elif _fits([*running, len(row.prompt)]):
                ticket = self._waiting.popleft()
                if ticket.claim():
                    admitted.append(row)
                    running.append(len(row.prompt))
                else:
                    self._forget(row)
            else:
                break
        size = _READ_ON_CPU if self._loaded.model.device.type == "cpu" else _READ
        self._joining.extend(_groups(admitted, size))

    def _prepared(self, ticket: Ticket) -> Row | None:
        """Return a request's row; None if it has been answered instead."""
        row = ticket.row
        if row is None and not ticket.is_cancelled:
            try:
                row = prepare(
                    self._loaded, ticket.request, self._options, lambda: ticket.is_cancelled
                )
            except RiggingError as error:
                if ticket.claim():
                    self._outbox.put(ticket, placed(error, self._loaded))
                return None
            ticket.row = row
            self._tickets[id(row)] = ticket
            if ticket.streams:
                self._pieces[id(row)] = Pieces(row)
        return row if row is not None and self._wanted([row]) else None

    # -- The rolling batch ---------------------------------------------------------------

    def _join_next(self) -> None:
        """Let the next group join, or as much of it as there are places for."""
        places = self.max_rows - len(self._batch)
        if not self._joining or places < 1:
            return
        group = self._joining.popleft()
        if len(group) > places:
            self._joining.appendleft(group[places:])
        rows = self._wanted(group[:places])
        if not rows:
            return
        try:
            self._batch.join(rows, more=min(places - len(rows), self._joining_rows))
        except Exception as error:  # noqa: BLE001 (whatever a model raises)
            failure = self._failure(error, len(self._batch) + len(rows))
        else:
            self._settle(rows)
            return
        if failure is None:
            self._joining.appendleft(rows)
            free_memory()
        else:
            self._fail(rows, failure)

    @property
    def _joining_rows(self) -> int:
        return sum(map(len, self._joining))

    def _step(self) -> None:
        rows = list(self._batch.rows)
        try:
            self._batch.step()
        except Exception as error:  # noqa: BLE001 (whatever a model raises)
            failure = self._failure(error, len(rows))
        else:
            self._settle(rows)
            self._batch.drop_ended()
            return
        if failure is None:
            # They will be read again, with what they have generated.
            self._joining.append(self._batch.drop(range(self.max_rows, len(rows))))
            free_memory()
        else:
            self._batch.drop(range(len(rows)))
            self._fail(rows, failure)

    # -- The others ----------------------------------------------------------------------

    def _run_others(self) -> None:
        """Run those of the others that can share one call of ``generate`` with the first."""
        key = self._key(self._others[0])
        rows = [row for row in self._others if self._key(row) == key][: self.max_rows]
        chosen = set(map(id, rows))
        self._others = [row for row in self._others if id(row) not in chosen]
        claimed = []
        for row in rows:
            if self._tickets[id(row)].claim():
                claimed.append(row)
            else:
                self._forget(row)
        self._generate(claimed)

    def _key(self, row: Row) -> Hashable:
        # A seeded row is a batch of its own, and its neighbours' rounding no concern of its.
        alone = row.plan.alone or row.plan.sampling.seed is not None
        width = None if self._loaded.masks else len(row.prompt)
        return repr(sorted(row.plan.kwargs.items())), width, id(row) if alone else None

    def _generate(self, rows: list[Row]) -> None:
        rows = self._wanted(rows)
        if not rows:
            return

        def after_step() -> None:
            self._settle(rows)
            self._turn()

        try:
            decode(self._loaded, rows, after_step)
        except GenerationError as error:
            failure: GenerationError | None = error
        except Exception as error:  # noqa: BLE001 (out of memory, as any device says it)
            failure = self._failure(error, len(rows))
        else:
            self._settle(rows)
            return
        left = self._wanted(rows)
        if failure is None:
            free_memory()
            self._generate(left[: len(left) // 2])
            self._generate(left[len(left) // 2 :])
        else:
            self._fail(left, failure)

    # -- Results -------------------------------------------------------------------------

    def _wanted(self, rows: list[Row]) -> list[Row]:
        """Leave out rows that nobody waits for any more."""
        now = time.monotonic()
        for row in rows:
            if row.is_cancelled():
                row.end = "cancelled"
            elif row.is_late(now):
                row.end = "timeout"
        self._settle([row for row in rows if row.end is not None])
        return [row for row in rows if row.end is None]

    def _settle(self, rows: Iterable[Row]) -> None:
        """Hand out what is new of the rows, and the result of those that have ended."""
        for row in rows:
            pieces = self._pieces.get(id(row))
            if pieces is not None and row.end not in ("timeout", "cancelled"):
                piece = pieces.next()
                if piece:
                    self._outbox.put(self._tickets[id(row)], piece)
            if row.end is not None and id(row) in self._tickets:
                ticket = self._forget(row)
                if row.end != "cancelled":
                    self._outbox.put(ticket, outcome(self._loaded, ticket.request, row))

    def _forget(self, row: Row) -> Ticket:
        self._pieces.pop(id(row), None)
        ticket = self._tickets.pop(id(row))
        # Whoever keeps the ticket shall not keep the model.
        ticket.row = None
        return ticket

    def _fail(self, rows: Iterable[Row], failure: RiggingError) -> None:
        for row in rows:
            self._outbox.put(self._forget(row), placed(fresh(failure), self._loaded))

    def _failure(self, error: Exception, rows: int) -> GenerationError | None:
        """Return what to tell the callers; None where half as many rows are to be tried."""
        if is_out_of_memory(error) and rows > 1:
            self.max_rows = rows // 2
            _log.warning(
                "%s ran out of memory with %d prompts at once, and goes on with at most %d: "
                "set max_batch_size to fewer",
                self._loaded.name,
                rows,
                self.max_rows,
            )
            return None
        message = f"the model failed: {type(error).__name__}: {error}"
        if is_out_of_memory(error):
            message = (
                "out of memory with one prompt alone: shorten it, lower max_tokens, or load "
                "the model with a smaller dtype"
            )
        failure = ProviderServerError(message, retryable=False)
        failure.__cause__ = error
        return failure


def _fits(lengths: Sequence[int]) -> bool:
    """Tell whether rows of these lengths waste little enough on padding."""
    cells = len(lengths) * max(lengths)
    return cells <= max(_FREE_CELLS, _CELLS_PER_TOKEN * sum(lengths))


def _groups(rows: list[Row], size: int) -> Iterator[list[Row]]:
    """Put rows together that are of similar length, ``size`` tokens at most; longest first."""
    group: list[Row] = []
    for row in sorted(rows, key=lambda row: len(row.prompt), reverse=True):
        if group:
            width = len(group[0].prompt)
            if width * (len(group) + 1) > size or width > _STRETCH * len(row.prompt) + _NEAR:
                yield group
                group = []
        group.append(row)
    if group:
        yield group
