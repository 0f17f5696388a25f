"""What generators of remote models share."""

from __future__ import annotations

import asyncio
import copy
import pickle
import warnings

import pytest

import rigging as rg
from rigging.error import ProviderTimeoutError, TruncationWarning, UnsupportedParameterWarning
from rigging.limits import Left, Limits
from rigging.remote import RemoteGenerator, RequestTimeout, each
from tests.support import virtual_time


class Remote(RemoteGenerator):
    async def generate_texts(
        self, texts: list[str], params: list[rg.GenerateParams]
    ) -> list[rg.GeneratedText | BaseException]:
        async def one(text: str, own: rg.GenerateParams) -> rg.GeneratedText:
            async def attempt(left: Left) -> rg.GeneratedText:
                await asyncio.sleep(1)
                if text == "bad":
                    raise KeyError(text)
                return rg.GeneratedText.from_text(f"{text} {own.seed}")

            return await self.limiter.run(attempt, self.limits, endpoint=self.model)

        return await each(one, texts, params)


def test_fields_make_the_limits() -> None:
    remote = Remote(model="m", max_connections=2, min_delay_between_requests=250, max_retries=1)

    assert remote.limits == Limits(max_connections=2, min_delay_s=0.25, max_retries=1)
    remote.max_connections = 3
    assert remote.limits.max_connections == 3


def test_each_input_has_its_result_and_its_own_params() -> None:
    texts = ["one", "bad", "two"]
    params = [rg.GenerateParams(seed=n) for n in range(3)]

    one, bad, two = virtual_time.run(Remote(model="m").generate_texts(texts, params))

    assert (str(one), str(two)) == ("one 0", "two 2")
    assert isinstance(bad, KeyError)


def test_a_single_inputs_error_is_its_result() -> None:
    (bad,) = virtual_time.run(Remote(model="m").generate_texts(["bad"], [rg.GenerateParams()]))

    assert isinstance(bad, KeyError)


@pytest.mark.parametrize("copy_", [copy.copy, copy.deepcopy])
def test_a_copy_has_limits_and_warnings_of_its_own(copy_: object) -> None:
    remote = Remote(model="m")
    with pytest.warns(TruncationWarning, match="cut"):
        remote.warn_once(TruncationWarning, "cut")
    copied = copy_(remote)  # type: ignore[operator]

    assert copied == remote
    assert copied.limiter is not remote.limiter
    assert pickle.loads(pickle.dumps(remote)) == remote
    if copy_ is copy.copy:
        with pytest.warns(TruncationWarning, match="cut"):
            copied.warn_once(TruncationWarning, "cut")


def test_a_warning_is_given_once_of_each_model_and_thing() -> None:
    remote = Remote(model="m")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        remote.warn_left_out("acme", ["top_k", "seed"])
        remote.warn_left_out("acme", ["seed"])
        remote.model = "n"
        remote.warn_left_out("acme", ["seed"])

    assert {warning.category for warning in caught} == {UnsupportedParameterWarning}
    assert [str(warning.message) for warning in caught] == [
        "acme!m does not take 'seed': it is left out",
        "acme!m does not take 'top_k': it is left out",
        "acme!n does not take 'seed': it is left out",
    ]


def test_the_time_limit_is_over_all_waits_and_not_between_them() -> None:
    timeout = RequestTimeout(1.0, provider="acme", model="m")

    async def run() -> float:
        for _ in range(2):
            await timeout.wait(asyncio.sleep(0.4))
            await asyncio.sleep(60)
        with pytest.raises(ProviderTimeoutError, match=r"after 1 s \[acme!m\]"):
            await timeout.wait(asyncio.sleep(0.4))
        return asyncio.get_running_loop().time()

    assert virtual_time.run(run()) == pytest.approx(121.0)


def test_a_timeout_that_is_not_the_requests_own_passes() -> None:
    async def late() -> None:
        raise TimeoutError("the socket's")

    timeout = RequestTimeout(1.0, provider="acme", model="m")

    with pytest.raises(TimeoutError, match="the socket's"):
        virtual_time.run(timeout.wait(late()))


def test_without_a_limit_there_is_none() -> None:
    timeout = RequestTimeout(None, provider="acme", model="m")

    assert virtual_time.run(timeout.wait(asyncio.sleep(1e6, "done"))) == "done"
