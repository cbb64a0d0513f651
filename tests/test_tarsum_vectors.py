"""Sums that others published: Docker's own tests of TarSum, and those of the first V1 server.

The archives are made here, byte for byte as they were published; the facts (names, times, sums,
the images' JSON) are those of Docker 1.6, `pkg/tarsum`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from support_tarsum import END, Raw, archive, pax, raw, stored

import registry_service
from registry_service.tarsums import TarSum, TarSummer, tarsum

RAN = {
    "Hostname": "", "Domainname": "", "User": "", "Memory": 0, "MemorySwap": 0, "CpuShares": 0,
    "AttachStdin": False, "AttachStdout": False, "AttachStderr": False, "PortSpecs": None,
    "ExposedPorts": None, "Tty": False, "OpenStdin": False, "StdinOnce": False, "Env": None,
    "Cmd": None, "Image": "", "Volumes": None, "WorkingDir": "", "Entrypoint": None,
    "NetworkDisabled": False, "OnBuild": None,
}  # fmt: skip

SCRATCH = {
    "id": "511136ea3c5a64f264b78b5433614aec563103b4d4702f3ba7d4d2698e22c158",
    "comment": "Imported from -",
    "created": "2013-06-13T14:03:50.821769-07:00",
    "container_config": RAN,
    "docker_version": "0.4.0",
    "architecture": "x86_64",
    "Size": 0,
}

BEFORE = "73b164f4437db87e96e90083c73a6592f549646ae2ec00ed33c6b9b49a5c4470"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SETCAP = "setcap 'cap_setgid,cap_setuid+ep' ./file && getcap ./file"


def _capable() -> dict[str, Any]:
    config = {}
    for key, value in RAN.items():
        config[key] = value
        if key == "CpuShares":
            config["Cpuset"] = ""  # younger than the other image
    config |= {"Hostname": "9565c6517a0e", "Env": ["HOME=/", PATH], "Image": BEFORE, "OnBuild": []}
    return {
        "id": "4439c3c7f847954100b42b267e7e5529cac1d6934db082f65795c5ca2e594d93",
        "parent": BEFORE,
        "created": "2014-05-16T17:19:44.091534414Z",
        "container": "5f92fb06cc58f357f0cde41394e2bbbb664e663974b2ac1693ab07b7a306749b",
        "container_config": config | {"Cmd": ["/bin/sh", "-c", SETCAP]},
        "docker_version": "0.11.1-dev",
        "config": config,
        "architecture": "amd64",
        "os": "linux",
        "Size": 0,
    }


def encoded(image: dict[str, Any]) -> bytes:
    return json.dumps(image, separators=(",", ":")).replace("&", r"\u0026").encode()


SCRATCH_TAR = archive(raw(name=b"./", mode=0o40755, mtime=1371157405, typeflag=b"5"))
CAPABLE_TAR = archive(
    pax({b"SCHILY.xattr.security.capability": b"\1\0\0\2\xc0" + bytes(15)}),
    raw(name=b"file", mtime=1400260726),
)


@pytest.mark.parametrize(
    ("content", "image", "version", "published"),
    [
        (
            SCRATCH_TAR,
            SCRATCH,
            "tarsum",
            "tarsum+sha256:ac672ee85da9ab7f9667ae3c32841d3e42f33cc52c273c23341dabba1c8b0c8b",
        ),
        (
            CAPABLE_TAR,
            _capable(),
            "tarsum",
            "tarsum+sha256:e86f81a4d552f13039b1396ed03ca968ea9717581f9577ef1876ea6ff9b38c98",
        ),
        (
            CAPABLE_TAR,
            _capable(),
            "tarsum.dev",
            "tarsum.dev+sha256:6235cd3a2afb7501bac541772a3d61a3634e95bc90bb39a4676e2cb98d08390d",
        ),
    ],
    ids=["scratch", "xattr-v0", "xattr-dev"],
)
def test_a_layer_with_its_image_s_json(
    content: bytes, image: dict[str, Any], version: str, published: str
) -> None:
    assert tarsum(content, version=version, json=encoded(image)) == published


def old_gnu(name: bytes, content: bytes, mtime: int) -> bytes:
    nothing = bytes(8)
    header = Raw(
        name=name, mode=0o644, uid=1000, gid=1000, mtime=mtime, magic=b"ustar  \0",
        uname=b"vbatts", gname=b"vbatts", devmajor=nothing, devminor=nothing,
    )  # fmt: skip
    return stored(header, content)


OLDER = old_gnu(b"file", b"farts\n", 1409861938)
NEWER = old_gnu(b"file", b"HOWDY\n", 1409861993)


@pytest.mark.parametrize(
    ("parts", "published"),
    [
        ([OLDER, NEWER], "08653904a68d3ab5c59e65ef58c49c1581caa3c34744f8d354b3f575ea04424a"),
        ([NEWER, OLDER], "b51c13fbefe158b5ce420d2b930eef54c5cd55c50a2ee4abdddea8fa9f081e0d"),
        ([NEWER], "381547080919bb82691e995508ae20ed33ce0f6948d41cafbeb70ce20c73ee8e"),
        ([OLDER], "f886e431c08143164a676805205979cd8fa535dfcef714db5515650eea5a7c0f"),
    ],
    ids=["older-newer", "newer-older", "newer", "older"],
)
def test_two_files_of_one_name(parts: list[bytes], published: str) -> None:
    content = b"".join(parts).ljust(10240, b"\0")
    assert tarsum(content) == f"tarsum+sha256:{published}"


@pytest.mark.parametrize(
    ("algorithm", "published"),
    [
        ("sha256", "8bf12d7e67c51ee2e8306cba569398b1b9f419969521a12ffb9d8875e8836738"),
        ("md5", "0d7529ec7a8360155b48134b8e599f53"),
        ("sha1", "f1fee39c5925807ff75ef1925e7a23be444ba4df"),
        ("sha224", "6319390c0b061d639085d8748b14cd55f697cf9313805218b21cf61c"),
        (
            "sha384",
            "a578ce3ce29a2ae03b8ed7c26f47d0f75b4fc849557c62454be4b5ffd66ba021"
            "e713b48ce71e947b43aab57afd5a7636",
        ),
        (
            "sha512",
            "e9bfb90ca5a4dfc93c46ee061a5cf9837de6d2fdf82544d6460d3147290aecfa"
            "bf7b5e415b9b6e72db9b8941f149d5d69fb17a394cbfaf2eac523bd9eae21855",
        ),
    ],
)
def test_a_file_of_a_mebibyte_of_zeros(algorithm: str, published: str) -> None:
    # its type is a NUL, as Docker's writer left it, and its time the first of all (year 1), which
    # that writer put down as 0
    header = Raw(name=b"/testdata0", mode=0o755, typeflag=b"\0")
    content = archive(stored(header, bytes(1024 * 1024)))
    assert tarsum(content, algorithm=algorithm) == f"tarsum+{algorithm}:{published}"
    assert str(TarSum.parse(f"tarsum+{algorithm}:{published}")).endswith(published)


ANOTHER: dict[str, Any] = {
    "mode": 0, "uid": 1000, "gid": 1000, "uname": b"slartibartfast", "gname": b"users",
}  # fmt: skip


@pytest.mark.parametrize(
    ("records", "header", "content", "published"),
    [
        (
            {},
            Raw(name=b"file.txt", mode=0),
            b"",
            "tarsum+sha256:626c4a2e9a467d65c33ae81f7f3dedd4de8ccaee72af73223c4bc4718cbc7bbd",
        ),
        (
            {},
            Raw(name=b"file.txt", mode=0),
            b"",
            "tarsum.dev+sha256:6ffd43a1573a9913325b4918e124ee982a99c0f3cba90fc032a65f5e20bdd465",
        ),
        (
            {},
            Raw(name=b"another.txt", **ANOTHER),
            b"test",
            "tarsum.dev+sha256:b38166c059e11fb77bef30bf16fba7584446e80fcc156ff46d47e36c5305d8ef",
        ),
        (
            {b"user.key1": b"value1", b"user.key2": b"value2"},
            Raw(name=b"xattrs.txt", **ANOTHER),
            b"test",
            "tarsum.dev+sha256:4cc2e71ac5d31833ab2be9b4f7842a14ce595ec96a37af4ed08f87bc374228cd",
        ),
        (
            {b"user.key2": b"value2", b"user.KEY1": b"value1"},
            Raw(name=b"xattrs.txt", **ANOTHER),
            b"test",
            "tarsum.dev+sha256:65f4284fa32c0d4112dd93c3637697805866415b570587e4fd266af241503760",
        ),
        (
            {b"user.NOT": b"CALCULATED"},
            Raw(name=b"xattrs.txt", **ANOTHER),
            b"test",
            "tarsum+sha256:c12bb6f1303a9ddbf4576c52da74973c00d14c109bcfa76b708d5da1154a07fa",
        ),
    ],
    ids=["v0", "dev", "dev-owner", "dev-xattrs", "dev-xattrs-case", "v0-xattrs"],
)
def test_single_headers(
    records: dict[bytes, bytes], header: Raw, content: bytes, published: str
) -> None:
    attributes = {b"SCHILY.xattr." + key: value for key, value in records.items()}
    before = pax(attributes) if records else b""
    made = archive(before, stored(header, content))
    stated = TarSum.parse(published)
    assert tarsum(made, version=stated.version) == published
    of_v1 = tarsum(made, version="tarsum.v1")
    assert stated.version.value != "tarsum.dev" or of_v1.endswith(stated.hex)


@pytest.mark.parametrize("content", [b"", END[:512], END, bytes(10240)], ids=len)
@pytest.mark.parametrize("version", ["tarsum", "tarsum.v1", "tarsum.dev"])
def test_the_empty_archive_has_the_sum_of_nothing(content: bytes, version: str) -> None:
    assert tarsum(content, version=version) == f"{version}+sha256:{hashlib.sha256().hexdigest()}"
    before = f"{version}+sha256:{hashlib.sha256(b'{}').hexdigest()}"
    assert tarsum(content, version=version, json=b"{}") == before


def test_the_package_exports_them() -> None:
    assert registry_service.tarsum is tarsum
    assert registry_service.TarSum is TarSum
    assert registry_service.TarSummer is TarSummer
