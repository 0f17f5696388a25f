"""The rolling cache: who leaves it, and what becomes of the others' keys and values."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.cache_utils import DynamicCache

from rigging_transformers._cache import RollingCache, remaining

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.transformers.conftest import Reference

LAYERS = 2  # of the tiny model


def filled(reference: Reference, lengths: Sequence[int]) -> RollingCache:
    """Return the cache of rows of such lengths, whose keys and values are made up."""
    cache, width = RollingCache(), max(lengths)
    prefilled = DynamicCache(config=reference.model.config)
    ids = torch.ones(len(lengths), width, dtype=torch.long)
    reference.model(ids, past_key_values=prefilled)
    for layer in prefilled.layers:
        layer.keys, layer.values = torch.rand_like(layer.keys), torch.rand_like(layer.values)
    cache.add(prefilled, range(len(lengths)), lengths)
    return cache


def held(cache: RollingCache) -> list[list[Any]]:
    """Return what each row has in each layer."""
    mask = cache.opened()[1]
    assert mask is not None
    rows = []
    for row in range(len(cache)):
        live = mask[row, :-1].bool()
        assert int(live.sum()) == cache.lengths[row]
        views = [layer.update(_one(layer, cache), _one(layer, cache)) for layer in cache._layers]
        rows.append([each[row, :, :-1][:, live].tolist() for view in views for each in view])
    return rows


def _one(layer: Any, cache: RollingCache) -> torch.Tensor:
    _, heads, _, size = layer.keys.shape
    return torch.zeros(len(cache), heads, 1, size)


@given(count=st.integers(1, 12), data=st.data())
def test_those_behind_fill_the_gaps_and_nobody_else_moves(count: int, data: st.DataObject) -> None:
    gone = data.draw(st.sets(st.integers(0, count - 1)))

    order = remaining(count, sorted(gone))

    assert sorted(order) == [row for row in range(count) if row not in gone]
    for place, row in enumerate(order):
        assert row == place or (place in gone and row >= len(order))


@pytest.mark.parametrize("seed", range(6))
def test_rows_that_stay_keep_their_keys_and_values(reference: Reference, seed: int) -> None:
    draw = random.Random(seed)  # noqa: S311
    gone = sorted(draw.sample(range(2, 10), draw.randint(1, 7)))

    with torch.inference_mode():
        cache = filled(reference, [3, 9, *(draw.randint(3, 9) for _ in range(8))])
        before = held(cache)
        order = remaining(10, gone)
        cache.keep(order)
        after = held(cache)

    assert after == [before[row] for row in order]


def test_rows_that_leave_side_by_side_cost_one_copy(reference: Reference) -> None:
    copies: list[str] = []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func._schema.name == "aten::copy_":
                copies.append(str(types))
            return func(*args, **(kwargs or {}))

    with torch.inference_mode():
        cache = filled(reference, [5] * 16)
        with Copies():
            cache.keep(remaining(16, range(2, 9)))

    assert len(copies) == 2 * LAYERS + 1  # keys and values of each, and the mask
