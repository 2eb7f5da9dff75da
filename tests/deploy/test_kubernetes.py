"""The Kubernetes manifests: their configuration works, and the gateway has everything they use."""

import http.client
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.stores.valkey import ValkeyServer
from gateway.policy.loader import Configuration, load_configuration
from tests.cli.running import ROOT, command_line, environment, run_here
from tests.cli.test_image import assert_runs
from tests.support.processes import free_port
from tests.support.waiting import eventually

FOLDER = ROOT / "deploy/kubernetes"
SECRETS = "/run/secrets/gateway"


def documents(name: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all((FOLDER / name).read_text()) if document]


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = [document for document in documents("gateway.yaml") if document["kind"] == kind]
    return found


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = of_kind("Deployment")["spec"]["template"]["spec"]
    return spec


def container() -> dict[str, Any]:
    (only,) = pod()["containers"]
    assert isinstance(only, dict)
    return only


def configuration_text(secrets: Path) -> str:
    """The configuration mounted at /etc/gateway, with another path for the secrets."""
    text: str = of_kind("ConfigMap")["data"]["gateway.yaml"]
    return text.replace(SECRETS, str(secrets))


def configured(secrets: Path) -> Configuration:
    file = secrets / "gateway.yaml"
    file.write_text(configuration_text(secrets))
    return load_configuration(file, {})


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The files of the Secret."""
    made = run_here("keys", "generate", "--kid", "k1", "--out", str(tmp_path / "k1.pem"), folder=tmp_path)
    assert made.code == 0, made
    (tmp_path / "database").write_text("postgresql://gateway:secret@postgres/gateway\n")
    (tmp_path / "redis").write_text("redis://redis:6379/0\n")
    return tmp_path


def test_the_configuration_is_good_and_nothing_in_it_is_dangerous(secrets: Path) -> None:
    configuration = configured(secrets)
    assert [str(warning) for warning in configuration.warnings] == []
    assert configuration.settings.server.operations_port == 9000


def test_ports_and_probes_are_those_of_the_configuration(secrets: Path) -> None:
    server = configured(secrets).settings.server
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert ports == {"http": server.port, "operations": server.operations_port}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container()[probe]["httpGet"]["port"] == "operations"
    assert container()["readinessProbe"]["httpGet"]["path"] == "/_gateway/ready"
    assert {container()[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe")} == {
        "/_gateway/health"
    }
    (service,) = of_kind("Service")["spec"]["ports"]
    assert service["targetPort"] == "http"
    annotations = of_kind("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(server.operations_port)
    assert annotations["prometheus.io/path"] == "/_gateway/metrics"


def test_a_pod_has_time_to_drain(secrets: Path) -> None:
    command = container()["lifecycle"]["preStop"]["exec"]["command"]
    started = time.monotonic()
    subprocess.run(command, check=True, timeout=30)
    pause = time.monotonic() - started
    assert pod()["terminationGracePeriodSeconds"] > pause + configured(secrets).settings.server.drain


def test_labels_select_the_pods_that_are_meant() -> None:
    labels = of_kind("Deployment")["spec"]["template"]["metadata"]["labels"]
    for selector in (
        of_kind("Deployment")["spec"]["selector"]["matchLabels"],
        of_kind("Service")["spec"]["selector"],
        of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        of_kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    assert of_kind("PodDisruptionBudget")["spec"]["maxUnavailable"] < of_kind("Deployment")["spec"]["replicas"]


def test_only_the_gateway_and_its_migration_reach_the_stores() -> None:
    (policy,) = documents("stores.yaml")
    (to_stores,) = [
        rule
        for rule in of_kind("NetworkPolicy")["spec"]["egress"]
        if any("matchExpressions" in peer.get("podSelector", {}) for peer in rule["to"])
    ]
    assert policy["spec"]["podSelector"] == to_stores["to"][0]["podSelector"]
    (rule,) = policy["spec"]["ingress"]
    assert rule["ports"] == to_stores["ports"]
    (client,) = rule["from"]
    (job,) = documents("migrate.yaml")
    for workload in (of_kind("Deployment"), job):
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert client["podSelector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("name", ["gateway.yaml", "migrate.yaml"])
def test_a_container_may_do_nothing_that_it_need_not(name: str) -> None:
    (workload,) = [document for document in documents(name) if document["kind"] in ("Deployment", "Job")]
    spec = workload["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    for each in spec["containers"]:
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert_runs(each["args"])
        mounted = {mount["name"] for mount in each["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}
        assert {mount["mountPath"] for mount in each["volumeMounts"]} == {"/etc/gateway", SECRETS, "/tmp"}


def test_the_pod_as_it_is_described_serves(secrets: Path, postgres_url: str, valkey: ValkeyServer) -> None:
    """The job, then the container's own command, with the stores of the tests instead of the cluster's."""
    (secrets / "database").write_text(postgres_url + "\n")
    (secrets / "redis").write_text(valkey.url + "\n")
    public, operations = free_port(), free_port()
    text = (
        configuration_text(secrets)
        .replace("port: 8000", f"port: {public}")
        .replace("_port: 9000", f"_port: {operations}")
    )
    file = secrets / "gateway.yaml"
    file.write_text(text)
    (job,) = documents("migrate.yaml")
    for arguments in (job["spec"]["template"]["spec"]["containers"][0]["args"],):
        done = subprocess.run(
            command_line(*_here(arguments, file)), env=environment(), capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done
    process = subprocess.Popen(
        command_line(*_here(container()["args"], file)), env=environment(), stdout=subprocess.DEVNULL, cwd=secrets
    )
    try:
        eventually(lambda: status(operations, container()["readinessProbe"]["httpGet"]["path"]) == 200, timeout=20)
        assert status(operations, "/_gateway/metrics") == 200
        assert status(public, "/_gateway/ready") == 404
        assert status(public, "/orders/1") == 401
    finally:
        process.terminate()
        assert process.wait(timeout=20) == 0


def _here(arguments: list[str], file: Path) -> list[str]:
    return [str(file) if argument == "/etc/gateway/gateway.yaml" else argument for argument in arguments]


def status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()
