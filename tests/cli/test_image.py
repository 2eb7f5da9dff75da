"""The container image and the Compose file. No container engine is available, so the files themselves are checked."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import gateway.cli.demo.echo
from bench.stores.valkey import ValkeyServer
from gateway.cli.demo.echo import echo_upstream
from gateway.cli.program import program
from tests.cli.running import ROOT, environment, run_here
from tests.support.processes import Gateway, free_port

COMPOSED = ROOT / "config/compose.yaml"


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, with continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines) if word]


def last(instruction: str) -> str:
    return [rest for word, rest in dockerfile() if word == instruction][-1]


def test_the_image_is_not_root_and_stops_as_serve_does() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last("USER"))
    assert last("STOPSIGNAL") == "SIGTERM"
    assert all("--require-hashes" in rest or "--no-index" in rest for rest in pip_installs())
    assert all("--no-deps" in rest for rest in pip_installs())


def pip_installs() -> list[str]:
    runs = [part for word, rest in dockerfile() if word == "RUN" for part in rest.split("&&")]
    return [part for part in runs if " install " in part and "pip" in part]


def test_the_image_is_built_from_files_that_its_context_has() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = [line[1:] for line in ignored if line.startswith("!")]
    copied = [rest.split()[:-1] for word, rest in dockerfile() if word == "COPY" and "--from" not in rest]
    assert "*" in ignored
    assert sorted(allowed) == sorted(name for names in copied for name in names)
    assert all((ROOT / name).exists() for name in allowed)


def test_the_image_runs_a_command_there_is() -> None:
    assert json.loads(last("ENTRYPOINT")) == ["gateway"]
    assert_runs(json.loads(last("CMD")))


def assert_runs(arguments: list[str]) -> None:
    """The command and its options exist; the command does not run."""
    command: click.Command = program
    rest = [str(argument) for argument in arguments]
    while isinstance(command, click.Group):
        child = command.get_command(click.Context(command), rest.pop(0))
        assert child is not None, arguments
        command = child
    command.make_context(command.name, rest).close()


def test_the_health_check_uses_an_endpoint_of_the_gateway() -> None:
    check = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
    assert check[0] == "python"
    compile(check[2], "HEALTHCHECK", "exec")
    assert "GATEWAY_HEALTH_URL=http://127.0.0.1:8000/_gateway/health" in last("ENV")


def compose() -> dict[str, Any]:
    document = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert isinstance(document, dict)
    return document


def test_every_service_of_ours_runs_a_command_there_is() -> None:
    services = compose()["services"]
    ours = {name: service for name, service in services.items() if "build" in service}
    assert set(ours) == {"gateway", "keys", "migrate", "echo"}
    for name, service in ours.items():
        if name == "echo":
            assert service["entrypoint"] == ["python", "-m", gateway.cli.demo.echo.__name__]
            gateway.cli.demo.echo.main.make_context("echo", list(service["command"])).close()
        else:
            assert_runs(service["command"])


def test_services_wait_for_their_dependencies() -> None:
    services = compose()["services"]
    for name, service in services.items():
        for other, wait in service.get("depends_on", {}).items():
            needed = services[other]
            if wait["condition"] == "service_completed_successfully":
                assert needed.get("restart") is None, (name, other)
            else:
                assert wait["condition"] == "service_healthy"
                assert "healthcheck" in needed or "build" in needed, (name, other)
    assert set(services["gateway"]["depends_on"]) == {"keys", "migrate", "valkey", "echo"}


def test_only_the_gateway_is_reached_from_outside_and_only_from_this_machine() -> None:
    published = {name: service["ports"] for name, service in compose()["services"].items() if "ports" in service}
    assert published == {"gateway": ["127.0.0.1:8000:8000"]}


def test_no_upstream_reaches_a_store() -> None:
    document = compose()
    services = document["services"]
    on = {
        network: {name for name, service in services.items() if network in service.get("networks", [])}
        for network in document["networks"]
    }
    assert on == {"stores": {"gateway", "migrate", "postgres", "valkey"}, "upstreams": {"gateway", "echo"}}
    assert document["networks"]["stores"] == {"internal": True}
    # Compose attaches services without `networks` to one shared default network.
    assert {name for name, service in services.items() if "networks" not in service} == {"keys"}
    assert services["keys"]["network_mode"] == "none"


def test_services_of_ours_may_do_nothing_that_they_need_not() -> None:
    for service in compose()["services"].values():
        if "build" in service:
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]


def test_files_that_compose_mounts_exist() -> None:
    services = compose()["services"]
    mounted = dict(reversed(volume.split(":")[:2]) for volume in services["gateway"]["volumes"])
    folder, file = os.path.split(services["gateway"]["environment"]["GATEWAY_CONFIG"])
    key = services["keys"]["command"][-1]
    assert (ROOT / mounted[folder] / file).samefile(COMPOSED)
    assert mounted[os.path.dirname(key)] == "keys"
    text = COMPOSED.read_text()
    assert f"${{file:{key}}}" in text
    assert set(re.findall(r"\$\{(\w+)\}", text)) <= services["gateway"]["environment"].keys()
    assert set(re.findall(r"http://(\w+):", text)) <= services.keys()


def test_the_services_of_compose_work_together(
    tmp_path: Path, postgres_url: str, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every gateway service as in Compose, with the stores of the tests instead of its containers."""
    services = compose()["services"]
    key = services["keys"]["command"][-1]
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    monkeypatch.setenv("REDIS_URL", valkey.url)
    with echo_upstream() as upstream:
        text = COMPOSED.read_text().replace(key, str(tmp_path / "k1.pem")).replace("http://echo:9000", upstream)
        config = tmp_path / "compose.yaml"
        config.write_text(text)
        monkeypatch.setenv("GATEWAY_CONFIG", str(config))
        for name in ("keys", "migrate", "keys", "migrate"):  # twice, as with each `docker compose up`
            command = [str(tmp_path / "k1.pem") if word == key else word for word in services[name]["command"]]
            done = subprocess.run(
                [sys.executable, "-m", "gateway", *command], cwd=ROOT, capture_output=True, timeout=60
            )
            assert done.returncode == 0, done
        assert run_here("check", "--strict", "--config", str(config), folder=tmp_path).code == 0
        gateway = Gateway("serve", text, tmp_path).start()
        try:
            assert health(f"http://127.0.0.1:{gateway.address[1]}/_gateway/health") == 0
            assert health(f"{upstream}/") == 0
            account = gateway.register("ada@example.com")
            seen = gateway.get("/api/hello", account.line).json()
            assert seen["headers"]["x-user-email"] == "ada@example.com"
            assert gateway.get("/_gateway/ready").json()["degraded"] == []
        finally:
            assert gateway.stop() == 0


def health(url: str) -> int:
    """The exit code of the image's health check."""
    command = [sys.executable, *json.loads(last("HEALTHCHECK").partition("CMD ")[2])[1:]]
    env = environment({"GATEWAY_HEALTH_URL": url, "HTTP_PROXY": "http://127.0.0.1:1"})
    return subprocess.run(command, env=env, capture_output=True, timeout=30).returncode


def test_the_health_check_fails_where_nothing_answers() -> None:
    assert health(f"http://127.0.0.1:{free_port()}/_gateway/health") == 1
