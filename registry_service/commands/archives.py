"""What goes through archives: save, load."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import IO

import click

from engine.cli.options import submit_options
from engine.cli.session import Session, SubmitOptions

from .options import PLATFORM, REFERRERS

__all__ = ["load", "read_archive", "save"]


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "-o",
    "--file",
    "file",
    metavar="FILE",
    help="Write the archive to FILE; without it, to standard output.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["docker", "oci"]),
    help="'docker' is what every tool reads; 'oci' keeps every byte and all platforms. "
    "[default: docker]",
)
@PLATFORM
@REFERRERS
@click.option("--path", metavar="PATH", help="Let the engine write the file, where it may.")
@click.option("--force", is_flag=True, help="With --path: replace what is there.")
@submit_options
@click.pass_obj
def save(
    session: Session,
    images: tuple[str, ...],
    file: str | None,
    form: str | None,
    platform: str | None,
    referrers: bool,
    path: str | None,
    force: bool,
    submit: SubmitOptions,
) -> int:
    """Write each IMAGE of the store into one archive."""
    env = {
        "format": form,
        "platform": platform,
        "referrers": referrers or None,
        "force": force or None,
    }
    if path is not None:
        if file is not None:
            raise click.UsageError("-o and --path: one file is written, by one of the two")
        return session.submit("save", images, {**env, "path": _absolute(path)}, submit)
    if submit.detach:
        raise click.UsageError("--detach: nobody would take the archive; --path goes with it")
    if force:
        raise click.UsageError("--force goes with --path")
    if file is None:
        if session.out.isatty():
            raise click.UsageError(
                "an archive is nothing for a terminal: write it to a file with -o FILE"
            )
        return session.submit("save", images, env, submit, out=session.out)
    with _replacing(file) as out:
        status = session.submit("save", images, env, submit, out=out.text)
        out.whole = status == 0
        return status


@click.command(short_help="Keep the images of an archive in the store.")
@click.argument("file")
@click.option("--as", "name", metavar="IMAGE", help="The image's name, where there is just one.")
@submit_options
@click.pass_obj
def load(session: Session, file: str, name: str | None, submit: SubmitOptions) -> int:
    """Keep the images of FILE, a docker-archive or OCI archive, in the store.

    The engine reads the file itself.
    """
    if file == "-":
        raise click.UsageError("standard input cannot be loaded: name a file")
    return session.submit("load", (_absolute(file),), {"as": name}, submit)


def read_archive(
    ctx: click.Context | None, param: click.Parameter | None, value: str | None
) -> str | None:
    """``KIND:PATH[:REF]`` with an absolute path."""
    if value is None:
        return None
    kind, _, rest = value.partition(":")
    path, colon, name = rest.partition(":")
    return f"{kind}:{_absolute(path)}{colon}{name}" if path else value


class _Output:
    """``text`` is what the session writes to; ``whole`` is set when all of it was written."""

    def __init__(self, text: IO[str]) -> None:
        self.text = text
        self.whole = False


@contextlib.contextmanager
def _replacing(name: str) -> Iterator[_Output]:
    """The file of that name, written beside its place; it is there when all of it is, and what
    was there before stays otherwise. A symbolic link stays, and what it names is replaced."""
    from pathlib import Path  # costs more than it does, at every start

    try:
        target = Path(name).resolve()
        if target.exists() and not target.is_file():
            raise click.UsageError(f"-o: {name} is there, and is not a plain file")
        beside = target.with_name(f".{target.name[:32]}.{os.urandom(8).hex()}.partial")
        raw = io.FileIO(beside, "x")
    except (OSError, ValueError, RuntimeError) as error:  # a NUL; links in a circle
        reason = getattr(error, "strerror", None) or error
        raise click.UsageError(f"-o: {name}: {reason}") from None
    try:
        with io.TextIOWrapper(io.BufferedWriter(raw)) as file:
            made = _Output(file)
            yield made
            file.flush()
            os.fsync(raw.fileno())
        if made.whole:
            beside.replace(target)
    except OSError as error:
        if error.filename is None:  # of a write that failed nothing else is known
            raise OSError(error.errno, error.strerror, name) from None
        raise
    finally:
        beside.unlink(missing_ok=True)


def _absolute(path: str) -> str:
    """The engine has another working directory. Raises `click.UsageError` for a name that it
    cannot be told."""
    from pathlib import Path  # as above

    if not path:
        raise click.UsageError("the name of the file is empty")
    absolute = str(Path(path).absolute())
    try:
        absolute.encode()
    except UnicodeEncodeError:
        raise click.UsageError(
            f"{path!a}: the engine cannot be told this name, which is not UTF-8: "
            "give the file another one, or a link with one"
        ) from None
    return absolute
