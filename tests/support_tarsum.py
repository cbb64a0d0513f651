"""Tar archives byte by byte, and their TarSum computed in another way."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence

__all__ = ["END", "Raw", "archive", "by_tarfile", "pax", "pax_record", "raw", "stored"]

END = bytes(1024)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """A header as it shall stand in an archive: numbers as numbers, or as the bytes of a field."""

    name: bytes = b"file"
    mode: int | bytes = 0o100644
    uid: int | bytes = 0
    gid: int | bytes = 0
    size: int | bytes = 0
    mtime: int | bytes = 0
    typeflag: bytes = b"0"
    linkname: bytes = b""
    magic: bytes = b"ustar\x0000"
    uname: bytes = b""
    gname: bytes = b""
    devmajor: int | bytes = 0
    devminor: int | bytes = 0
    rest: bytes = b""

    def block(self) -> bytes:
        head = self.name.ljust(100, b"\0")
        for field in (self.mode, self.uid, self.gid):
            head += _octal(field, 8)
        head += _octal(self.size, 12) + _octal(self.mtime, 12) + b" " * 8 + self.typeflag
        head += self.linkname.ljust(100, b"\0") + self.magic
        head += self.uname.ljust(32, b"\0") + self.gname.ljust(32, b"\0")
        head += _octal(self.devmajor, 8) + _octal(self.devminor, 8) + self.rest
        head = head.ljust(512, b"\0")
        assert len(head) == 512
        return head[:148] + b"%06o\0 " % sum(head) + head[156:]


def _octal(value: int | bytes, width: int) -> bytes:
    field = b"%0*o\0" % (width - 1, value) if isinstance(value, int) else value
    assert len(field) == width
    return field


def stored(header: Raw, content: bytes = b"") -> bytes:
    """An entry with its content, padded; the header says the size unless it has one."""
    if header.size == 0:
        header = dataclasses.replace(header, size=len(content))
    return header.block() + content + bytes(-len(content) % 512)


def raw(**fields: int | bytes) -> bytes:
    """An entry without content."""
    return stored(Raw(**fields))  # type: ignore[arg-type]


def pax_record(key: bytes, value: bytes) -> bytes:
    text = b" " + key + b"=" + value + b"\n"
    count = len(text)
    while count != len(text) + len(b"%d" % count):
        count = len(text) + len(b"%d" % count)
    return b"%d" % count + text


def pax(
    records: Mapping[bytes, bytes] | Sequence[tuple[bytes, bytes]], kind: bytes = b"x"
) -> bytes:
    """An extended header of these records."""
    pairs = records.items() if isinstance(records, Mapping) else records
    content = b"".join(pax_record(key, value) for key, value in pairs)
    return stored(Raw(name=b"pax", typeflag=kind), content)


def archive(*parts: bytes) -> bytes:
    return b"".join(parts) + END


def by_tarfile(content: bytes, json: bytes = b"") -> str:
    """The sum of version 0 of an archive that has only what tarfile reads as the reference does:
    plain files, directories, links, devices, no name twice."""
    sums = []
    with tarfile.open(fileobj=io.BytesIO(content), encoding="utf-8") as tar:
        for member in tar:
            name = member.name + "/" * member.isdir()
            devices = (member.devmajor, member.devminor) if member.isdev() else (0, 0)
            fields = {
                "name": name, "mode": member.mode, "uid": member.uid, "gid": member.gid,
                "size": member.size, "mtime": int(member.mtime), "typeflag": member.type.decode(),
                "linkname": member.linkname, "uname": member.uname, "gname": member.gname,
                "devmajor": devices[0], "devminor": devices[1],
            }  # fmt: skip
            text = "".join(f"{key}{value}" for key, value in fields.items())
            hasher = hashlib.sha256(text.encode("utf-8", "surrogateescape"))
            file = tar.extractfile(member) if member.isreg() else None
            hasher.update(file.read() if file is not None else b"")
            sums.append(hasher.hexdigest())
    return f"tarsum+sha256:{hashlib.sha256(json + ''.join(sorted(sums)).encode()).hexdigest()}"
