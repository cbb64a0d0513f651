"""Entry points: found as the standard library finds them, without its cost."""

from __future__ import annotations

import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from engine import plugins
from engine.plugins import EntryPoint, entry_points


def distribution(place: Path, directory: str, text: str) -> None:
    about = place / directory
    about.mkdir(parents=True)
    (about / "entry_points.txt").write_text(text)


def test_the_same_is_found_as_by_the_standard_library() -> None:
    for group in ("console_scripts", plugins.SERVICES, plugins.COMMANDS, "pytest11"):
        expected = {(one.name, one.value) for one in metadata.entry_points(group=group)}
        assert {(one.name, one.value) for one in entry_points(group)} == expected


def test_this_project_brings_its_service_and_its_commands() -> None:
    names = [(one.name, one.distribution) for one in entry_points(plugins.SERVICES)]
    assert ("registry", "registry-engine") in names
    assert "registry" in [one.name for one in entry_points(plugins.COMMANDS)]


def test_what_stands_in_the_file(tmp_path: Path) -> None:
    text = "[other]\na = x:y\n\n[engine.services]\n# no\n b =  m.n:C.d [extra] \n;c = m\nbroken\n"
    distribution(tmp_path, "Some_Thing-1.0.dist-info", text)
    assert entry_points("engine.services", [str(tmp_path)]) == [
        EntryPoint("b", "m.n:C.d [extra]", "some-thing")
    ]
    assert entry_points("none", [str(tmp_path)]) == []


def test_the_first_of_two_of_the_same_name_counts(tmp_path: Path) -> None:
    distribution(tmp_path / "1", "a_b-2.dist-info", "[g]\nx = new:x\n")
    distribution(tmp_path / "2", "A.B.egg-info", "[g]\nx = old:x\n")
    path = [str(tmp_path / "1"), str(tmp_path / "2")]
    assert [one.value for one in entry_points("g", path)] == ["new:x"]
    assert [one.value for one in entry_points("g", path[::-1])] == ["old:x"]


def test_places_that_are_not_there_or_hold_nothing(tmp_path: Path) -> None:
    (tmp_path / "x-1.dist-info").mkdir()
    (tmp_path / "y-1.dist-info").mkdir()
    (tmp_path / "y-1.dist-info" / "entry_points.txt").write_bytes(b"\xff")
    assert entry_points("g", [str(tmp_path), str(tmp_path / "missing")]) == []


def test_an_archive_on_the_path(tmp_path: Path) -> None:
    path = tmp_path / "packed.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("packed-1.dist-info/METADATA", "Name: packed\nVersion: 1\n")
        archive.writestr("packed-1.dist-info/entry_points.txt", "[g]\nx = a:b\n")
    assert entry_points("g", [str(path)]) == [EntryPoint("x", "a:b", "packed")]


def test_loading() -> None:
    assert EntryPoint("x", "engine.plugins:EntryPoint.load", "d").load() is EntryPoint.load
    assert EntryPoint("x", "engine.plugins", "d").load() is plugins
    with pytest.raises(AttributeError):
        EntryPoint("x", "engine.plugins:nothing", "d").load()
    with pytest.raises(ModuleNotFoundError):
        EntryPoint("x", "engine.nothing:x", "d").load()
