"""Values with which the chart is tested, from none to everything on."""

from typing import Any, Final

_KEDA: Final = {"enabled": True, "kind": "keda", "minReplicas": 2, "prometheusAddress": "http://prometheus:9090"}
_SPREAD: Final = {"whenUnsatisfiable": "DoNotSchedule", "topologyKey": "topology.kubernetes.io/zone"}

CHAIN: Final[dict[str, Any]] = {
    "trunk": {
        "replicas": 2,
        "resources": {"limits": {"memory": "8Gi"}},
        "stages": [
            {"name": "lower", "layers": "2-12"},
            {"name": "upper", "layers": "12-22", "replicas": 3, "resources": {"limits": {"memory": "16Gi"}}},
        ],
    }
}

GPU: Final[dict[str, Any]] = {
    "dtype": "bfloat16",
    "trunk": {
        "gpus": 1,
        "runtimeClassName": "nvidia",
        "kvCacheMemory": "40GiB",
        "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "weights": {"source": "hostPath", "reference": "/var/lib/weights", "subPath": "trunk"},
    },
}

EVERYTHING: Final[dict[str, Any]] = {
    "commonLabels": {"team": "inference"},
    "imagePullSecrets": [{"name": "registry"}],
    "serviceAccount": {"name": "inference", "annotations": {"owner": "inference"}},
    "listenHost": "::",
    "dtype": "bfloat16",
    "tenants": {"secretName": "api-keys", "key": "keys.toml"},
    "trunkTokens": {"secretName": "trunk-tokens", "key": "all"},
    "tls": {"clientSecretName": "client-tls", "trunkSecretName": "trunk-tls"},
    "client": {
        "image": {"repository": "images/client", "tag": "v2", "pullPolicy": "Always"},
        "weights": {"source": "hostPath", "reference": "/var/lib/weights"},
        "threads": 4,
        "quantization": "int8",
        "wireCodec": "bf16",
        "kvCacheMemory": "1GiB",
        "shutdownTimeout": 120,
        "preStopSeconds": 0,
        "service": {"type": "LoadBalancer", "port": 80, "annotations": {"internal": "true"}},
        "autoscaling": {"enabled": True},
        "topologySpread": _SPREAD,
        "nodeSelector": {"pool": "cpu"},
        "tolerations": [{"key": "cpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}],
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}},
        "priorityClassName": "high",
        "podAnnotations": {"note": "client"},
        "extraArgs": ["--allowed-hosts=llm.example.com", "--max-waiting=64"],
    },
    "trunk": {
        "gpus": 1,
        "autoscaling": _KEDA,
        "threads": 8,
        "priorityClassName": "high",
        "podAnnotations": {"note": "trunk"},
        "podDisruptionBudget": {"maxUnavailable": "25%"},
        "topologySpread": _SPREAD,
        "extraArgs": ["--max-num-seqs=64", "--no-enable-prefix-caching"],
        "stages": [
            {"name": "lower", "layers": "2-12"},
            {
                "name": "middle",
                "layers": "12-17",
                "autoscaling": {"kind": "hpa"},
                "tolerations": [{"operator": "Exists"}],
            },
            {
                "name": "upper",
                "layers": "17-22",
                "gpus": 0,
                "replicas": 0,
                "quantization": "int8",
                "autoscaling": {"enabled": False},
                "podDisruptionBudget": {"enabled": False},
            },
        ],
    },
    "networkPolicy": {
        "apiFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateway"}}}],
        "extraEgress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 4317, "protocol": "TCP"}]}],
    },
    "metrics": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboards": {"enabled": True, "annotations": {"grafana_folder": "SplitLearn"}},
    },
}

IMAGE_VOLUMES: Final[dict[str, Any]] = {
    "client": {"weights": {"source": "image", "reference": "weights/client:1"}},
    "trunk": {"weights": {"source": "image", "reference": "weights/trunk:1"}},
}

NOTHING_EXTRA: Final[dict[str, Any]] = {
    "fullnameOverride": "llm",
    "serviceAccount": {"create": False},
    "client": {"podDisruptionBudget": {"enabled": False}, "topologySpread": {"enabled": False}},
    "trunk": {"podDisruptionBudget": {"enabled": False}, "topologySpread": {"enabled": False}},
    "networkPolicy": {"enabled": False},
}

VALUE_SETS: Final[dict[str, dict[str, Any]]] = {
    "default": {},
    "chain": CHAIN,
    "gpu": GPU,
    "everything": EVERYTHING,
    "image volumes": IMAGE_VOLUMES,
    "nothing extra": NOTHING_EXTRA,
}
