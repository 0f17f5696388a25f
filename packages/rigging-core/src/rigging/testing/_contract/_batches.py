"""Rules of a call with many inputs: as many results, in order, each failing alone."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from rigging.error import RiggingError
from rigging.testing._contract._kinds import KINDS, Kind, raised
from rigging.testing._contract._samples import ODD_TEXTS, conversations
from rigging.testing._contract._subject import PROMPTS, Subject, needs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rigging.generator import Generator
    from rigging.testing._contract._runner import Runner
    from rigging.testing._situations import Fault

__all__ = ["BatchRules"]


class BatchRules(Subject):
    """One result per input."""

    @pytest.mark.parametrize("size", [1, 2, 7, "callers"])
    def test_every_input_has_its_result(
        self, generator: Generator, kind: Kind, size: int | str, runner: Runner
    ) -> None:
        count = self.callers if isinstance(size, str) else size
        prompts = [PROMPTS[number % len(PROMPTS)] for number in range(count)]
        results = runner.run(kind.call(generator, prompts, [self.params()] * count))
        assert len(results) == count, f"{count} inputs give {count} results, not {len(results)}"
        for result in results:
            assert isinstance(result, kind.result), (
                f"a result of generate_{kind.name} is a {kind.result.__name__}, not {result!r}"
            )
        shared = _shared(results)
        assert not shared, (
            f"each input has a result of its own, since a caller may change its `extra`: several "
            f"of {count} have one {shared} in common"
        )

    @needs("deterministic")
    def test_results_come_in_the_order_of_inputs(
        self, generator: Generator, kind: Kind, runner: Runner
    ) -> None:
        params = [self.params()] * 4
        forwards = runner.run(kind.call(generator, PROMPTS, params))
        backwards = runner.run(kind.call(generator, PROMPTS[::-1], params))
        assert list(map(str, backwards)) == list(map(str, forwards))[::-1], (
            "results come in the order of inputs, and do not depend on their neighbours"
        )
        # Many, and without a period: what is cut into chunks may put these together wrongly.
        order = random.Random(self.callers).choices(range(4), k=self.callers)  # noqa: S311
        prompts = [PROMPTS[number] for number in order]
        many = runner.run(kind.call(generator, prompts, [self.params()] * len(prompts)))
        # How many there are, another rule says.
        came = zip(map(str, many), (str(forwards[number]) for number in order), strict=False)
        wrong = [f"{text!r} for {expected!r}" for text, expected in came if text != expected]
        assert not wrong, (
            f"results come in the order of inputs, also of {len(prompts)}: {len(wrong)} are "
            f"others than in a batch of four, such as {wrong[0]}"
        )

    def test_an_empty_batch_gives_no_results(
        self, generator: Generator, kind: Kind, runner: Runner
    ) -> None:
        came: object
        try:
            came = list(runner.run(kind.attempt(generator, [], [])))
        except Exception as error:  # noqa: BLE001 (reported as a broken rule)
            came = raised(error)
        assert came == [], (
            f"a call without inputs returns no results, and does not fail: here came {came!r}"
        )

    def test_any_text_gives_a_result_or_its_own_error(
        self, generator: Generator, kind: Kind, runner: Runner
    ) -> None:
        long = ("word " * self.long_text)[: self.long_text]
        prompts = [PROMPTS[0], *ODD_TEXTS, long, PROMPTS[1]]
        results = self._each_alone(generator, kind, kind.inputs(prompts), "text", runner)
        for result in results[1:-1]:
            assert isinstance(result, (kind.result, Exception)), (
                f"an odd text gives a {kind.result.__name__} or an exception, not {result!r}"
            )

    @needs("supports_messages")
    def test_any_conversation_gives_a_result_or_its_own_error(
        self, generator: Generator, runner: Runner
    ) -> None:
        kind, held = KINDS[0], conversations(PROMPTS[2])
        around = kind.inputs(PROMPTS[:2])
        given = [around[0], *held.values(), around[1]]
        results = self._each_alone(generator, kind, given, "conversation", runner)
        for what, result in zip(held, results[1:-1], strict=True):
            assert isinstance(result, (kind.result, RiggingError)), (
                f"a conversation with {what} gives a {kind.result.__name__} or an error of "
                f"rigging.error, not {result!r}"
            )
        turns = results[1]
        assert isinstance(turns, kind.result), (
            f"a conversation of several turns is continued: here came {turns!r}"
        )

    def _each_alone(
        self, generator: Generator, kind: Kind, given: Sequence[Any], what: str, runner: Runner
    ) -> Sequence[Any]:
        """Make a call of odd inputs between two plain ones, which have to be answered."""
        try:
            results = runner.run(kind.attempt(generator, given, [self.params()] * len(given)))
        except Exception as error:  # noqa: BLE001 (reported as a broken rule)
            pytest.fail(
                f"a {what} that the backend refuses is an exception in the list, and fails no "
                f"other: the whole call raised {raised(error)!r}"
            )
        assert len(results) == len(given), (
            f"each {what} has its result: {len(results)} came for {len(given)} of them"
        )
        for neighbour in (results[0], results[-1]):
            assert isinstance(neighbour, kind.result), (
                f"an odd {what} fails nothing but itself; beside it came {neighbour!r}"
            )
        return results

    @needs("can_fail")
    def test_a_failure_is_that_of_its_item_only(
        self, generator: Generator, kind: Kind, faults: Sequence[Fault], runner: Runner
    ) -> None:
        for fault in faults:
            if fault.generator is not None:  # it could answer nothing beside that
                continue
            fault.arrange()
            inputs = kind.inputs([PROMPTS[0], fault.prompt, PROMPTS[1]])
            own = self.params().merge_with(fault.params)
            params = [self.params(), own, self.params()]
            try:
                results = runner.run(kind.attempt(generator, inputs, params))
            except Exception as error:  # noqa: BLE001 (reported as a broken rule)
                pytest.fail(
                    f"a failure is an exception in the list ({fault.described}): the whole call "
                    f"raised {raised(error)!r}"
                )
            failed = [result for result in results if isinstance(result, BaseException)]
            assert len(failed) == 1, (
                f"of three requests one fails ({fault.described}), and its neighbours are "
                f"answered; these failed: {failed}"
            )

    @needs("refuses_a_kind")
    def test_what_it_cannot_do_it_says(self, generator: Generator, runner: Runner) -> None:
        for kind in KINDS:
            if self.supports(kind):
                continue
            inputs, params = kind.inputs(PROMPTS[:1]), self.params()
            for name, ask in (
                ("generate", partial(kind.attempt, generator, inputs, [params])),
                ("stream", partial(kind.read, generator, PROMPTS[0], params)),
            ):
                came: object
                try:
                    came = runner.run(ask())
                except Exception as error:  # noqa: BLE001 (reported as a broken rule)
                    came = raised(error)
                assert isinstance(came, NotImplementedError), (
                    f"{name}_{kind.name} is not supported, and so it raises NotImplementedError, "
                    f"as that of rigging.Generator does; here came {came!r}"
                )


def _shared(results: Sequence[Any]) -> str:
    """Return what several results have in common that must be their own; nothing if none."""
    parts = {
        "object": results,
        "dict `extra`": [result.extra for result in results],
        "message": [getattr(result, "message", result) for result in results],
    }
    found = (what for what, each in parts.items() if len(set(map(id, each))) < len(results))
    return next(found, "")
