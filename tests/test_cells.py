"""What fits into a row: measured against the codec that carries it."""

from __future__ import annotations

import json
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.wire.framing import check_shape
from engine.wire.limits import Limits
from registry_service.operations.cells import ROOM, weight

plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
documents = st.recursive(
    plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@given(documents)
def test_no_value_is_larger_than_its_weight(value: Any) -> None:
    try:
        heavy = weight(value)
    except ValueError:
        return
    assert len(msgpack.packb(value)) <= heavy
    json.dumps(value, allow_nan=False)
    check_shape(value, Limits(), around=2)


def test_the_room_leaves_space_for_the_other_cells() -> None:
    assert Limits().output - ROOM == 16 * 1024


@pytest.mark.parametrize(
    "value", [nested(14), {"a": nested(13)}, [0] * 65_536, "\ud800", 2**64 - 1]
)
def test_what_is_just_within_the_bounds_fits(value: Any) -> None:
    assert 0 < weight(value) < ROOM


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (nested(15), "deeper than 14"),
        ({"a": nested(14)}, "deeper than 14"),
        ([0] * 65_537, "65537 elements"),
        ({"a": 2**64}, "64 bits"),
        ([-(2**63) - 1], "64 bits"),
        (float("nan"), "nan is no number"),
        ([float("-inf")], "-inf is no number"),
    ],
)
def test_what_no_row_can_carry_is_refused(value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        weight(value)
