"""tar as image archives have it: what is read, and what is refused."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_service.archive import tar as tar_module
from registry_service.archive.tar import (
    MEMBER_LIMIT,
    NAME_LIMIT,
    Kind,
    Members,
    end,
    header,
    normal,
    padding,
)
from registry_service.cancel import Cancellation
from registry_service.errors import ArchiveError, CancelledError

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


class Held:
    """An archive in memory."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)
        self.most = 0

    def read(self, offset: int, count: int) -> bytes:
        self.most = max(self.most, count)
        return self.content[offset : offset + count]


def read(content: bytes) -> Members:
    return Members.read(Held(content), Cancellation())


def made(*infos: tarfile.TarInfo, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for info in infos:
            tar.addfile(info, io.BytesIO(bytes(info.size)) if info.isreg() else None)
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


NAMES = st.lists(
    st.text(
        st.characters(codec="utf-8", exclude_characters="/\0", categories=("L", "N", "P", "S", "Z"))
    )
    .filter(lambda part: part not in ("", ".", ".."))
    .map(lambda part: part[:60]),
    min_size=1,
    max_size=4,
).map("/".join)


@given(
    files=st.dictionaries(
        NAMES.filter(lambda name: len(name.encode()) <= NAME_LIMIT), st.binary(max_size=1500)
    ),
    form=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_what_the_standard_library_writes_is_read(files: dict[str, bytes], form: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, content in files.items():
            tar.addfile(member(name, size=len(content)), io.BytesIO(content))
    members = read(out.getvalue())
    assert list(members) == list(files)
    for name, content in files.items():
        found = members.file(name)
        assert found is not None
        assert out.getvalue()[found.offset : found.offset + found.size] == content


@given(files=st.dictionaries(NAMES.filter(lambda name: len(name) < 200), st.binary(max_size=1500)))
def test_what_is_written_the_standard_library_reads(files: dict[str, bytes]) -> None:
    content = b""
    for name, data in files.items():
        content += header(name, len(data)) + data + bytes(padding(len(data)))
    content += end(len(content))
    assert len(content) % 10240 == 0
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        found = {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]
        assert found == files
        assert all((one.mode, one.mtime, one.uid) == (0o644, 0, 0) for one in tar)


@given(st.binary(max_size=3000))
def test_anything_at_all_is_read_or_refused(content: bytes) -> None:
    try:
        read(content)
    except ArchiveError as error:
        assert str(error)


@given(st.data())
def test_a_damaged_archive_is_read_or_refused(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(FORMATS))
    content = bytearray(made(member("a", size=700), member("b" * 90, size=3), form=form))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, 2500))] = data.draw(st.integers(0, 255))
    try:
        members = read(bytes(content))
    except ArchiveError:
        return
    for one in members.values():
        assert one.offset + one.size <= len(content)
        assert not one.name.startswith("/")
        assert ".." not in one.name.split("/")


def test_sizes_beyond_octal_are_read_and_written() -> None:
    size = 9 * 2**33
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = member("big", size=size)
        with pytest.raises(ArchiveError, match=f"goes on to byte {size + len(info.tobuf(form))}"):
            read(info.tobuf(form))
    assert tarfile.TarInfo.frombuf(header("big", 5), "utf-8", "strict").size == 5
    assert header("big", size).startswith(b"././@PaxHeader")


@pytest.mark.parametrize("form", FORMATS)
def test_links_lead_to_files_of_the_archive(form: int) -> None:
    members = read(
        made(
            member("a/layer.tar", size=5),
            member("b/layer.tar", tarfile.SYMTYPE, linkname="../a/layer.tar"),
            member("c", tarfile.LNKTYPE, linkname="b/layer.tar"),
            member("d", tarfile.SYMTYPE, linkname="nowhere"),
            member("e", tarfile.DIRTYPE),
            form=form,
        )
    )
    assert members.file("c") == members.file("b/layer.tar") == members["a/layer.tar"]
    assert members["a/layer.tar"].kind is Kind.FILE
    assert members.file("d") is None
    assert members.file("e") is None
    assert members.file("f") is None


def test_links_in_a_circle_are_refused() -> None:
    members = read(
        made(member("a", tarfile.SYMTYPE, linkname="b"), member("b", tarfile.SYMTYPE, linkname="a"))
    )
    with pytest.raises(ArchiveError, match="from link to link"):
        members.file("a")


@pytest.mark.parametrize(
    ("info", "words"),
    [
        (member("/etc/passwd"), "absolute"),
        (member("../x"), r"'\.\.'"),
        (member("a/../../x"), r"'\.\.'"),
        (member("a/../b"), r"'\.\.'"),
        (member("a", tarfile.SYMTYPE, linkname="/etc/passwd"), "leads out"),
        (member("a/b", tarfile.SYMTYPE, linkname="../../x"), "leads out"),
        (member("a/b", tarfile.LNKTYPE, linkname="../x"), "leads out"),
        (member("a", tarfile.SYMTYPE, linkname="."), "leads out"),
        (member("a", tarfile.CHRTYPE), "a device"),
        (member("a", tarfile.BLKTYPE), "a device"),
        (member("a", tarfile.FIFOTYPE), "a fifo"),
        (member("a", tarfile.GNUTYPE_SPARSE), "a sparse file"),
        (member("a", pax_headers={"GNU.sparse.major": "1"}), "sparse"),
        (member("a", b"Z"), "not known"),
        (member("n" * (NAME_LIMIT + 1)), "bytes is refused"),
        (member("a", pax_headers={"path": "../x"}), r"'\.\.'"),
        (member("a", pax_headers={"comment": "x" * 2**20}), "extended header of"),
    ],
)
def test_what_has_no_place_in_an_image_archive_is_refused(
    info: tarfile.TarInfo, words: str
) -> None:
    with pytest.raises(ArchiveError, match=words):
        read(info.tobuf(tarfile.PAX_FORMAT) + bytes(1024))


def test_a_name_that_stands_twice_is_refused_directories_apart() -> None:
    folder = member("a", tarfile.DIRTYPE)
    read(made(folder, folder))
    for second in (member("a"), member("./a"), member("a", tarfile.SYMTYPE, linkname="b")):
        with pytest.raises(ArchiveError, match="'a' is in the archive twice"):
            read(made(member("a"), second))


def test_a_header_for_all_members_gives_none_its_name() -> None:
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "fine"}
    ) as tar:
        tar.addfile(member("a"))
    assert list(read(out.getvalue())) == ["a"]
    evil = tarfile.TarInfo.create_pax_global_header({"path": "b"})
    with pytest.raises(ArchiveError, match="for all members"):
        read(evil + out.getvalue())


@pytest.mark.parametrize("length", [1, 511, 513, 1024, 1540, 2100])
def test_an_archive_that_is_cut_off_is_said_to_be(length: int) -> None:
    content = made(member("a", size=600), member("b", size=600))[:length]
    with pytest.raises(ArchiveError, match="cut off" if length > 512 else "no tar archive"):
        read(content)


def test_the_members_are_counted() -> None:
    block = member("a").tobuf(tarfile.USTAR_FORMAT)
    names = (f"{place:08}".encode() for place in range(MEMBER_LIMIT + 1))

    def renamed(name: bytes) -> bytes:
        raw = name + block[8:148] + b" " * 8 + block[156:]
        return raw[:148] + f"{sum(raw):06o}\0 ".encode() + raw[156:]

    with pytest.raises(ArchiveError, match=f"more than {MEMBER_LIMIT} members"):
        read(b"".join(map(renamed, names)))


def test_no_more_is_read_than_headers_are_long() -> None:
    held = Held(made(member("a", size=300_000), member("b" * 300, size=5)))
    assert set(Members.read(held, Cancellation())) == {"a", "b" * 300}
    assert held.most <= 1024


def test_a_cancel_ends_the_reading() -> None:
    cancel = Cancellation()
    cancel.cancel()
    with pytest.raises(CancelledError):
        Members.read(Held(made(member("a"))), cancel)


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"5"])
def test_a_cancel_ends_the_reading_of_headers_without_members(kind: bytes) -> None:
    cancel = Cancellation()
    cancel.cancel()
    with pytest.raises(CancelledError):
        Members.read(Held(member("./", kind).tobuf(tarfile.USTAR_FORMAT) * 3), cancel)


def test_headers_without_members_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_module, "_HEADER_LIMIT", 100)
    block = member("x", b"x").tobuf(tarfile.USTAR_FORMAT)
    read(block * 99 + made(member("a")))
    with pytest.raises(ArchiveError, match="more than 100 headers"):
        read(block * 101)


def test_an_extended_header_may_be_of_very_many_records() -> None:
    records = b"5 a=\n" * 100_000 + b"13 path=long\n"
    held = member("x", b"x", size=len(records)).tobuf(tarfile.USTAR_FORMAT)
    held += records + bytes(padding(len(records))) + made(member("short"))
    assert set(read(held)) == {"long"}


@pytest.mark.parametrize(
    "records", [b"0 a=\n", b"1 a=\n", b"4 a=\n", b"a=\n", b"123456789 a=\n", b" a=\n", b"5 ab\n"]
)
def test_a_malformed_record_is_refused(records: bytes) -> None:
    held = member("x", b"x", size=len(records)).tobuf(tarfile.USTAR_FORMAT)
    with pytest.raises(ArchiveError, match="malformed"):
        read(held + records + bytes(padding(len(records))) + made(member("a")))


@pytest.mark.parametrize(
    ("name", "base", "wanted"),
    [("./a//b/", "", "a/b"), ("..", "a", ""), ("../../c", "a/b", "c"), ("d", "a", "a/d")],
)
def test_names_become_paths_from_the_root(name: str, base: str, wanted: str) -> None:
    assert normal(name, base) == wanted
