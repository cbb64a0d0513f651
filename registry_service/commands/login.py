"""What a user's own credentials are kept by: login, logout."""

from __future__ import annotations

import sys

import click

from engine.cli.session import Session

from .options import PASSWORD_STDIN, USER, read_credentials
from .own import keychain_of, translated

__all__ = ["login", "logout", "normal_host"]


@click.command(short_help="Check credentials for a registry, and keep them.")
@click.argument("host", required=False, default="")
@USER
@PASSWORD_STDIN
@click.option(
    "--email",
    metavar="EMAIL",
    help="The address for an account that the registry makes; those of V1 do.",
)
@click.pass_obj
def login(
    session: Session, host: str, user: str | None, password_stdin: bool, email: str | None
) -> int:
    """Check credentials for the registry HOST, or the public index, and keep them where Docker
    keeps them.

    They go to the credential helper that your configuration names for HOST, or else into the
    file, which nobody else may read. Where the registry hands out an identity token, it is kept
    in place of the password. Credentials that are refused are not kept. A registry that speaks
    V1 may make an account of a name that it does not know; the answer says so. HOST may be an
    address that says which version is spoken: https://HOST/v1/.
    """
    from ..credentials import AuthConfig

    written, host = host, normal_host(host)
    given = read_credentials(user or _ask_user(password_stdin), password_stdin)
    if email:
        given["email"] = email
    status, identity = _check(session, {**given, "serveraddress": _address(written, host)})
    kept = {"username": given["username"], "identitytoken": identity} if identity else given
    with translated():
        place = keychain_of(session).store(host, AuthConfig.from_mapping(kept))
    _tell(session, status)
    what = "an identity token" if identity else "the password"
    session.say(f"{what} for {host or 'the public index'} is kept in {place}")
    return 0


@click.command(short_help="Forget the credentials for a registry.")
@click.argument("host", required=False, default="")
@click.pass_obj
def logout(session: Session, host: str) -> int:
    """Forget the credentials for the registry HOST, or the public index.

    They are removed where 'login' keeps them. No engine is needed.
    """
    host = normal_host(host)
    where = host or "the public index"
    with translated():
        removed = keychain_of(session).remove(host)
    for source in removed.sources:
        _tell(session, f"the credentials for {where} were removed from {source}")
    if not removed.sources:
        session.say(f"there is no login for {where}")
    if removed.left:
        session.say(f"warning: {removed.left} still has credentials for {where}")
    return 0


def _check(session: Session, config: dict[str, str]) -> tuple[str, str]:
    """The status line, and the identity token or empty. Raises what the job ends with.

    The job is read here and not shown: its output holds the token.
    """
    from engine.records import Data, Log, Text

    env = {"authConfig": config, "identityToken": True}
    run = session.client().run("auth", env=env, detach=False)
    text, data = "", b""
    for event in run.events():
        if isinstance(event, Text):
            text += event.text
        elif isinstance(event, Data):
            data += event.data
        elif isinstance(event, Log) and (session.verbose or event.level in ("warning", "error")):
            session.say(f"{event.level}: {event.text}")
    run.text()  # all of it was read; this raises what the job ended with
    return text.strip(), data.decode()


def _address(written: str, host: str) -> str:
    """The address of ``host`` with the scheme and the version that were written. The public index
    is said in so many words: the engine may have another one, whose these are not."""
    from ..keychain.keys import key_of

    if not host:
        return key_of(host)
    scheme, mark, rest = written.rpartition("://")
    version = rest.partition("/")[2].strip("/")
    return f"{scheme}{mark}{host}" + (f"/{version}/" if version else "")


def _tell(session: Session, line: str) -> None:
    """A line on standard output, in the form in which a job's text is written."""
    from engine.cli.presenter import Presenter
    from engine.records import Text

    presenter = Presenter(session.output, out=session.out, err=session.err)
    presenter.take(Text(text=f"{line}\n"))
    presenter.close()


def _ask_user(password_stdin: bool) -> str | None:
    """The user's name, where there is somebody to ask."""
    if password_stdin or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError("the user name is missing: -u USER")
    name: str = click.prompt("User name", err=True)
    return name


def normal_host(address: str) -> str:
    """``HOST[:PORT]`` of what a person wrote, empty for the public index."""
    from ..hosts import PUBLIC_NAMES, one_form, split_host_port

    _, scheme, rest = address.partition("://")
    host, _, path = (rest if scheme else address).partition("/")
    if not address or host.lower() in PUBLIC_NAMES:
        return ""
    if path.strip("/") not in ("", "v1", "v2") or "@" in host:
        raise click.UsageError("HOST is a registry's HOST[:PORT], without a repository")
    try:
        split_host_port(host)
    except ValueError as error:
        raise click.UsageError(f"HOST: {error}") from None
    return one_form(host)
