"""Checks the Docker files without a Docker engine: structure, secrets, commands and settings."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click import Command, Context, Group

from searchdb.cli import cli
from searchdb.config import Settings, variable_of
from searchdb.media.fetch import DEADLINE_S

ROOT = Path(__file__).parent.parent
SETTINGS = set(map(variable_of, Settings.model_fields))
NOT_OURS = {"PGPASSWORD", "HF_HOME", "PATH", "PYTHONUNBUFFERED", "WEB_CONCURRENCY", "OMP_NUM_THREADS"}
OURS = ("migrate", "ingest", "worker", "watch", "web")
"""Services that run searchdb."""


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text().replace("\\\n", " ")


@pytest.fixture(scope="module")
def last_stage(dockerfile: str) -> str:
    return dockerfile[dockerfile.rindex("\nFROM ") :]


# --- docker-compose.yml ---------------------------------------------------------------------------


def test_services(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"db", *OURS}


@pytest.mark.parametrize("name", ["db", "worker", "watch", "web"])
def test_long_running_services_restart(compose: dict[str, Any], name: str) -> None:
    assert compose["services"][name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", ["db", "web"])
def test_servers_have_a_health_check(compose: dict[str, Any], name: str) -> None:
    assert compose["services"][name]["healthcheck"]["test"][0] == "CMD"


def test_start_order(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["migrate"]["depends_on"] == {"db": {"condition": "service_healthy"}}
    for name in ("ingest", "worker", "watch", "web"):
        assert services[name]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}


def test_other_services_disable_the_web_health_check(compose: dict[str, Any]) -> None:
    for name in ("migrate", "ingest", "worker", "watch"):
        assert compose["services"][name]["healthcheck"] == {"disable": True}


def test_no_password_in_the_file(compose: dict[str, Any]) -> None:
    required = "${POSTGRES_PASSWORD:?set POSTGRES_PASSWORD}"
    for service in compose["services"].values():
        for name, value in service["environment"].items():
            if "PASSWORD" in name:
                assert value == required
            if "TOKEN" in name:
                assert value is None, "passed on from the shell or .env"
            assert not re.search(r"//[^/@]*:[^/@]*@", value or ""), "a URL with a password"


def test_ports_listen_on_this_machine_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert "ports" not in compose["services"]["db"]


def test_files_are_mounted_where_they_were_queued(compose: dict[str, Any]) -> None:
    services = compose["services"]
    [photos] = services["ingest"]["volumes"]
    assert photos.endswith(":/photos:ro")
    for name in ("ingest", "watch"):
        assert "/photos" in services[name]["command"]
    for name in ("worker", "watch", "web"):
        assert photos in services[name]["volumes"]


def test_workers_share_the_host_name_of_the_queuing_container(compose: dict[str, Any]) -> None:
    """The queue of files is named after the host, and by default each container has a different host name."""
    services = compose["services"]
    assert len({services[name]["hostname"] for name in ("ingest", "watch", "worker")}) == 1


def test_the_folder_is_only_followed_on_request(compose: dict[str, Any]) -> None:
    assert [name for name, service in compose["services"].items() if "profiles" in service] == ["watch"]


@pytest.mark.parametrize("name", ["worker", "watch"])
def test_a_stopped_worker_has_time_to_finish(compose: dict[str, Any], name: str) -> None:
    minutes = re.fullmatch(r"(\d+)m", compose["services"][name]["stop_grace_period"])
    assert minutes is not None
    assert int(minutes[1]) * 60 > DEADLINE_S


def test_a_stopped_page_has_time_to_finish_requests(compose: dict[str, Any]) -> None:
    seconds = re.fullmatch(r"(\d+)s", compose["services"]["web"]["stop_grace_period"])
    granted = re.search(r"^graceful_timeout = (\d+)$", (ROOT / "web" / "ops" / "serving.py").read_text(), re.MULTILINE)
    assert seconds is not None
    assert granted is not None
    assert int(seconds[1]) > int(granted[1])


def test_volumes_are_declared_and_used(compose: dict[str, Any]) -> None:
    mounted = [volume for service in compose["services"].values() for volume in service.get("volumes", [])]
    sources = {re.sub(r"^\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[0] for volume in mounted}
    named = {source for source in sources if not source.startswith(("/", "."))}
    assert named == set(compose["volumes"])
    assert "database:/var/lib/postgresql" in compose["services"]["db"]["volumes"]


def test_every_setting_exists(compose: dict[str, Any], dockerfile: str) -> None:
    names = {
        name
        for service, definition in compose["services"].items()
        if service != "db"
        for name in definition["environment"]
    }
    names |= set(re.findall(r"\b([A-Z][A-Z_]+)=", " ".join(re.findall(r"^ENV (.*)", dockerfile, re.MULTILINE))))
    ours = {name for name in names if not name.startswith("PIP_")} - NOT_OURS
    assert ours <= SETTINGS


def test_one_service_builds_the_image(compose: dict[str, Any]) -> None:
    """Parallel builds of one image name fail."""
    services = compose["services"]
    assert [name for name in OURS if "build" in services[name]] == ["migrate"]
    assert {services[name]["image"] for name in OURS} == {"searchdb"}
    for name in OURS:
        assert services[name]["pull_policy"] == ("missing" if name == "migrate" else "never")
        assert name == "migrate" or "migrate" in services[name]["depends_on"]


def test_every_setting_is_passed_on(compose: dict[str, Any]) -> None:
    for name in OURS:
        environment = compose["services"][name]["environment"]
        passed_on = {variable for variable, value in environment.items() if value is None}
        expected = SETTINGS - {"DATABASE_URL", "SEARCHDB_HOME"}  # the file sets them
        assert passed_on - NOT_OURS == (expected if name == "web" else expected - {"SEARCHDB_API_TOKEN"}), name


def test_models_are_mounted(compose: dict[str, Any], last_stage: str) -> None:
    cache = re.search(r"HF_HOME=(\S+)", last_stage)
    assert cache is not None
    for name in ("worker", "watch", "web"):
        targets = [volume.rsplit("}:", 1)[-1] for volume in compose["services"][name]["volumes"]]
        assert "/models:ro" in targets
        assert cache[1] in targets


def test_every_command_exists(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        words = service.get("command", [])
        if words:
            assert words[0] == "searchdb"
            _parse(words[1:])


def test_compose_accepts_the_file() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed")
    command = [docker, "compose", "--file", str(ROOT / "docker-compose.yml"), "config", "--quiet"]
    without = {name: value for name, value in os.environ.items() if name != "POSTGRES_PASSWORD"}
    given = without | {"POSTGRES_PASSWORD": "p@ss/word"}
    accepted = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
    assert accepted.returncode == 0, accepted.stderr
    refused = subprocess.run(command, env=without, cwd="/", capture_output=True, text=True, check=False)
    assert "set POSTGRES_PASSWORD" in refused.stderr


# --- Dockerfile -----------------------------------------------------------------------------------


def test_image_runs_as_an_unprivileged_user(last_stage: str) -> None:
    users = re.findall(r"^USER (\S+)", last_stage, re.MULTILINE)
    assert users == ["searchdb"]
    assert last_stage.index("\nUSER ") < last_stage.index("\nCMD ")
    assert re.search(r"useradd .*--uid 10001", last_stage)


def test_image_has_a_health_check(last_stage: str) -> None:
    assert re.search(r"^HEALTHCHECK .*/healthz", last_stage, re.MULTILINE)


def test_image_serves_the_page(last_stage: str) -> None:
    command = re.search(r"^CMD (\[.*\])$", last_stage, re.MULTILINE)
    assert command is not None
    program, *words = json.loads(command[1])
    assert program == "searchdb"
    assert words[0] == "serve"
    assert {"--host=0.0.0.0", "--port=8000"} <= set(words)
    _parse(words)


def test_image_installs_the_tested_versions(dockerfile: str) -> None:
    installs = [line for line in dockerfile.splitlines() if "pip install" in line]
    assert installs
    assert all("--constraint constraints.txt" in line for line in installs)


def test_ignore_file_admits_only_what_is_copied(dockerfile: str) -> None:
    rules = [rule for rule in (ROOT / ".dockerignore").read_text().splitlines() if rule and not rule.startswith("#")]
    copies = re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.MULTILINE)
    copied = {name for line in copies for name in line.split()}
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


def _parse(words: list[str]) -> None:
    """Parse the words as the command line does, including the options of the subcommand."""
    command: Command = cli
    context = Context(command)
    while isinstance(command, Group):
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no command {words[0]}"
        command, words = found, words[1:]
    command.make_context(command.name, words)
