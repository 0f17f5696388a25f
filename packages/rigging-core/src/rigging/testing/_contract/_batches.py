"""Rules of a call with many inputs: as many results, in order, each failing alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from rigging.testing._contract._kinds import KINDS, Kind
from rigging.testing._contract._subject import PROMPTS, Subject, needs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rigging.generator import Generator
    from rigging.testing._contract._runner import Runner
    from rigging.testing._situations import Fault

__all__ = ["BatchRules"]

_ODD: Final = (
    "",
    " \n\t",
    "naïve façade 日本語 🦜\u200d🏳️ \u202eright to left",
    "a\x00b\x1b[0m",
    "<|im_end|></s>[INST]{{ user }}",
)


class BatchRules(Subject):
    """One result per input."""

    @pytest.mark.parametrize("size", [1, 2, 7])
    def test_every_input_has_its_result(
        self, generator: Generator, kind: Kind, size: int, runner: Runner
    ) -> None:
        prompts = [PROMPTS[number % len(PROMPTS)] for number in range(size)]
        results = runner.run(kind.call(generator, prompts, [self.params()] * size))
        assert len(results) == size, f"{size} inputs give {size} results, not {len(results)}"
        for result in results:
            assert isinstance(result, kind.result), (
                f"a result of generate_{kind.name} is a {kind.result.__name__}, not {result!r}"
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

    def test_an_empty_batch_gives_no_results(
        self, generator: Generator, kind: Kind, runner: Runner
    ) -> None:
        try:
            results: object = list(runner.run(kind.call(generator, [], [])))
        except Exception as error:  # noqa: BLE001 (reported as a broken rule)
            results = error
        assert results == [], (
            f"a call without inputs returns no results, and does not fail: here came {results!r}"
        )

    def test_any_text_gives_a_result_or_its_own_error(
        self, generator: Generator, kind: Kind, runner: Runner
    ) -> None:
        prompts = [PROMPTS[0], *_ODD, ("word " * self.long_text)[: self.long_text], PROMPTS[1]]
        params = [self.params()] * len(prompts)
        try:
            results = runner.run(kind.call(generator, prompts, params))
        except Exception as error:  # noqa: BLE001 (reported as a broken rule)
            pytest.fail(
                f"a text that the backend refuses is an exception in the list, and fails no "
                f"other: the whole call raised {error!r}"
            )
        assert len(results) == len(prompts), "odd texts have results, too, one each"
        for result in results[1:-1]:
            assert isinstance(result, (kind.result, Exception)), (
                f"an odd text gives a {kind.result.__name__} or an exception, not {result!r}"
            )
        for neighbour in (results[0], results[-1]):
            assert isinstance(neighbour, kind.result), (
                f"an odd text fails nothing but itself; beside it came {neighbour!r}"
            )

    @needs("can_fail")
    def test_a_failure_is_that_of_its_item_only(
        self, generator: Generator, kind: Kind, faults: Sequence[Fault], runner: Runner
    ) -> None:
        for fault in faults:
            if fault.generator is not None:  # it could answer nothing beside that
                continue
            fault.arrange()
            prompts = [PROMPTS[0], fault.prompt, PROMPTS[1]]
            own = self.params().merge_with(fault.params)
            params = [self.params(), own, self.params()]
            try:
                results = runner.run(kind.call(generator, prompts, params))
            except Exception as error:  # noqa: BLE001 (reported as a broken rule)
                pytest.fail(
                    f"a failure is an exception in the list ({fault.described}): the whole call "
                    f"raised {error!r}"
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
            try:
                answer: object = runner.run(kind.call(generator, PROMPTS[:1], [self.params()]))
            except NotImplementedError:
                continue
            except Exception as error:  # noqa: BLE001 (reported as a broken rule)
                answer = error
            pytest.fail(
                f"generate_{kind.name} is not supported, and so it raises NotImplementedError, "
                f"as that of rigging.Generator does; here came {answer!r}"
            )
