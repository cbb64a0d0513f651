"""The forms of credentials files, as bytes and as values. Nothing here opens a file.

DOCKER is ``config.json`` of Docker and ``auth.json`` of podman: a map with ``auths``,
``credsStore``, ``credHelpers``, ``HttpHeaders``, and much that is nothing to us and is kept.
LEGACY is ``.dockercfg``: a map of servers alone, or in its oldest form two lines,
``auth = …`` and ``email = …``, which are for the public index.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
from collections.abc import Mapping
from typing import Any, Final

from ..constants import INDEXSERVER
from ..credentials import AuthConfig
from ..errors import CredentialsError

__all__ = ["Content", "Form", "parse", "render"]

_MARKS: Final = frozenset({"auths", "credsStore", "credHelpers", "HttpHeaders"})
#: What an entry says of the credentials; whatever else is in it is kept.
_KNOWN: Final = frozenset(
    {
        "auth",
        "email",
        "identitytoken",
        "password",
        "registrytoken",
        "serveraddress",
        "username",
    }
)


class Form(enum.Enum):
    LEGACY = "legacy"
    DOCKER = "docker"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a file says. ``configs`` are the entries that can be read, by their keys, and
    ``problems`` says of each of the others what is wrong with it. ``document`` is all of it."""

    form: Form
    configs: dict[str, AuthConfig] = dataclasses.field(default_factory=dict)
    problems: dict[str, str] = dataclasses.field(default_factory=dict)
    creds_store: str = ""
    cred_helpers: dict[str, str] = dataclasses.field(default_factory=dict)
    http_headers: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict, repr=False)
    document: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)


def parse(raw: bytes, expected: Form) -> Content:
    """The content of a file that should have the form ``expected``; what it shows counts.

    An empty file says nothing. Raises `CredentialsError`, which shows nothing of the content.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CredentialsError("it is not UTF-8 text") from None
    if not text.strip():
        return Content(form=expected)
    try:
        document = json.loads(text)
    except RecursionError:
        raise CredentialsError("it nests too deep") from None
    except ValueError as error:
        lines = _two_lines(text) if expected is Form.LEGACY else None
        if lines is not None:
            return _content(Form.LEGACY, {INDEXSERVER: lines})
        place = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise CredentialsError(f"it is not JSON{place}") from None
    if not isinstance(document, dict):
        raise CredentialsError("it is not a JSON map")
    return _content(Form.DOCKER if _MARKS & document.keys() else expected, document)


def render(content: Content, loaded: Mapping[str, AuthConfig]) -> bytes:
    """The bytes of a file that says ``content``; empty where it says nothing at all.

    What ``loaded`` has the same is written as it stood, and of an entry that has changed all
    that is no part of the credentials.
    """
    old = content.document if content.form is Form.LEGACY else content.document.get("auths") or {}
    entries = {key: old[key] for key in content.problems if key in old}
    for key, config in content.configs.items():
        if key in old and loaded.get(key) == config:
            entries[key] = old[key]
        else:
            entries[key] = _entry(config, old.get(key), content.form)
    ordered = {key: entries.pop(key) for key in old if key in entries} | entries
    if content.form is Form.LEGACY:
        document: dict[str, Any] = ordered
    else:
        document = {**content.document, "auths": ordered}
        if not ordered and document.keys() <= {"auths"}:
            document = {}
    if not document:
        return b""
    # a lone surrogate has no UTF-8; JSON's own escape for it is the one that Python writes
    text = json.dumps(document, indent="\t", ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _content(form: Form, document: dict[str, Any]) -> Content:
    entries = document if form is Form.LEGACY else _map(document, "auths")
    configs: dict[str, AuthConfig] = {}
    problems: dict[str, str] = {}
    for key, value in entries.items():
        try:
            configs[key] = _config(key, value)
        except CredentialsError as error:
            problems[key] = str(error)
    if form is Form.LEGACY:
        return Content(form=form, configs=configs, problems=problems, document=document)
    store = document.get("credsStore") or ""
    if not isinstance(store, str):
        raise CredentialsError("credsStore: a string is expected")
    helpers = _map(document, "credHelpers")
    if not all(isinstance(value, str) for value in helpers.values()):
        raise CredentialsError("credHelpers: a map of hosts to names is expected")
    return Content(
        form=form,
        configs=configs,
        problems=problems,
        creds_store=store,
        cred_helpers=helpers,
        http_headers=_headers(_map(document, "HttpHeaders")),
        document=document,
    )


def _map(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CredentialsError(f"{key}: a map is expected")
    return value


def _headers(given: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    headers = {}
    for name, value in given.items():
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
            raise CredentialsError(f"HttpHeaders: {name!r}: a text is expected")
        headers[name] = tuple(values)
    return headers


def _config(key: str, value: Any) -> AuthConfig:
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise CredentialsError("a map is expected")
    given = {name: text for name, text in value.items() if name in _KNOWN}
    if given.get("auth"):  # counts before the names, as it does for those who wrote it
        given = {**given, "username": None, "password": None}
    config = AuthConfig.from_mapping(given)
    return dataclasses.replace(config, auth="", server_address=key)


def _entry(config: AuthConfig, old: Any, form: Form) -> dict[str, Any]:
    entry = {k: v for k, v in old.items() if k not in _KNOWN} if isinstance(old, dict) else {}
    if config.username or config.password:
        pair = f"{config.username}:{config.password}".encode()
        entry["auth"] = base64.b64encode(pair).decode("ascii")
    if config.email or form is Form.LEGACY:
        entry["email"] = config.email
    if config.identity_token:
        entry["identitytoken"] = config.identity_token
    if config.registry_token:
        entry["registrytoken"] = config.registry_token
    return entry


def _two_lines(text: str) -> dict[str, str] | None:
    """``auth = …`` and ``email = …``, or None where it is something else."""
    found = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, equals, value = line.partition("=")
        if not equals or name.strip() not in ("auth", "email"):
            return None
        found[name.strip()] = value.strip()
    return found if "auth" in found else None
