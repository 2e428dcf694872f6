"""What is to be reached, and whether it is.

A target compares Linnet with Envoy (the better of its ways, HTTP/2 between) or
with a fixed bound; figures are medians of one run.
"""

import dataclasses

KIB, MB = 1024, 1e6


@dataclasses.dataclass
class Target:
    """One row: at most, or at least, `bound`."""

    row: str
    metric: str
    bound: float
    at_least: bool = False
    # Against this subject's figure; None: the bound is absolute.
    against: str | None = "envoy"
    subject: str = "linnet"
    # Latency over that of no proxy.
    added: bool = False
    unit: float = 1
    unit_name: str = "× Envoy"


def absolute(row, metric, bound, unit, unit_name):
    """At most so much."""
    return Target(row, metric, bound, against=None, unit=unit, unit_name=unit_name)


def full(row, metric, bound, **more):
    """Of a pair with everything on."""
    return Target(row, metric, bound, subject="linnet-full", **more)


TARGETS = [
    full("CPU per request, HTTP/1.1 1 KiB, closed loop of 64", "h1.cpu", 0.40),
    full("the same at 1,000 requests a second", "paced_1000.cpu", 0.38),
    Target("CPU per request, HTTP/1.1 1 KiB, closed loop of 64 (bare)", "h1.cpu", 0.32),
    Target("the same at 1,000 requests a second (bare)", "paced_1000.cpu", 0.30),
    full("requests a second on one core", "h1.rate", 2.5, at_least=True),
    full("added p50 at 1,000 requests a second", "paced_1000.p50", 0.50, added=True),
    full("CPU per request, HTTP/2", "h2.cpu", 0.45),
    full("CPU per call, gRPC unary", "grpc.cpu", 0.45),
    Target("new connections a second, full handshakes", "connections.rate", 1.3, at_least=True,
           subject="linnet-fresh"),
    Target("new connections a second, resumed, over Envoy's full handshakes", "resumed.rate", 2.0,
           at_least=True, against="envoy connections.rate"),
    Target("opaque TCP, mutual TLS, 1 stream: throughput", "mtls_1.gbit", 1.1, at_least=True),
    Target("opaque TCP, mutual TLS, 1 stream: CPU per byte", "mtls_1.cpu", 0.9),
    Target("opaque TCP, plaintext, one hop: throughput", "plain_1.gbit", 1.2, at_least=True,
           against="envoy-tcp", subject="linnet-tcp"),
    absolute("idle memory of a sidecar, anonymous", "idle_anonymous", 2.5, MB, "MB"),
    absolute("idle memory of a sidecar, resident", "idle_resident", 12, MB, "MB"),
    absolute("memory of an idle HTTP/1.1 connection, both sidecars", "idle_h1", 6, KIB, "KiB"),
    absolute("memory of an idle HTTP/2 connection, both sidecars", "idle_h2", 20, KIB, "KiB"),
    absolute("memory of an idle opaque connection with its TLS hop, both sidecars", "idle_tcp",
             20, KIB, "KiB"),
    absolute("memory of a known endpoint", "endpoint_bytes", 500, 1, "bytes"),
    absolute("start to ready", "start_ms", 80, 1, "ms"),
    absolute("binary, stripped", "binary_bytes", 15, MB, "MB"),
]


def judge(target, median):
    """The measured figure in the target's unit, or None without a measurement.

    `median(subject, metric)` gives a figure or None.
    """
    value = median(target.subject, target.metric)
    if target.against is None:
        return None if value is None else value / target.unit
    other, _, metric = target.against.partition(" ")
    reference = median(other, metric or target.metric)
    if value is None or reference is None:
        return None
    if target.added:
        none = median("direct", target.metric)
        if none is None or reference <= none:
            return None
        return (value - none) / (reference - none)
    return value / reference


def met(target, measured):
    """Whether a figure is good enough."""
    return measured >= target.bound if target.at_least else measured <= target.bound
