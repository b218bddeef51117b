"""Dependencies: lower and upper bounds, and none with a known vulnerability."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
ALL = [
    Requirement(text)
    for text in [*PROJECT["dependencies"], *(text for extra in EXTRAS.values() for text in extra)]
]

MENDED = {
    "CVE-2024-52303": ("aiohttp", "3.10.11"),
    "CVE-2025-53643": ("aiohttp", "3.12.14"),
    "CVE-2025-69223": ("aiohttp", "3.13.3"),
    "CVE-2025-69229": ("aiohttp", "3.13.3"),
    "CVE-2026-22815": ("aiohttp", "3.13.4"),
    "CVE-2026-34525": ("aiohttp", "3.13.4"),
    "CVE-2026-54273": ("aiohttp", "3.14.1"),
    "CVE-2026-54277": ("aiohttp", "3.14.1"),
    "CVE-2026-54278": ("aiohttp", "3.14.1"),
    "CVE-2026-69243": ("aiohttp", "3.14.2"),
    "CVE-2026-32597": ("PyJWT", "2.12.0"),
    "CVE-2026-48526": ("PyJWT", "2.13.0"),
}
"""Advisories that concern this server, and the versions that fixed them."""


def lowest(requirement: Requirement) -> Version | None:
    return next((Version(each.version) for each in requirement.specifier if each.operator == ">="), None)


@pytest.mark.parametrize("advisory", MENDED)
def test_no_vulnerable_version_is_allowed(advisory: str) -> None:
    """The lower bound is a fixed version."""
    name, mended = MENDED[advisory]
    floors = [lowest(each) for each in ALL if each.name == name]
    assert floors
    assert all(floor is not None and floor >= Version(mended) for floor in floors)


@pytest.mark.parametrize("requirement", [each for each in ALL if each.name != "sse-broadcast"], ids=str)
def test_every_dependency_has_both_bounds(requirement: Requirement) -> None:
    """The lower one is what is needed, the upper one what was not tried."""
    assert {each.operator for each in requirement.specifier} == {">=", "<"}


def test_npm_packages_are_pinned() -> None:
    """Each has one version, and the lock file has its hash for any registry."""
    folder = ROOT / "tests" / "clients"
    asked = json.loads((folder / "package.json").read_text())["dependencies"]
    lock = (folder / "package-lock.json").read_text()
    found = json.loads(lock)["packages"]
    assert "://" not in lock
    for name, version in asked.items():
        exact = re.fullmatch(r"(?:npm:[a-z]+@)?(\d+\.\d+\.\d+)", version)
        assert exact is not None
        assert found[f"node_modules/{name}"]["version"] == exact[1]
    assert all(package["integrity"].startswith("sha512-") for path, package in found.items() if path)
