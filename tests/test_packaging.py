"""What is installed, and what a stranger's package adds by being installed."""

from __future__ import annotations

import configparser
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from support_daemon import running_daemon

import engine
from engine.endpoints import SOCKET_PATH_BYTES

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def words(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]


def test_the_metadata_of_what_is_installed() -> None:
    about = metadata.metadata("registry-engine")
    assert about["Version"] == engine.__version__
    assert about["License"] == "Apache-2.0" or about["License-Expression"] == "Apache-2.0"
    assert about["Requires-Python"] == ">=3.11"


def test_the_console_scripts_can_be_loaded() -> None:
    scripts = {
        one.name: one.load()
        for one in metadata.entry_points(group="console_scripts")
        if one.value.startswith("engine.")
    }
    assert scripts.keys() == {"engined", "enginectl"}
    assert all(map(callable, scripts.values()))


def test_every_requirement_has_a_lower_bound(setup: configparser.ConfigParser) -> None:
    extras = setup["options.extras_require"]
    lists = [setup["options"]["install_requires"], *extras.values()]
    for requirement in [one for text in lists for one in words(text)]:
        assert re.fullmatch(r"[a-z0-9-]+>=[0-9.]+(?:; .+)?", requirement)


def test_pyproject_holds_what_nothing_else_reads() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project.keys() == {"build-system", "tool"}
    assert project["tool"].keys() == {"ruff"}


def test_a_wheel_has_the_packages_whole(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("engine", "registry_service"):
        shutil.copytree(ROOT / name, source / name, ignore=skip)
    target = install(source, tmp_path / "target")
    for package in ("engine", "registry_service"):
        expected = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")}
        expected.add(Path(package, "py.typed"))
        found = {path.relative_to(target) for path in (target / package).rglob("*")}
        assert expected <= found
    assert not (target / "tests").exists()


# a package of somebody else: the one that the README shows


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def install(source: Path, target: Path) -> Path:
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
            "--no-build-isolation", "--disable-pip-version-check", "--target", str(target),
            str(source),
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """The directory that the README's package is installed in."""
    source = tmp_path / "greetings"
    source.mkdir()
    (code,) = (block for block in blocks("python") if "class Service" in block)
    (points,) = (block for block in blocks("ini") if "engine.services" in block)
    (source / "greetings.py").write_text(code)
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
    )
    (source / "setup.cfg").write_text(
        f"[metadata]\nname = greetings\nversion = 1.0\n[options]\npy_modules = greetings\n{points}"
    )
    return install(source, tmp_path / "installed")


def test_a_job_of_a_package_outside_this_repository(stranger: Path, tmp_path: Path) -> None:
    path = os.pathsep.join(filter(None, [str(stranger), os.environ.get("PYTHONPATH", "")]))
    with running_daemon(tmp_path / "state", environ={"PYTHONPATH": path}) as daemon:
        listed = {row["name"]: row["help"] for row in daemon.ctl_json("commands")}
        assert listed["greet"] == "Greet somebody."
        assert "Greet somebody." in daemon.ctl("greet", "--help")
        assert daemon.ctl_json("greet", "world") == [{"greeting": "hello, world"}]
        assert daemon.ctl_json("run", "greet", "world") == [{"greeting": "hello, world"}]
        wrong = daemon.run_ctl("greet")
        assert (wrong.returncode, wrong.stderr) == (
            2,
            "enginectl: greet: WHOM is missing\nUsage: greet WHOM\n",
        )


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_the_readme_names_the_two_commands_and_the_makefile_has_them(command: str) -> None:
    assert f"    {command}\n" in (ROOT / "README.md").read_text()
    assert f"\n{command.removeprefix('make ')}: " in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize(("length", "short"), [(40, False), (125, True)])
def test_the_demonstration_has_a_place_for_its_socket(
    monkeypatch: pytest.MonkeyPatch, length: int, short: bool
) -> None:
    usual = "/" + "d" * (length - 1)
    monkeypatch.setattr(tempfile, "tempdir", usual)
    place = runpy.run_path(str(ROOT / "scripts" / "demo.py"))["place_for_all"]()
    assert place == ("/tmp" if short else usual)
    assert len(f"{place}/demo-12345678/state/engine.sock") <= SOCKET_PATH_BYTES


def test_the_examples_of_the_readme_are_python() -> None:
    examples = blocks("python")
    assert len(examples) == 4
    for example in examples:
        compile(example, "README.md", "exec")


def test_the_links_of_the_documentation_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    broken = [
        f"{page.name}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)\)", page.read_text())
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert broken == []
