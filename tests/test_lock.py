"""pyproject.toml, the lock, environment.yml and the Makefile hold together."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import ROOT

LOCK = (ROOT / "requirements.txt").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def locked() -> list[tuple[Requirement, list[str]]]:
    """Each entry of the lock with its hashes."""
    entries = re.findall(r"^([a-zA-Z0-9].*?)(?: \\)?\n((?:    --hash=\S+(?: \\)?\n)*)", LOCK, flags=re.M)
    return [(Requirement(line), re.findall(r"--hash=(\S+)", hashes)) for line, hashes in entries]


def extras() -> dict[str, list[str]]:
    return PROJECT["optional-dependencies"]


def test_every_entry_of_the_lock_is_one_version_with_hashes() -> None:
    assert len(locked()) > 50
    for requirement, hashes in locked():
        (only,) = requirement.specifier
        assert only.operator == "==" and "*" not in only.version, requirement
        assert requirement.url is None
        assert hashes, f"{requirement} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes), requirement


def test_the_lock_names_no_index_and_no_address() -> None:
    assert "://" not in LOCK
    assert not re.search(r"^\s*-(-\w*(index|host|links)|[if] )", LOCK, flags=re.M)
    assert "make lock" in "\n".join(LOCK.splitlines()[:3])


@pytest.mark.parametrize("name", ["dependencies", *extras()])
def test_the_lock_satisfies_pyproject(name: str) -> None:
    wanted = PROJECT["dependencies"] if name == "dependencies" else extras()[name]
    versions: dict[str, list[Version]] = {}
    for requirement, _ in locked():
        versions.setdefault(canonicalize_name(requirement.name), []).append(
            Version(next(iter(requirement.specifier)).version)
        )
    for text in wanted:
        requirement = Requirement(text)
        found = versions.get(canonicalize_name(requirement.name), [])
        assert found, f"{requirement.name} is in pyproject.toml and not in the lock: make lock"
        assert all(version in requirement.specifier for version in found), f"the lock misses {text}: make lock"


def test_the_package_asks_for_lower_bounds_only() -> None:
    """A hosted notebook keeps its own torch and numpy."""
    for text in PROJECT["dependencies"]:
        assert [s.operator for s in Requirement(text).specifier] == [">="], text


def test_the_book_tool_is_pinned_to_version_one() -> None:
    assert "jupyter-book==1.0.4.post1" in extras()["book"]


def test_conda_installs_the_same_lock() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.txt"]}
    names = {re.split(r"[<>=]", name)[0] for name in conda}
    assert names == {"python", "pip"}, "whatever is installed besides must come from the lock"


def test_the_python_versions_agree() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert PROJECT["requires-python"] == ">=3.11"
    assert "python>=3.11" in environment["dependencies"][0]
    assert "(3, 11)" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_installed_packages_are_those_of_the_lock() -> None:
    import importlib.metadata

    for requirement, _ in locked():
        if requirement.marker is None or requirement.marker.evaluate():
            found = importlib.metadata.version(requirement.name)
            assert requirement.specifier.contains(found, prereleases=True), f"{requirement.name} {found}: make install"
