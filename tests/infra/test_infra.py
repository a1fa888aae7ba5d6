"""What infra/ holds is right by the tool or schema of each kind of file, and keeps the promises of SECURITY.md."""

import json
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
from prefect.utilities.templating import apply_values, find_placeholders
from ruamel.yaml import YAML

from tasks.runtime.imports import ROOT

INFRA = ROOT / "infra"
KUBERNETES = "1.33"
MANIFESTS = list(YAML(typ="safe").load_all((INFRA / "k8s/worker.yaml").read_text()))
POOL = json.loads((INFRA / "k8s/pool.json").read_text())


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(Path(sys.executable).parent / name), *arguments], cwd=ROOT, capture_output=True, text=True)


def test_the_dockerfile_passes_its_linter():
    done = tool("hadolint", "infra/Dockerfile")
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_images_run_as_a_user_who_is_not_root():
    targets = re.split(r"^FROM ", (INFRA / "Dockerfile").read_text(), flags=re.M)[1:]
    assert [re.search(r" AS (\w+)", target)[1] for target in targets] == ["cpu", "gpu"]
    for target in targets:
        assert re.findall(r"^USER (\S+)", target, flags=re.M)[-1:] == ["1000"]


def test_the_compose_file_follows_its_schema():
    done = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "infra/compose.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_site_listens_on_loopback_alone_and_holds_no_secret():
    services = YAML(typ="safe").load((INFRA / "compose.yaml").read_text())["services"]
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    told_to = "${TEMPER_ADDRESS:-127.0.0.1}:443:"
    assert [name for name, body in services.items() if any(port.startswith(told_to) for port in body.get("ports", ()))] == [
        "proxy"
    ]
    assert all(port.startswith(("127.0.0.1:", told_to)) for port in ports)
    assert services["proxy"]["profiles"] == ["tls"], "it is started by who asks for it"
    told = {
        (name, key): value
        for name, service in services.items()
        for key, value in service.get("environment", {}).items()
        if re.search("PASSWORD|SECRET|AUTH|ACCESS_KEY|ROOT_USER|CONNECTION", key)
    }
    assert told
    assert all("${TEMPER_" in value for value in told.values()), told


def test_every_variable_of_the_site_is_in_its_example():
    asked = set(re.findall(r"\$\{(\w+)", (INFRA / "compose.yaml").read_text()))
    example = (INFRA / "compose.env.example").read_text()
    assert asked == set(re.findall(r"^(\w+)=", example, flags=re.M))
    assert re.findall(r"^\w+=(.+)$", example, flags=re.M) == []


@pytest.mark.parametrize("manifest", MANIFESTS, ids=[manifest["kind"] for manifest in MANIFESTS])
def test_every_kubernetes_manifest_follows_its_schema(manifest):
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def job(**variables) -> dict:
    """Return the Job that Prefect makes of the base job template with these variables, its defaults beside them."""
    defaults = {name: body["default"] for name, body in POOL["variables"]["properties"].items() if "default" in body}
    return apply_values(POOL["job_configuration"]["job_manifest"], defaults | variables)


class TestTheKubernetesPool:
    def test_its_job_follows_the_schema(self):
        manifest = job(image="temper:gpu", command=["prefect"], env=[{"name": "TEMPER_CHECKOUT", "value": "/work"}])
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)

    def test_it_has_gpus_shared_memory_a_node_selector_and_secrets_by_reference(self):
        pod = job(image="temper:gpu", gpus=4)["spec"]["template"]["spec"]
        container = pod["containers"][0]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 4
        assert {"name": "shared-memory", "mountPath": "/dev/shm"} in container["volumeMounts"]
        assert pod["volumes"][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Gi"}
        assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
        assert container["envFrom"] == [{"secretRef": {"name": "temper"}}]

    def test_it_cannot_become_root(self):
        pod = job(image="temper:gpu")["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["containers"][0]["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}

    def test_every_variable_is_used_and_described(self):
        used = {place.name for place in find_placeholders(POOL["job_configuration"])}
        assert used == set(POOL["variables"]["properties"])


def test_the_deployments_name_flows_and_pools_that_exist():
    body = YAML(typ="safe").load((INFRA / "prefect.yaml").read_text())
    for deployment in body["deployments"]:
        file, flow = deployment["entrypoint"].split(":")
        assert re.search(rf"^def {flow}\(", (ROOT / file).read_text(), flags=re.M)
        assert deployment["work_pool"]["name"]
