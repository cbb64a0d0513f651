"""What is in registries, and what is done there: catalog, referrers, delete, copy."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Final

from engine import Argument, Column, ColumnType, JobSpec, Option, OptionType, Status
from engine.errors import UsageError

from ..credentials import AuthConfig
from ..errors import CredentialsError
from ..headers import meta_headers
from ..operations import repositories
from ..operations.access import Access, host_of
from ..operations.copy import Connections, copy_all_tags
from ..operations.copy import copy as copy_image
from ..operations.delete import delete as delete_manifest
from ..operations.versions import knowing
from ..reference import DEFAULT_HOST, Reference
from ..transport.retry import RetryPolicy
from .call import (
    ALL_TAGS,
    AUTH,
    DESCRIPTORS,
    HEADERS,
    IMAGE,
    PLATFORM,
    REFERRERS,
    Call,
    Entry,
    flag,
)

__all__ = ["JOBS", "catalog", "copy", "delete", "referrers"]


def catalog(call: Call) -> Status:
    """One row for each repository, in the registry's order."""
    host = _registry(call) if call.job.args else DEFAULT_HOST
    limit = call.job.env.get_int("limit", 0)
    if limit < 0:
        raise UsageError(f"limit: {limit} is not above 0", usage=_usage(call))
    client = call.registries.client(host, call.access, cancel=call.cancel, observer=call.observer)
    for name in repositories.catalog(client, limit=limit or None):
        call.job.row(host, name)
    return Status.OK


def referrers(call: Call) -> Status:
    """One row for each manifest that belongs to the image."""
    reference = Reference.parse(call.job.args[0])
    found = repositories.referrers(
        reference,
        client=call.reader(reference),
        artifact_type=call.job.env.get("artifactType", ""),
        observer=call.observer,
    )
    for subject, one in found:
        call.job.row(
            str(subject),
            str(one.digest),
            one.media_type,
            one.artifact_type,
            one.size,
            dict(one.annotations),
        )
    return Status.OK


def delete(call: Call) -> Status:
    """One row for what was deleted, and for each tag that went with it."""
    text = call.job.args[0]
    reference = Reference.parse(text, default_tag=None)
    if reference.tag is None and reference.digest is None:
        raise UsageError(
            f"{text}: a tag or a digest is named, REPOSITORY:TAG or REPOSITORY@DIGEST",
            usage=_usage(call),
        )
    gone = delete_manifest(
        reference,
        client=call.client(reference),
        force=call.job.env.get_bool("force"),
        cancel=call.cancel,
        observer=call.observer,
    )
    for one in gone:
        call.job.row(str(one.reference), str(one.digest), one.state)
    return Status.OK


def copy(call: Call) -> Status:
    """One row for each descriptor when it is settled, the image's own last."""
    every = call.job.env.get_bool("allTags")
    source, target = _sides(call, every)
    access = _target_access(call, source, target)
    connections = Connections(
        source=partial(call.client, source),
        target=lambda cancel: knowing(
            call.registries.client(target.host, access, cancel=cancel, observer=call.observer),
            target,
        ),
        policy=RetryPolicy.of(call.registries.settings),
        book=call.shared.layers,
        placed=call.shared.placed,
    )
    run = copy_all_tags if every else copy_image
    run(
        source,
        target,
        connections=connections,
        platform=call.platform,
        referrers=call.job.env.get_bool("referrers"),
        cancel=call.cancel,
        observer=call.observer,
    )
    return Status.OK


def _sides(call: Call, every: bool) -> tuple[Reference, Reference]:
    """Both arguments. A target without a tag gets the source's tag or digest."""
    default = None if every else "latest"
    source = Reference.parse(call.job.args[0], default_tag=default)
    target = Reference.parse(call.job.args[1], default_tag=None)
    if every:
        for text, one in zip(call.job.args, (source, target), strict=True):
            if one.tag or one.digest:
                raise UsageError(
                    f"{text}: with allTags a repository is named, without a tag or digest",
                    usage=_usage(call),
                )
    elif target.tag is None and target.digest is None:
        if source.tag is not None:
            return source, target.with_tag(source.tag)
        if call.platform and source.digest is not None:
            raise UsageError(
                f"{call.job.args[1]}: what is for some platforms has another digest; give it a tag",
                usage=_usage(call),
            )
        target = dataclasses.replace(target, digest=source.digest)
    return source, target


def _target_access(call: Call, source: Reference, target: Reference) -> Access:
    """What the target's registry gets. Within one registry, what is not given for the target
    is the source's: it is the same user's."""
    given = call.job.env.get_json("targetMetaHeaders")
    headers = meta_headers(given, "targetMetaHeaders")
    try:
        auth = AuthConfig.from_json(call.job.env.get("targetAuthConfig"))
    except CredentialsError as error:
        raise CredentialsError(f"targetAuthConfig: {error}") from None
    if source.host != target.host:
        return Access(auth=auth, headers=headers)
    mine = call.access
    return Access(
        auth=mine.auth if auth.empty else auth,
        headers=mine.headers if given is None else headers,
    )


def _registry(call: Call) -> str:
    text = call.job.args[0]
    path = (text.partition("://")[2] or text).partition("/")[2]
    if path.strip("/") not in ("", "v1", "v2"):
        raise UsageError(
            f"{text}: a registry is named, HOST[:PORT], without a repository", usage=_usage(call)
        )
    return host_of(text)


def _usage(call: Call) -> str:
    return "" if call.job.spec is None else call.job.spec.usage


JOBS: Final = (
    Entry(
        JobSpec(
            name="catalog",
            help="List the repositories of a registry.",
            arguments=(
                Argument(name="HOST", help="the registry; docker.io if left out", required=False),
            ),
            options=(
                AUTH,
                HEADERS,
                Option(
                    name="limit", type=OptionType.INTEGER, help="The most repositories; else all."
                ),
            ),
            columns=(Column(name="registry"), Column(name="repository")),
            queue="registry",
        ),
        catalog,
    ),
    Entry(
        JobSpec(
            name="referrers",
            help="List what belongs to an image in its registry: signatures, SBOMs and such.",
            arguments=(IMAGE,),
            options=(
                AUTH,
                HEADERS,
                Option(name="artifactType", help="Only referrers of this type."),
            ),
            columns=(
                Column(name="subject"),
                Column(name="digest"),
                Column(name="media_type"),
                Column(name="artifact_type"),
                Column(name="size", type=ColumnType.INTEGER),
                Column(name="annotations", type=ColumnType.JSON),
            ),
            queue="registry",
        ),
        referrers,
    ),
    Entry(
        JobSpec(
            name="delete",
            help="Delete a tag or a manifest in a registry; other tags stay what they are.",
            arguments=(Argument(name="REFERENCE", help="REPOSITORY:TAG or REPOSITORY@DIGEST"),),
            options=(
                AUTH,
                HEADERS,
                flag("force", "Delete the manifest even if other tags lead to it."),
            ),
            columns=(Column(name="reference"), Column(name="digest"), Column(name="state")),
            queue="registry",
        ),
        delete,
    ),
    Entry(
        JobSpec(
            name="copy",
            help="Copy an image from registry to registry, not through the store.",
            arguments=(
                Argument(name="SOURCE", help="the image, or with allTags its repository"),
                Argument(name="TARGET", help="its new name; without a tag, the source's"),
            ),
            options=(
                AUTH,
                HEADERS,
                dataclasses.replace(
                    AUTH, name="targetAuthConfig", help="As authConfig, for the target's registry."
                ),
                dataclasses.replace(
                    HEADERS,
                    name="targetMetaHeaders",
                    help="As metaHeaders, for the target's registry.",
                ),
                PLATFORM,
                ALL_TAGS,
                REFERRERS,
            ),
            columns=DESCRIPTORS,
            queue="transfer",
            resumable=True,
        ),
        copy,
    ),
)
