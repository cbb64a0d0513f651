"""Manifests to test with that builders of today do not make: schema 1, signed as Docker did."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from registry_service.digest import Digest

__all__ = [
    "EMPTY_LAYER",
    "OldImage",
    "Step",
    "descriptor",
    "document",
    "layer",
    "old_image",
    "signed",
]

KEY = ec.generate_private_key(ec.SECP256R1())

#: What Docker wrote for a step that changed no file: an empty tar archive, compressed.
EMPTY_LAYER = bytes.fromhex("1f8b080000096e8800ff621805a360148c5800080000ffff2eafb5ef00040000")


def document(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def descriptor(media_type: str, content: bytes, **more: Any) -> dict[str, Any]:
    algorithm = more.pop("algorithm", "sha256")
    digest = str(Digest.of(content, algorithm))
    return {"mediaType": media_type, "digest": digest, "size": len(content), **more}


def layer(name: str, content: bytes, *, compressed: bool = True) -> bytes:
    """A layer with one file."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(content), 0o644
        tar.addfile(info, io.BytesIO(content))
    raw = archive.getvalue()
    return gzip.compress(raw, mtime=0) if compressed else raw


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of a build, the lowest first; ``blob`` is None for one that changed no file."""

    command: str
    blob: bytes | None = None
    throwaway: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OldImage:
    raw: bytes
    digest: str
    blobs: tuple[bytes, ...]


def old_image(steps: Sequence[Step], name: str = "test/old", **top: Any) -> OldImage:
    """An unsigned schema 1 manifest; ``top`` goes into the topmost history."""
    layers: list[dict[str, str]] = []
    history: list[dict[str, str]] = []
    blobs: list[bytes] = []
    parent = ""
    for number, step in enumerate(steps):
        own = hashlib.sha256(f"{parent}{step.command}{number}".encode()).hexdigest()
        found: dict[str, Any] = {
            "id": own,
            "created": f"2015-06-0{number + 1}T00:00:00Z",
            "container_config": {"Cmd": ["/bin/sh", "-c", step.command]},
        }
        if parent:
            found["parent"] = parent
        if step.blob is None and step.throwaway:
            found["throwaway"] = True
        if number == len(steps) - 1:
            found.update({"architecture": "amd64", "os": "linux", **top})
        blob = EMPTY_LAYER if step.blob is None else step.blob
        blobs.append(blob)
        layers.insert(0, {"blobSum": str(Digest.of(blob))})
        history.insert(0, {"v1Compatibility": json.dumps(found)})
        parent = own
    value = {
        "schemaVersion": 1,
        "name": name,
        "tag": "1",
        "architecture": top.get("architecture", "amd64"),
        "fsLayers": layers,
        "history": history,
    }
    raw = json.dumps(value, indent=3).encode()
    return OldImage(raw=raw, digest=str(Digest.of(raw)), blobs=tuple(blobs))


def base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def signed(raw: bytes, key: ec.EllipticCurvePrivateKey = KEY) -> bytes:
    """``raw``, which ends in a brace on a line of its own, as a 'pretty' JWS (ES256)."""
    assert raw.endswith(b"\n}")
    header = {
        "formatLength": len(raw) - 2,
        "formatTail": base64url(raw[-2:]),
        "time": "2015-06-09T00:00:00Z",
    }
    protected = base64url(json.dumps(header).encode())
    made = key.sign(f"{protected}.{base64url(raw)}".encode(), ec.ECDSA(hashes.SHA256()))
    first, second = decode_dss_signature(made)
    signature = {
        "header": {"jwk": _jwk(key), "alg": "ES256"},
        "signature": base64url(first.to_bytes(32, "big") + second.to_bytes(32, "big")),
        "protected": protected,
    }
    block = json.dumps([signature], indent=3).replace("\n", "\n   ").encode()
    return raw[:-2] + b',\n   "signatures": ' + block + raw[-2:]


def _jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    public = key.public_key()
    numbers = public.public_numbers()
    der = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    text = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode().rstrip("=")
    return {
        "crv": "P-256",
        "kid": ":".join(text[place : place + 4] for place in range(0, len(text), 4)),
        "kty": "EC",
        "x": base64url(numbers.x.to_bytes(32, "big")),
        "y": base64url(numbers.y.to_bytes(32, "big")),
    }
