"""The rolling cache: who leaves it, and what becomes of the others' keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from rigging_transformers._cache import RollingCache, remaining
from tests.support.families import make_small
from tests.transformers.conftest import Reference

if TYPE_CHECKING:
    from collections.abc import Sequence

LAYERS = 2  # of the tiny model
WINDOW = 8  # of the sliding one, in some of its layers


@pytest.fixture(scope="module")
def sliding(reference: Reference) -> Reference:
    return Reference(make_small("gpt_oss", reference.tokenizer), reference.tokenizer)


def filled(reference: Reference, lengths: Sequence[int]) -> RollingCache:
    """Return the cache of rows of such lengths, whose keys and values are made up."""
    cache, width = RollingCache(), max(lengths)
    prefilled = reference.prefilled(torch.ones(len(lengths), width, dtype=torch.long))
    for layer in prefilled.layers:
        layer.keys, layer.values = torch.rand_like(layer.keys), torch.rand_like(layer.values)
    cache.add(prefilled, range(len(lengths)), lengths)
    return cache


def held(cache: RollingCache) -> list[list[Any]]:
    """Return what each row has in each layer, in columns as many as the longest row needs."""
    mask = cache.opened()[1]
    if mask is None:
        mask = torch.ones(len(cache), max(cache.lengths) + 1)
    assert mask[:, :-1].sum(1).tolist() == cache.lengths
    rows: list[list[Any]] = [[] for _ in cache.lengths]
    for layer in cache._layers:
        width, left_out = layer.get_mask_sizes(1)
        assert left_out + width == mask.shape[1] == max(cache.lengths) + 1
        assert width <= WINDOW or not layer.is_sliding
        for view in layer.update(_one(layer, cache), _one(layer, cache)):
            assert view.shape[2] == width
            for row, live in enumerate(mask[:, left_out:-1].bool()):
                rows[row].append(view[row][:, :-1][:, live].tolist())
    return rows


def _one(layer: Any, cache: RollingCache) -> torch.Tensor:
    _, heads, _, size = layer.tokens["keys"].shape
    return torch.zeros(len(cache), heads, 1, size)


@given(count=st.integers(1, 12), data=st.data())
def test_those_behind_fill_the_gaps_and_nobody_else_moves(count: int, data: st.DataObject) -> None:
    gone = data.draw(st.sets(st.integers(0, count - 1)))

    order = remaining(count, sorted(gone))

    assert sorted(order) == [row for row in range(count) if row not in gone]
    for place, row in enumerate(order):
        assert row == place or (place in gone and row >= len(order))


# One is the longest, and one the shortest.
UNEQUAL = [5, 9, 3, 8, 5, 6, 4, 8, 7, 4]


@settings(deadline=None, max_examples=25)
@given(gone=st.sets(st.integers(0, 9), min_size=1, max_size=9))
@example(gone={1})
@example(gone={1, 2, 9})
def test_rows_that_stay_keep_their_keys_and_values(
    reference: Reference, sliding: Reference, gone: set[int]
) -> None:
    for model in (reference, sliding):
        with torch.inference_mode():
            cache = filled(model, UNEQUAL)
            before = held(cache)
            order = remaining(10, sorted(gone))
            cache.keep(order)
            after = held(cache)

        assert after == [before[row] for row in order]


def test_a_sliding_window_keeps_what_it_looks_back_to(sliding: Reference) -> None:
    columns: dict[bool, set[int]] = {True: set(), False: set()}

    with torch.inference_mode():
        cache = filled(sliding, [200, 4])
        for _ in range(100):
            for layer in cache.opened()[0].layers:
                layer.update(_one(layer, cache), _one(layer, cache))
                columns[layer.is_sliding].add(layer.tokens["keys"].shape[2])
            cache.advance()
        held(cache)

    # It is moved often, and needs no more room for that.
    assert columns[True] == {7 + 32 + 1}
    assert columns[False] == {200 + 32 + 50, 282 + 32 + 70}


class Calls(TorchDispatchMode):
    """The arguments of each call of an operator."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.args: list[Any] = []
        self._name = name

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name == self._name:
            self.args.append(args)
        return func(*args, **(kwargs or {}))


def test_rows_that_leave_side_by_side_cost_one_copy(reference: Reference) -> None:
    with torch.inference_mode():
        cache = filled(reference, [5] * 16)
        with Calls("aten::copy_") as copies:
            cache.keep(remaining(16, range(2, 9)))

    assert len(copies.args) == 2 * LAYERS + 1  # keys and values of each, and the mask


def test_which_rows_are_taken_over_is_sent_to_a_device_once(reference: Reference) -> None:
    cache = RollingCache()

    with torch.inference_mode():
        prefilled = reference.prefilled(torch.ones(3, 5, dtype=torch.long))
        with Calls("aten::index") as taken:
            cache.add(prefilled, [0, 2], [5, 5])

    assert len(taken.args) == 2 * LAYERS
    assert len({id(indices) for _, (indices,) in taken.args}) == 1
