"""Holds the manifests of an overlay, on standard input, against the schemas of Kubernetes and against our own rules.

Called by scripts/k8s-validate.sh. Prints a line for each thing that is wrong; the exit code is 0 if there is none.
"""

import sys
import tomllib

import yaml
from kubernetes_validate import utils

VERSIONS_HELD_AGAINST = 3
# Kinds of operators, for which there is no schema of Kubernetes.
OPERATORS_KINDS = {"PodMonitor", "PrometheusRule", "ScaledObject"}
SERVICES = ["cdc-ingest", "dwd-cleaner", "dim-joiner", "pg-sinker"]
WORKLOADS = {"Deployment", "StatefulSet"}
# Where a service says what it reads.
INPUTS = {"dwd-cleaner": "input", "dim-joiner": "facts", "pg-sinker": "input"}


def newest_versions():
    minors = {utils.major_minor(version) for version in utils.all_versions()}
    return sorted(minors, key=lambda minor: tuple(map(int, minor.split("."))))[-VERSIONS_HELD_AGAINST:]


def against_schemas(found, versions):
    for thing in found:
        if thing["kind"] in OPERATORS_KINDS:
            continue
        for version in versions:
            try:
                utils.validate(thing, version, strict=True)
            except utils.ValidationError as error:
                place = ".".join(map(str, error.path))
                yield f"{name(thing)} on Kubernetes {version}: {place}: {error.message}"
            except utils.SchemaNotFoundError as error:
                yield f"{name(thing)}: {error.message}"


def name(thing):
    return f"{thing['kind']}/{thing['metadata']['name']}"


def pod_of(thing):
    if thing["kind"] == "Pod":
        return thing["spec"]
    return thing["spec"]["template"]["spec"]


def against_restricted(thing):
    """What the Pod Security level "restricted" asks for."""
    pod = pod_of(thing)
    context = pod.get("securityContext", {})
    for container in pod["containers"] + pod.get("initContainers", []):
        own = container.get("securityContext", {})
        if not own.get("runAsNonRoot", context.get("runAsNonRoot")):
            yield "may run as root"
        if own.get("seccompProfile", context.get("seccompProfile", {})).get("type") != "RuntimeDefault":
            yield "has no seccomp profile"
        if own.get("allowPrivilegeEscalation") is not False:
            yield "may gain privileges"
        if own.get("capabilities", {}).get("drop") != ["ALL"]:
            yield "keeps capabilities"
        for variable in container.get("env", []):
            if "PASSWORD" in variable["name"] and "value" in variable:
                yield f"has the value of {variable['name']} in the open"
    if any({"hostPath"} & set(volume) for volume in pod.get("volumes", [])):
        yield "mounts a folder of the node"
    if pod.get("automountServiceAccountToken") is not False:
        yield "has a token of the API server"


def against_ours(thing, config):
    """What each of the four has beyond that."""
    pod = pod_of(thing)
    [container] = pod["containers"]
    port = config["http"]["port"]
    if [one["containerPort"] for one in container["ports"]] != [port]:
        yield f"does not show the port of its settings, {port}"
    if thing["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"] != str(port):
        yield f"is not scraped at the port of its settings, {port}"
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"]:
        if probe not in container:
            yield f"has no {probe}"
    resources = container.get("resources", {})
    if set(resources.get("requests", {})) != {"cpu", "memory"} or "memory" not in resources.get("limits", {}):
        yield "does not say what it needs of memory and CPU"
    if container["securityContext"].get("readOnlyRootFilesystem") is not True:
        yield "may write to its root"
    spread = {one["topologyKey"] for one in pod.get("topologySpreadConstraints", [])}
    if spread != {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}:
        yield "is not spread over nodes and zones"
    # It drains, and threads may be in one question to the broker, twice.
    bounds = config.get("restart", {}).get("drain_timeout_ms", 10_000) + 2 * config["kafka"]["request_timeout_ms"]
    if pod["terminationGracePeriodSeconds"] * 1000 <= bounds:
        yield f"is killed while it drains, which may take {bounds} ms"


def against_lag(thing, services):
    """KEDA looks at what the service reads, and never wants more replicas than there are partitions."""
    config = services[thing["metadata"]["name"]]
    reads = config[INPUTS[thing["metadata"]["name"]]]
    [trigger] = thing["spec"]["triggers"]
    partitions = services["cdc-ingest"]["kafka"]["topics"]["partitions"]
    if thing["spec"]["maxReplicaCount"] > partitions:
        yield f"wants more replicas than the {partitions} partitions"
    if (trigger["metadata"]["topic"], trigger["metadata"]["consumerGroup"]) != (reads["topic"], reads["group"]):
        yield f"looks at another topic or group than {reads['topic']}, {reads['group']}"


def is_guarded(service, found):
    """A disruption budget and a network policy select it."""
    labels = {"app.kubernetes.io/name": service, "app.kubernetes.io/part-of": "tidemill"}

    def selects(selector):
        return selector.get("matchLabels", {}).items() <= labels.items()

    if not any(one["kind"] == "PodDisruptionBudget" and selects(one["spec"]["selector"]) for one in found):
        yield "has no disruption budget"
    if not any(one["kind"] == "NetworkPolicy" and selects(one["spec"]["podSelector"]) for one in found):
        yield "has no network policy"


def against_rules(found, services):
    workloads = {one["metadata"]["name"]: one for one in found if one["kind"] in WORKLOADS}
    for thing in found:
        if thing["kind"] in WORKLOADS | {"Pod"}:
            yield from (f"{name(thing)} {wrong}" for wrong in against_restricted(thing))
        if thing["kind"] == "ScaledObject":
            yield from (f"{name(thing)} {wrong}" for wrong in against_lag(thing, services))
    for service in SERVICES:
        if service not in workloads:
            yield f"{service} is not there"
            continue
        thing = workloads[service]
        yield from (f"{name(thing)} {wrong}" for wrong in against_ours(thing, services[service]))
        yield from (f"{name(thing)} {wrong}" for wrong in is_guarded(service, found))
    if not any(one["kind"] == "Namespace" and "restricted" in one["metadata"]["labels"].values() for one in found):
        yield "no namespace enforces the Pod Security level restricted"


def main():
    services = {}
    for service in SERVICES:
        with open(f"config/{service}.toml", "rb") as file:
            services[service] = tomllib.load(file)
    found = [one for one in yaml.safe_load_all(sys.stdin) if one]
    versions = newest_versions()
    wrong = [*against_schemas(found, versions), *against_rules(found, services)]
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"{len(found)} objects held against Kubernetes {', '.join(versions)} and {len(wrong)} found wrong")
    return 1 if wrong or not found else 0


if __name__ == "__main__":
    sys.exit(main())
