"""The grammar of the test registry's requests."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_service.testing.names import (
    content_range,
    digest_of,
    is_digest,
    is_repository,
    is_tag,
    parse_range,
)


@pytest.mark.parametrize("name", ["a", "a/b/c", "a-b", "a--b", "a_b", "a__b", "a.b", "0/1"])
def test_repository_names(name: str) -> None:
    assert is_repository(name)


@pytest.mark.parametrize(
    "name", ["", "A", "/a", "a/", "a//b", "a___b", "-a", "a-", "a..b", "..", "a/../b", "a" * 256]
)
def test_what_is_no_repository_name(name: str) -> None:
    assert not is_repository(name)


def test_tags_are_of_128_characters_at_most_and_begin_with_no_dot() -> None:
    assert is_tag("v1.0-rc_1")
    assert is_tag("x" * 128)
    assert not is_tag("x" * 129)
    assert not is_tag(".x")
    assert not is_tag("")
    assert not is_tag("sha256:" + "0" * 64)


def test_digests_of_both_algorithms() -> None:
    assert digest_of(b"x") == "sha256:" + hashlib.sha256(b"x").hexdigest()
    assert is_digest(digest_of(b"x"))
    assert is_digest(digest_of(b"x", "sha512"))
    assert not is_digest("sha256:" + "0" * 63)
    assert not is_digest("sha256:" + "A" * 64)
    assert not is_digest("md5:" + "0" * 32)


@given(size=st.integers(0, 300), first=st.integers(0, 320), length=st.integers(1, 320))
def test_a_range_is_what_slicing_gives(size: int, first: int, length: int) -> None:
    data = bytes(range(256)) * 2
    data = data[:size]
    header = f"bytes={first}-{first + length - 1}"
    if first >= size:
        with pytest.raises(ValueError, match="past the end"):
            parse_range(header, size)
        return
    part = parse_range(header, size)
    assert part is not None
    offset, count = part
    assert data[offset : offset + count] == data[first : first + length]


@given(size=st.integers(0, 300), last=st.integers(0, 320))
def test_a_suffix_range_is_the_end(size: int, last: int) -> None:
    if min(size, last) == 0:
        with pytest.raises(ValueError, match="no last"):
            parse_range(f"bytes=-{last}", size)
    else:
        assert parse_range(f"bytes=-{last}", size) == (size - min(last, size), min(last, size))


@pytest.mark.parametrize(
    "header", ["", "bytes=", "bytes=-", "bytes=5-2", "bytes=0-1,3-4", "lines=1-2", "bytes=a-b"]
)
def test_ranges_that_are_ignored(header: str) -> None:
    assert parse_range(header, 100) is None


@given(st.integers(0, 10**12), st.integers(1, 10**12), st.sampled_from(["{}", "bytes {}/*"]))
def test_content_range_in_both_forms(first: int, length: int, form: str) -> None:
    assert content_range(form.format(f"{first}-{first + length - 1}")) == (first, length)


@given(st.text(max_size=20))
def test_content_range_gives_a_place_or_an_error(text: str) -> None:
    try:
        first, length = content_range(text)
    except ValueError:
        return
    assert first >= 0
    assert length >= 1
