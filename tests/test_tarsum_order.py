"""The order of the sums where a name comes twice: that of the sort of Docker's days.

The digests are of what that program gave for the same names and sums.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_service.errors import CancelledError
from registry_service.tarsums import order
from registry_service.tarsums.order import ordered


def made(count: int, names: int, width: int) -> tuple[list[bytes], list[bytes]]:
    """Sums of so many bytes without any order, and names of which so many are different."""
    sums = [hashlib.sha256(b"%d" % place).digest()[:width] for place in range(count)]
    return sums, [b"n%d" % (place * place % names) for place in range(count)]


def worst(count: int, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Sums for which each pivot is a bad one: McIlroy's 'killer adversary', who says what is
    greater only when he is asked, and always so that it is bad for who asks."""
    gas, solid, candidate = count, 0, 0
    values = [gas] * count

    def before(one: tuple[bytes, int, bytes], other: tuple[bytes, int, bytes]) -> bool:
        nonlocal solid, candidate
        left, right = one[1], other[1]
        if values[left] == values[right] == gas:
            values[left if left == candidate else right] = solid
            solid += 1
        if values[left] == gas:
            candidate = left
        elif values[right] == gas:
            candidate = right
        return values[left] < values[right]

    with monkeypatch.context() as patch:
        patch.setattr(order, "_before", before)
        order._quick_sort([(b"", place, b"") for place in range(count)], lambda: None)
    return [value.to_bytes(4, "big") for value in values]


def digest(sums: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(sums)).hexdigest()[:16]


VECTORS = [
    (7, 3, 4, "b671f07cbacd3418"),
    (8, 3, 4, "79533fe14a9437d3"),
    (12, 5, 4, "4e56dc95b4631816"),
    (40, 7, 4, "ef7ed8518d50c0da"),
    (41, 7, 4, "4bfc4d9fcaaa1ce6"),
    (60, 20, 4, "ce05cbc73bcbcc13"),
    (500, 100, 4, "64327ef7f81100f0"),
    (3000, 17, 4, "83cbc0e43b8622f2"),
    (60, 20, 1, "70a02c5f7882a022"),
    (3000, 170, 1, "9ac8f052676414c2"),
]


@pytest.mark.parametrize(("count", "names", "width", "expected"), VECTORS)
def test_names_that_come_twice(count: int, names: int, width: int, expected: str) -> None:
    assert digest(list(ordered(*made(count, names, width)))) == expected


def test_a_circle() -> None:
    # the first before the second by their place, the second before the third and that before the
    # first by their sums
    sums, names = [b"\3", b"\1", b"\2"], [b"same", b"same", b"other"]
    assert list(ordered(sums, names)) == [b"\3", b"\1", b"\2"]


@given(st.lists(st.binary(min_size=1, max_size=2), max_size=120), st.data())
def test_nothing_is_lost_and_names_that_come_once_make_no_difference(
    sums: list[bytes], data: st.DataObject
) -> None:
    once = [b"%d" % place for place in range(len(sums))]
    assert list(ordered(sums, once)) == sorted(sums)
    some = st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=len(sums), max_size=len(sums))
    assert sorted(ordered(sums, data.draw(some))) == sorted(sums)


@given(st.lists(st.binary(min_size=1, max_size=2), max_size=120))
def test_names_in_the_order_of_their_sums_make_no_difference(sums: list[bytes]) -> None:
    same = [b"same"] * len(sums)
    assert list(ordered(sorted(sums), same)) == sorted(sums)
    assert list(ordered(sums, same)) == sums


@pytest.mark.parametrize("count", [50, 200, 1000])
def test_whoever_chooses_the_sums_makes_it_no_slower(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = worst(count, monkeypatch)
    expected = sorted(sums)
    # one pair of a name is the other way round, with nothing between, so that there is one order
    lower = next(
        place
        for place in range(count // 2, count)
        if sums.index(expected[place]) > sums.index(expected[place + 1])
    )
    pair = expected[lower : lower + 2]
    expected[lower : lower + 2] = reversed(pair)
    names = [b"same" if each in pair else b"%d" % place for place, each in enumerate(sums)]
    asked = 0
    plain = order._before

    def counting(one: tuple[bytes, int, bytes], other: tuple[bytes, int, bytes]) -> bool:
        nonlocal asked
        asked += 1
        return plain(one, other)

    monkeypatch.setattr(order, "_before", counting)
    assert list(ordered(sums, names)) == expected
    assert asked < 8 * count * count.bit_length()


@pytest.mark.parametrize("after", [1, 5, 50])
def test_a_sort_ends_when_it_is_told(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = worst(1000, monkeypatch)
    names = [b"%d" % (place // 2) for place in range(1000)]
    checked = 0

    def check() -> None:
        nonlocal checked
        checked += 1
        if checked == after:
            raise CancelledError()

    with pytest.raises(CancelledError):
        ordered(sums, names, check)
    assert checked == after
