"""Files of the test registries: in memory as in a directory."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry_service.testing.content import PatternContent, digest_content, read_all
from registry_service.testing.tree import DirectoryTree, MemoryTree, Tree

FOLDERS = ["a", "a/b", "c"]
PATHS = ["a/1", "a/2", "a/b/1", "a/b/2", "c/1", "d"]

Step = Callable[[Tree], object]


def written(path: str, data: bytes) -> Step:
    return lambda tree: tree.write(path, data)


def made_up(path: str, size: int) -> Step:
    return lambda tree: tree.put_content(path, PatternContent(size, b"xyz"))


def removed(path: str) -> Step:
    return lambda tree: tree.remove(path)


def emptied(folder: str) -> Step:
    return lambda tree: tree.remove_folder(folder)


def uploaded(path: str, parts: list[bytes], kept: bool) -> Step:
    def step(tree: Tree) -> object:
        upload = tree.new_upload()
        for part in parts:
            upload.append(memoryview(part))
        digest = upload.digest("sha256")
        if kept:
            upload.move(path)
        upload.discard()
        return digest

    return step


STEPS = st.one_of(
    st.builds(written, st.sampled_from(PATHS), st.binary(max_size=20)),
    st.builds(made_up, st.sampled_from(PATHS), st.integers(0, 10)),
    st.builds(removed, st.sampled_from(PATHS)),
    st.builds(emptied, st.sampled_from(FOLDERS)),
    st.builds(
        uploaded,
        st.sampled_from(PATHS),
        st.lists(st.binary(max_size=10), max_size=3),
        st.booleans(),
    ),
)


def seen(tree: Tree) -> dict[str, bytes]:
    found = {}
    for path in PATHS:
        content = tree.content(path)
        if content is not None:
            found[path] = read_all(content)
            assert tree.read(path) == found[path]
            assert digest_content(content).startswith("sha256:")
        else:
            assert tree.read(path) is None
    return found


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(STEPS, max_size=15))
def test_memory_and_a_directory_are_alike(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as root:
        memory, directory = MemoryTree(), DirectoryTree(Path(root))
        with contextlib.closing(memory), contextlib.closing(directory):
            for step in steps:
                assert step(memory) == step(directory)
                assert seen(memory) == seen(directory)
                for folder in FOLDERS:
                    # A directory keeps folders of which the last file has gone.
                    full = [one for one in directory.names(folder) if holds(directory, folder, one)]
                    assert memory.names(folder) == full
        assert not (Path(root) / "uploads").exists()


def holds(tree: Tree, folder: str, name: str) -> bool:
    """Whether a name of a folder is a file, or has one in it: a directory keeps empty ones."""
    path = f"{folder}/{name}"
    return bool(tree.names(path)) or path in PATHS


def test_what_takes_no_space_is_listed_too(tmp_path: Path) -> None:
    for tree in (MemoryTree(), DirectoryTree(tmp_path)):
        tree.put_content("a/b/c", PatternContent(5))
        tree.put_content("a/d", PatternContent(5))
        assert tree.names("a") == ["b", "d"]
        assert tree.names("a/b") == ["c"]
        tree.close()


def test_a_directory_is_one_process_s_and_its_uploads_are_cleared(tmp_path: Path) -> None:
    with (
        contextlib.closing(DirectoryTree(tmp_path)),
        pytest.raises(BlockingIOError, match="in use"),
    ):
        DirectoryTree(tmp_path)
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "left").write_bytes(b"x")
    with contextlib.closing(DirectoryTree(tmp_path)):
        assert list((tmp_path / "uploads").iterdir()) == []


def test_one_that_is_only_read_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1").write_bytes(b"one")
    changes: list[Step] = [
        written("a/1", b"two"),
        made_up("a/2", 3),
        removed("a/1"),
        emptied("a"),
        uploaded("a/1", [b"two"], True),
    ]
    with contextlib.closing(DirectoryTree(tmp_path, read_only=True)) as tree:
        for change in changes:
            with pytest.raises(PermissionError, match="only read"):
                change(tree)
        assert tree.read("a/1") == b"one"
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["1", "a"]
