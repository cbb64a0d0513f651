"""``python -m registry_service.testing``: the registry as a program."""

from __future__ import annotations

import argparse
import re
import signal
import sys
import textwrap
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from .access import Grant
from .faults import Fault
from .images import push_synthetic_image
from .names import is_repository, is_tag
from .registry import Registry, TLSFiles
from .requestlog import LoggedRequest

__all__ = ["main"]

_GRACE: Final = 5.0
_UNITS: Final = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE: Final = re.compile(r"([0-9]{1,12})(KiB|MiB|GiB)?")
_EPILOG: Final = """\
faults: KIND[:KEY=VALUE,…]
  drop         after=BYTES, reset=yes: the connection is closed
  stall        seconds=S, after=BYTES: a pause
  slow         rate=BYTES a second, after=BYTES
  status       code=CODE, retry-after=SECONDS, form=seconds|date: that answer, nothing done
  redirect     to=URL, code=CODE: the same target at another address
  corrupt      offset=BYTE: one byte of the content is changed
  short        after=BYTES: a whole answer with fewer bytes
  no-range     Range headers are ignored
  wrong-range  a range is answered with another one
  lost-answer  what was asked is done, and the connection closed
each with    path=PART or PATTERN, method=METHOD, times=N, skip=N, probability=P, seed=N

examples:
  python -m registry_service.testing --listen 127.0.0.1:5000 --root content
  python -m registry_service.testing --htpasswd users --token --access 'ann=pull:public/*'
  python -m registry_service.testing --fault drop:after=65536,path=/blobs/,times=2

The content is not synced to disk. One line on stdout says when connections are accepted;
SIGTERM and SIGINT end the program, requests under way having five seconds.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal. Returns the exit status: 0, 1 (cannot serve), 2 (wrong usage)."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.tls_cert is None) != (options.tls_key is None):
        parser.error("--tls-cert and --tls-key are given together or not at all")
    if options.client_ca is not None and options.tls_cert is None:
        parser.error("--client-ca needs --tls-cert and --tls-key")
    if options.token and options.htpasswd is None and not options.anonymous_pull:
        parser.error("--token needs --htpasswd or --anonymous-pull")
    if (
        options.htpasswd is None
        and not options.token
        and (options.anonymous_pull or options.access)
    ):
        parser.error("--anonymous-pull and --access need --htpasswd or --token")
    registry: Registry | None = None
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
        registry = _registry(options)
        for repository, tag, sizes in options.synthetic:
            push_synthetic_image(registry, repository, tag, sizes)
        registry.start()
        print(f"registry ready {registry.url}", flush=True)
        threading.Event().wait()
    except _Ended:
        return 0
    except (OSError, ValueError) as error:
        print(f"registry: {error}", file=sys.stderr)
        return 1
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if registry is not None:
            registry.stop(_GRACE)
    return 0


class _Ended(Exception):  # noqa: N818 - what was asked for, not an error
    """A signal asked for the end."""


def _end(number: int, frame: object) -> None:
    raise _Ended()


def _registry(options: argparse.Namespace) -> Registry:
    tls = None
    if options.tls_cert is not None:
        tls = TLSFiles(cert=options.tls_cert, key=options.tls_key, client_ca=options.client_ca)
    access: dict[str, list[str]] = {}
    for user, grant in options.access:
        access.setdefault(user, []).append(grant)
    host, port = options.listen
    return Registry(
        options.root,
        auth="token" if options.token else None,
        htpasswd=options.htpasswd,
        access=access,
        anonymous_pull=options.anonymous_pull,
        tls=tls,
        faults=options.fault,
        host=host,
        port=port,
        allow_remote=options.allow_remote,
        referrers=not options.no_referrers,
        deletes=options.deletes,
        on_request=_print_request if options.verbose else None,
    )


def _print_request(request: LoggedRequest) -> None:
    print(request, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m registry_service.testing",
        description="A container registry for tests and demonstrations.",
        epilog=textwrap.dedent(_EPILOG),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def add(name: str, text: str, **more: Any) -> None:
        parser.add_argument(name, help=text, **more)

    add(
        "--listen",
        "where to listen (default 127.0.0.1:0); port 0 takes any free one",
        metavar="HOST:PORT",
        type=_address,
        default=("127.0.0.1", 0),
    )
    add("--allow-remote", "let HOST be other than loopback", action="store_true")
    add("--root", "keep the content in this directory, not in memory", metavar="DIR", type=Path)
    add("--htpasswd", "users, with bcrypt or {SHA} hashes", metavar="FILE", type=Path)
    add(
        "--token", "bearer tokens from /token in place of basic authentication", action="store_true"
    )
    add("--anonymous-pull", "anybody may pull", action="store_true")
    add(
        "--access",
        "limit a user to repositories: PATTERN, or ACTIONS:PATTERN with pull, push, delete; "
        "may be repeated; an empty USER is anybody",
        metavar="USER=GRANT",
        type=_access,
        action="append",
        default=[],
    )
    add("--tls-cert", "serve https with this certificate chain (PEM)", metavar="FILE", type=Path)
    add("--tls-key", "the certificate's key (PEM)", metavar="FILE", type=Path)
    add("--client-ca", "want client certificates of this CA (PEM)", metavar="FILE", type=Path)
    add(
        "--fault",
        "switch a fault on, see below; may be repeated",
        metavar="SPEC",
        type=_fault,
        action="append",
        default=[],
    )
    add(
        "--synthetic",
        "serve an image with layers of so many zero bytes, which take up no space; "
        "sizes in bytes, KiB, MiB or GiB; may be repeated",
        metavar="NAME:TAG=SIZE[,SIZE…]",
        type=_synthetic,
        action="append",
        default=[],
    )
    add("--no-referrers", "have no referrers API", action="store_true")
    add(
        "--deletes",
        "what can be deleted: all, digests (no tag alone), none (default all)",
        choices=("all", "digests", "none"),
        default="all",
    )
    add("--verbose", "a line on stderr for each request", action="store_true")
    return parser


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _access(text: str) -> tuple[str, str]:
    user, equals, grant = text.partition("=")
    if not equals or not grant:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form USER=GRANT")
    try:
        Grant.parse(grant)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return user, grant


def _fault(text: str) -> Fault:
    try:
        return Fault.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _synthetic(text: str) -> tuple[str, str, list[int]]:
    name, equals, rest = text.partition("=")
    repository, colon, tag = name.rpartition(":")
    if not (equals and colon and is_repository(repository) and is_tag(tag)):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME:TAG=SIZE[,SIZE…]")
    sizes = []
    for word in rest.split(","):
        match = _SIZE.fullmatch(word)
        if match is None:
            raise argparse.ArgumentTypeError(f"{word!r} is no size, such as 1048576 or 2GiB")
        sizes.append(int(match[1]) * _UNITS[match[2] or ""])
    return repository, tag, sizes


if __name__ == "__main__":
    sys.exit(main())
