"""TarSum: what is read of each kind of header, whatever the pieces, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import tarfile
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_tarsum import END, Raw, archive, pax, pax_record, raw, stored

from registry_service.cancel import Cancellation
from registry_service.errors import (
    ArchiveError,
    CancelledError,
    InvalidTarSumError,
    TarError,
)
from registry_service.tarsums import (
    LayerSummer,
    TarSum,
    TarSummer,
    TarSumVersion,
    parser,
    summing,
    tarsum,
)
from registry_service.tarsums.headers import decimal, number
from registry_service.testing.content import BytesContent
from registry_service.testing.v1 import sums as of_the_server

V0, V1, DEV = TarSumVersion


def sum_of(*entries: bytes, version: str = "tarsum") -> str:
    """The sum of an archive of entries, each given as what goes into its sum."""
    sums = sorted(hashlib.sha256(entry).hexdigest() for entry in entries)
    return f"{version}+sha256:{hashlib.sha256(''.join(sums).encode()).hexdigest()}"


def fields(**changes: Any) -> bytes:
    """What goes into an entry's sum: a plain file's fields, but for what is given."""
    given = {
        "name": b"file", "mode": 33188, "uid": 0, "gid": 0, "size": 0, "mtime": 0,
        "typeflag": b"0", "linkname": b"", "uname": b"", "gname": b"", "devmajor": 0,
        "devminor": 0,
    } | changes  # fmt: skip
    return b"".join(
        key.encode() + (value if isinstance(value, bytes) else str(value).encode())
        for key, value in given.items()
        if value is not None
    )


# fields


def test_the_fields_of_a_header() -> None:
    made = archive(
        raw(name=b"./a/", typeflag=b"5", mode=0o41777, uid=1, gid=2, mtime=3, uname=b"u"),
        raw(name=b"l", typeflag=b"2", linkname=b"a/\xff", mode=0o777, gname=b"g"),
        raw(name=b"h", typeflag=b"1", linkname=b"./file"),
        raw(name=b"c", typeflag=b"3", devmajor=1, devminor=5),
        raw(name=b"p", typeflag=b"6", devmajor=1, devminor=5),
    )
    assert tarsum(made) == sum_of(
        fields(name=b"./a/", typeflag=b"5", mode=0o41777, uid=1, gid=2, mtime=3, uname=b"u"),
        fields(name=b"l", typeflag=b"2", linkname=b"a/\xff", mode=0o777, gname=b"g"),
        fields(name=b"h", typeflag=b"1", linkname=b"./file"),
        fields(name=b"c", typeflag=b"3", devmajor=1, devminor=5),
        fields(name=b"p", typeflag=b"6"),
    )


def test_a_name_that_fills_its_field_and_one_with_a_prefix() -> None:
    name = b"n" * 100
    assert tarsum(archive(raw(name=name))) == sum_of(fields(name=name))
    assert tarsum(archive(raw(rest=b"a/b"))) == sum_of(fields(name=b"a/b/file"))
    old = archive(raw(magic=b"ustar  \0", rest=b"a/b"))
    assert tarsum(old) == sum_of(fields(name=b"a/b/file"))
    star = b"a/b".ljust(131, b"\0") + b"%011o " % 7 * 2 + bytes(8) + b"tar\0"
    assert tarsum(archive(raw(rest=star))) == sum_of(fields(name=b"a/b/file"))
    v7 = archive(raw(magic=bytes(8), uname=b"nobody", rest=b"a/b"))
    assert tarsum(v7) == sum_of(fields())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644),
        (b"000644 \0", 0o644),
        (b"   644 \0", 0o644),
        (b"\0 644 \0\0", 0o644),
        (b"644\0rest", 0o644),
        (b"644 rest", None),
        (b"64 4\0\0\0\0", None),
        (b"+000644\0", None),
        (b"0000684\0", None),
        (b"       \0", 0),
        (bytes(8), 0),
        (b"77777777", 0o77777777),
        (b"\x80\0\0\0\0\0\x01\x02", 258),
        (b"\xff" * 8, 2**63 - 1),  # its highest bit says that it is one of this kind
        (b"\xff" * 12, -1),
        (b"\x80\0\0\0\x80" + bytes(7), -(2**63)),
        (b"\x80\0\0\x01" + bytes(8), 0),
    ],
)
def test_numbers_of_headers(field: bytes, value: int | None) -> None:
    assert number(field) == value


@pytest.mark.parametrize(
    ("digits", "value"),
    [
        (b"0", 0), (b"-0", 0), (b"+12", 12), (b"-12", -12), (b"0" * 5000 + b"7", 7),
        (b"9223372036854775807", 2**63 - 1), (b"-9223372036854775808", -(2**63)),
        (b"9223372036854775808", None), (b"9" * 5000, None), (b"", None), (b"-", None),
        (b"--1", None), (b"1.0", None), (b"1_0", None), (b" 1", None), (b"1\n", None),
        ("١".encode(), None),
    ],
)  # fmt: skip
def test_numbers_of_extended_headers(digits: bytes, value: int | None) -> None:
    assert decimal(digits) == value


# extended headers


def test_what_a_pax_header_says_counts() -> None:
    said = {
        b"path": b"p" * 300, b"linkpath": b"l" * 300, b"uname": b"", b"gname": b"\xff",
        b"uid": b"7", b"gid": b"-8", b"mtime": b"12.999999999999", b"atime": b"5",
        b"comment": b"no", b"VENDOR.what": b"no",
    }  # fmt: skip
    made = archive(pax(said), raw(uname=b"not", gname=b"this", typeflag=b"2", linkname=b"nor"))
    assert tarsum(made) == sum_of(
        fields(
            name=b"p" * 300, linkname=b"l" * 300, gname=b"\xff", uid=7, gid=-8, mtime=12,
            typeflag=b"2",
        )
    )  # fmt: skip


def test_a_pax_header_is_for_one_entry() -> None:
    made = archive(pax({b"uid": b"7"}), raw(name=b"a"), raw(name=b"b"))
    assert tarsum(made) == sum_of(fields(name=b"a", uid=7), fields(name=b"b"))


def test_the_last_record_of_a_key_counts_and_a_malformed_number_does_not() -> None:
    made = archive(
        pax([(b"uid", b"7"), (b"uid", b"8"), (b"gid", b"x"), (b"mtime", b"soon"), (b"size", b"")]),
        raw(gid=3, mtime=4),
    )
    assert tarsum(made) == sum_of(fields(uid=8, gid=3, mtime=4))


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (b"12", 12), (b"12.", 12), (b"12.5", 12), (b"-1.5", -1), (b"-0.5", 0), (b"1.-5", 0),
        (b".5", 99), (b"1.x", 99), (b"1e3", 99), (b"", 99),
    ],
)  # fmt: skip
def test_times_of_pax_headers(said: bytes, seconds: int) -> None:
    made = archive(pax({b"mtime": said}), raw(mtime=99))
    assert tarsum(made) == sum_of(fields(mtime=seconds))


def test_a_size_in_a_pax_header_is_that_of_the_content() -> None:
    file = stored(Raw(size=3), b"0123456789")  # as a size of more than 8 GiB would not fit in
    made = archive(pax({b"size": b"10"}), file, raw(name=b"b"))
    assert tarsum(made) == sum_of(fields(size=10) + b"0123456789", fields(name=b"b"))


def test_a_global_pax_header_is_an_entry_that_changes_no_other() -> None:
    content = pax_record(b"comment", b"6f3a") + pax_record(b"uid", b"9")
    made = archive(
        stored(Raw(name=b"pax_global_header", mode=0o666, typeflag=b"g"), content), raw(name=b"a")
    )
    head = fields(name=b"pax_global_header", mode=0o666, typeflag=b"g", size=len(content))
    assert tarsum(made) == sum_of(head + content, fields(name=b"a"))


def test_extended_attributes_count_since_version_1_sorted() -> None:
    said = [
        (b"SCHILY.xattr.user.b", b"2=\n"),
        (b"SCHILY.xattr.user.a", b"\0\xff"),
        (b"LIBARCHIVE.xattr.user.c", b"3"),
    ]
    made = archive(pax(said), stored(Raw(mtime=5), b"x"))
    assert tarsum(made) == sum_of(fields(mtime=5, size=1) + b"x")
    of_v1 = fields(mtime=None, size=1) + b"user.a\0\xffuser.b2=\nx"
    for version in ("tarsum.v1", "tarsum.dev"):
        assert tarsum(made, version=version) == sum_of(of_v1, version=version)


def test_an_attribute_without_a_name_counts_as_often_as_in_the_reference() -> None:
    said = [(b"SCHILY.xattr.", b"v"), (b"SCHILY.xattr.a", b"w")]
    made = archive(pax(said), raw())
    of_v1 = fields(mtime=None) + b"vvvaw"
    assert tarsum(made, version="tarsum.v1") == sum_of(of_v1, version="tarsum.v1")


def test_long_names_and_long_links_of_gnu() -> None:
    name, link = b"n" * 5000, b"l" * 5000
    long_name = stored(Raw(name=b"././@LongLink", typeflag=b"L"), name + b"\0more")
    long_link = stored(Raw(name=b"././@LongLink", typeflag=b"K"), link + b"\0")
    entry = raw(name=b"n" * 100, linkname=b"l" * 100, typeflag=b"2", uid=1)
    expected = sum_of(fields(name=name, linkname=link, typeflag=b"2", uid=1), fields())
    assert tarsum(archive(long_name, long_link, entry, raw())) == expected
    assert tarsum(archive(long_link, long_name, entry, raw())) == expected
    assert tarsum(archive(long_link, long_name, pax({b"path": b"no"}), entry, raw())) == expected
    other = stored(Raw(typeflag=b"L"), b"second")
    assert tarsum(archive(long_name, other, long_link, entry, raw())) == expected  # the first


def test_a_header_after_a_pax_header_is_an_entry_whatever_it_is() -> None:
    made = archive(pax({b"uid": b"7"}), stored(Raw(name=b"@", typeflag=b"L"), b"name"), raw())
    assert tarsum(made) == sum_of(
        fields(name=b"@", typeflag=b"L", uid=7, size=4) + b"name", fields()
    )


# sparse files


LATEST = pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"})
WHOLE = b"a" * 512 + bytes(1536) + b"b" * 100 + bytes(400)


def gnu_sparse(parts: list[tuple[int, int]], size: int, data: bytes) -> bytes:
    """A sparse file of GNU's old format."""
    packed = [b"%011o\0%011o\0" % part for part in parts]
    rest = bytes(41) + b"".join(packed[:4]).ljust(96, b"\0")
    rest += (b"\1" if len(packed) > 4 else b"\0") + b"%011o\0" % size
    entry = stored(Raw(typeflag=b"S", magic=b"ustar  \0", rest=rest), data)
    more = b""
    for place in range(4, len(packed), 21):
        block = b"".join(packed[place : place + 21]).ljust(504, b"\0")
        more += (block + (b"\1" if len(packed) > place + 21 else b"\0")).ljust(512, b"\0")
    return entry[:512] + more + entry[512:]


def test_sparse_files_of_the_old_format_have_zeros_for_holes() -> None:
    made = gnu_sparse([(0, 512), (2048, 100), (2548, 0)], 2548, b"a" * 512 + b"b" * 100)
    expected = sum_of(fields(size=2548, typeflag=b"S") + WHOLE, fields(name=b"next"))
    assert tarsum(archive(made, raw(name=b"next"))) == expected


@pytest.mark.parametrize("parts", [4, 5, 25, 26, 60])
def test_maps_that_go_on_in_further_blocks(parts: int) -> None:
    places = [(1024 * place, 512) for place in range(parts)]
    data = b"".join(bytes([place + 1]) * 512 for place in range(parts))
    whole = b"".join(bytes([place + 1]) * 512 + bytes(512) for place in range(parts))
    made = gnu_sparse(places, len(whole), data)
    expected = sum_of(fields(size=len(whole), typeflag=b"S") + whole, fields(name=b"next"))
    assert tarsum(archive(made, raw(name=b"next"))) == expected


def test_sparse_files_in_the_formats_of_pax() -> None:
    data = b"a" * 512 + b"b" * 100
    head = [(b"GNU.sparse.size", b"2548"), (b"GNU.sparse.numblocks", b"2")]
    pairs = [(b"0", b"512"), (b"2048", b"100")]
    places = [
        each
        for offset, count in pairs
        for each in ((b"GNU.sparse.offset", offset), (b"GNU.sparse.numbytes", count))
    ]
    old = pax([*head, *places])
    newer = pax([*head, (b"GNU.sparse.name", b"file"), (b"GNU.sparse.map", b"0,512,2048,100")])
    expected = sum_of(fields(size=2548) + WHOLE, fields(name=b"next"))
    for form in (old, newer):
        assert tarsum(archive(form, stored(Raw(), data), raw(name=b"next"))) == expected
    latest = pax(
        {
            b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": b"file",
            b"GNU.sparse.realsize": b"2548",
        }
    )  # fmt: skip
    lines = b"2\n0\n512\n2048\n100\n".ljust(512, b"\0")
    entry = stored(Raw(name=b"GNUSparseFile.1/file"), lines + data)
    assert tarsum(archive(latest, entry, raw(name=b"next"))) == expected


def test_a_map_before_the_data_that_has_more_than_a_block() -> None:
    parts = [(1000 * place, 1) for place in range(200)]
    lines = b"200\n" + b"".join(b"%d\n%d\n" % part for part in parts)
    assert len(lines) % 512
    lines += b"what follows the map does not matter\n"
    data = bytes(range(1, 201))
    whole = bytearray(199 * 1000 + 1)
    whole[::1000] = data
    said = {
        b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0",
        b"GNU.sparse.realsize": b"%d" % len(whole),
    }  # fmt: skip
    entry = stored(Raw(), lines + bytes(-len(lines) % 512) + data)
    expected = sum_of(fields(size=len(whole)) + bytes(whole))
    assert tarsum(archive(pax(said), entry)) == expected


@pytest.mark.parametrize(
    ("parts", "content"),
    [
        ([(0, 1), (2, 0)], b"a\0"),  # a hole after the last of the data is still one
        ([(0, 1), (1, 0), (5, 0)], b"a"),  # a part of nothing, with no data left, is the end
        ([(0, 1), (1, 1), (5, 0)], b"a"),  # and so is one of more than there is
        ([(0, 1), (3, 0), (2, 0)], b"a\0\0"),
    ],
)
def test_maps_that_go_beyond_the_file(parts: list[tuple[int, int]], content: bytes) -> None:
    made = gnu_sparse(parts, 1, b"a")
    assert tarsum(archive(made)) == sum_of(fields(size=1, typeflag=b"S") + content)


def test_a_form_of_sparse_files_that_is_not_known_is_a_plain_file() -> None:
    said = {b"GNU.sparse.major": b"2", b"GNU.sparse.minor": b"0"}
    assert tarsum(archive(pax(said), stored(Raw(), b"x"))) == sum_of(fields(size=1) + b"x")


def test_holes_are_bounded_and_a_cancellation_ends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    huge = archive(gnu_sparse([], parser.HOLE_LIMIT + 1, b""))
    with pytest.raises(TarError, match=f"{parser.HOLE_LIMIT} are allowed"):
        tarsum(huge)
    cancel = Cancellation()
    cancel.cancel()
    summer = TarSummer(cancel=cancel)
    with pytest.raises(CancelledError):
        summer.update(archive(gnu_sparse([], 1024, b"")))
    monkeypatch.setattr(parser, "HOLE_LIMIT", 1023)
    half = gnu_sparse([], 512, b"")
    assert tarsum(archive(half)) == sum_of(fields(size=512, typeflag=b"S") + bytes(512))
    with pytest.raises(TarError, match="1024 bytes of holes; 1023 are allowed"):
        tarsum(archive(half, half))


# the order


PARTS = [raw(name=b"%d" % place, uid=place) for place in range(20)]


@given(st.permutations(PARTS))
def test_the_order_of_entries_makes_no_difference(parts: list[bytes]) -> None:
    assert tarsum(archive(*parts)) == tarsum(archive(*PARTS))


def test_a_cancellation_ends_the_sorting_too() -> None:
    cancel = Cancellation()
    summer = TarSummer(cancel=cancel)
    summer.update(archive(raw(uid=1), raw(uid=2)))
    cancel.cancel()
    with pytest.raises(CancelledError):
        summer.sum()


def test_of_one_name_it_does() -> None:
    parts = [raw(name=b"same", uid=1), raw(name=b"./same/", uid=2)]  # one name, however written
    assert tarsum(archive(*parts)) != tarsum(archive(*reversed(parts)))


# whatever the pieces

MIXED = archive(
    stored(Raw(name=b"a"), b"content" * 200),
    pax({b"path": b"p" * 300, b"SCHILY.xattr.user.a": b"b"}),
    raw(),
    stored(Raw(typeflag=b"L"), b"n" * 700),
    stored(Raw(), b"x"),
    gnu_sparse([(0, 512), (2048, 100)], 2548, b"a" * 512 + b"b" * 100),
    raw(name=b"d/", typeflag=b"5"),
)
PACK: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


@given(st.data(), st.sampled_from(sorted(PACK)), st.sampled_from(list(TarSumVersion)))
def test_the_pieces_make_no_difference(
    data: st.DataObject, form: str, version: TarSumVersion
) -> None:
    packed = PACK[form](MIXED)
    cuts = data.draw(st.lists(st.integers(0, len(packed)), max_size=12).map(sorted))
    out = hashlib.sha256()
    summer = LayerSummer(version, plain=out.update)
    plain = TarSummer(version)
    for start, stop in zip([0, *cuts], [*cuts, len(packed)], strict=True):
        summer.update(packed[start:stop])
        if form == "plain":
            plain.update(packed[start:stop])
    assert summer.sum(b"{}") == tarsum(MIXED, version=version, json=b"{}")
    assert form != "plain" or plain.sum(b"{}") == summer.sum(b"{}")
    assert out.hexdigest() == hashlib.sha256(MIXED).hexdigest()


def test_one_byte_at_a_time() -> None:
    summer = TarSummer()
    for byte in MIXED:
        summer.update(bytes([byte]))
    assert summer.sum() == tarsum(MIXED)


def test_buffers_are_not_kept() -> None:
    summer = TarSummer()
    whole = bytearray(MIXED[:700])
    summer.update(whole)
    whole.clear()  # which a view of it would not allow
    summer.update(memoryview(MIXED)[700:])
    assert summer.sum() == tarsum(MIXED)


def test_several_gzip_members_and_zeros_after_them() -> None:
    packed = gzip.compress(MIXED[:1000]) + gzip.compress(MIXED[1000:]) + bytes(100)
    assert tarsum(packed) == tarsum(MIXED)
    assert tarsum(io.BytesIO(packed)) == tarsum(MIXED)


def test_a_file_is_read_from_where_it_is() -> None:
    file = io.BytesIO(b"before" + MIXED)
    file.seek(6)
    assert tarsum(file) == tarsum(MIXED)
    cancel = Cancellation()
    cancel.cancel()
    with pytest.raises(CancelledError):
        tarsum(io.BytesIO(MIXED), cancel=cancel)
    with pytest.raises(CancelledError):  # little that came may be very much that is in it
        tarsum(gzip.compress(MIXED), cancel=cancel)


def test_a_sum_with_several_documents_and_nothing_after_it() -> None:
    summer = TarSummer("tarsum.v1", "sha512")
    summer.update(MIXED)
    for json in (b"", b"{}", b""):
        assert summer.sum(json) == tarsum(MIXED, version="tarsum.v1", algorithm="sha512", json=json)
        assert str(summer.value(json)) == summer.sum(json)
    with pytest.raises(ValueError, match="the sum was asked for"):
        summer.update(b"more")


NAMES = st.text("abc/.é", min_size=1, max_size=60).filter(lambda name: name.strip("/."))
NUMBERS = st.integers(0, 0o7777777)


@st.composite
def members(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(draw(NAMES).strip("/"))
    kinds = [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE]
    info.type = draw(st.sampled_from(kinds))
    info.mode, info.uid, info.gid, info.mtime = (draw(NUMBERS) for _ in range(4))
    info.uname, info.gname = draw(st.text("xyz", max_size=32)), draw(st.text("xyz", max_size=32))
    if info.type == tarfile.CHRTYPE:
        info.devmajor, info.devminor = draw(NUMBERS), draw(NUMBERS)
    if info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        info.linkname = draw(NAMES)
    content = draw(st.binary(max_size=1100)) if info.type == tarfile.REGTYPE else b""
    info.size = len(content)
    return info, content


@given(
    st.lists(members(), max_size=8, unique_by=lambda member: member[0].name.removeprefix("./")),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_the_registry_for_tests_computes_the_same_in_its_own_way(
    found: list[tuple[tarfile.TarInfo, bytes]], form: int
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8") as tar:
        for info, content in found:
            tar.addfile(info, io.BytesIO(content))
    for layer in (out.getvalue(), gzip.compress(out.getvalue())):
        assert tarsum(layer, json=b"{}") == of_the_server.tarsum(b"{}", BytesContent(layer))


# what is refused


@pytest.mark.parametrize("count", [1, 511, 512 + 511])
def test_a_stream_that_ends_within_a_header(count: int) -> None:
    with pytest.raises(TarError, match=f"has {count} bytes|cut off, after {count} bytes"):
        tarsum(MIXED[:count])


def test_an_archive_may_end_between_entries_and_nowhere_else() -> None:
    whole = MIXED[: -len(END)]
    fine = set()
    for count in range(len(whole) + 1):
        try:
            tarsum(whole[:count])
        except TarError as error:
            assert f"{count} bytes" in str(error)
        else:
            fine.add(count)
    ends = [(1912, 2048), (3584, 3584), (5633, 6144), (7268, 7680), (8192, 8192)]  # with padding
    assert fine == {0, *(count for start, end in ends for count in range(start, end + 1))}


def test_what_need_not_be_there() -> None:
    whole = archive(raw(name=b"a"), stored(Raw(name=b"b"), b"x"))
    expected = tarsum(whole)
    assert tarsum(whole[:-512]) == expected  # one block of zeros
    assert tarsum(whole[:-1024]) == expected  # none
    assert tarsum(whole[:-1300]) == expected  # no padding either
    assert tarsum(whole + b"anything") == expected
    with pytest.raises(TarError, match="cut off"):
        tarsum(whole[:1024])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html>" * 200, "no tar archive: its first block is no header"),
        (b"short", "no tar archive: it has 5 bytes"),
        (raw() + b"garbage" * 100, "header at byte 512 has a wrong checksum"),
        (raw() + bytes(512) + raw(), "byte 1024 comes after a block of zeros"),
        (raw() + bytes(700), "cut off, after 1212 bytes"),
        (raw(uid=b"0000008\0"), r"header at byte 0 .* malformed number: b'0000008"),
        (raw(size=b"\xff" * 12), "byte 0 of the archive has a negative size"),
        (pax({b"size": b"-1"}) + raw(), "byte 1024 of the archive has a negative size"),
        (pax({b"uid": b"1"}), "cut off, after 1024 bytes"),
        (pax({b"uid": b"1"}) + END, "cut off"),
        (stored(Raw(typeflag=b"L"), b"name") + END, "cut off"),
        (stored(Raw(typeflag=b"x"), b"99 uid=1\n") + raw(), "byte 0 .* without its length"),
        (stored(Raw(typeflag=b"x"), b"-9 uid=1\n") + raw(), "without its length"),
        (stored(Raw(typeflag=b"x"), b"8 uid 1\n") + raw(), "record without ="),
        (stored(Raw(typeflag=b"x"), b"nothing") + raw(), "without its length"),
        (stored(Raw(typeflag=b"x"), bytes(10)) + raw(), "without its length"),
        (Raw(typeflag=b"x", size=1024 * 1024 + 1).block(), "1048577 bytes; 1048576 are allowed"),
        (Raw(typeflag=b"K", size=0o77777777777).block(), "8589934591 bytes; 1048576 are allowed"),
        (gnu_sparse([(0, 600)], 600, b"a" * 512), "less data than its map"),
        (gnu_sparse([(0, 512), (100, 10)], 600, b"a" * 600), "overlap"),
        (gnu_sparse([(0, 1)] * 5, 600, b"a")[:512], "cut off"),
        (
            pax({b"GNU.sparse.size": b"9", b"GNU.sparse.numblocks": b"1"}) + raw(),
            "byte 1024 of the archive has a malformed map",
        ),
        (
            pax({b"GNU.sparse.size": b"9", b"GNU.sparse.numblocks": b"99999999"}) + raw(),
            "99999999 parts; 65536 are allowed",
        ),
        (LATEST + raw(), "no complete map"),
        (LATEST + Raw(size=1024).block() + b"2\n", "cut off, after 1538 bytes"),
        (LATEST + stored(Raw(), b"-1\n".ljust(512, b"\0")), "malformed map"),
        (LATEST + stored(Raw(), b"1" * 512), "malformed map"),
        (raw(typeflag=b"S", rest=bytes(41) + b"8"), "byte 0 of the archive has a malformed map"),
        (
            raw(typeflag=b"S", rest=bytes(41) + bytes(97) + b"size"),
            "byte 0 of the archive has a malformed size",
        ),
        (gnu_sparse([(place, 1) for place in range(65_600)], 0, b""), "more than 65536 parts"),
        (LATEST + stored(Raw(), b"2\n0\n0\nx\n".ljust(512, b"\0")), "malformed map"),
        (LATEST + gnu_sparse([(0, 1)], 5, b"a"), "sparse in two ways"),
    ],
)
def test_what_is_no_archive(content: bytes, words: str) -> None:
    with pytest.raises(TarError, match=words) as caught:
        tarsum(content)
    assert caught.value.code == "tar"
    assert isinstance(caught.value, ArchiveError)


def test_an_error_stays() -> None:
    for summer in (TarSummer("tarsum.v1", "sha512"), LayerSummer("tarsum.v1", "sha512")):
        assert (summer.version, summer.algorithm) == (V1, "sha512")
        with pytest.raises(TarError) as first:
            summer.update(b"x" * 1024)
        for call in (summer.sum, lambda summer=summer: summer.update(MIXED)):
            with pytest.raises(TarError) as again:
                call()
            assert again.value is first.value


@pytest.mark.parametrize("form", ["gzip", "bzip2", "xz"])
def test_a_compressed_layer_that_is_cut_off_or_damaged(form: str) -> None:
    packed = PACK[form](MIXED)
    with pytest.raises(ArchiveError, match=f"the {form} stream is cut off"):
        tarsum(packed[:-9])
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 255
    with pytest.raises(ArchiveError, match=f"the {form} stream is damaged|archive|cut off"):
        tarsum(bytes(damaged) + b"\xff" * 100)
    with pytest.raises(TarError, match="no tar archive"):
        tarsum(PACK[form](b"<html>" * 100))


def test_the_number_of_entries_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summing, "ENTRY_LIMIT", 3)
    tarsum(archive(*[raw()] * 3))
    with pytest.raises(TarError, match="more than 3 entries"):
        tarsum(archive(*[raw()] * 4))


@pytest.mark.parametrize("what", ["content", "entries", "hole"])
def test_little_is_in_memory(what: str) -> None:
    """64 MiB of content and of zeros, of which nothing is kept, and 16384 entries."""
    count = 64 * 1024 * 1024
    block = raw()
    tracemalloc.start()
    try:
        summer = TarSummer()
        if what == "hole":
            summer.update(gnu_sparse([], count, b""))
        elif what == "content":
            summer.update(Raw(size=count).block())
            for _ in range(64):
                summer.update(bytes(1024 * 1024))
        else:
            for _ in range(16 * 1024 // 32):
                summer.update(block * 32)
        summer.update(END)
        summer.sum()
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 8 * 1024 * 1024


# values


def test_a_sum_as_it_is_written() -> None:
    text = "tarsum.v1+sha256:" + "0a" * 32
    parsed = TarSum.parse(text)
    assert (parsed.version, parsed.algorithm, parsed.hex) == (V1, "sha256", "0a" * 32)
    assert str(parsed) == text
    assert TarSum(version=V0, hex="0" * 64) == TarSum.parse("tarsum+sha256:" + "0" * 64)
    assert [str(version) for version in TarSumVersion] == ["tarsum", "tarsum.v1", "tarsum.dev"]
    assert TarSumVersion.parse("tarsum.dev") is DEV


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no TarSum: it is written VERSION"),
        ("sha256:" + "0" * 64, "no TarSum"),
        ("tarsum+sha256", "no TarSum"),
        ("tarsum:" + "0" * 64, "no TarSum"),
        ("tarsum.v2+sha256:" + "0" * 64, "'tarsum.v2' is no version .* tarsum, tarsum.v1"),
        ("+sha256:" + "0" * 64, "'' is no version"),
        ("TARSUM+sha256:" + "0" * 64, "is no version"),
        ("tarsum+crc:00", "nothing can be summed with 'crc'"),
        ("tarsum+:00", "nothing can be summed with ''"),
        ("tarsum+sha256:00", "sha256 gives 64 hexadecimal digits"),
        ("tarsum+sha512:" + "0" * 64, "sha512 gives 128"),
        ("tarsum+sha256:" + "A" * 64, "in lower case"),
        ("tarsum+sha256:" + "0" * 63 + "\n", "hexadecimal"),
        ("tarsum+" + "x" * 9000, "no TarSum"),
    ],
)
def test_a_sum_that_is_none(text: str, words: str) -> None:
    with pytest.raises(InvalidTarSumError, match=words) as caught:
        TarSum.parse(text)
    assert caught.value.code == "invalid-tarsum"
    assert len(str(caught.value)) < 500


def test_a_version_or_an_algorithm_that_is_not_known() -> None:
    for made in (TarSummer, LayerSummer):
        with pytest.raises(InvalidTarSumError, match="is no version"):
            made("tarsum.v9")
        with pytest.raises(InvalidTarSumError, match="'blake3'"):
            made("tarsum", "blake3")
