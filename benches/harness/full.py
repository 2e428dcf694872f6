"""Everything on that a user has on, from Istio's YAML: routes of ten rules, policies
of twenty, STRICT, outlier detection, limits, retries, an access log of every request.

A controller tells it to the sidecars. It is a process on the load's core, idle
once they know, and no part of what is measured.
"""

import json
import subprocess

from . import linnet, machine, ports
from .certificates import IDENTITY

NAMESPACE = "bench"
CONTROLLER = "spiffe://cluster.local/ns/linnet-system/sa/linnet-controller"
RULES, POLICY_RULES = 10, 20
HTTP = ("http", "http2")

POD = """---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: bench
  labels: {{app: {name}, version: v1, linnet.io/sidecar: injected}}
  annotations: {{linnet.io/access-log: all}}
spec: {{serviceAccountName: {name}, containers: [{{name: app}}]}}
status: {{podIP: 127.0.0.1}}
"""

SERVICE = """---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: bench}}
spec: {{selector: {{app: server}}, ports: [{{name: {protocol}-{name}, port: {port}, targetPort: {inner}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: bench, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: {protocol}-{name}, port: {inner}}}]
endpoints:
- addresses: [127.0.0.1]
  conditions: {{ready: true}}
  targetRef: {{kind: Pod, name: server, namespace: bench}}
"""

DESTINATION = """---
apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata: {{name: {name}, namespace: bench}}
spec:
  host: {name}
  trafficPolicy:
    connectionPool:
      tcp: {{maxConnections: 10000}}
      http: {{http1MaxPendingRequests: 10000, http2MaxRequests: 10000}}
    outlierDetection: {{consecutive5xxErrors: 5, interval: 10s, baseEjectionTime: 30s}}
"""

STRICT = """---
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: {name: default, namespace: bench}
spec: {mtls: {mode: STRICT}}
"""


def route(name):
    """Nine rules that each request is asked about, and the one that takes it."""
    rules = "".join(
        f"  - match: [{{uri: {{prefix: /v{number}/}}, headers: {{x-user: {{exact: tester}}}}}}]\n"
        f"    route: [{{destination: {{host: {name}}}}}]\n"
        for number in range(1, RULES)
    )
    return (
        "---\napiVersion: networking.istio.io/v1beta1\nkind: VirtualService\n"
        f"metadata: {{name: {name}, namespace: bench}}\nspec:\n  hosts: [{name}]\n  http:\n{rules}"
        f"  - timeout: 10s\n    retries: {{attempts: 2, perTryTimeout: 5s, retryOn: '5xx,connect-failure'}}\n"
        f"    route: [{{destination: {{host: {name}}}}}]\n"
    )


def policy():
    """Nineteen callers who never call, then the one who does."""
    callers = [f"cluster.local/ns/bench/sa/other-{number}" for number in range(1, POLICY_RULES)]
    callers.append(IDENTITY.format("client").removeprefix("spiffe://"))
    rules = "".join(f"  - from: [{{source: {{principals: [{caller}]}}}}]\n" for caller in callers)
    return (
        "---\napiVersion: security.istio.io/v1beta1\nkind: AuthorizationPolicy\n"
        "metadata: {name: callers, namespace: bench}\n"
        f"spec:\n  selector: {{matchLabels: {{app: server}}}}\n  rules:\n{rules}"
    )


def manifests():
    """All of it."""
    parts = [POD.format(name=name) for name in ("client", "server")]
    for name, port in linnet.SERVICE.items():
        protocol = name if name in HTTP else "tcp"
        parts.append(SERVICE.format(name=name, protocol=protocol, port=port, inner=ports.INNER[name]))
    for name in HTTP:
        parts += [route(name), DESTINATION.format(name=name)]
    return "".join([*parts, STRICT, policy()])


class ControlPlane:
    """A running controller."""

    def __init__(self, work, program, log):
        directory = work / "certificates" / "controller"
        (directory / "manifests").mkdir(exist_ok=True)
        (directory / "manifests" / "all.yaml").write_text(manifests())
        command = ["taskset", "-c", machine.LOAD_CORE, program, "serve", "controller", directory]
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        said = self.process.stdout.readline()
        if not said:
            raise RuntimeError(f"the controller ended by itself: {self.process.wait()}")
        self.discovery = json.loads(said)["discovery"]

    def stop(self):
        """It ends with its standard input."""
        self.process.stdin.close()
        self.process.wait(10)

    def sidecar(self, work, side, environment):
        """The environment of a sidecar by hand, told what to do by the controller instead."""
        told = {name: value for name, value in environment.items() if name not in linnet.ALONE}
        return told | {
            "LINNET_DISCOVERY_ADDRESS": self.discovery,
            "LINNET_POD_NAME": side,
            "LINNET_POD_NAMESPACE": NAMESPACE,
            "LINNET_SERVICE_ACCOUNT": side,
            "LINNET_ACCESS_LOG": str(work / f"access-{side}.log"),
        }
