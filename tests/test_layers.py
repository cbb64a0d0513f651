"""The import graph is the architecture, and this is what it must be.

Imports inside functions and under ``TYPE_CHECKING`` are put off on purpose; where a rule is
about what a module may know at all, they count too.
"""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("engine", "registry_service")
NETWORK = {"requests", "urllib3", "socket", "ssl", "http", "http.client", "urllib.request"}
WIRE = {"zmq", "msgpack"}
CORE = {
    "builtin", "dispatch", "engine", "env", "errors", "executors", "executors.local", "job",
    "output", "paths", "records", "spec", "status", "table", "version",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """``at_once`` when importing the module imports it."""

    module: str
    at_once: bool


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path
    return found


MODULES = modules()


def imports_of(name: str) -> Iterator[Import]:
    tree = ast.parse(MODULES[name].read_text())
    later = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or _type_checking(node)
        for inner in ast.walk(node)
        if inner is not node and inner not in getattr(node, "orelse", ())
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module=alias.name, at_once=id(node) not in later)
        elif isinstance(node, ast.ImportFrom):
            base = _base(name, node)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                module = inner if inner in MODULES else base
                yield Import(module=module, at_once=id(node) not in later)


def _type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _base(name: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for _ in range(node.level - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{node.module}" if node.module else package


GRAPH = {name: tuple(imports_of(name)) for name in MODULES}


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def users_of(targets: set[str], among: list[str]) -> dict[str, list[str]]:
    """Of these modules, those that import a target or something in it."""
    found = {
        name: [
            one.module for one in GRAPH[name] if any(within(one.module, each) for each in targets)
        ]
        for name in among
    }
    return {name: used for name, used in found.items() if used}


def test_there_are_modules_to_look_at() -> None:
    assert {"engine.job", "engine.cli.app", "registry_service.service"} <= MODULES.keys()
    assert Import(module="engine.spec", at_once=True) in GRAPH["engine.job"]
    assert Import(module="engine.client", at_once=False) in GRAPH["engine.cli.session"]


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {
        name: {one.module for one in found if one.at_once and one.module in MODULES} - {name}
        for name, found in GRAPH.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a cycle: {' -> '.join(error.args[1])}")
    assert len(graph) == len(MODULES)


def test_the_engine_knows_nothing_of_registries() -> None:
    among = [name for name in MODULES if within(name, "engine")]
    assert users_of({"registry_service"}, among) == {}


def test_only_the_service_and_its_commands_know_the_engine() -> None:
    among = [name for name in MODULES if within(name, "registry_service")]
    allowed = ("registry_service.service", "registry_service.commands")
    users = users_of({"engine"}, among)
    assert [name for name in users if not any(within(name, one) for one in allowed)] == []


@pytest.mark.parametrize("name", sorted(CORE))
def test_the_core_needs_the_standard_library_only(name: str) -> None:
    module = f"engine.{name}"
    outside = [
        one.module
        for one in GRAPH[module]
        if one.at_once and not _standard(one.module) and not within(one.module, "engine")
    ]
    assert outside == []
    inside = {
        one.module.removeprefix("engine.")
        for one in GRAPH[module]
        if within(one.module, "engine") and one.module != "engine"
    }
    assert inside <= CORE


def test_the_wire_knows_no_socket_and_no_clock() -> None:
    among = [name for name in MODULES if within(name, "engine.wire")]
    assert users_of({"zmq", "socket", "time", "select", "threading", "asyncio"}, among) == {}


def test_only_the_transport_touches_the_network() -> None:
    among = [
        name
        for name in MODULES
        if within(name, "registry_service") and not within(name, "registry_service.testing")
    ]
    used = users_of(NETWORK, among)
    outside = {
        name: found
        for name, found in used.items()
        if not within(name, "registry_service.transport") and set(found) - {"ssl"}
    }
    assert outside == {}
    assert {name for name in used if not within(name, "registry_service.transport")} <= {
        "registry_service.tls"  # makes the contexts that the transport uses
    }


def test_only_the_commands_read_a_user_s_own_files() -> None:
    keychain = "registry_service.keychain"
    users = set(users_of({keychain}, [name for name in MODULES if not within(name, keychain)]))
    users.discard("registry_service")  # it names what is in the package, and loads it on demand
    assert users
    assert all(within(name, "registry_service.commands") for name in users)


def test_archives_know_no_registry() -> None:
    among = [name for name in MODULES if within(name, "registry_service.archive")]
    above = {"session", "transport", "endpoint", "auth", "operations", "service", "commands"}
    assert users_of({f"registry_service.{name}" for name in above}, among) == {}


def test_the_registry_for_tests_is_a_leaf() -> None:
    inside = [name for name in MODULES if within(name, "registry_service.testing")]
    outside = [name for name in MODULES if name not in inside]
    assert users_of({"registry_service.testing"}, outside) == {}
    for name in inside:
        for one in GRAPH[name]:
            if within(one.module, "engine") or within(one.module, "registry_service"):
                assert within(one.module, "registry_service.testing"), name


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import engine", {*WIRE, "requests", "structlog", "msgspec", "rich", "click"}),
        ("from engine import Engine", {*WIRE, "requests", "structlog", "msgspec", "rich"}),
        ("import engine.client", {"requests", "structlog", "msgspec", "rich", "engine.server"}),
        ("import engine.aio", {"requests", "structlog", "msgspec", "rich", "engine.server"}),
        ("import engine.cli.app", {*WIRE, "requests", "structlog", "msgspec", "rich"}),
        (
            "import registry_service.commands",
            {*WIRE, "requests", "rich", "registry_service.store", "registry_service.keychain"},
        ),
        ("import registry_service.keychain", {"engine", "requests", "rich", *WIRE}),
        ("import registry_service.reference", {"engine", "requests", *WIRE}),
    ],
)
def test_what_an_import_does_not_load(statement: str, unwanted: set[str]) -> None:
    script = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert unwanted.isdisjoint(done.stdout.split())


def _standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names
