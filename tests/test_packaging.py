"""What is installed: the wheel's content and metadata, its commands in an empty folder, and the versions it accepts."""

from __future__ import annotations

import email
import os
import re
import shutil
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
from tests.helpers import warm_processes
from tests.helpers.waiting import GIVE_UP_S

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONSTRAINTS = ("constraints.txt", "constraints-lowest.txt")


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

    def start(self, *command: str, output: Path, **environment: str) -> subprocess.Popen[bytes]:
        """Start a command of the environment, which writes to a file."""
        with output.open("wb") as file:
            return subprocess.Popen(
                [self.bin / command[0], *command[1:]],
                cwd=self.folder,
                env=self.environment | environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def run(self, *command: str, **environment: str) -> str:
        """Run a command of the environment to its end and return what it prints."""
        output = self.folder.parent / "output"
        process = self.start(*command, output=output, **environment)
        assert process.wait(GIVE_UP_S) == 0, output.read_text()
        return output.read_text()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The wheel in an environment without the repository."""
    home = Path(tempfile.mkdtemp(prefix="sdb-"))
    yield Installation(tmp_path_factory.mktemp("installed"), wheel, home)
    EmbeddedServer.at(home).stop()
    shutil.rmtree(home, ignore_errors=True)


def answers(server: warm_processes.Process, url: str) -> bool:
    """Wait until the URL answers or the server ends, stop the server, and return whether it answered."""
    answered = False
    deadline = time.monotonic() + GIVE_UP_S
    while not answered and server.poll() is None and time.monotonic() < deadline:
        try:
            answered = requests.get(url, timeout=GIVE_UP_S).status_code == 200
        except requests.ConnectionError:
            time.sleep(0.1)
    server.terminate()
    server.wait(GIVE_UP_S)
    return answered


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
def test_installed_package_serves_its_own_page(
    installed: Installation, settings: Settings, tmp_path: Path, options: list[str]
) -> None:
    assert settings.database_url is not None
    port = free_port()
    log = tmp_path / "log"
    server = installed.start(
        *("searchdb", "serve", f"--port={port}", *options),
        output=log,
        DATABASE_URL=settings.database_url.get_secret_value(),
    )
    assert answers(server, f"http://127.0.0.1:{port}/healthz"), log.read_text()


@pytest.mark.slow
def test_gunicorn_takes_the_configuration_of_the_wheel(installed: Installation, settings: Settings) -> None:
    """It imports both the configuration and the application that this names; the test above runs them."""
    assert settings.database_url is not None
    command = ["python", "-m", "gunicorn", "--config=python:searchdb.web.ops.serving", "--check-config"]
    installed.run(*command, DATABASE_URL=settings.database_url.get_secret_value())


DEMO = """
from functools import partial
from searchdb.cli import main
from searchdb.demo import album

album.draw_album = partial(album.draw_album, count=30)
main()
"""
"""The demo with few of its images."""


@pytest.mark.slow
def test_installed_package_runs_the_demo(installed: Installation) -> None:
    assert "Ranked results for: a red car" in installed.run("python", "-c", DEMO, "demo", "--no-serve")


# --- The repository's own page --------------------------------------------------------------------


@pytest.mark.slow
def test_repository_serves_its_own_page(settings: Settings, tmp_path: Path) -> None:
    """A `web` in the working directory, which is the first on the path, is not taken for the repository's."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "__init__.py").write_text("raise RuntimeError('another web')\n")
    assert settings.database_url is not None
    port = free_port()
    variables = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "SEARCHDB_HOME": str(settings.home),
        "SEARCHDB_MODEL": "demo",
    }
    log = tmp_path / "log"
    with log.open("w") as stderr:
        server = warm_processes.start(
            ["-m", "searchdb", "serve", f"--port={port}"], cwd=tmp_path, env=os.environ | variables, stderr=stderr
        )
    assert answers(server, f"http://127.0.0.1:{port}/healthz"), log.read_text()


def test_a_taken_port_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = warm_processes.run(["-m", "searchdb", "serve", f"--port={port}"], timeout=GIVE_UP_S)
    assert ended.returncode == 1
    assert ended.stderr == f"Error: port {port} is taken: choose another with --port\n"


def test_an_unknown_host_is_one_line() -> None:
    ended = warm_processes.run(["-m", "searchdb", "serve", "--host=name.invalid"], timeout=GIVE_UP_S)
    assert ended.returncode == 1
    assert re.fullmatch(r"Error: cannot listen on name\.invalid port 5000: .*\n", ended.stderr)
