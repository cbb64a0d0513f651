"""Referrers to test with: small artifacts that say of an image that they belong to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from registry_service.auth import Authenticator
from registry_service.constants import APIVersion
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.endpoint import Endpoint
from registry_service.manifest import OCI_INDEX, OCI_MANIFEST, Manifest
from registry_service.session.v2 import V2Client
from registry_service.testing.images import Image, ImageIndex, Receiver
from registry_service.transport import Transport

SBOM = "application/spdx+json"
SIGNATURE = "application/vnd.example.signature"
EMPTY = b"{}"


def client(transport: Transport, host: str, **options: Any) -> V2Client:
    endpoint = Endpoint(url=f"http://{host}/", version=APIVersion.V2, transport=transport)
    return V2Client(endpoint, transport, Authenticator(endpoint, transport), **options)


def subject_of(image: Image | ImageIndex | Manifest) -> dict[str, Any]:
    raw = image.raw if isinstance(image, Manifest) else image.manifest
    return Descriptor(media_type=image.media_type, digest=Digest.of(raw), size=len(raw)).to_json()


def artifact(
    subject: Image | ImageIndex | Manifest | None,
    content: bytes = b"content",
    *,
    kind: str = SBOM,
    annotations: Mapping[str, str] | None = None,
    typed: bool = True,
) -> tuple[Manifest, dict[str, bytes]]:
    """A manifest with one layer, and its blobs by digest. Without ``typed`` the kind is the
    configuration's media type."""
    config = EMPTY if typed else json.dumps({"of": kind}).encode()
    config_type = "application/vnd.oci.empty.v1+json" if typed else kind
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": config_type,
            "digest": str(Digest.of(config)),
            "size": len(config),
        },
        "layers": [{"mediaType": kind, "digest": str(Digest.of(content)), "size": len(content)}],
        "annotations": dict(annotations or {}),
    }
    if typed:
        document["artifactType"] = kind
    if subject is not None:
        document["subject"] = subject_of(subject)
    manifest = Manifest.parse(json.dumps(document).encode(), OCI_MANIFEST)
    return manifest, {str(Digest.of(blob)): blob for blob in (config, content)}


def put_artifact(
    registry: Receiver,
    repository: str,
    subject: Image | ImageIndex | Manifest | None,
    content: bytes = b"content",
    *,
    tag: str | None = None,
    **more: Any,
) -> Manifest:
    """An artifact that is put into the shipped registry as it is: no list is changed."""
    manifest, blobs = artifact(subject, content, **more)
    for blob in blobs.values():
        registry.put_blob(repository, blob)
    registry.put_manifest(repository, tag, manifest.raw, manifest.media_type)
    return manifest


def put_fallback(
    registry: Receiver, repository: str, subject: str, *entries: dict[str, Any]
) -> str:
    """A list of referrers under the fallback tag of a digest. Returns the tag."""
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}
    tag = subject.replace(":", "-")
    registry.put_manifest(repository, tag, json.dumps(document).encode(), OCI_INDEX)
    return tag


def digests(found: Iterator[Descriptor]) -> set[str]:
    return {str(one.digest) for one in found}
