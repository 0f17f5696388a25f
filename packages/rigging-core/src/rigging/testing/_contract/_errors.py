"""Rules of a failure: one tree of errors, whatever library raised them."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest

from rigging.error import GenerationError
from rigging.testing._contract._kinds import raised
from rigging.testing._contract._subject import Subject, needs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rigging.generator import Generator
    from rigging.testing._contract._kinds import Kind
    from rigging.testing._contract._runner import Runner
    from rigging.testing._situations import Fault

__all__ = ["ErrorRules"]


class ErrorRules(Subject):
    """A failure says what it was, in the same words for every provider."""

    @needs("can_fail")
    def test_an_error_has_the_class_of_its_cause(
        self, generator: Generator, kind: Kind, faults: Sequence[Fault], runner: Runner
    ) -> None:
        assert faults, "the fixture `faults` returns at least one way to fail"
        for fault in faults:
            error = self._error_of(fault, generator, kind, runner)
            assert type(error) is fault.error, (
                f"{fault.described} is a {fault.error.__name__}, not {error!r}"
            )
            if fault.retry_after is not None:
                assert error.retry_after == pytest.approx(fault.retry_after), (
                    f"an error carries the seconds that the endpoint asks to wait "
                    f"({fault.described}): {fault.retry_after}, not {error.retry_after}"
                )

    @needs("can_fail")
    def test_an_error_says_which_model_failed(
        self, generator: Generator, kind: Kind, faults: Sequence[Fault], runner: Runner
    ) -> None:
        for fault in faults:
            error = self._error_of(fault, generator, kind, runner)
            model = (fault.generator or generator).model
            assert error.provider, f"an error names its provider ({fault.described}): {error!r}"
            assert error.model == model, (
                f"an error names the model that was asked ({fault.described}): {model!r}, not "
                f"{error.model!r}"
            )

    @needs("can_fail")
    def test_an_error_pickles(
        self, generator: Generator, kind: Kind, faults: Sequence[Fault], runner: Runner
    ) -> None:
        for fault in faults:
            error = self._error_of(fault, generator, kind, runner)
            try:
                copied = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own bytes)
            except Exception as broken:  # noqa: BLE001 (reported as a broken rule)
                pytest.fail(
                    f"an error pickles, so that a worker process can hand it on "
                    f"({fault.described}): {broken!r}"
                )
            assert (type(copied), str(copied)) == (type(error), str(error)), (
                f"an error pickles as what it is ({fault.described}): {error!r} became {copied!r}"
            )

    @needs("can_fail")
    def test_a_stream_fails_as_a_call_does(
        self, generator: Generator, kind: Kind, faults: Sequence[Fault], runner: Runner
    ) -> None:
        for fault in faults:
            error = self._error_of(fault, generator, kind, runner, streamed=True)
            assert type(error) is fault.error, (
                f"a stream raises what a call gives ({fault.described}): a "
                f"{fault.error.__name__}, not {error!r}"
            )

    def _error_of(
        self,
        fault: Fault,
        generator: Generator,
        kind: Kind,
        runner: Runner,
        *,
        streamed: bool = False,
    ) -> GenerationError:
        ask = kind.stream if streamed else kind.ask
        fault.arrange()
        params = self.params().merge_with(fault.params)
        try:
            answer: object = runner.run(ask(fault.generator or generator, fault.prompt, params))
        except GenerationError as error:
            return error
        except Exception as error:  # noqa: BLE001 (reported as a broken rule)
            answer = raised(error)
        pytest.fail(
            f"a request that fails at the backend raises a rigging.error.GenerationError "
            f"({fault.described}, a {fault.error.__name__}): here came {answer!r}"
        )
