"""Layers of V1: what is one passes however it is cut, and what is none is told."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import random
import re
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_service.cancel import Cancellation
from registry_service.compression import gzipped
from registry_service.digest import Digest
from registry_service.errors import CancelledError, DigestMismatchError, LayerError
from registry_service.tarsums import tarsum
from registry_service.v1.layer import CheckedLayer, LayerCheck, StatedLayer
from registry_service.v1.tarcheck import TarCheck

IMAGE = "ab" * 32
JSON = b'{"id": "x"}'
FORMATS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE]
)
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": lambda data: gzip.compress(data, mtime=7),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
NONE = b"This is a text of some length, and no tar archive. " * 20


def archive(format: int, *members: tuple[str, bytes, bytes]) -> bytes:
    """A tar archive of members: name, type, content."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as made:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
            else:
                info.linkname = "target"
            made.addfile(info, io.BytesIO(content))
    return file.getvalue()


def checked(data: bytes, stated: StatedLayer | None = None, size: int = 100) -> CheckedLayer:
    check = LayerCheck(stated or StatedLayer(image_id=IMAGE, json=JSON))
    cancel = Cancellation()
    for place in range(0, len(data), size):
        check.update(memoryview(data)[place : place + size], cancel)
    return check.finish(cancel)


MEMBERS = st.lists(
    st.tuples(st.text("ab/é", min_size=1, max_size=200), KINDS, st.binary(max_size=1500)),
    max_size=5,
)


@given(FORMATS, MEMBERS, st.sampled_from(sorted(COMPRESS)), st.integers(1, 3000))
def test_whatever_tarfile_writes_is_a_layer(
    format: int, members: list[tuple[str, bytes, bytes]], kind: str, size: int
) -> None:
    whole = archive(format, *members)
    data = COMPRESS[kind](whole)
    found = checked(data, size=size)
    assert found.digest == Digest.of(data)
    assert found.size == len(data)
    assert found.diff_id == Digest.of(whole)
    assert found.compression == kind


@given(FORMATS, MEMBERS, st.data())
def test_an_archive_that_is_cut_within_a_member_is_refused(
    format: int, members: list[tuple[str, bytes, bytes]], draw: st.DataObject
) -> None:
    whole = archive(format, *members, ("last", tarfile.REGTYPE, b"x" * 600))
    end = whole.rindex(b"x") + 1
    with pytest.raises(LayerError, match="cut off"):
        checked(whole[: draw.draw(st.integers(end - 599, end - 1))])


@given(MEMBERS, st.integers(0, 511), st.integers(1, 255))
def test_a_header_that_is_damaged_is_refused(
    members: list[tuple[str, bytes, bytes]], place: int, change: int
) -> None:
    whole = bytearray(archive(tarfile.GNU_FORMAT, ("first", tarfile.REGTYPE, b"x"), *members))
    whole[place] ^= change
    # What the sum is written with, and what lies behind it, may differ without it being wrong.
    if 148 <= place < 156:
        return
    with pytest.raises(LayerError, match="is no tar archive"):
        checked(bytes(whole))


@pytest.mark.parametrize("kind", sorted(COMPRESS))
@pytest.mark.parametrize("content", [NONE, b"{}", b"\0" * 100 + NONE, b"PK\3\4" + bytes(2000)])
def test_what_is_no_archive_is_refused_however_it_is_compressed(kind: str, content: bytes) -> None:
    with pytest.raises(LayerError, match=f"image {IMAGE}: it is no tar archive"):
        checked(COMPRESS[kind](content))


def test_an_archive_with_something_else_in_the_place_of_a_member_is_refused() -> None:
    first = archive(tarfile.GNU_FORMAT, ("a", tarfile.REGTYPE, b"x" * 512))[:1024]
    with pytest.raises(LayerError, match="no member at 1024"):
        checked(first + NONE)


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz"])
def test_a_stream_that_is_cut_off_is_refused(kind: str) -> None:
    data = COMPRESS[kind](archive(tarfile.GNU_FORMAT, ("a", tarfile.REGTYPE, bytes(9000))))
    with pytest.raises(LayerError, match=f"{kind} stream is cut off"):
        checked(data[:-3])


def test_the_size_of_a_pax_header_is_the_member_s() -> None:
    whole = bytearray(archive(tarfile.PAX_FORMAT, ("a", tarfile.REGTYPE, b"y" * 700)))
    record = b"13 size=0700\n"
    head = tarfile.TarInfo("pax")
    head.type, head.size = tarfile.XHDTYPE, len(record)
    whole[124:136] = b"00000000000\0"  # what the member says itself
    fixed = bytes(whole[:148]) + b" " * 8 + bytes(whole[156:512])
    whole[148:156] = b"%06o\0 " % sum(fixed)
    with pytest.raises(LayerError):
        checked(bytes(whole))
    before = head.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0")
    assert checked(before + bytes(whole)).compression == ""


def test_the_parts_of_a_sparse_file_s_header_are_passed_over() -> None:
    head = bytearray(archive(tarfile.GNU_FORMAT, ("a", tarfile.REGTYPE, b"z" * 300))[:512])
    head[156:157], head[482] = b"S", 1
    head[148:156] = b"%06o\0 " % sum(bytes(head[:148]) + b" " * 8 + bytes(head[156:]))
    more, last = bytearray(512), bytes(512)
    more[504] = 1
    rest = b"z" * 300 + bytes(212) + archive(tarfile.GNU_FORMAT, ("b", tarfile.REGTYPE, b""))
    checked(bytes(head) + bytes(more) + last + rest)
    with pytest.raises(LayerError, match="cut off"):
        checked(bytes(head) + bytes(more))


def with_sum(head: bytearray, *, signed: bool = False) -> bytes:
    """A header with the sum of its bytes."""
    rest = bytes(head[:148]) + b" " * 8 + bytes(head[156:])
    total = sum(one - 256 if signed and one > 127 else one for one in rest)
    head[148:156] = b"%06o\0 " % total
    return bytes(head)


def test_a_sum_of_signed_bytes_is_one() -> None:
    head = bytearray(archive(tarfile.GNU_FORMAT, ("\xe4\xf6", tarfile.REGTYPE, b""))[:512])
    checked(with_sum(head, signed=True) + bytes(1024))
    checked(with_sum(head) + bytes(1024))


def test_sizes_in_base_256_are_understood_and_negative_ones_are_none() -> None:
    info = tarfile.TarInfo("large")
    info.size = 9 * 1024**3
    with pytest.raises(LayerError, match="cut off"):
        checked(info.tobuf(tarfile.GNU_FORMAT) + b"x" * 512)
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[124] = 0xFF
    with pytest.raises(LayerError, match="is no tar archive"):
        checked(with_sum(head))


def pax(records: bytes, size: int | None = None) -> bytes:
    head = tarfile.TarInfo("pax")
    head.type, head.size = tarfile.XHDTYPE, len(records) if size is None else size
    return head.tobuf(tarfile.USTAR_FORMAT) + records.ljust(-(-len(records) // 512) * 512, b"\0")


@pytest.mark.parametrize("records", [b"", b"nonsense", b"99 size=1\n", b"9 size=x\n", b"4 a\n"])
def test_pax_records_that_say_no_size_change_none(records: bytes) -> None:
    whole = archive(tarfile.USTAR_FORMAT, ("a", tarfile.REGTYPE, b"y" * 700))
    assert checked(pax(records) + whole).compression == ""


@pytest.mark.parametrize("digits", [20, 5000])
def test_a_pax_header_with_a_size_that_no_file_has_is_refused(digits: int) -> None:
    size = b"9" * digits
    record = b" size=" + size + b"\n"
    length = len(record) + len(str(len(record)))
    with pytest.raises(LayerError, match=f"a pax header with a size of {digits} digits"):
        checked(pax(b"%d%b" % (length, record)) + archive(tarfile.USTAR_FORMAT))


def test_a_pax_header_that_is_too_large_is_refused() -> None:
    with pytest.raises(LayerError, match=f"a pax header of {2**30} bytes"):
        checked(pax(b"", 2**30))


def test_an_archive_of_nothing_is_a_layer() -> None:
    assert checked(b"").diff_id == Digest.of(b"")
    assert checked(bytes(1024)).diff_id == Digest.of(bytes(1024))


def test_what_a_registry_says_of_the_size_and_the_sum_has_to_be_so() -> None:
    data = gzip.compress(archive(tarfile.GNU_FORMAT, ("a", tarfile.REGTYPE, b"x")))
    payload = "sha256:" + hashlib.sha256(JSON + b"\n" + data).hexdigest()
    right = StatedLayer(image_id=IMAGE, json=JSON, size=len(data), checksum_payload=payload)
    assert checked(data, right).digest == Digest.of(data)
    with pytest.raises(DigestMismatchError, match=f"the registry says that it has {len(data) + 1}"):
        checked(data, StatedLayer(image_id=IMAGE, json=JSON, size=len(data) + 1))
    wrong = StatedLayer(image_id=IMAGE, json=JSON + b" ", checksum_payload=payload)
    with pytest.raises(DigestMismatchError, match=payload):
        checked(data, wrong)
    assert checked(data, StatedLayer(image_id=IMAGE, json=JSON, size=0)).size == len(data)


@pytest.mark.parametrize("version", ["tarsum", "tarsum.v1", "tarsum.dev"])
def test_a_tarsum_that_a_registry_says_has_to_be_so(version: str) -> None:
    data = gzip.compress(archive(tarfile.GNU_FORMAT, ("a", tarfile.REGTYPE, b"x")))
    right = tarsum(data, version=version, json=JSON)
    assert checked(data, StatedLayer(image_id=IMAGE, json=JSON, checksum=right)).size == len(data)
    wrong = right.replace(right[-4:], "ffff")
    with pytest.raises(DigestMismatchError, match=re.escape(wrong)):
        checked(data, StatedLayer(image_id=IMAGE, json=JSON, checksum=wrong))
    payload = "sha256:" + hashlib.sha256(JSON + b"\n" + data).hexdigest()
    both = StatedLayer(image_id=IMAGE, json=JSON, checksum=wrong, checksum_payload=payload)
    assert checked(data, both).size == len(data)  # the bytes are known to be right


def test_a_tarsum_that_nobody_can_compute_says_nothing() -> None:
    data = archive(tarfile.GNU_FORMAT, ("a", tarfile.REGTYPE, b"x"))
    says = StatedLayer(image_id=IMAGE, json=JSON, checksum="tarsum.v9+sha256:00")
    assert checked(data, says).size == len(data)


def test_a_little_that_becomes_very_much_is_given_up_when_it_is_cancelled() -> None:
    cancel = Cancellation()
    check = LayerCheck(StatedLayer(image_id=IMAGE, json=JSON))
    data = bz2.compress(bytes(64 * 1024 * 1024))
    assert len(data) < 1000
    cancel.cancel()
    with pytest.raises(CancelledError):
        check.update(data, cancel)


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_gzip_of_the_same_is_the_same_and_says_no_time(pieces: list[bytes]) -> None:
    made = b"".join(gzipped(iter(pieces)))
    assert gzip.decompress(made) == b"".join(pieces)
    assert made[3:8] == bytes(5)  # no flags, no time
    assert made == b"".join(gzipped(iter([b"".join(pieces)])))


def test_a_check_keeps_no_more_than_a_header() -> None:
    dice = random.Random(1)
    check = TarCheck()
    for place in range(50):
        info = tarfile.TarInfo(f"file-{place}")
        info.size = dice.randrange(1_000_000)
        check.feed(info.tobuf(tarfile.GNU_FORMAT))
        check.feed(bytes(-(-info.size // 512) * 512))
        assert len(check._header) < 512
    check.feed(bytes(1024))
    check.end()
