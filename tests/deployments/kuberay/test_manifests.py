"""The manifests for KubeRay, rendered: what they are, who may reach them, and what pods may do."""

import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deployments.check.configuration import find_problems
from deployments.config.serving_environment import load_serving_environment
from tests.helpers.kuberay_schema import find_schema_problems
from tests.helpers.kustomize import Manifest, find, find_containers, find_templates, render

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deployments" / "kuberay"
OVERLAYS = sorted(path.parent.name for path in FOLDER.glob("overlays/*/kustomization.yaml"))
RENDERED = {name: render(FOLDER / "overlays" / name) for name in OVERLAYS}
API_VERSIONS = {
    "ConfigMap": "v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PersistentVolumeClaim": "v1",
    "PodDisruptionBudget": "policy/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "RayService": "ray.io/v1",
    "Service": "v1",
    "StatefulSet": "apps/v1",
}
DEFINED_BY_OPERATORS = {"RayService", "PodMonitor"}
KUBERNETES = "1.34"
WRITABLE = {"/tmp", "/var/lib/triptych", "/dev/shm"}

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


def ray_service(overlay: str) -> Any:
    return find(RENDERED[overlay], "RayService")


def worker_groups(overlay: str) -> list[Any]:
    groups: list[Any] = ray_service(overlay)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    return groups


def ray_templates(overlay: str) -> list[Any]:
    return list(find_templates(ray_service(overlay)))


def find_template(manifest: Manifest) -> Any:
    (template,) = find_templates(manifest)
    return template


def test_overlays_are_the_three_that_are_documented() -> None:
    assert OVERLAYS == ["cpu-demo", "gpu", "incremental-upgrade"]


@each_overlay
def test_overlay_is_rendered_as_by_kubectl(overlay: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    command = ["kubectl", "kustomize", str(FOLDER / "overlays" / overlay)]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    by_kubectl = yaml.safe_load_all(rendered)
    assert {identify(each): each for each in by_kubectl} == {
        identify(each): each for each in RENDERED[overlay]
    }


def identify(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


@each_overlay
def test_every_object_has_a_known_kind_a_name_of_its_own_and_the_namespace(overlay: str) -> None:
    manifests = RENDERED[overlay]

    versions = {each["kind"]: each["apiVersion"] for each in manifests}
    assert versions.items() <= API_VERSIONS.items()
    assert set(API_VERSIONS) - set(versions) == ({"PodMonitor"} if overlay == "cpu-demo" else set())
    assert max(Counter(map(identify, manifests)).values()) == 1
    assert {each["metadata"]["namespace"] for each in manifests} == {"triptych"}


@each_overlay
def test_ray_service_has_only_fields_of_the_definition(overlay: str) -> None:
    assert find_schema_problems(ray_service(overlay)) == []


def test_field_that_the_definition_does_not_have_is_found() -> None:
    manifest = find(render(FOLDER / "base"), "RayService")
    head = manifest["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    head["containers"][0]["imagePullPolice"] = "Always"

    (problem,) = find_schema_problems(manifest)
    assert "imagePullPolice" in problem


@each_overlay
def test_everything_else_has_only_fields_of_the_schemas_of_kubernetes(overlay: str) -> None:
    others = [each for each in RENDERED[overlay] if each["kind"] not in DEFINED_BY_OPERATORS]

    assert len(others) == 8
    for manifest in others:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize("secret", list(yaml.safe_load_all((FOLDER / "secret.yaml").read_text())))
def test_form_for_secrets_has_only_fields_of_the_schema(secret: Manifest) -> None:
    kubernetes_validate.validate(secret, KUBERNETES, strict=True)


def test_field_that_kubernetes_does_not_have_is_found() -> None:
    redis = find(render(FOLDER / "base"), "StatefulSet", "triptych-redis")
    redis["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"

    with pytest.raises(kubernetes_validate.ValidationError, match="imagePullPolice"):
        kubernetes_validate.validate(redis, KUBERNETES, strict=True)


@each_overlay
def test_service_of_redis_finds_its_pod(overlay: str) -> None:
    redis = find(RENDERED[overlay], "StatefulSet", "triptych-redis")["spec"]
    service = find(RENDERED[overlay], "Service", "triptych-redis")["spec"]

    assert service["selector"] == redis["template"]["metadata"]["labels"]
    assert redis["selector"]["matchLabels"] == redis["template"]["metadata"]["labels"]


@each_overlay
def test_network_is_open_for_the_cluster_and_for_four_ports_from_outside(overlay: str) -> None:
    policy = find(RENDERED[overlay], "NetworkPolicy")["spec"]
    inside, *outside = policy["ingress"]

    assert inside == {"from": [{"podSelector": policy["podSelector"]}]}
    ports = {port["port"] for rule in outside for port in rule["ports"]}
    assert ports == {8000, 8265, 8080, 44217, 44227}
    assert policy["policyTypes"] == ["Ingress"]
    for template in ray_templates(overlay):
        assert (
            policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        )


@each_overlay
def test_labels_by_which_the_operator_finds_its_pods_are_left_to_it(overlay: str) -> None:
    """Its services select pods by `app.kubernetes.io/name`, which a template would change."""
    for template in ray_templates(overlay):
        assert set(template["metadata"]["labels"]) == {
            "app.kubernetes.io/part-of",
            "app.kubernetes.io/component",
        }


def test_gateway_of_an_incremental_upgrade_may_reach_the_service() -> None:
    rules = find(RENDERED["incremental-upgrade"], "NetworkPolicy")["spec"]["ingress"]
    key = "gateway.networking.k8s.io/gateway-name"

    assert rules[-1] == {
        "from": [{"podSelector": {"matchExpressions": [{"key": key, "operator": "Exists"}]}}],
        "ports": [{"protocol": "TCP", "port": 8000}],
    }


@each_overlay
def test_redis_answers_only_pods_of_ray(overlay: str) -> None:
    policy = find(RENDERED[overlay], "NetworkPolicy", "triptych-redis")["spec"]
    labels = {"app.kubernetes.io/part-of": "triptych"}

    assert policy["ingress"] == [
        {
            "from": [{"podSelector": {"matchLabels": labels}}],
            "ports": [{"protocol": "TCP", "port": 6379}],
        }
    ]
    assert "egress" not in policy


@each_overlay
def test_budget_is_for_workers_and_lets_one_go(overlay: str) -> None:
    budget = find(RENDERED[overlay], "PodDisruptionBudget", "triptych-workers")["spec"]
    selected = budget["selector"]["matchLabels"].items()

    assert set(budget) == {"maxUnavailable", "selector"}
    assert budget["maxUnavailable"] == 1
    assert [
        selected <= template["metadata"]["labels"].items() for template in ray_templates(overlay)
    ] == [False, *[True] * len(worker_groups(overlay))]


@pytest.mark.parametrize("overlay", ["gpu", "incremental-upgrade"])
def test_monitor_asks_for_ports_that_pods_have(overlay: str) -> None:
    monitor = find(RENDERED[overlay], "PodMonitor")["spec"]
    head, *workers = find_containers(ray_service(overlay))

    asked = {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]}
    assert set(monitor) == {"selector", "podMetricsEndpoints"}
    assert asked <= {port["name"] for port in head["ports"]}
    for worker in workers:
        assert {"metrics", "serve"} == {port["name"] for port in worker["ports"]}


@each_overlay
def test_every_pod_runs_without_root_on_a_file_system_that_it_cannot_write(overlay: str) -> None:
    manifests = RENDERED[overlay]
    redis = find(manifests, "StatefulSet", "triptych-redis")
    for template in (*ray_templates(overlay), find_template(redis)):
        pod = template["spec"]
        (container,) = pod["containers"]
        security = container["securityContext"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert security == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        claims = redis["spec"]["volumeClaimTemplates"] if template is find_template(redis) else []
        offered = [*pod["volumes"], *(claim["metadata"] for claim in claims)]
        assert mounted == {volume["name"] for volume in offered}


@each_overlay
def test_pods_of_ray_are_user_1000_and_may_write_where_they_must(overlay: str) -> None:
    for template in ray_templates(overlay):
        pod = template["spec"]
        (container,) = pod["containers"]
        places = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["fsGroup"] == 1000
        assert set(places) == WRITABLE | {"/models"}
        assert all("emptyDir" in volumes[places[path]] for path in WRITABLE)
        assert volumes[places["/dev/shm"]]["emptyDir"]["medium"] == "Memory"


@each_overlay
def test_only_a_head_with_an_autoscaler_may_talk_to_kubernetes(overlay: str) -> None:
    cluster = ray_service(overlay)["spec"]["rayClusterConfig"]
    head, *workers = ray_templates(overlay)

    assert head["spec"]["automountServiceAccountToken"] is bool(
        cluster.get("enableInTreeAutoscaling")
    )
    assert not any(each["spec"]["automountServiceAccountToken"] for each in workers)


@each_overlay
def test_pods_share_one_environment_and_one_image(overlay: str) -> None:
    containers = list(find_containers(ray_service(overlay)))
    names = [
        {"configMapRef": {"name": "triptych-serving-environment"}},
        {"configMapRef": {"name": "triptych-pod-environment"}},
        {"secretRef": {"name": "triptych"}},
    ]

    assert [container["envFrom"] for container in containers] == [names] * len(containers)
    assert len({container["image"] for container in containers}) == 1


@each_overlay
def test_head_takes_no_replicas_and_no_clients(overlay: str) -> None:
    spec = ray_service(overlay)["spec"]

    assert spec["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["excludeHeadPodFromServeSvc"] is True
    for application in yaml.safe_load(spec["serveConfigV2"])["applications"]:
        for deployment in application["deployments"]:
            assert deployment["ray_actor_options"]["num_cpus"] > 0


@each_overlay
def test_cluster_asks_for_a_token_and_survives_its_head(overlay: str) -> None:
    cluster = ray_service(overlay)["spec"]["rayClusterConfig"]
    password = {"valueFrom": {"secretKeyRef": {"name": "triptych-redis", "key": "password"}}}

    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["gcsFaultToleranceOptions"] == {
        "redisAddress": "triptych-redis:6379",
        "redisPassword": password,
    }


@each_overlay
def test_ray_version_is_the_locked_one(overlay: str) -> None:
    version = ray_service(overlay)["spec"]["rayClusterConfig"]["rayVersion"]

    for lock in ("cpu", "gpu"):
        assert f"\nray=={version} \\\n" in (ROOT / "requirements" / f"{lock}.txt").read_text()


@each_overlay
def test_configuration_is_accepted_and_listens_for_other_pods(overlay: str) -> None:
    config = yaml.safe_load(ray_service(overlay)["spec"]["serveConfigV2"])

    assert list(find_problems(config)) == []
    assert config["http_options"] == {"host": "0.0.0.0", "port": 8000}


@each_overlay
def test_no_secret_stands_in_a_manifest(overlay: str) -> None:
    config = yaml.safe_load(ray_service(overlay)["spec"]["serveConfigV2"])
    (ledger,) = [each for each in config["applications"] if each["name"] == "ledger"]

    assert "Secret" not in {each["kind"] for each in RENDERED[overlay]}
    assert not {"database", "redis"} & set(ledger["args"])


@each_overlay
def test_replicas_fit_on_the_workers(overlay: str) -> None:
    config = yaml.safe_load(ray_service(overlay)["spec"]["serveConfigV2"])
    offered: Counter[str] = Counter()
    for group in worker_groups(overlay):
        limits = find_template(group)["spec"]["containers"][0]["resources"]["limits"]
        offered["num_cpus"] += group["replicas"] * int(limits["cpu"])
        offered["num_gpus"] += group["replicas"] * int(limits.get("nvidia.com/gpu", 0))
    wanted: Counter[str] = Counter()
    for application in config["applications"]:
        (deployment,) = application["deployments"]
        count = deployment.get("autoscaling_config", {}).get("min_replicas", 1)
        for resource in offered:
            wanted[resource] += count * deployment["ray_actor_options"].get(resource, 0)

    assert all(wanted[resource] <= offered[resource] for resource in offered)
    assert bool(wanted["num_gpus"]) is (overlay != "cpu-demo")


def test_groups_of_workers_that_models_ask_for_exist() -> None:
    config = yaml.safe_load(ray_service("gpu")["spec"]["serveConfigV2"])
    selectors = [
        deployment["ray_actor_options"].get("label_selector", {})
        for application in config["applications"]
        for deployment in application["deployments"]
    ]

    asked = {value for selector in selectors for value in selector.values()}
    assert {key for selector in selectors for key in selector} == {"ray.io/node-group"}
    assert asked <= {group["groupName"] for group in worker_groups("gpu")}


def test_constant_environment_is_a_copy_of_the_one_source() -> None:
    data = find(render(FOLDER / "base"), "ConfigMap", "triptych-serving-environment")["data"]

    assert data == load_serving_environment()


def test_environment_of_pods_is_text_and_repeats_nothing() -> None:
    data = find(render(FOLDER / "base"), "ConfigMap", "triptych-pod-environment")["data"]

    assert {type(value) for value in data.values()} == {str}
    assert not set(data) & set(load_serving_environment())
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in data  # would put nodes on loopback


def test_incremental_upgrade_has_what_the_operator_requires() -> None:
    spec = ray_service("incremental-upgrade")["spec"]
    options = spec["upgradeStrategy"]["clusterUpgradeOptions"]

    assert spec["upgradeStrategy"]["type"] == "NewClusterWithIncrementalUpgrade"
    assert spec["rayClusterConfig"]["enableInTreeAutoscaling"] is True
    assert options["gatewayClassName"]
    assert 0 < options["stepSizePercent"] <= options["maxSurgePercent"] <= 100
    assert options["intervalSeconds"] > 0
    for group in worker_groups("incremental-upgrade"):
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
