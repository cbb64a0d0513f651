"""``python -m registry_service.testing``: the registries as a program."""

from __future__ import annotations

import argparse
import re
import signal
import sys
import textwrap
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from .access import Grant
from .faults import Fault
from .images import push_image, push_synthetic_image, random_image
from .names import is_repository, is_tag
from .registry import Registry
from .requestlog import LoggedRequest
from .server import Server, TLSFiles
from .v1 import V1Index, V1Registry
from .v1.images import push_chain, push_synthetic_chain, random_chain

__all__ = ["main"]

_GRACE: Final = 5.0
_MOST_LAYERS: Final = 1000
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
  python -m registry_service.testing --v1 standalone --root old --random team/app:1.0=5
  python -m registry_service.testing --v1 index --htpasswd users --layers-at 127.0.0.1:5001

With --v1 the directory is laid out as that of the original registry, docker-registry, and one
that it left behind is served as it is; with --read-only nothing in it is changed. An index keeps
its own in DIR/index, its registry in DIR/registry; without --htpasswd everybody may make an
account at it, which is active at once.

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
    if options.v1 is not None:
        _check_v1(parser, options)
    elif options.layers_at != ("127.0.0.1", 0):
        parser.error("--layers-at needs --v1 index")
    if options.read_only and (options.v1 != "standalone" or options.root is None):
        parser.error("--read-only needs --v1 standalone and --root")
    servers: list[Server] = []
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
        servers = _servers(options)
        for server in servers:
            server.start()
        print(f"registry ready {servers[-1].url}", flush=True)
        threading.Event().wait()
    except _Ended:
        return 0
    except (OSError, ValueError) as error:
        print(f"registry: {error}", file=sys.stderr)
        return 1
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        for server in reversed(servers):
            server.stop(_GRACE)
    return 0


class _Ended(Exception):  # noqa: N818 - what was asked for, not an error
    """A signal asked for the end."""


def _end(number: int, frame: object) -> None:
    raise _Ended()


def _check_v1(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    for given, name in (
        (options.token, "--token"),
        (options.access, "--access"),
        (options.no_referrers, "--no-referrers"),
        (options.deletes != "all", "--deletes"),
    ):
        if given:
            parser.error(f"{name} does not go with --v1")
    if options.v1 == "index" and options.anonymous_pull:
        parser.error("--anonymous-pull does not go with --v1 index, where everybody may pull")
    if options.v1 != "index" and options.layers_at != ("127.0.0.1", 0):
        parser.error("--layers-at needs --v1 index")


def _servers(options: argparse.Namespace) -> list[Server]:
    """What is to be started, in that order; clients go to the last. Filled already."""
    tls = None
    if options.tls_cert is not None:
        tls = TLSFiles(cert=options.tls_cert, key=options.tls_key, client_ca=options.client_ca)
    host, port = options.listen
    common: dict[str, Any] = {
        "tls": tls,
        "faults": options.fault,
        "allow_remote": options.allow_remote,
        "on_request": _print_request if options.verbose else None,
    }
    if options.v1 == "standalone":
        registry = V1Registry(
            options.root,
            read_only=options.read_only,
            htpasswd=options.htpasswd,
            anonymous_pull=options.anonymous_pull,
            host=host,
            port=port,
            **common,
        )
        return [_filled_v1(registry, options)]
    if options.v1 == "index":
        return _index(options, common)
    access: dict[str, list[str]] = {}
    for user, grant in options.access:
        access.setdefault(user, []).append(grant)
    today = Registry(
        options.root,
        auth="token" if options.token else None,
        htpasswd=options.htpasswd,
        access=access,
        anonymous_pull=options.anonymous_pull,
        host=host,
        port=port,
        referrers=not options.no_referrers,
        deletes=options.deletes,
        **common,
    )
    for repository, tag, sizes in options.synthetic:
        push_synthetic_image(today, repository, tag, sizes)
    for repository, tag, layers in options.random:
        push_image(today, repository, tag, random_image(_seed(repository, tag), layers))
    return [today]


def _index(options: argparse.Namespace, common: dict[str, Any]) -> list[Server]:
    """An index and its registry, which is known to clients by the index."""
    host, port = options.listen
    registry_host, registry_port = options.layers_at
    root: Path | None = options.root
    registry = V1Registry(
        root / "registry" if root else None,
        role="registry",
        host=registry_host,
        port=registry_port,
        **common,
    )
    index = V1Index(
        root / "index" if root else None,
        registries=[registry],
        htpasswd=options.htpasswd,
        protected=options.htpasswd is not None,
        activated=True,
        host=host,
        port=port,
        **common,
    )
    return [_filled_v1(registry, options), index]


def _filled_v1(registry: V1Registry, options: argparse.Namespace) -> V1Registry:
    for repository, tag, sizes in options.synthetic:
        push_synthetic_chain(registry, repository, tag, sizes)
    for repository, tag, layers in options.random:
        push_chain(registry, repository, tag, random_chain(_seed(repository, tag), layers))
    return registry


def _seed(repository: str, tag: str) -> int:
    """So that names have images of their own, and the same ones again."""
    return zlib.crc32(f"{repository}:{tag}".encode())


def _print_request(request: LoggedRequest) -> None:
    print(request, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m registry_service.testing",
        description="A container registry for tests and demonstrations, of today or of V1.",
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
    add(
        "--random",
        "serve an image with so many layers of random files, the same for the same name; "
        "may be repeated",
        metavar="NAME:TAG=LAYERS",
        type=_random,
        action="append",
        default=[],
    )
    add(
        "--v1",
        "speak V1: a registry that stands alone, or an index with its registry",
        choices=("standalone", "index"),
    )
    add(
        "--layers-at",
        "where the registry of --v1 index listens (default 127.0.0.1:0)",
        metavar="HOST:PORT",
        type=_address,
        default=("127.0.0.1", 0),
    )
    add(
        "--read-only",
        "serve the directory of --v1 standalone, and change nothing in it",
        action="store_true",
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
    repository, tag, rest = _named(text, "SIZE[,SIZE…]")
    sizes = []
    for word in rest.split(","):
        match = _SIZE.fullmatch(word)
        if match is None:
            raise argparse.ArgumentTypeError(f"{word!r} is no size, such as 1048576 or 2GiB")
        sizes.append(int(match[1]) * _UNITS[match[2] or ""])
    return repository, tag, sizes


def _random(text: str) -> tuple[str, str, int]:
    repository, tag, rest = _named(text, "LAYERS")
    if not (rest.isascii() and rest.isdigit() and 0 < int(rest) <= _MOST_LAYERS):
        raise argparse.ArgumentTypeError(f"{rest!r} is no number from 1 to {_MOST_LAYERS}")
    return repository, tag, int(rest)


def _named(text: str, what: str) -> tuple[str, str, str]:
    """The parts of ``NAME:TAG=REST``."""
    name, equals, rest = text.partition("=")
    repository, colon, tag = name.rpartition(":")
    if not (equals and colon and is_repository(repository) and is_tag(tag)):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME:TAG={what}")
    return repository, tag, rest


if __name__ == "__main__":
    sys.exit(main())
