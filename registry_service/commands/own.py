"""The credentials that the user of ``enginectl`` has already, for the commands.

Nothing here reads the process's own environment: it is the session's. The keychain is imported
when it is needed, for most commands need to start fast and some need no credentials.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from engine.cli.session import Session
from engine.status import Status

if TYPE_CHECKING:
    from ..keychain import Found, Keychain

__all__ = ["add_headers", "add_own", "add_own_target", "find_own", "keychain_of", "translated"]

#: Codes of the errors that other credentials could have spared.
_REFUSALS = ("login-required", "http-403")
_TARGET = {"authConfig": "targetAuthConfig", "metaHeaders": "targetMetaHeaders"}
_WAY_OUT = "(--anonymous does without)"


class _UnusableError(click.ClickException):
    """What the user has cannot be used: wrong usage, but not of the command line."""

    exit_code = Status.USAGE


@contextlib.contextmanager
def translated(way_out: str = "") -> Iterator[None]:
    """The library's errors as the command line's: the same words, the same exit status."""
    from ..errors import RegistryError

    try:
        yield
    except RegistryError as error:
        kind = _UnusableError if error.status == Status.USAGE else click.ClickException
        raise kind(f"{error} {way_out}".rstrip()) from None


def keychain_of(session: Session) -> Keychain:
    from ..keychain import Keychain

    return Keychain.of_user(session.environ)


def find_own(session: Session, asked: str, way_out: str = _WAY_OUT) -> Found:
    """The user's own credentials for a host or ``host/repository``; empty is the public index.
    Warnings are shown."""
    with translated(way_out):
        found = keychain_of(session).find(asked)
    for warning in found.warnings:
        session.say(f"warning: {warning}")
    return found


def add_own(session: Session, env: dict[str, Any], asked: str) -> None:
    """Put the user's own credentials for ``asked`` into a job's environment. Where they come
    from is told with ``--verbose``, and when the registry refuses them."""
    found = find_own(session, asked)
    where = asked or "the public index"
    if found.auth_config.empty:
        session.remark(f"no credentials for {where} in {', '.join(found.searched)}")
        hint = (
            f"no credentials of yours were sent: {', '.join(found.searched)} have none for {where}"
        )
    else:
        env["authConfig"] = found.auth_config.to_json()
        session.remark(f"the credentials for {where} are from {found.source}")
        hint = f"the credentials that were sent are from {found.source}"
    session.hints.update(dict.fromkeys(_REFUSALS, hint))


def add_own_target(session: Session, env: dict[str, Any], asked: str) -> None:
    """As `add_own` and `add_headers`, for the target of a copy, which has an environment of its
    own in that of the job."""
    side = {name: env[key] for name, key in _TARGET.items() if key in env}
    before = dict(session.hints)
    add_headers(session, side)
    if "authConfig" not in side:
        add_own(session, side, asked)
        for code, hint in before.items():
            session.hints[code] = f"{hint}; for the target: {session.hints[code]}"
    env.update({_TARGET[name]: value for name, value in side.items()})


def add_headers(session: Session, env: dict[str, Any]) -> None:
    """Add the headers of Docker's configuration; one that is given on the command line takes
    the place of its namesake."""
    with translated("" if "authConfig" in env else _WAY_OUT):
        own = keychain_of(session).meta_headers()
    given = env.get("metaHeaders", {})
    names = {name.lower() for name in given}
    headers = {name: list(values) for name, values in own.items() if name.lower() not in names}
    if headers:
        session.remark(f"headers of Docker's configuration are sent: {', '.join(headers)}")
        env["metaHeaders"] = {**headers, **given}
