"""Docker's and Debian's packaging: what can be said of the files. `make test-docker` and `make
test-deb` build the packages, and install them in bare machines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
from conftest import ROOT
from packaging.requirements import Requirement

pytestmark = pytest.mark.operations

DOCKER = ROOT / "packaging/docker"
DEBIAN = ROOT / "packaging/debian"
REQUIRES = json.loads((ROOT / "META.json").read_text())["prereqs"]["runtime"]["requires"]


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess:
    """Runs a command of build/venv."""
    return subprocess.run(
        [Path(sys.executable).with_name(name), *arguments], capture_output=True, text=True
    )


@pytest.mark.parametrize("folder", ["packaging/docker", "tests/bare/docker"])
def test_dockerfile(folder):
    found = tool("hadolint", "--no-color", ROOT / folder / "Dockerfile")
    assert (found.returncode, found.stdout) == (0, "")


def test_a_bad_dockerfile_is_found(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM debian:trixie\nRUN cd /tmp && apt-get install git\n")
    found = tool("hadolint", "--no-color", tmp_path / "Dockerfile")
    assert found.returncode == 1
    assert "DL3008" in found.stdout


def fits_schema(compose_file: Path) -> bool:
    return (
        tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", compose_file).returncode
        == 0
    )


def test_compose_file(tmp_path):
    compose = DOCKER / "compose.yaml"
    assert fits_schema(compose)
    broken = tmp_path / "compose.yaml"
    broken.write_text(compose.read_text().replace("depends_on:", "depend_on:"))
    assert not fits_schema(broken)


def test_what_the_images_copy_is_there():
    """And .dockerignore lets it pass."""
    dockerfile = (DOCKER / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.MULTILINE)
    paths = set(" ".join(copied).split()) - {"."}
    passed = {
        line[1:]
        for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert [path for path in passed | paths if not (ROOT / path).exists()] == []
    assert [p for p in paths if not {p, *map(str, Path(p).parents)} & passed] == []
    assert len(paths) > 5


def test_what_the_loader_s_image_installs_is_what_the_loader_asks_for():
    pinned = dict(
        line.split("==")
        for line in (DOCKER / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(text) for text in project["dependencies"]]
    assert [str(one) for one in wanted if pinned[one.name] not in one.specifier] == []


def test_debian_s_packages_need_what_the_extension_needs():
    control = (DEBIAN / "control.in").read_text()
    assert f"postgresql-PGVERSION-pgvector (>= {REQUIRES['vector']})" in control
    assert (DEBIAN / "pgversions").read_text() == f"{REQUIRES['PostgreSQL'].split('.')[0]}+\n"


def test_debian_s_copyright_is_the_licence():
    copyright = re.sub(r"^ \.?", "", (DEBIAN / "copyright").read_text(), flags=re.MULTILINE)
    licence = (ROOT / "LICENSE").read_text().split("\n\n", 2)[2]
    assert licence.strip() in copyright


def test_debian_s_readme_names_the_model_s_directory():
    installed = {line.split()[1] for line in (DEBIAN / "gpt2-model-demo.install").open()}
    readme = (DEBIAN / "README.Debian").read_text()
    assert {f"/{folder}" for folder in installed} == set(
        re.findall(r"gpt2_load_model\('(.*?)'\)", readme)
    )
