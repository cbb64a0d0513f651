"""Chains of V1 images to test with: random, and the same again for the same seed.

Their layers are tar archives with what a layer may hold: directories, files, links hard and soft,
modes, owners, times, extended attributes, long names, and marks that take away what is below.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import random
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from ..content import BytesContent
from .sums import payload_sum, tarsum

__all__ = [
    "Chain",
    "ChainReceiver",
    "V1Image",
    "empty_layer",
    "push_chain",
    "push_synthetic_chain",
    "random_archive",
    "random_chain",
    "random_id",
]

_TIME: Final = 1_400_000_000
_MODES: Final = (0o644, 0o600, 0o755, 0o4755, 0o2755, 0o1777, 0o444)


class ChainReceiver(Protocol):
    """What chains are put into: a `V1Registry`, or a stand-in of a test."""

    def put_image(self, raw: bytes, layer: bytes) -> str: ...

    def put_tag(self, repository: str, tag: str, image_id: str) -> None: ...


class SyntheticReceiver(Protocol):
    """One that can also serve made-up layers."""

    def put_synthetic(self, raw: bytes, size: int, pattern: bytes = b"\0") -> str: ...

    def put_tag(self, repository: str, tag: str, image_id: str) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class V1Image:
    """One image: its id, its JSON as it is sent, its layer as it is sent and as an archive."""

    id: str
    raw: bytes
    layer: bytes
    archive: bytes

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.raw))

    @property
    def parent(self) -> str | None:
        return self.json.get("parent")

    @property
    def checksum(self) -> str:
        """The payload's: ``sha256:`` over JSON, newline and the layer as it is sent."""
        return payload_sum(self.raw, BytesContent(self.layer))

    @property
    def tarsum(self) -> str:
        """The TarSum of version 0, with the JSON."""
        return tarsum(self.raw, BytesContent(self.layer))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Images of which each but the first is built on the one before."""

    images: tuple[V1Image, ...]

    @property
    def id(self) -> str:
        """Of the last, which is the one that a tag stands for."""
        return self.images[-1].id

    @property
    def ancestry(self) -> list[str]:
        """The ids as a registry lists them: the last first."""
        return [image.id for image in reversed(self.images)]


def random_id(seed: object) -> str:
    """64 hexadecimal digits."""
    return random.Random(f"id {seed}").randbytes(32).hex()


def empty_layer() -> bytes:
    """The archive with nothing in it, gzip-compressed."""
    return gzip.compress(bytes(1024), mtime=0)


def random_chain(
    seed: int,
    length: int = 3,
    files: int = 6,
    file_size: int = 512,
    *,
    gzipped: bool = True,
    config: Mapping[str, Any] | None = None,
) -> Chain:
    """A chain of ``length`` images that depends on the arguments alone.

    Each layer has about ``files`` entries, its files of up to ``file_size`` bytes. The last
    image's ``config`` is that which is given, or a usual one.
    """
    found: list[V1Image] = []
    names: list[str] = []
    for number in range(length):
        archive = random_archive(seed * 1000 + number, files, file_size, below=names)
        layer = gzip.compress(archive, compresslevel=1, mtime=0) if gzipped else archive
        raw = _raw(seed, number, len(archive), found[-1].id if found else None, config)
        found.append(
            V1Image(id=json.loads(raw)["id"], raw=raw, layer=layer, archive=archive),
        )
    return Chain(images=tuple(found))


def random_archive(
    seed: int, entries: int = 6, file_size: int = 512, below: list[str] | None = None
) -> bytes:
    """A tar archive with random entries.

    ``below`` has the names of files of the layers beneath; one of them is taken away now and
    then, and the names of the new files are added.
    """
    rng = random.Random(f"archive {seed}")
    names = below if below is not None else []
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        folder = f"dir-{seed}"
        _add(tar, rng, f"{folder}/", tarfile.DIRTYPE, mode=0o755)
        made: list[str] = []
        for number in range(entries):
            kind = rng.choice(("file", "file", "file", "empty", "link", "symlink", "long", "xattr"))
            name = f"{folder}/{kind}-{number}"
            if kind == "long":
                name = f"{folder}/{'n' * rng.randint(60, 180)}-{number}"
            if kind == "symlink":
                _add(tar, rng, name, tarfile.SYMTYPE, target=rng.choice(("../up", "/etc/passwd")))
            elif kind == "link" and made:
                _add(tar, rng, name, tarfile.LNKTYPE, target=rng.choice(made))
            else:
                size = 0 if kind == "empty" else rng.randint(1, max(1, file_size))
                extra = {"SCHILY.xattr.user.note": f"value {number}"} if kind == "xattr" else {}
                _add(tar, rng, name, data=rng.randbytes(size), pax=extra)
                made.append(name)
        if names and rng.random() < 0.7:
            parent, _, gone = names.pop(rng.randrange(len(names))).rpartition("/")
            _add(tar, rng, f"{parent}/.wh.{gone}")
        names += made
    return buffer.getvalue()


def push_chain(
    registry: ChainReceiver, repository: str, tags: str | Sequence[str], chain: Chain
) -> str:
    """Put a chain into a registry, under a tag or several. Returns its last image's id.

    Nothing goes over the network.
    """
    for image in chain.images:
        registry.put_image(image.raw, image.layer)
    for tag in (tags,) if isinstance(tags, str) else tags:
        registry.put_tag(repository, tag, chain.id)
    return chain.id


def push_synthetic_chain(
    registry: SyntheticReceiver, repository: str, tag: str, sizes: Sequence[int]
) -> list[str]:
    """Put a chain with layers of so many zero bytes each, which nobody holds. Returns its ids.

    For soak tests: sizes may be of many GiB. Zeros are an empty tar archive, so the images are
    valid ones; multiples of 512 and at least 1024 bytes keep them so. The first id is the lowest.
    """
    ids: list[str] = []
    seed = zlib.crc32(repr((repository, tag, list(sizes))).encode())
    for number, size in enumerate(sizes):
        raw = _raw(seed, number, size, ids[-1] if ids else None, None)
        ids.append(registry.put_synthetic(raw, size))
    registry.put_tag(repository, tag, ids[-1])
    return ids


def _add(
    tar: tarfile.TarFile,
    rng: random.Random,
    name: str,
    kind: bytes = tarfile.REGTYPE,
    *,
    mode: int | None = None,
    target: str = "",
    data: bytes = b"",
    pax: Mapping[str, str] | None = None,
) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(data)
    info.mode = mode if mode is not None else rng.choice(_MODES)
    info.uid, info.gid = rng.choice((0, 0, 1000, 70_000)), rng.choice((0, 0, 50, 3_000_000))
    info.uname, info.gname = rng.choice(("", "root", "användare")), rng.choice(("", "staff"))
    info.mtime = _TIME + rng.randint(-10_000_000, 10_000_000)
    info.pax_headers = dict(pax or {})
    tar.addfile(info, io.BytesIO(data))


def _raw(
    seed: int, number: int, size: int, parent: str | None, config: Mapping[str, Any] | None
) -> bytes:
    """The JSON of an image, as Docker wrote it: the command that made it, and the config."""
    command = ["/bin/sh", "-c", f"#(nop) step {number} of {seed}"]
    usual: dict[str, Any] = {
        "Hostname": "",
        "User": "daemon",
        "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", f"STEP={number}"],
        "Cmd": ["/bin/sh", "-c", "echo hello"],
        "Entrypoint": None,
        "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/data": {}},
        "WorkingDir": "/srv",
        "Labels": {"seed": str(seed)},
    }
    value: dict[str, Any] = {
        "id": random_id(f"{seed} {number}"),
        **({"parent": parent} if parent else {}),
        "created": f"2014-05-{1 + number % 28:02}T10:00:00.{number:09}Z",
        "container_config": {**usual, "Cmd": command},
        "docker_version": "1.3.0",
        "author": "Ann Author <ann@example.com>",
        "config": dict(config) if config is not None else usual,
        "architecture": "amd64",
        "os": "linux",
        "Size": size,
    }
    return json.dumps(value, separators=(",", ":")).encode()
