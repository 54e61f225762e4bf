"""What compose makes of docker-compose.yml, its overrides and .env; only one of these tests starts a container."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.compose_stack import COMPOSE_FILE, ROOT, Stack, docker

EXAMPLE = dict(re.findall(r"^#([A-Z_0-9]+)=(.*)$", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE))
FILES = [COMPOSE_FILE, *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "deploy").glob("compose.*.yml")))]
GPUS = {"trunk": "0", "trunk-gpu-1": "1", "trunk-gpu-2": "2", "trunk-gpu-3": "3"}


def without_values(tree: Any) -> set[str]:
    """Build arguments that compose passes on from the environment."""
    if not isinstance(tree, dict):
        return set()
    own = {name for name, value in tree.items() if value is None and name.isupper()}
    return own.union(*map(without_values, tree.values()))


def variables(file: str) -> set[str]:
    text = (ROOT / file).read_text(encoding="utf-8")
    return {*re.findall(r"\${(\w+)", text)} | without_values(yaml.safe_load(text))


def test_the_example_of_env_names_every_variable_that_compose_reads_and_no_other() -> None:
    assert {"MODEL", "BASE_IMAGE", "TLS_DIRECTORY"} <= {*EXAMPLE} == set().union(*map(variables, FILES))


def test_every_variable_is_documented() -> None:
    text = (ROOT / "docs" / "docker.md").read_text(encoding="utf-8")
    assert [name for name in EXAMPLE if f"`{name}`" not in text] == []


def test_secrets_and_settings_of_an_installation_are_not_committed() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"/.env", "/pki/", "/tenants.toml"} <= {*ignored}


@pytest.mark.docker
def test_the_example_of_env_changes_nothing() -> None:
    plain = Stack("splitlearn", ports="", files=tuple(FILES), variables=(("COMPOSE_PROFILES", "*"),))
    with_example = replace(plain, variables=(*EXAMPLE.items(), *plain.variables))
    expected, found = plain.config(), with_example.config()
    for service in found.values():
        # The Dockerfiles' own defaults, which test_images.py compares.
        for name in ("BASE_IMAGE", "IMAGE_VERSION", "IMAGE_REVISION", "IMAGE_CREATED"):
            service.get("build", {}).get("args", {}).pop(name, None)
    assert found == expected


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.docker
@pytest.mark.parametrize(("service", "prefix"), [("trunk", "TRUNK"), ("next", "TRUNK"), ("client", "CLIENT")])
def test_limits_come_from_the_environment(service: str, prefix: str) -> None:
    profile = ("COMPOSE_PROFILES", "chain")
    limits = ((f"{prefix}_CPUS", "1.5"), (f"{prefix}_MEMORY", "2g"), (f"{prefix}_PIDS", "100"))
    found = Stack("splitlearn", variables=(profile, *limits)).config()[service]
    assert (found["cpus"], found["mem_limit"], found["pids_limit"]) == (1.5, str(2 * 2**30), 100)
    found = Stack("splitlearn", variables=(profile,)).config()[service]
    assert (found.get("cpus"), found.get("mem_limit"), found["pids_limit"]) == (None, None, 4096)


@pytest.mark.docker
@pytest.mark.parametrize("limits", [("0", "0", "4096"), ("0.5", "300000000", "77")])
def test_a_container_has_the_limits_that_were_given(stack: Stack, limits: tuple[str, str, str]) -> None:
    given = zip(("TRUNK_CPUS", "TRUNK_MEMORY", "TRUNK_PIDS"), limits, strict=True)
    limited = replace(stack, variables=(*stack.variables, *given))
    container = limited.compose("run", "--detach", "--no-deps", "--entrypoint", "sleep", "trunk", "300").strip()
    try:
        (found,) = json.loads(docker("inspect", container))
        host = found["HostConfig"]
        assert (host["NanoCpus"], host["Memory"], host["PidsLimit"]) == (
            float(limits[0]) * 1e9,
            *map(int, limits[1:]),
        )
    finally:
        docker("rm", "--force", container)


# --- overrides -------------------------------------------------------------------------------------------------------


def cuda(profile: str, *variables: tuple[str, str]) -> dict[str, Any]:
    given = (("COMPOSE_PROFILES", profile), *variables)
    return Stack("splitlearn", files=(COMPOSE_FILE, "deploy/compose.cuda.yml"), variables=given).config()


def devices(services: dict[str, Any]) -> dict[str, Any]:
    return {
        name: service["deploy"]["resources"]["reservations"]["devices"]
        for name, service in services.items()
        if "deploy" in service
    }


@pytest.mark.docker
@pytest.mark.parametrize(("profile", "n_gpus"), [("", 1), ("gpus-2", 2), ("gpus-4", 4)])
def test_each_trunk_has_a_gpu_of_its_own_and_the_client_has_none(profile: str, n_gpus: int) -> None:
    assert devices(cuda(profile)) == {
        name: [{"driver": "nvidia", "device_ids": [gpu], "capabilities": ["gpu"]}]
        for name, gpu in [*GPUS.items()][:n_gpus]
    }


@pytest.mark.docker
def test_the_gpu_of_a_trunk_can_be_chosen() -> None:
    found = devices(cuda("gpus-4", *((f"GPU_{number}", f"GPU-{number}a") for number in range(4))))
    assert [each[0]["device_ids"] for each in found.values()] == [[f"GPU-{number}a"] for number in range(4)]


@pytest.mark.docker
def test_trunks_differ_in_their_gpus_only_and_all_are_called_trunk() -> None:
    services = cuda("gpus-4")
    first = services["trunk"]
    assert first["environment"]["SPLITLEARN_TRUNK_DEVICE"] == "cuda"
    assert first["image"] == "splitlearn-trunk:cuda"
    for name in [*GPUS][1:]:
        assert services[name]["networks"] == {"default": {"aliases": ["trunk"]}}
        other = {"profiles", "networks", "deploy"}
        assert {k: v for k, v in services[name].items() if k not in other} == {
            k: v for k, v in first.items() if k not in other
        }


@pytest.mark.docker
def test_a_package_index_without_cuda_does_not_reach_an_image_with_it() -> None:
    services = cuda("gpus-4", ("TORCH_INDEX", "http://cpu.example"))
    indices = {
        name: service["build"]["args"]["TORCH_INDEX"] for name, service in services.items() if "build" in service
    }
    assert {indices.pop("client"), indices.pop("weights")} == {"http://cpu.example"}
    assert {*indices} == {*GPUS}
    assert {*indices.values()} == {""}


@pytest.mark.docker
def test_keys_and_certificates_are_secrets_of_the_service_that_needs_them(tmp_path: Path) -> None:
    given = (("COMPOSE_PROFILES", "chain"), ("TLS_DIRECTORY", str(tmp_path)))
    services = Stack("splitlearn", files=(COMPOSE_FILE, "deploy/compose.tls.yml"), variables=given).config()
    for service, pair, kind in (
        ("trunk", "trunk", "TRUNK"),
        ("next", "trunk", "TRUNK"),
        ("client", "client", "CLIENT"),
    ):
        mounted = {each["target"] for each in services[service]["secrets"]}
        assert mounted == {f"/run/secrets/{name}" for name in ("ca.crt", f"{pair}.crt", f"{pair}.key")}
        environment = services[service]["environment"]
        assert {environment[f"SPLITLEARN_{kind}_TLS_{part}"] for part in ("CA", "CERT", "KEY")} == mounted
    assert [name for name, service in services.items() if "secrets" in service] == ["client", "next", "trunk"]


@pytest.mark.docker
def test_the_keys_of_tenants_are_a_secret_of_the_client() -> None:
    services = Stack("splitlearn", files=(COMPOSE_FILE, "deploy/compose.keys.yml")).config()
    (secret,) = services["client"]["secrets"]
    assert services["client"]["environment"]["SPLITLEARN_CLIENT_TENANTS"] == secret["target"]
    assert [name for name, service in services.items() if "secrets" in service] == ["client"]
