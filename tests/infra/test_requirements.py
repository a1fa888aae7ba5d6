"""The hash-locked set of the images: the tested versions, every archive by its hash, tied to no package index."""

import re
import tomllib

from tasks.runtime.imports import ROOT

LOCK = (ROOT / "infra/requirements.lock").read_text()
PINS = re.compile(r"^([\w.-]+)==([^\s;\\]+)", re.M)
OF_THE_MACHINE = re.compile(r"torch|triton|nvidia-.*|cuda-.*")
"""One build for each kind of machine: the image names torch in a line of its own, which brings the rest."""
UNPINNED = {"setuptools"}
"""Builds the project inside an image; every environment has one."""


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, str]:
    return {plain(name): version for name, version in PINS.findall(text)}


def test_the_lock_holds_the_tested_versions():
    locked, tested = pins(LOCK), pins((ROOT / "infra/constraints.txt").read_text())
    assert locked.keys() - tested.keys() == UNPINNED
    assert {name: version for name, version in locked.items() if tested.get(name, version) != version} == {}


def test_every_dependency_of_the_project_is_locked():
    body = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*body["dependencies"], *body["optional-dependencies"]["deepspeed"]]
    names = {plain(re.match(r"[\w.-]+", requirement)[0]) for requirement in asked}
    assert names - pins(LOCK).keys() == {"torch"}


def test_every_archive_has_a_hash():
    entries = re.split(r"^(?=[\w.-]+==)", LOCK.partition("\n\n")[0].split("\n", 2)[2], flags=re.M)
    assert len([entry for entry in entries if entry]) == len(pins(LOCK))
    for entry in filter(None, entries):
        assert re.fullmatch(r"\S+==[^\s;]+( ; .+)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n?", entry), entry


def test_nothing_of_one_machine_or_index_is_in_it():
    assert not [name for name in pins(LOCK) if OF_THE_MACHINE.fullmatch(name)]
    assert "://" not in LOCK
    assert "--index" not in LOCK


def test_both_images_install_from_it_and_by_hash_alone():
    targets = re.split(r"^FROM ", (ROOT / "infra/Dockerfile").read_text(), flags=re.M)[1:]
    for target in targets:
        assert "--no-deps --require-hashes --requirement infra/requirements.lock" in target
        installs = re.findall(r"pip install ([^&\n]+(?:\\\n[^&\n]+)*)", target)
        assert all("--no-deps" in install or "'^torch=='" in install for install in installs), installs
