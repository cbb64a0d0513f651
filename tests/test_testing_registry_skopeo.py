"""A real client, skopeo, pushes to the test registry and pulls from it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Literal

import pytest
import trustme
from support_services import require

from registry_service.testing import Registry, TLSFiles
from registry_service.testing.images import push_image, random_image, random_index

CREDENTIALS = "ann:secret"
USERS = {"ann": "secret"}


@pytest.fixture
def skopeo(tmp_path: Path) -> Path:
    """The program, with no credentials of the machine's in reach."""
    return Path(require("skopeo"))


def run(skopeo: Path, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [str(skopeo), "--insecure-policy", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(home)},
    )


def worked(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("auth", [None, "basic", "token"])
@pytest.mark.parametrize("kept", ["memory", "directory"])
def test_an_image_goes_out_and_comes_back_the_same(
    skopeo: Path, tmp_path: Path, auth: Literal["basic", "token"] | None, kept: str
) -> None:
    image = random_image(11, layers=3, layer_size=200_000)
    root = tmp_path / "content" if kept == "directory" else None
    users = USERS if auth else None
    with Registry(root, auth=auth, users=users) as registry:
        push_image(registry, "from/app", "1.0", image)
        layout = f"oci:{tmp_path}/layout:app"
        source = ["--src-tls-verify=false", *(["--src-creds", CREDENTIALS] if auth else [])]
        target = ["--dest-tls-verify=false", *(["--dest-creds", CREDENTIALS] if auth else [])]
        worked(
            run(skopeo, tmp_path, "copy", *source, f"docker://{registry.host}/from/app:1.0", layout)
        )
        worked(run(skopeo, tmp_path, "copy", *target, layout, f"docker://{registry.host}/to/app:2"))
        found = registry.manifest("to/app", "2")
        assert found is not None
        assert found.raw == image.manifest
        assert all(registry.blob("to/app", of) == data for of, data in image.blobs.items())
        assert registry.open_uploads == 0


def test_an_index_goes_through_whole(skopeo: Path, tmp_path: Path) -> None:
    index = random_index(12)
    with Registry() as registry:
        push_image(registry, "from/app", "1.0", index)
        flags = ["--all", "--src-tls-verify=false", "--dest-tls-verify=false"]
        source, target = f"{registry.host}/from/app:1.0", f"{registry.host}/to/app:1.0"
        worked(run(skopeo, tmp_path, "copy", *flags, f"docker://{source}", f"docker://{target}"))
        found = registry.manifest("to/app", "1.0")
        assert found is not None
        assert found.digest == index.digest


def test_tls_with_its_own_authority(skopeo: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    authority.cert_pem.write_to_path(trusted / "ca.crt")
    files = TLSFiles(cert=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    image = random_image(13)
    with Registry(tls=files, users=USERS, auth="token") as registry:
        push_image(registry, "app", "1", image)
        source, layout = f"docker://{registry.host}/app:1", f"oci:{tmp_path}/layout:app"
        known = ["--src-cert-dir", str(trusted), "--src-creds", CREDENTIALS]
        worked(run(skopeo, tmp_path, "copy", *known, source, layout))
        unknown = run(skopeo, tmp_path, "copy", "--src-creds", CREDENTIALS, source, layout)
        assert unknown.returncode != 0
        assert "x509" in unknown.stderr


@pytest.mark.parametrize("auth", ["basic", "token"])
def test_wrong_credentials_and_none_are_refused(
    skopeo: Path, tmp_path: Path, auth: Literal["basic", "token"]
) -> None:
    with Registry(users=USERS, auth=auth) as registry:
        push_image(registry, "app", "1", random_image(1))
        target = f"docker://{registry.host}/app:1"
        for credentials in (["--creds", "ann:wrong"], ["--no-creds"]):
            done = run(skopeo, tmp_path, "inspect", "--tls-verify=false", *credentials, target)
            assert done.returncode != 0
            assert "unauthorized" in done.stderr or "authentication required" in done.stderr


def test_tags_by_pages_and_deleting(skopeo: Path, tmp_path: Path) -> None:
    with Registry(page_size=2) as registry:
        for tag in ("a", "b", "c", "d", "e"):
            push_image(registry, "app", tag, random_image(1))
        where = f"docker://{registry.host}/app"
        listed = worked(run(skopeo, tmp_path, "list-tags", "--tls-verify=false", where))
        assert json.loads(listed)["Tags"] == ["a", "b", "c", "d", "e"]
        worked(run(skopeo, tmp_path, "delete", "--tls-verify=false", f"{where}:a"))
        assert registry.tags("app") == []


@pytest.mark.parametrize("value", ["", "0", "false"])
def test_a_missing_program_skips_where_people_work(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("CI", value)
    with pytest.raises(pytest.skip.Exception, match="no-such-program is not installed"):
        require("no-such-program")


def test_a_missing_program_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-program is not installed"):
        require("no-such-program")
