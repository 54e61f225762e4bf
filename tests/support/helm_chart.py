"""The Helm chart, rendered by the real Helm, and its objects checked against schemas.

Helm runs in a process of its own: it is written in Go, and would take over signals of the process that loads it.
"""

import functools
import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "deploy" / "helm" / "splitlearn"
SCHEMAS: Final = ROOT / "tests" / "deploy" / "helm" / "schemas"
# the kinds of operators, which Kubernetes itself does not know
CUSTOM_KINDS: Final = ("PrometheusRule", "ScaledObject", "ServiceMonitor")

Values = dict[str, Any]
Object = dict[str, Any]


class Refused(Exception):
    """Helm's reason not to render."""


class Helm:
    """Renders the chart as the release `demo` in the namespace `prod`."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool
        self._objects: dict[str, list[Object]] = {}

    def lint(self, values: Values) -> list[str]:
        """Warnings and errors, strictly."""
        return self._pool.submit(_lint, values).result()

    def files(self, values: Values) -> dict[str, str]:
        """What each template renders. Raises Refused."""
        rendered = self._pool.submit(_render, values).result()
        if isinstance(rendered, str):
            raise Refused(rendered)
        return rendered

    def objects(self, values: Values) -> list[Object]:
        """Raises Refused."""
        key = json.dumps(values, sort_keys=True)
        if key not in self._objects:
            files = self.files(values)
            texts = [text for name, text in files.items() if name.endswith(".yaml")]
            self._objects[key] = [each for text in texts for each in yaml.safe_load_all(text) if each]
        return self._objects[key]


@contextmanager
def helm() -> Iterator[Helm]:
    """Helm in a process that ends with the context."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield Helm(pool)


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [each for each in objects if each["kind"] == kind]


def named(objects: list[Object], kind: str, name: str) -> Object:
    """The one object of this kind and name."""
    (found,) = [each for each in of_kind(objects, kind) if each["metadata"]["name"] == name]
    return found


def pod_of(workload: Object) -> Object:
    """The pod template of a Deployment or a StatefulSet."""
    template: Object = workload["spec"]["template"]
    return template


def container_of(workload: Object) -> Object:
    """The one container of a workload's pods."""
    (container,) = pod_of(workload)["spec"]["containers"]
    found: Object = container
    return found


def complaints(thing: Object, version: str) -> list[str]:
    """What Kubernetes of this version, or for custom kinds our own schema, does not accept in an object."""
    import jsonschema

    if thing["kind"] in CUSTOM_KINDS:
        schema = json.loads((SCHEMAS / f"{thing['kind'].lower()}.json").read_text())
        return [each.message for each in jsonschema.Draft7Validator(schema).iter_errors(thing)]
    import kubernetes_validate.utils as kubernetes

    # its schemas have megabytes, and it reads them again for each object
    if not hasattr(kubernetes.schema_contents, "cache_info"):
        kubernetes.schema_contents = functools.cache(kubernetes.schema_contents)
    try:
        kubernetes.validate(thing, version, strict=True)
    except kubernetes.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    return []


@functools.cache
def versions() -> tuple[str, str]:
    """The oldest and the newest Kubernetes whose schemas are there."""
    from kubernetes_validate.utils import all_versions

    known = all_versions()
    return known[0], known[-1]


def _lint(values: Values) -> list[str]:
    import helm_python

    report = helm_python.lint(CHART, values, strict=True, namespace="prod")
    # 2 is a warning, 3 an error
    found = [f"{each['path']}: {each['error']}" for each in report["messages"] if each["severity"] > 1]
    return [*found, *report["errors"]]


def _render(values: Values) -> dict[str, str] | str:
    """A mapping of files, or Helm's reason not to render: its errors cannot be sent between processes."""
    import helm_python

    with helm_python.Chart.load(CHART) as chart:
        try:
            chart.validate_schema(values)
            return chart.render(values, name="demo", namespace="prod")
        except helm_python.HelmError as error:
            return str(error)
