"""The test registry as a program of its own."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path

import bcrypt
import pytest
import trustme

from registry_service.testing.v1 import images as v1_images

COMMAND = [sys.executable, "-W", "error", "-m", "registry_service.testing"]
ROOT = Path(__file__).resolve().parent.parent


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The program, and the address that it says it is ready at."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        assert words[:2] == ["registry", "ready"], process.communicate()
        yield process, words[2]
    finally:
        process.kill()
        process.communicate()


def refused(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environment(),
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_that_it_is_ready_and_ends_in_order(number: signal.Signals) -> None:
    with running() as (process, url):
        with urllib.request.urlopen(f"{url}/v2/", timeout=10) as answer:
            assert answer.status == 200
        process.send_signal(number)
        out, errors = process.communicate(timeout=20)
        assert (process.returncode, out, errors) == (0, "", "")


def test_it_takes_all_its_options(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    (tmp_path / "htpasswd").write_text(f"ann:{hashed}\n")
    arguments = [
        "--listen=127.0.0.1:0",
        f"--root={tmp_path / 'content'}",
        f"--htpasswd={tmp_path / 'htpasswd'}",
        "--token",
        "--anonymous-pull",
        "--access=ann=pull:public/*",
        f"--tls-cert={tmp_path / 'cert.pem'}",
        f"--tls-key={tmp_path / 'key.pem'}",
        f"--client-ca={tmp_path / 'ca.pem'}",
        "--fault=status:code=503,path=/never/",
        "--verbose",
    ]
    with running(*arguments) as (process, url):
        assert url.startswith("https://127.0.0.1:")
        assert (tmp_path / "content" / "blobs").is_dir()
        process.terminate()
        assert process.wait(20) == 0


def test_a_synthetic_image_and_a_line_for_each_request() -> None:
    with running("--synthetic", "soak/app:1=1MiB,2048", "--verbose") as (process, url):
        with urllib.request.urlopen(f"{url}/v2/soak/app/tags/list", timeout=10) as answer:
            assert answer.read() == b'{"name":"soak/app","tags":["1"]}\n'
        process.terminate()
        _, errors = process.communicate(timeout=20)
        assert "GET /v2/soak/app/tags/list 200" in errors


def test_a_fault_strikes() -> None:
    with (
        running("--fault", "status:code=503,times=1") as (_, url),
        pytest.raises(urllib.error.HTTPError) as caught,
    ):
        urllib.request.urlopen(f"{url}/v2/", timeout=10)
    assert caught.value.code == 503
    caught.value.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--listen", "nowhere"], "HOST:PORT"),
        (["--listen", "127.0.0.1:99999"], "HOST:PORT"),
        (["--fault", "explode"], "no fault 'explode'; there are drop"),
        (["--tls-cert", "x"], "given together"),
        (["--client-ca", "x"], "needs --tls-cert"),
        (["--token"], "needs --htpasswd"),
        (["--anonymous-pull"], "need --htpasswd"),
        (["--access", "nonsense"], "USER=GRANT"),
        (["--access", "ann=read:x"], "ACTIONS:PATTERN"),
        (["--synthetic", "a=1"], "NAME:TAG=SIZE"),
        (["--synthetic", "a:b=much"], "no size"),
        (["--random", "a:b"], "NAME:TAG=LAYERS"),
        (["--random", "a:b=0"], "no number from 1"),
        (["--v1", "v2"], "invalid choice"),
        (["--v1", "standalone", "--deletes", "none"], "--deletes does not go with --v1"),
        (["--v1", "standalone", "--layers-at", "127.0.0.1:9"], "needs --v1 index"),
        (["--layers-at", "127.0.0.1:9"], "needs --v1 index"),
        (["--read-only", "--root", "x"], "--read-only needs --v1 standalone and --root"),
        (["--read-only", "--v1", "standalone"], "--read-only needs --v1 standalone and --root"),
        (
            ["--v1", "index", "--htpasswd", "x", "--anonymous-pull"],
            "does not go with --v1 index",
        ),
        (["--unknown"], "unrecognized arguments"),
    ],
)
def test_wrong_usage_is_2_and_says_why(arguments: list[str], message: str) -> None:
    status, errors = refused(*arguments)
    assert status == 2
    assert message in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--listen", "0.0.0.0:0"], "not a loopback address"),
        (["--htpasswd", "/nonexistent/file"], "/nonexistent/file"),
        (["--tls-cert", "/nonexistent/c", "--tls-key", "/nonexistent/k"], "/nonexistent/c"),
        (["--root", "/dev/null/x"], "/dev/null"),
        (["--v1", "standalone", "--read-only", "--root", "/nonexistent"], "/nonexistent"),
    ],
)
def test_what_cannot_be_served_is_1_and_says_why(arguments: list[str], message: str) -> None:
    status, errors = refused(*arguments)
    assert status == 1
    assert errors.startswith("registry: ")
    assert message in errors
    assert "Traceback" not in errors


def waited(condition: Callable[[], bool]) -> None:
    """Return once it is so, within 30 seconds."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def fetched(url: str, **headers: str) -> tuple[bytes, Message]:
    names = {key.replace("_", "-"): value for key, value in headers.items()}
    with urllib.request.urlopen(urllib.request.Request(url, headers=names), timeout=20) as answer:
        return answer.read(), answer.headers


def test_a_random_image_is_the_same_again() -> None:
    found = []
    for _ in range(2):
        with running("--random", "test/app:1=3") as (_, url):
            found.append(fetched(f"{url}/v2/test/app/manifests/1")[0])
    assert found[0] == found[1]
    assert len(json.loads(found[0])["layers"]) == 3


def test_a_v1_registry_stands_alone_and_keeps_its_content(tmp_path: Path) -> None:
    arguments = ["--v1", "standalone", "--root", str(tmp_path)]
    with running(*arguments, "--random", "test/app:1=3") as (process, url):
        (image_id,) = json.loads(fetched(f"{url}/v1/repositories/test/app/tags")[0]).values()
        process.terminate()
        assert process.wait(20) == 0
    with running(*arguments, "--synthetic", "test/soak:1=1MiB,2048", "--verbose") as (_, url):
        chain = json.loads(fetched(f"{url}/v1/images/{image_id}/ancestry")[0])
        assert (chain[0], len(chain)) == (image_id, 3)
        (image_id,) = json.loads(fetched(f"{url}/v1/repositories/test/soak/tags")[0]).values()
        body, headers = fetched(f"{url}/v1/images/{image_id}/json")
        assert (json.loads(body)["id"], headers["X-Docker-Size"]) == (image_id, "2048")


def test_a_v1_registry_that_is_killed_is_pushed_to_again(tmp_path: Path) -> None:
    image = v1_images.random_chain(seed=1, length=1).images[0]
    arguments = ["--v1", "standalone", "--root", str(tmp_path)]
    base = f"/v1/images/{image.id}"
    with running(*arguments, "--fault", "stall:after=100,seconds=600,path=/layer") as (
        process,
        url,
    ):
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        connection.request("PUT", f"{base}/json", image.raw)
        assert connection.getresponse().read() == b"true"
        connection.putrequest("PUT", f"{base}/layer")
        connection.putheader("Content-Length", str(len(image.layer)))
        connection.endheaders(image.layer[:200])
        waited(lambda: any(one.stat().st_size == 100 for one in (tmp_path / "uploads").iterdir()))
        process.kill()
        process.wait(20)
        connection.close()
    with running(*arguments) as (_, url):
        assert list((tmp_path / "uploads").iterdir()) == []
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        for part, body, headers in (
            ("json", image.raw, {}),
            ("layer", image.layer, {}),
            ("checksum", None, {"X-Docker-Checksum-Payload": image.checksum}),
        ):
            connection.request("PUT", f"{base}/{part}", body, headers)
            assert connection.getresponse().read() == b"true"
        connection.request("GET", f"{base}/layer")
        assert connection.getresponse().read() == image.layer
        connection.close()


def test_a_v1_registry_may_only_be_read(tmp_path: Path) -> None:
    arguments = ["--v1", "standalone", "--root", str(tmp_path)]
    with running(*arguments, "--random", "test/app:1=2") as (process, _):
        process.terminate()
        assert process.wait(20) == 0
    before = {one: one.stat().st_mtime_ns for one in tmp_path.rglob("*")}
    with running(*arguments, "--read-only") as (_, url):
        body, _ = fetched(f"{url}/v1/repositories/test/app/tags")
        (image_id,) = json.loads(body).values()
        assert fetched(f"{url}/v1/images/{image_id}/layer")[0]
        for method, path in (
            ("PUT", f"images/{image_id}/json"),
            ("DELETE", "repositories/test/app/"),
        ):
            request = urllib.request.Request(f"{url}/v1/{path}", b"{}", method=method)
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request, timeout=20)
            assert caught.value.code == 405
            assert json.loads(caught.value.read()) == {"error": "This registry is only read"}
    assert {one: one.stat().st_mtime_ns for one in tmp_path.rglob("*")} == before
    assert refused(*arguments, "--read-only", "--random", "test/app:2=1")[0] == 1


def test_a_v1_index_has_a_registry(tmp_path: Path) -> None:
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    (tmp_path / "htpasswd").write_text(f"anna:{hashed}\n")
    arguments = [
        "--v1=index",
        f"--root={tmp_path / 'content'}",
        f"--htpasswd={tmp_path / 'htpasswd'}",
        "--random=anna/app:1=2",
    ]
    with running(*arguments) as (process, url):
        listed, headers = fetched(f"{url}/v1/repositories/anna/app/images", X_Docker_Token="true")
        token, host = f"Token {headers['X-Docker-Token']}", headers["X-Docker-Endpoints"]
        tags = f"http://{host}/v1/repositories/anna/app/tags"
        found, _ = fetched(tags, Authorization=token)
        assert json.loads(found)["1"] in {one["id"] for one in json.loads(listed)}
        with pytest.raises(urllib.error.HTTPError) as caught:
            fetched(tags)
        caught.value.close()
        assert caught.value.code == 401
        credentials = base64.b64encode(b"anna:secret").decode()
        body, _ = fetched(f"{url}/v1/users/", Authorization=f"Basic {credentials}")
        assert body == b'"OK"'
        process.terminate()
        assert process.wait(20) == 0
    assert sorted(one.name for one in (tmp_path / "content").iterdir()) == ["index", "registry"]


def test_the_help_tells_of_every_fault() -> None:
    from registry_service.testing import FaultKind

    done = subprocess.run(
        [*COMMAND, "--help"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env=environment(),
    )
    for kind in FaultKind:
        assert f"\n  {kind.value} " in done.stdout


def test_it_is_told_what_it_lacks() -> None:
    with running("--no-referrers", "--deletes", "none") as (_, url):
        for method, path in (
            ("GET", f"referrers/sha256:{'0' * 64}"),
            ("DELETE", "manifests/latest"),
        ):
            request = urllib.request.Request(f"{url}/v2/test/app/{path}", method=method)
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request, timeout=20)
            assert caught.value.code == (404 if method == "GET" else 405)
            caught.value.close()
