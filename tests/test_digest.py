from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_service.digest import Digest
from registry_service.errors import InvalidDigestError


@given(st.binary(), st.sampled_from(["sha256", "sha512"]))
def test_digest_of_content_survives_text_and_verifies(content: bytes, algorithm: str) -> None:
    digest = Digest.of(content, algorithm)
    assert Digest.parse(str(digest)) == digest
    assert digest.hex == hashlib.new(algorithm, content).hexdigest()
    hasher = digest.hasher()
    hasher.update(content)
    assert digest.matches(hasher)
    hasher.update(b"more")
    assert not digest.matches(hasher)


def test_a_hasher_of_another_algorithm_does_not_match() -> None:
    assert not Digest.of(b"x").matches(hashlib.sha512(b"x"))


@given(st.text())
def test_any_text_is_a_digest_or_an_invalid_digest_error(text: str) -> None:
    try:
        digest = Digest.parse(text)
    except InvalidDigestError:
        return
    assert str(digest) == text
    assert "/" not in digest.algorithm + digest.hex  # they become file names


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "ALGORITHM:HEX"),
        ("sha256", "ALGORITHM:HEX"),
        ("sha256:", "64 hexadecimal digits, here are 0"),
        ("sha256:" + "a" * 63, "here are 63"),
        ("sha256:" + "A" * 64, "lower case"),
        ("sha256:" + "g" * 64, "lower case hexadecimal"),
        ("sha512:" + "a" * 64, "128"),
        ("SHA256:" + "a" * 64, "the algorithm"),
        ("../sha256:" + "a" * 64, "the algorithm"),
        ("md9:a/b", "after the colon"),
        ("md9:", "after the colon"),
        ("md9:" + "a" * 300, "after the colon"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    with pytest.raises(InvalidDigestError, match=said):
        Digest.parse(text)


def test_text_is_expected() -> None:
    with pytest.raises(InvalidDigestError, match="not int"):
        Digest.parse(5)  # type: ignore[arg-type]


def test_an_algorithm_of_the_future_parses_and_is_not_verified_with() -> None:
    digest = Digest.parse("multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8")
    with pytest.raises(InvalidDigestError, match="sha256, sha512 can be used"):
        digest.hasher()
    with pytest.raises(InvalidDigestError):
        Digest.of(b"", "sha384")


def test_digests_are_values() -> None:
    digest = Digest.of(b"x")
    assert {digest: 1}[Digest.parse(str(digest))] == 1
    assert digest.short == digest.hex[:12]
