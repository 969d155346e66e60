"""What is installed: the wheel's content and metadata, its commands in an empty folder, and the versions it accepts."""

from __future__ import annotations

import email
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest
import requests

import searchdb
from searchdb.config import Settings
from searchdb.db.embedded import EmbeddedServer
from searchdb.db.schema import SCHEMA_REVISION

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONSTRAINTS = ("constraints.txt", "constraints-lowest.txt")
START_S = 300
"""Longest wait for a server: a limit for a hanging test, far above what a busy machine needs."""


# --- The package in this environment --------------------------------------------------------------


def test_public_names_exist_and_are_listed() -> None:
    for name in searchdb.__all__:
        assert getattr(searchdb, name) is not None
        assert name in dir(searchdb)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Picture'"):
        searchdb.Picture  # noqa: B018


def test_version() -> None:
    assert searchdb.__version__ == PROJECT["project"]["version"]
    command = [sys.executable, "-m", "searchdb", "--version"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert searchdb.__version__ in printed.stdout


def test_lower_bounds_are_the_versions_that_ci_tests() -> None:
    pinned = re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints-lowest.txt").read_text(), re.MULTILINE)
    pins = {name.lower().replace("_", "-"): version for name, version in pinned}
    for requirement in PROJECT["project"]["dependencies"]:
        match = re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", requirement)
        assert match, requirement
        name, bound = match[1], match[2]
        if name != "torch":  # tested at one version only, the one in constraints.txt
            assert re.fullmatch(rf"{re.escape(bound)}(\.0)*", pins[name]), requirement


def test_lowest_versions_are_tested_with_the_pinned_torch() -> None:
    pins = [re.search(r"^torch==\S+$", (ROOT / name).read_text(), re.MULTILINE) for name in CONSTRAINTS]
    assert len({pin[0] for pin in pins if pin}) == 1
    assert all(pins)


# --- The wheel ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this repository."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, f"--wheel-dir={folder}", str(ROOT)], check=True)
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    """The wheel's metadata; the payload is the description that a package index shows."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


@pytest.mark.slow
def test_wheel_installs_one_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"searchdb"}
    assert "searchdb/py.typed" in names
    for folder in ("web", "migrations"):
        here = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()}
        assert here
        assert {f"searchdb/{path}" for path in here if "__pycache__" not in path.parts} <= set(names)
    assert not any(name.endswith(".pyc") for name in names)


@pytest.mark.slow
def test_links_of_the_description_work_on_a_package_index(metadata: Message) -> None:
    text = str(metadata.get_payload())
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert targets
    assert all(target.startswith(("https://", "http://", "#")) for target in targets)


@pytest.mark.slow
def test_metadata(metadata: Message) -> None:
    assert "Typing :: Typed" in (metadata.get_all("Classifier") or [])
    assert metadata["Keywords"]
    assert metadata.get_all("Project-URL")


# --- The wheel, installed -------------------------------------------------------------------------


class Installation:
    """A virtual environment with the wheel, in an empty working directory beside other people's `web`."""

    def __init__(self, folder: Path, wheel: Path, home: Path) -> None:
        self.home = home
        venv.create(folder / "venv", with_pip=False)
        self.bin = folder / "venv" / "bin"
        [site_packages] = (folder / "venv" / "lib").glob("python*/site-packages")
        # The dependencies come from this environment: as a folder, so that its .pth files, one of which may be the
        # editable install of this repository, are not read.
        [ours] = [path for path in sys.path if path.startswith(sys.prefix) and path.endswith("site-packages")]
        (site_packages / "dependencies.pth").write_text(f"{ours}\n")
        install = [sys.executable, "-m", "pip", f"--python={self.bin / 'python'}", "install", "--quiet", "--no-index"]
        subprocess.run([*install, "--no-deps", "--ignore-installed", str(wheel)], check=True)
        (site_packages / "web.py").write_text("raise RuntimeError('the web of another distribution')\n")
        self.folder = folder / "empty"
        (self.folder / "web").mkdir(parents=True)
        (self.folder / "web" / "__init__.py").write_text("raise RuntimeError('the web of the working directory')\n")
        self.environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.environment |= {"SEARCHDB_HOME": str(home), "SEARCHDB_MODEL": "demo"}

    def popen(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command of the environment."""
        return subprocess.Popen(
            [self.bin / command[0], *command[1:]],
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str, **environment: str) -> str:
        """Run a command of the environment to its end and return what it prints."""
        process = self.popen(*command, **environment)
        printed, _ = process.communicate()
        assert process.returncode == 0, printed
        return printed


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The wheel in an environment without the repository."""
    home = Path(tempfile.mkdtemp(prefix="sdb-"))
    yield Installation(tmp_path_factory.mktemp("installed"), wheel, home)
    EmbeddedServer.at(home).stop()
    shutil.rmtree(home, ignore_errors=True)


def answers(process: subprocess.Popen[str], url: str) -> str:
    """Wait until the URL answers, stop the server, and return what it answered."""
    text = None
    deadline = time.monotonic() + START_S
    while text is None and process.poll() is None and time.monotonic() < deadline:
        try:
            response = requests.get(url, timeout=START_S)
            text = response.text if response.status_code == 200 else None
        except requests.ConnectionError:
            time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=START_S)
    assert text is not None, printed
    return text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_installed_package_is_the_one_in_the_wheel(installed: Installation) -> None:
    assert searchdb.__version__ in installed.run("searchdb", "--version")
    printed = installed.run("python", "-c", "import searchdb; print(searchdb.__file__)").strip()
    assert Path(printed).is_relative_to(installed.bin.parent)


@pytest.mark.slow
def test_installed_package_migrates(installed: Installation, empty_settings: Settings) -> None:
    assert empty_settings.database_url is not None
    url = empty_settings.database_url.get_secret_value()
    installed.run("searchdb", "db", "migrate", DATABASE_URL=url)
    assert SCHEMA_REVISION in installed.run("searchdb", "db", "status", DATABASE_URL=url)


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--debug"]], ids=["gunicorn", "debug"])
def test_installed_package_serves_its_own_page(installed: Installation, settings: Settings, options: list[str]) -> None:
    assert settings.database_url is not None
    port = free_port()
    server = installed.popen(
        "searchdb", "serve", f"--port={port}", *options, DATABASE_URL=settings.database_url.get_secret_value()
    )
    assert answers(server, f"http://127.0.0.1:{port}/healthz")


@pytest.mark.slow
def test_gunicorn_takes_the_configuration_of_the_wheel(installed: Installation, settings: Settings) -> None:
    assert settings.database_url is not None
    port = free_port()
    command = ["python", "-m", "gunicorn", "--config=python:searchdb.web.ops.serving", f"--bind=127.0.0.1:{port}"]
    server = installed.popen(*command, DATABASE_URL=settings.database_url.get_secret_value())
    assert answers(server, f"http://127.0.0.1:{port}/healthz")


@pytest.mark.slow
def test_installed_package_runs_the_demo(installed: Installation) -> None:
    assert "Ranked results for: a red car" in installed.run("searchdb", "demo", "--no-serve")


# --- The repository's own page --------------------------------------------------------------------


@pytest.mark.slow
def test_repository_serves_its_own_page(settings: Settings, tmp_path: Path) -> None:
    """A `web` in the working directory or on the path is not taken for the repository's."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "__init__.py").write_text("raise RuntimeError('another web')\n")
    assert settings.database_url is not None
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", "searchdb", "serve", f"--port={port}"],
        cwd=tmp_path,
        env=os.environ
        | {"DATABASE_URL": settings.database_url.get_secret_value(), "SEARCHDB_MODEL": "demo"}
        | {"SEARCHDB_HOME": str(settings.home), "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert answers(server, f"http://127.0.0.1:{port}/healthz")


def test_a_taken_port_is_one_line(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "searchdb", "serve", f"--port={port}"]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == f"Error: port {port} is taken: choose another with --port\n"


def test_an_unknown_host_is_one_line() -> None:
    command = [sys.executable, "-m", "searchdb", "serve", "--host=name.invalid"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert re.fullmatch(r"Error: cannot listen on name\.invalid port 5000: .*\n", ended.stderr)
