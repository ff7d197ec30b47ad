"""What KubeRay's CRD accepts, for the fields that cluster/kuberay.yaml uses, as a JSON schema;
unknown fields are refused.

Taken by hand from ray-project/kuberay: helm-chart/kuberay-operator/crds/ray.io_rayjobs.yaml (names,
types, required fields) and ray-operator/apis/ray/v1/{rayjob,raycluster}_types.go (authOptions,
enumerations). Kubernetes itself drops unknown fields.
"""

TEXT, WHOLE, FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
QUANTITY = {
    "anyOf": [
        WHOLE,
        {
            "type": "string",
            "pattern": (
                r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))"
                r"(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
            ),
        },
    ]
}


def record(required: tuple[str, ...] = (), **properties: dict) -> dict:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def choice(*values: str) -> dict:
    return {"type": "string", "enum": list(values)}


def rows(items: dict) -> dict:
    return {"type": "array", "items": items}


QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}
CONTAINER = record(
    ("name",),
    name=TEXT,
    image=TEXT,
    command=rows(TEXT),
    args=rows(TEXT),
    imagePullPolicy=TEXT,
    env=rows(record(("name",), name=TEXT, value=TEXT)),
    resources=record(limits=QUANTITIES, requests=QUANTITIES),
    ports=rows(record(("containerPort",), containerPort=WHOLE, name=TEXT, protocol=TEXT)),
    volumeMounts=rows(
        record(("mountPath", "name"), mountPath=TEXT, name=TEXT, readOnly=FLAG, subPath=TEXT)
    ),
)
VOLUME = record(
    ("name",),
    name=TEXT,
    persistentVolumeClaim=record(("claimName",), claimName=TEXT, readOnly=FLAG),
    emptyDir=record(medium=TEXT, sizeLimit=QUANTITY),
    hostPath=record(("path",), path=TEXT, type=TEXT),
)
TEMPLATE = record(
    metadata=record(labels=TEXTS, annotations=TEXTS),
    spec=record(
        ("containers",),
        containers=rows(CONTAINER),
        volumes=rows(VOLUME),
        terminationGracePeriodSeconds=WHOLE,
        nodeSelector=TEXTS,
        serviceAccountName=TEXT,
        tolerations=rows(record(key=TEXT, operator=TEXT, value=TEXT, effect=TEXT)),
    ),
)
HEAD = record(
    ("template",), template=TEMPLATE, rayStartParams=TEXTS, serviceType=TEXT, enableIngress=FLAG
)
WORKERS = record(
    ("groupName", "maxReplicas", "minReplicas", "template"),
    groupName=TEXT,
    replicas=WHOLE,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    numOfHosts=WHOLE,
    rayStartParams=TEXTS,
    template=TEMPLATE,
)
CLUSTER = record(
    ("headGroupSpec",),
    rayVersion=TEXT,
    headGroupSpec=HEAD,
    workerGroupSpecs=rows(WORKERS),
    enableInTreeAutoscaling=FLAG,
    suspend=FLAG,
    authOptions=record(mode=choice("disabled", "token"), secretName=TEXT, enableK8sTokenAuth=FLAG),
)
RAY_JOB = record(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=record(
        ("name",),
        name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
        namespace=TEXT,
        labels=TEXTS,
    ),
    spec=record(
        activeDeadlineSeconds=WHOLE,
        backoffLimit=WHOLE,
        entrypoint=TEXT,
        entrypointNumCpus={"type": "number"},
        jobId=TEXT,
        metadata=TEXTS,
        clusterSelector=TEXTS,
        rayClusterSpec=CLUSTER,
        runtimeEnvYAML=TEXT,
        shutdownAfterJobFinishes=FLAG,
        submissionMode=choice("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
        submitterConfig=record(backoffLimit=WHOLE),
        submitterPodTemplate=TEMPLATE,
        suspend=FLAG,
        ttlSecondsAfterFinished=WHOLE,
    ),
)
