from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_service.errors import PlatformError
from registry_service.platform import Platform

words = st.from_regex(r"[a-z0-9][a-z0-9]{0,5}", fullmatch=True)
platforms = st.builds(
    Platform,
    os=words,
    architecture=words | st.sampled_from(["arm", "arm64", "amd64"]),
    variant=st.just("") | st.sampled_from(["v5", "v6", "v7", "v8", "v2", "power9"]),
    os_version=st.just("") | st.just("10.0.17763.1"),
    os_features=st.lists(st.just("win32k"), max_size=1).map(tuple),
)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("Linux/x86_64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/arm64", "linux/arm64"),
        ("linux/aarch64", "linux/arm64/v8"),
        ("linux/arm64/8", "linux/arm64/v8"),
        ("linux/arm64/v8.0", "linux/arm64/v8"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/arm/7", "linux/arm/v7"),
        ("arm64", "linux/arm64"),
        ("x86_64", "linux/amd64"),
        ("macos/arm64", "darwin/arm64"),
        ("windows(10.0.17763)/amd64", "windows(10.0.17763)/amd64"),
        ("windows(10.0.17763+win32k)/amd64", "windows(10.0.17763+win32k)/amd64"),
        ("windows(+win32k+x)/amd64", "windows(+win32k+x)/amd64"),
        ("linux/i686", "linux/386"),
        ("linux/riscv64", "linux/riscv64"),
    ],
)
def test_names_are_normalised(text: str, normal: str) -> None:
    assert str(Platform.parse(text)) == normal


@given(platforms)
def test_text_and_json_round_trip(platform: Platform) -> None:
    assert Platform.from_json(platform.to_json()) == platform
    normal = platform.normalised()
    assert normal.normalised() == normal
    assert str(Platform.parse(str(normal))) == str(normal)


@pytest.mark.parametrize(
    "text", ["", "linux", "linux/", "/amd64", "a/b/c/d", "li nux/arm", "a(b/c", "a()/b", "a(+)/b"]
)
def test_malformed_platforms_are_refused(text: str) -> None:
    with pytest.raises(PlatformError, match=r"platform"):
        Platform.parse(text)


def test_this_machine_has_a_platform_that_matches_itself() -> None:
    here = Platform.here()
    assert here.os and here.architecture
    assert here.matches(here)


@pytest.mark.parametrize(
    ("wanted", "offered", "fits"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/amd64", "linux/386", False),
        ("linux/amd64", "windows/amd64", False),
        ("linux/amd64/v3", "linux/amd64", True),
        ("linux/amd64", "linux/amd64/v3", False),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/arm64", "linux/arm64/v9", False),
        ("linux/arm64/v9", "linux/arm64", True),
        ("linux/arm64", "linux/arm/v7", False),
        ("linux/arm/v7", "linux/arm/v6", True),
        ("linux/arm/v7", "linux/arm/v5", True),
        ("linux/arm/v6", "linux/arm/v7", False),
        ("linux/arm", "linux/arm/v7", True),
        ("linux/arm/v6", "linux/arm", True),
        ("linux/ppc64le", "linux/ppc64le", True),
        ("linux/ppc64le/power9", "linux/ppc64le/power8", False),
        ("linux/ppc64le/power9", "linux/ppc64le", True),
        ("windows(10.0.17763.5)/amd64", "windows(10.0.17763.9)/amd64", True),
        ("windows(10.0.17763)/amd64", "windows(10.0.20348)/amd64", False),
        ("windows/amd64", "windows(10.0.20348)/amd64", True),
        ("windows(+win32k)/amd64", "windows/amd64", True),
        ("windows(+win32k)/amd64", "windows(+win32k)/amd64", True),
        ("windows(+win32k)/amd64", "windows(+another)/amd64", False),
    ],
)
def test_matching(wanted: str, offered: str, fits: bool) -> None:
    assert Platform.parse(wanted).matches(Platform.parse(offered)) is fits


@given(platforms)
def test_every_platform_serves_itself(platform: Platform) -> None:
    assert platform.matches(platform)


def test_the_highest_variant_that_fits_is_chosen() -> None:
    offered = [Platform.parse(f"linux/{arch}") for arch in ("arm/v5", "arm/v6", "arm/v8", "amd64")]
    assert Platform.choose(Platform.parse("linux/arm/v7"), offered) == 1
    assert Platform.choose(Platform.parse("linux/arm/v8"), offered) == 2
    assert Platform.choose(Platform.parse("linux/s390x"), offered) is None


def test_the_first_of_equals_is_chosen() -> None:
    amd64 = Platform.parse("linux/amd64")
    assert Platform.choose(amd64, [None, amd64, amd64]) == 1


def test_fewest_special_features_win() -> None:
    plain = Platform(os="windows", architecture="amd64")
    special = Platform(os="windows", architecture="amd64", os_features=("win32k",))
    assert Platform.choose(plain, [special, plain]) == 1
    assert Platform.choose(plain, [special]) == 0
    assert Platform.choose(Platform.parse("windows(+win32k)/amd64"), [plain, special]) == 1


def test_without_a_platform_only_a_single_candidate_is_taken() -> None:
    amd64 = Platform.parse("linux/amd64")
    assert Platform.choose(amd64, [None]) == 0
    assert Platform.choose(amd64, [None, None]) is None
    assert Platform.choose(amd64, []) is None


def test_attestations_are_never_chosen() -> None:
    unknown = Platform(os="unknown", architecture="unknown")
    assert Platform.choose(Platform.parse("linux/amd64"), [unknown]) is None


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"os": 1, "architecture": "x"}, "os"),
        ({"os": "linux", "architecture": ["x"]}, "architecture"),
        ({"os": "linux", "architecture": "x", "os.features": "win32k"}, "os.features"),
        ({"os": "linux", "architecture": "x", "os.version": 10}, "os.version"),
    ],
)
def test_json_of_another_shape_names_the_field(value: dict[str, object], field: str) -> None:
    with pytest.raises(PlatformError, match=field):
        Platform.from_json(value)


def test_an_empty_platform_is_none() -> None:
    assert Platform.from_json({"os": "", "architecture": ""}) is None
