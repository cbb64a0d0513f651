"""The endpoints of manifests and referrers, and what makes a manifest acceptable."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from .exchange import Exchange
from .message import ApiError, Request, Response, json_response, next_link
from .names import digest_of, is_digest, is_tag
from .storage import Storage, StoredManifest

__all__ = ["Deletes", "ManifestEndpoints", "subject_of"]

#: What can be deleted: tags and manifests, manifests alone (as in Docker's registry before
#: version 3), or nothing.
Deletes = Literal["all", "digests", "none"]

_LIMIT: Final = 4 * 1024 * 1024
_OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_IMAGES: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_NOTHING: Final[Mapping[str, Any]] = {}
_INDEXES: Final = (_OCI_INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ManifestEndpoints:
    """Manifests of a repository.

    ``referrers`` says whether there is the referrers API, whose pages have ``page_size``
    entries at most, and ``filters`` whether it filters. ``conditions`` says whether an answer
    has an ETag and a change heeds If-Match and If-None-Match; one lock makes it one step to
    look at a tag and to set it. ``any_type`` says whether media types that are not known are
    taken too.
    """

    storage: Storage
    referrers: bool
    any_type: bool = False
    filters: bool = True
    deletes: Deletes = "all"
    conditions: bool = True
    page_size: int = 1000
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def get(self, exchange: Exchange, repository: str, reference: str) -> Response:
        """GET and HEAD by tag or digest."""
        found = self._find(repository, reference)
        accept = exchange.request.headers.get("accept", "")
        if not _accepts(accept, found.media_type):
            message = f"{repository} has {reference} as {found.media_type}, which Accept leaves out"
            raise ApiError("MANIFEST_UNKNOWN", message)
        answer = Response(
            status=200,
            headers=(
                ("Content-Type", found.media_type),
                ("Docker-Content-Digest", found.digest),
            ),
            body=found.raw,
        )
        return answer.having(("ETag", f'"{found.digest}"')) if self.conditions else answer

    def put(self, exchange: Exchange, repository: str, reference: str) -> Response:
        if not (is_tag(reference) or is_digest(reference)):
            raise ApiError("TAG_INVALID", f"{reference!r} is neither a tag nor a digest")
        raw = exchange.body.read(_LIMIT)
        if raw is None:
            raise ApiError("SIZE_INVALID", f"a manifest is {_LIMIT} bytes at most", status=413)
        content_type = exchange.request.headers.get("content-type", "").partition(";")[0].strip()
        if self.any_type and content_type and content_type not in (*_IMAGES, *_INDEXES):
            media_type, data = content_type, _NOTHING
        else:
            media_type, data = _parse(raw, content_type)
        algorithm = reference.partition(":")[0] if is_digest(reference) else "sha256"
        digest = digest_of(raw, algorithm)
        if is_digest(reference) and digest != reference:
            detail = {"given": reference, "found": digest}
            raise ApiError("DIGEST_INVALID", "the manifest has another digest", detail=detail)
        missing = list(self._missing(repository, media_type, data)) if data else []
        if missing:
            message = f"the manifest names what {repository} does not have"
            raise ApiError("MANIFEST_BLOB_UNKNOWN", message, detail=missing)
        manifest = StoredManifest(raw=raw, media_type=media_type, digest=digest)
        with self.lock:
            self._check_conditions(exchange.request, repository, reference)
            self.storage.put_manifest(repository, manifest)
            if is_tag(reference):
                self.storage.put_tag(repository, reference, digest)
        answer = Response(
            status=201,
            headers=(
                ("Location", f"/v2/{repository}/manifests/{digest}"),
                ("Docker-Content-Digest", digest),
            ),
        )
        subject = subject_of(data)
        return answer.having(("OCI-Subject", subject)) if subject and self.referrers else answer

    def delete(self, exchange: Exchange, repository: str, reference: str) -> Response:
        """DELETE: a tag alone, or a manifest with all its tags."""
        if self.deletes == "none":
            raise ApiError("UNSUPPORTED", "the operation is unsupported")
        if self.deletes == "digests" and not is_digest(reference):
            raise ApiError("DIGEST_INVALID", "provided digest did not match uploaded content")
        with self.lock:
            found = self._find(repository, reference)
            self._check_conditions(exchange.request, repository, reference)
            if is_digest(reference):
                self.storage.delete_manifest(repository, found.digest)
            else:
                self.storage.delete_tag(repository, reference)
        return Response(status=202)

    def refer(self, exchange: Exchange, repository: str, digest: str) -> Response:
        """GET: an index of the manifests whose subject is ``digest``."""
        if not self.referrers:
            raise ApiError("UNSUPPORTED", "this registry has no referrers API", status=404)
        if not is_digest(digest):
            raise ApiError("DIGEST_INVALID", f"{digest!r} is no sha256 or sha512 digest")
        request = exchange.request
        wanted = request.argument("artifactType") if self.filters else None
        last = request.argument("last") or ""
        found = [
            descriptor
            for manifest in self.storage.manifests(repository)
            for descriptor in _referrer(manifest, digest)
            if wanted in (None, descriptor.get("artifactType")) and descriptor["digest"] > last
        ]
        page = found[: self.page_size]
        applied = ("OCI-Filters-Applied", "artifactType")
        headers = [] if wanted is None else [applied]
        if len(page) < len(found):
            kept = {} if wanted is None else {"artifactType": wanted}
            headers.append(next_link(request, {**kept, "last": page[-1]["digest"]}))
        index = {"schemaVersion": 2, "mediaType": _OCI_INDEX, "manifests": page}
        return json_response(index, headers=tuple(headers), media_type=_OCI_INDEX)

    def _check_conditions(self, request: Request, repository: str, reference: str) -> None:
        """Raises `ApiError` (412) where a change was to be made of something else than there
        is. The lock is held."""
        wanted = request.headers.get("if-match")
        unwanted = request.headers.get("if-none-match")
        if not self.conditions or (wanted is None and unwanted is None):
            return
        digest = self.storage.tag(repository, reference) if is_tag(reference) else reference
        there = digest is not None and self.storage.manifest(repository, digest) is not None
        tags = {part.strip() for part in (wanted or unwanted or "").split(",")}
        same = there and bool(tags & {"*", f'"{digest}"'})
        if same is (wanted is None):
            raise ApiError("DENIED", f"{reference} was changed meanwhile", status=412)

    def _find(self, repository: str, reference: str) -> StoredManifest:
        if not (is_tag(reference) or is_digest(reference)):
            raise ApiError("MANIFEST_INVALID", f"{reference!r} is neither a tag nor a digest")
        if not self.storage.has_repository(repository):
            raise ApiError("NAME_UNKNOWN", f"no repository {repository}")
        digest: str | None = reference
        if is_tag(reference):
            digest = self.storage.tag(repository, reference)
        found = self.storage.manifest(repository, digest) if digest else None
        if found is None:
            raise ApiError("MANIFEST_UNKNOWN", f"no manifest {reference} in {repository}")
        return found

    def _missing(
        self, repository: str, media_type: str, data: Mapping[str, Any]
    ) -> Iterator[dict[str, str]]:
        if media_type in _INDEXES:
            for child in _descriptors(data, "manifests"):
                if self.storage.manifest(repository, child["digest"]) is None:
                    yield {"digest": child["digest"], "kind": "manifest"}
            return
        for blob in (*_descriptors(data, "config"), *_descriptors(data, "layers")):
            if not blob.get("urls") and self.storage.blob(repository, blob["digest"]) is None:
                yield {"digest": blob["digest"], "kind": "blob"}


def subject_of(data: Mapping[str, Any]) -> str | None:
    """The digest of a manifest's subject, if it has one."""
    subject = data.get("subject")
    return subject["digest"] if subject is not None else None


def _parse(raw: bytes, content_type: str) -> tuple[str, Mapping[str, Any]]:
    """Media type and content of a manifest. Raises `ApiError` (MANIFEST_INVALID)."""
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        raise ApiError("MANIFEST_INVALID", "the manifest is not JSON") from None
    if not isinstance(data, dict) or data.get("schemaVersion") != 2:
        raise ApiError("MANIFEST_INVALID", "the manifest is not one of schema version 2")
    media_type = content_type or data.get("mediaType")
    if media_type not in (*_IMAGES, *_INDEXES):
        raise ApiError("MANIFEST_INVALID", f"{media_type!r} is not the media type of a manifest")
    if data.get("mediaType", media_type) != media_type:
        message = f"Content-Type is {media_type} and mediaType is {data['mediaType']!r}"
        raise ApiError("MANIFEST_INVALID", message)
    for key in ("manifests",) if media_type in _INDEXES else ("config", "layers"):
        if data.get(key) is None:
            raise ApiError("MANIFEST_INVALID", f"the manifest has no {key}")
        _descriptors(data, key)
    _descriptors(data, "subject")
    return media_type, data


def _descriptors(data: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The descriptor, or the list of them, under a key. Raises `ApiError`."""
    value = data.get(key)
    found = value if key in ("manifests", "layers") else [value] if value is not None else []
    if not isinstance(found, list):
        raise ApiError("MANIFEST_INVALID", f"{key} is not a list")
    for one in found:
        digest = one.get("digest") if isinstance(one, dict) else None
        if not (isinstance(digest, str) and is_digest(digest)):
            raise ApiError("MANIFEST_INVALID", f"{key} holds no descriptor with a digest: {one!r}")
    return found


def _referrer(manifest: StoredManifest, subject: str) -> Iterator[dict[str, Any]]:
    """The descriptor of a manifest, if that is its subject."""
    try:
        data = json.loads(manifest.raw)
    except ValueError:
        return
    pointed = data.get("subject") if isinstance(data, dict) else None
    if not isinstance(pointed, dict) or pointed.get("digest") != subject:
        return
    config = data.get("config")
    kind = data.get("artifactType") or (config or {}).get("mediaType")
    descriptor: dict[str, Any] = {
        "mediaType": manifest.media_type,
        "digest": manifest.digest,
        "size": len(manifest.raw),
    }
    if kind:
        descriptor["artifactType"] = kind
    if data.get("annotations"):
        descriptor["annotations"] = data["annotations"]
    yield descriptor


def _accepts(header: str, media_type: str) -> bool:
    """Whether an Accept header lets this media type through. None at all lets everything."""
    ranges = {part.partition(";")[0].strip().lower() for part in header.split(",")} - {""}
    return not ranges or bool(ranges & {"*/*", "application/*", media_type})
