"""Where archives are read and written, and where not."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support_services import require

from registry_service.archive import Places
from registry_service.errors import (
    ArchiveError,
    StoreError,
)

# where archives may lie


def test_only_plain_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    for path in (tmp_path / "fifo", tmp_path / "directory", Path("/dev/null")):
        with pytest.raises(ArchiveError, match="is not a plain file") as caught:
            Places().open(path)
        assert caught.value.status == 2
    with pytest.raises(ArchiveError, match="absolute path"):
        Places().open(Path("x.tar"))
    with pytest.raises(ArchiveError, match="absolute path"):
        Places().open(Path("/a\0b"))
    with pytest.raises(StoreError, match="No such file"):
        Places().open(tmp_path / "absent")


def test_files_are_read_where_that_is_allowed_and_nowhere_a_link_leads(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for directory in (inside, outside):
        directory.mkdir()
        (directory / "x.tar").write_bytes(b"x")
    (inside / "link").symlink_to(outside / "x.tar")
    places = Places(readable=(inside,))
    places.open(inside / "x.tar").close()
    for path in (outside / "x.tar", inside / "link", inside / ".." / "out" / "x.tar"):
        with pytest.raises(ArchiveError, match="load_dirs") as caught:
            places.open(path)
        assert caught.value.status == 126


def test_files_are_written_where_that_is_allowed_and_nowhere_a_link_leads(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    places = Places(writable=(inside,))
    places.write(inside / "x", [b"a", b"b"])
    assert (inside / "x").read_bytes() == b"ab"
    assert (inside / "x").stat().st_mode & 0o777 == 0o600
    for path in (outside / "x", inside / "link" / "x", inside / ".." / "out" / "x"):
        with pytest.raises(ArchiveError, match="save_dirs"):
            places.write(path, [b"a"])
    assert list(outside.iterdir()) == []
    with pytest.raises(ArchiveError, match="none are set"):
        Places(writable=()).write(inside / "y", [b"a"])


@contextlib.contextmanager
def seen_elsewhere(shown: Path, at: Path) -> Iterator[Path]:
    """The root as another process has it, where ``shown`` lies ``at`` that place."""
    script = 'mount --bind "$1" "$2" && echo ready && exec cat'
    command = [require("unshare"), "--mount", "--propagation", "private", "sh", "-c", script]
    with subprocess.Popen(
        [*command, "sh", shown, at], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            pytest.skip("this user may mount nothing")
        yield Path(f"/proc/{process.pid}/root")
        process.communicate()


def test_the_mounts_of_another_process_lead_to_nothing(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for directory in (inside, outside):
        directory.mkdir()
        (directory / "x.tar").write_text(f"that which is {directory.name}side")
    places = Places(readable=(inside,), writable=(inside,))
    with seen_elsewhere(outside, at=inside) as root:
        there = root / inside.relative_to("/")
        assert (there / "x.tar").read_text() == "that which is outside"
        with places.open(there / "x.tar") as file:
            assert file.read(0, 100) == b"that which is inside"
        places.write(there / "x.tar", [b"written"], force=True)
    assert (outside / "x.tar").read_text() == "that which is outside"
    assert (inside / "x.tar").read_text() == "written"


def test_a_name_may_be_as_long_as_names_are(tmp_path: Path) -> None:
    path = tmp_path / ("界" * 85)
    Places().write(path, [b"x"])
    assert path.read_bytes() == b"x"


def test_what_is_there_is_replaced_on_request_only(tmp_path: Path) -> None:
    path = tmp_path / "x"
    places = Places()
    places.write(path, [b"old"])
    with pytest.raises(ArchiveError, match="exists; 'force'"):
        places.write(path, [b"new"])
    assert path.read_bytes() == b"old"
    places.write(path, [b"new"], force=True)
    assert path.read_bytes() == b"new"
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "directory").mkdir()
    for name in ("link", "directory"):
        with pytest.raises(ArchiveError, match="not a plain file"):
            places.write(tmp_path / name, [b"a"], force=True)
    assert path.read_bytes() == b"new"


def test_a_file_that_somebody_else_made_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "x"

    def pieces() -> Iterator[bytes]:
        yield b"mine"
        path.write_bytes(b"theirs")

    with pytest.raises(ArchiveError, match="exists"):
        Places().write(path, pieces())
    assert path.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_whole_is_not_there(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"a"
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        Places().write(tmp_path / "x", pieces())
    assert list(tmp_path.iterdir()) == []
