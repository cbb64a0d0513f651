"""The order in which the sums of the entries count: by their hexadecimal digits, but those of one
name as the archive has them.

The two together are no order where one name has its sums the other way round: with other sums
between, each entry can have to come before the next in a circle. What comes out then depends on
how it is sorted, so the way of the time is gone: that of Bentley and McIlroy ('Engineering a Sort
Function', 1993) with insertion up to 7, the median of nine above 40, and a heap sort where
partitions go wrong too often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableSequence, Sequence
from typing import Final

__all__ = ["ordered"]

_SMALL: Final = 7
_LARGE: Final = 40

# The digest of a name, the place in the archive, the sum.
_Item = tuple[bytes, int, bytes]


def ordered(
    sums: Sequence[bytes], names: Sequence[bytes], check: Callable[[], object] = lambda: None
) -> Iterable[bytes]:
    """``sums``, the i-th of which is of the entry that ``names[i]`` stands for. ``check`` is called
    every now and then; what it raises ends this."""
    if len(set(names)) == len(names):
        return sorted(sums)
    check()
    last: dict[bytes, bytes] = {}
    turned = False
    for name, each in zip(names, sums, strict=True):
        turned = turned or last.get(name, b"") > each
        last[name] = each
    if not turned:
        return sorted(sums)
    items = [
        (name, place, each) for place, (name, each) in enumerate(zip(names, sums, strict=True))
    ]
    _quick_sort(items, check)
    return [each for _, _, each in items]


def _before(one: _Item, other: _Item) -> bool:
    return one[1] < other[1] if one[0] == other[0] else one[2] < other[2]


def _quick_sort(items: MutableSequence[_Item], check: Callable[[], object]) -> None:
    depth = 2 * len(items).bit_length()
    waiting = [(0, len(items), depth)]
    while waiting:  # parts do not touch each other: which one comes first makes no difference
        check()
        low, high, depth = waiting.pop()
        if high - low <= _SMALL:
            _insert(items, low, high)
        elif not depth:
            _heap_sort(items, low, high, check)
        else:
            less, more = _partition(items, low, high)
            waiting += [(low, less, depth - 1), (more, high, depth - 1)]


def _insert(items: MutableSequence[_Item], low: int, high: int) -> None:
    for end in range(low + 1, high):
        item, place = items[end], end
        while place > low and _before(item, items[place - 1]):
            items[place] = items[place - 1]
            place -= 1
        items[place] = item


def _partition(items: MutableSequence[_Item], low: int, high: int) -> tuple[int, int]:
    """Where those before the pivot end, and where those after it begin."""
    _choose(items, low, high)
    pivot = items[low]
    # equal ones are gathered at both ends: [low, left) and [right, high)
    left = start = low + 1
    right = end = high
    while start < end:
        if _before(items[start], pivot):
            start += 1
        elif not _before(pivot, items[start]):
            _swap(items, left, start)
            left, start = left + 1, start + 1
        elif _before(pivot, items[end - 1]):
            end -= 1
        elif not _before(items[end - 1], pivot):
            end, right = end - 1, right - 1
            _swap(items, end, right)
        else:
            end -= 1
            _swap(items, start, end)
            start += 1
    _exchange(items, low, start, min(start - left, left - low))
    _exchange(items, end, high, min(high - right, right - end))
    return low + start - left, high - (right - end)


def _choose(items: MutableSequence[_Item], low: int, high: int) -> None:
    """Bring the pivot to ``low``."""
    middle, last = low + (high - low) // 2, high - 1
    if high - low > _LARGE:
        step = (high - low) // 8
        _median(items, low, low + step, low + 2 * step)
        _median(items, middle, middle - step, middle + step)
        _median(items, last, last - step, last - 2 * step)
    _median(items, low, middle, last)


def _median(items: MutableSequence[_Item], to: int, least: int, greatest: int) -> None:
    for one, other in ((to, least), (greatest, to), (to, least)):
        if _before(items[one], items[other]):
            _swap(items, one, other)


def _exchange(items: MutableSequence[_Item], start: int, end: int, count: int) -> None:
    """Swap the first ``count`` from ``start`` on with the last ones before ``end``, in order."""
    for step in range(count):
        _swap(items, start + step, end - count + step)


def _heap_sort(
    items: MutableSequence[_Item], low: int, high: int, check: Callable[[], object]
) -> None:
    count = high - low
    for root in range((count - 1) // 2, -1, -1):
        check()
        _sift(items, low, root, count)
    for end in range(count - 1, -1, -1):
        check()
        _swap(items, low, low + end)
        _sift(items, low, 0, end)


def _sift(items: MutableSequence[_Item], low: int, root: int, count: int) -> None:
    while (child := 2 * root + 1) < count:
        if child + 1 < count and _before(items[low + child], items[low + child + 1]):
            child += 1
        if not _before(items[low + root], items[low + child]):
            return
        _swap(items, low + root, low + child)
        root = child


def _swap(items: MutableSequence[_Item], one: int, other: int) -> None:
    items[one], items[other] = items[other], items[one]
