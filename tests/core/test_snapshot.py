"""Copies of fields: equal until something is changed, however deep."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rigging.snapshot import snapshot

LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
VALUES = st.recursive(
    LEAVES | st.sets(st.integers(), max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def containers(value: Any) -> list[Any]:
    """Return all that can be changed in place, the value itself included."""
    inner = value.values() if isinstance(value, dict) else value
    found = [value] if isinstance(value, (dict, list, set)) else []
    if isinstance(value, (dict, list, tuple)):
        found += [each for part in inner for each in containers(part)]
    return found


def change(container: Any) -> None:
    match container:
        case dict():
            container["a name of its own"] = 1
        case list():
            container.append(1)
        case set():
            container.add("a member of its own")


@given(VALUES, st.data())
def test_a_copy_is_equal_until_something_is_changed_in_place(
    value: Any, data: st.DataObject
) -> None:
    copy = snapshot(value)
    assert copy == value
    assert type(copy) is type(value)

    changeable = containers(value)
    if changeable:
        change(data.draw(st.sampled_from(changeable)))
        assert copy != value


def test_objects_of_others_stay_the_same() -> None:
    config = object()

    assert snapshot({"quantization": [config]})["quantization"][0] is config
