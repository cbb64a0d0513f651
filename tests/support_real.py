"""Real parts for tests: Debian's docker-registry, skopeo, umoci; and images made of files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from support_services import require

_PAUSE = threading.Event()


def free_port() -> int:
    """A port of the loopback range that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


@contextlib.contextmanager
def docker_registry(
    root: Path,
    *,
    htpasswd: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    client_ca: Path | None = None,
    extra: Mapping[str, Any] | None = None,
    deletes: bool = True,
) -> Iterator[str]:
    """Debian's registry on a port of its own; yields ``127.0.0.1:PORT``. ``extra`` is more of
    its configuration."""
    program = require("docker-registry")
    port = free_port()
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(root)}, "delete": {"enabled": deletes}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    config.update(extra or {})
    if htpasswd is not None:
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(htpasswd)}}
    if certificate is not None:
        config["http"]["tls"] = {"certificate": str(certificate), "key": str(key)}
        if client_ca is not None:  # nobody without a certificate of its is let in
            config["http"]["tls"]["clientcas"] = [str(client_ca)]
    root.mkdir(parents=True, exist_ok=True)
    settings = root.parent / f"{root.name}.yml"
    settings.write_text(json.dumps(config))  # JSON is YAML
    with (root.parent / f"{root.name}.log").open("wb") as log:
        process = subprocess.Popen([program, "serve", settings], stdout=log, stderr=log)
    try:
        scheme = "http" if certificate is None else "https"
        _wait_for(process, f"{scheme}://127.0.0.1:{port}/v2/", port)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(process: subprocess.Popen[bytes], url: str, port: int) -> None:
    for _ in range(1000):
        assert process.poll() is None, "docker-registry did not start; see its log"
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            _PAUSE.wait(0.01)
    raise AssertionError(f"{url} does not answer")


def skopeo(*args: str | Path) -> str:
    """Run skopeo, whose standard output is returned."""
    program = require("skopeo")
    done = subprocess.run(
        [program, "--insecure-policy", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def umoci(*args: str | Path) -> str:
    program = require("umoci")
    done = subprocess.run(
        [program, *map(str, args)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def make_layout(layout: Path, trees: Sequence[Path], *, architecture: str = "amd64") -> None:
    """An OCI layout with the image ``latest``: a layer for each tree of real files."""
    umoci("init", "--layout", layout)
    umoci("new", "--image", f"{layout}:latest")
    umoci("config", "--image", f"{layout}:latest", "--architecture", architecture, "--os", "linux")
    for tree in trees:
        umoci("insert", "--image", f"{layout}:latest", tree, f"/{tree.name}")


def blobs(layout: Path) -> dict[str, int]:
    """The blobs of a layout whose bytes are what their names say: digest to size.

    A blob that is not what its name says fails the test.
    """
    found = {}
    for path in sorted((layout / "blobs" / "sha256").iterdir()):
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        assert actual == path.name, f"{path} has the digest {actual}"
        found[f"sha256:{actual}"] = path.stat().st_size
    return found


def copy_tree(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, symlinks=True)
    return target


def answers(url: str) -> int:
    """The status of a GET, 0 where nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
