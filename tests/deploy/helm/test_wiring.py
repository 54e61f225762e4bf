"""Who finds, reaches and watches whom, with which flags, and how pods start, stop and are confined."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from splitlearn_cli.command import command
from splitlearn_cli.flags import settings_from
from splitlearn_client.settings import ClientSettings
from splitlearn_comm.health_server import LIVENESS
from splitlearn_trunk.settings import TrunkSettings
from support.helm_chart import ROOT, Helm, Object, container_of, named, of_kind, pod_of
from support.helm_values import CHAIN, EVERYTHING, GPU, VALUE_SETS

pytestmark = pytest.mark.slow

LOWER, UPPER, CLIENT = "demo-splitlearn-trunk-lower", "demo-splitlearn-trunk-upper", "demo-splitlearn-client"


def workloads(objects: list[Object]) -> list[Object]:
    return [*of_kind(objects, "Deployment"), *of_kind(objects, "StatefulSet")]


def every_workload(helm: Helm) -> Iterator[Object]:
    for values in VALUE_SETS.values():
        yield from workloads(helm.objects(values))


def settings_of(workload: Object) -> ClientSettings | TrunkSettings:
    """What the real command line makes of a container's arguments."""
    verb, *words = container_of(workload)["args"]
    group: Any = get_command(command())
    given = group._command(verb).make_context(verb, words).params
    found: ClientSettings | TrunkSettings = settings_from(
        {"client": ClientSettings, "trunk": TrunkSettings}[verb],
        {name: value for name, value in given.items() if value is not None},
    )
    return found


def test_the_services_take_every_flag_with_its_value(helm: Helm) -> None:
    for workload in every_workload(helm):
        settings = settings_of(workload)
        assert str(settings.weights) == "/weights"
        assert settings.host in ("0.0.0.0", "::")


def test_the_ports_of_a_trunk_are_those_that_it_listens_on(helm: Helm) -> None:
    for workload in of_kind([*every_workload(helm)], "StatefulSet"):
        settings = settings_of(workload)
        assert isinstance(settings, TrunkSettings)
        ports = {each["name"]: each["containerPort"] for each in container_of(workload)["ports"]}
        assert ports == {"grpc": settings.port, "health": settings.health_port, "metrics": settings.metrics_port}


def test_no_service_sets_a_variable_that_is_a_setting(helm: Helm) -> None:
    assert all(pod_of(each)["spec"]["enableServiceLinks"] is False for each in every_workload(helm))


def test_a_single_stage_is_the_clients_trunk_and_cuts_as_the_services_do_by_default(helm: Helm) -> None:
    objects = helm.objects({})
    client = settings_of(named(objects, "Deployment", CLIENT))
    trunk = settings_of(named(objects, "StatefulSet", "demo-splitlearn-trunk-middle"))
    assert isinstance(client, ClientSettings)
    assert client.trunk == "demo-splitlearn-trunk-middle:50051"
    assert client.layers is trunk.layers is None
    assert not [word for word in container_of(objects_trunk(objects))["args"] if word.startswith("--next")]


def objects_trunk(objects: list[Object]) -> Object:
    return named(objects, "StatefulSet", "demo-splitlearn-trunk-middle")


def test_a_chain_is_one_trunk_of_all_its_layers_to_the_client(helm: Helm) -> None:
    objects = helm.objects(CHAIN)
    client = settings_of(named(objects, "Deployment", CLIENT))
    assert isinstance(client, ClientSettings)
    assert (client.trunk, client.layers) == (f"{LOWER}:50051", "2-22")
    lower, upper = named(objects, "StatefulSet", LOWER), named(objects, "StatefulSet", UPPER)
    assert (settings_of(lower).layers, settings_of(upper).layers) == ("2-12", "12-22")
    assert f"--next={UPPER}:50051" in container_of(lower)["args"]
    assert not [word for word in container_of(upper)["args"] if word.startswith("--next")]


def test_every_name_that_is_connected_to_is_a_headless_service_of_the_right_pods(helm: Helm) -> None:
    objects = helm.objects(CHAIN)
    for name in (LOWER, UPPER):
        service, trunk = named(objects, "Service", name), named(objects, "StatefulSet", name)
        assert service["spec"]["clusterIP"] == "None"
        assert trunk["spec"]["serviceName"] == name
        assert {each["port"] for each in service["spec"]["ports"]} == {50051, 9101}
    assert selected(objects, "Service", LOWER) == [LOWER]
    assert selected(objects, "Service", UPPER) == [UPPER]
    assert selected(objects, "Service", CLIENT) == [CLIENT]


def selected(objects: list[Object], kind: str, name: str) -> list[str]:
    """The workloads whose pods the selector of an object selects."""
    spec = named(objects, kind, name)["spec"]
    selector = spec.get("podSelector") or spec["selector"]
    return matching(objects, selector.get("matchLabels", selector))


def matching(objects: list[Object], labels: dict[str, str]) -> list[str]:
    return [
        each["metadata"]["name"]
        for each in workloads(objects)
        if labels.items() <= pod_of(each)["metadata"]["labels"].items()
    ]


def callers(objects: list[Object], name: str) -> dict[str, list[str]]:
    """By a pod's ports: whose pods may connect to it, as a policy says."""
    (policy,) = [
        each
        for each in of_kind(objects, "NetworkPolicy")
        if selected(objects, "NetworkPolicy", each["metadata"]["name"]) == [name]
    ]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    return {
        rule["ports"][0]["port"]: [
            found for peer in rule.get("from", []) for found in matching(objects, peer["podSelector"]["matchLabels"])
        ]
        for rule in policy["spec"]["ingress"]
    }


def test_only_the_client_reaches_the_first_stage_and_only_it_the_second_and_nobody_the_health_port(helm: Helm) -> None:
    objects = helm.objects(CHAIN)
    assert callers(objects, LOWER) == {"grpc": [CLIENT], "metrics": []}
    assert callers(objects, UPPER) == {"grpc": [LOWER], "metrics": []}
    assert callers(objects, CLIENT) == {"http": []}


def test_only_prometheus_reads_a_trunks_metrics(helm: Helm) -> None:
    for policy in of_kind(helm.objects(CHAIN), "NetworkPolicy"):
        for rule in policy["spec"]["ingress"]:
            if rule["ports"][0]["port"] == "metrics":
                (peer,) = rule["from"]
                assert peer["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}


def test_pods_reach_dns_the_next_stage_and_what_values_add_and_nothing_else(helm: Helm) -> None:
    objects = helm.objects(CHAIN)
    reached = {}
    for policy in of_kind(objects, "NetworkPolicy"):
        dns, *others = policy["spec"]["egress"]
        assert {each["port"] for each in dns["ports"]} == {53}
        reached[policy["metadata"]["name"]] = [
            (rule["ports"][0]["port"], matching(objects, rule["to"][0]["podSelector"]["matchLabels"]))
            for rule in others
        ]
    assert reached == {CLIENT: [(50051, [LOWER])], LOWER: [(50051, [UPPER])], UPPER: []}
    for policy in of_kind(helm.objects(EVERYTHING), "NetworkPolicy"):
        assert policy["spec"]["egress"][-1]["to"] == [{"ipBlock": {"cidr": "10.0.0.0/8"}}]


def test_a_trunks_probes_ask_the_health_port_and_liveness_does_not_depend_on_serving(helm: Helm) -> None:
    container = container_of(objects_trunk(helm.objects({})))
    probes = {kind: container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")}
    assert {kind: probe["grpc"] for kind, probe in probes.items()} == {
        "startup": {"port": 50052},
        "readiness": {"port": 50052},
        "liveness": {"port": 50052, "service": LIVENESS},
    }
    assert probes["startup"]["failureThreshold"] * probes["startup"]["periodSeconds"] == 1200


def test_the_clients_probes_ask_paths_that_its_api_has(helm: Helm) -> None:
    container = container_of(named(helm.objects({}), "Deployment", CLIENT))
    paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/health", "readiness": "/ready", "liveness": "/health"}
    routes = (ROOT / "services/splitlearn_client/api/routes.py").read_text()
    assert all(f'@routes.get("{path}")' in routes for path in paths.values())


def test_a_pod_is_killed_only_after_prestop_and_the_services_own_shutdown(helm: Helm) -> None:
    for workload in every_workload(helm):
        hook = container_of(workload).get("lifecycle", {"preStop": {"exec": {"command": ["sleep", "0"]}}})
        program, seconds = hook["preStop"]["exec"]["command"]
        assert program == "sleep"
        grace = pod_of(workload)["spec"]["terminationGracePeriodSeconds"]
        assert grace == int(seconds) + settings_of(workload).shutdown_timeout + 15


def test_every_pod_is_confined(helm: Helm) -> None:
    for workload in every_workload(helm):
        pod, container = pod_of(workload)["spec"], container_of(workload)
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        writable = [each["name"] for each in container["volumeMounts"] if not each.get("readOnly")]
        assert writable == ["tmp"]
    for values in VALUE_SETS.values():
        for account in of_kind(helm.objects(values), "ServiceAccount"):
            assert account["automountServiceAccountToken"] is False


def test_the_user_is_the_images(helm: Helm) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert set(compose["services"]) >= {"trunk", "client"}
    for name in ("client", "trunk"):
        dockerfile = (ROOT / f"Dockerfile.{name}").read_text()
        assert "useradd --uid 10001" in dockerfile
        assert "\nUSER 10001\n" in dockerfile


def test_secrets_are_mounted_where_the_flags_say(helm: Helm) -> None:
    objects = helm.objects(EVERYTHING)
    client = named(objects, "Deployment", CLIENT)
    assert "--tenants=/etc/splitlearn/tenants/keys.toml" in container_of(client)["args"]
    tokens = {"/etc/splitlearn/trunk-tokens": "trunk-tokens"}
    keys = {"/etc/splitlearn/tenants": "api-keys"}
    assert secrets_of(client) == {**keys, **tokens, "/etc/splitlearn/tls": "client-tls"}
    for trunk in of_kind(objects, "StatefulSet"):
        assert secrets_of(trunk) == {**tokens, "/etc/splitlearn/tls": "trunk-tls"}
        assert "--tls-cert=/etc/splitlearn/tls/tls.crt" in container_of(trunk)["args"]
    for workload in workloads(helm.objects({})):
        assert secrets_of(workload) == {}
        assert not [word for word in container_of(workload)["args"] if word.startswith(("--tls", "--tenants"))]


def test_trunks_are_open_only_without_a_certificate_and_say_so(helm: Helm) -> None:
    for values, is_insecure in (({}, True), (CHAIN, True), (EVERYTHING, False)):
        for trunk in of_kind(helm.objects(values), "StatefulSet"):
            settings = settings_of(trunk)
            assert isinstance(settings, TrunkSettings)
            assert settings.insecure is is_insecure
            assert ("--insecure" in container_of(trunk)["args"]) is is_insecure


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_tokens_are_asked_for_and_sent_by_every_stage_and_in_clear_only_without_tls(
    helm: Helm, is_encrypted: bool
) -> None:
    tls = {"tls": {"clientSecretName": "c", "trunkSecretName": "t"}} if is_encrypted else {}
    objects = helm.objects({**CHAIN, **tls, "trunkTokens": {"secretName": "trunk-tokens"}})
    file = Path("/etc/splitlearn/trunk-tokens/tokens")
    client = settings_of(named(objects, "Deployment", CLIENT))
    lower, upper = (settings_of(named(objects, "StatefulSet", name)) for name in (LOWER, UPPER))
    assert isinstance(client, ClientSettings)
    assert isinstance(lower, TrunkSettings)
    assert isinstance(upper, TrunkSettings)
    assert (client.trunk_token_file, client.trunk_insecure) == (file, not is_encrypted)
    assert (lower.token_file, lower.next_token_file) == (file, file)
    assert (upper.token_file, upper.next_token_file) == (file, None)


def secrets_of(workload: Object) -> dict[str, str]:
    """Secrets by where they are mounted."""
    secrets = {
        each["name"]: each["secret"]["secretName"] for each in pod_of(workload)["spec"]["volumes"] if "secret" in each
    }
    mounts = container_of(workload)["volumeMounts"]
    return {each["mountPath"]: secrets[each["name"]] for each in mounts if each["name"] in secrets}


def test_a_gpu_is_asked_for_and_used(helm: Helm) -> None:
    trunk = objects_trunk(helm.objects(GPU))
    assert container_of(trunk)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert settings_of(trunk).device == "cuda"
    assert pod_of(trunk)["spec"]["runtimeClassName"] == "nvidia"
    without = objects_trunk(helm.objects({}))
    assert "nvidia.com/gpu" not in container_of(without)["resources"]["limits"]


def test_an_autoscaler_owns_the_number_of_replicas(helm: Helm) -> None:
    objects = helm.objects(EVERYTHING)
    scaled = {
        each["spec"]["scaleTargetRef"]["name"]: each["spec"]["scaleTargetRef"]["kind"]
        for kind in ("HorizontalPodAutoscaler", "ScaledObject")
        for each in of_kind(objects, kind)
    }
    assert scaled == {CLIENT: "Deployment", LOWER: "StatefulSet", "demo-splitlearn-trunk-middle": "StatefulSet"}
    for workload in workloads(objects):
        assert ("replicas" in workload["spec"]) is (workload["metadata"]["name"] not in scaled)


def test_pods_of_one_kind_are_spread_and_evicted_one_at_a_time(helm: Helm) -> None:
    objects = helm.objects(CHAIN)
    for workload in workloads(objects):
        name = workload["metadata"]["name"]
        (spread,) = pod_of(workload)["spec"]["topologySpreadConstraints"]
        assert matching(objects, spread["labelSelector"]["matchLabels"]) == [name]
        assert selected(objects, "PodDisruptionBudget", name) == [name]
        assert named(objects, "PodDisruptionBudget", name)["spec"]["maxUnavailable"] == 1
