"""Linnet's sidecars as anyone runs them by hand; README.md says the same in shell."""

from . import ports
from .certificates import IDENTITY
from .envoy import address

# The port of each service; those of OPAQUE are passed on unseen.
SERVICE = {"http": 80, "http2": 81, "tcp": 9001, "iperf": 9002}
OPAQUE = "9001,9002"
# What a controller says instead.
ALONE = ("LINNET_STATIC_CONFIG", "LINNET_OPAQUE_PORTS")


def host(name):
    """A service's name and port."""
    return f"{name}.bench.svc.cluster.local:{SERVICE[name]}"


def client_side(work, secured=True, endpoints=None):
    """The environment of the sidecar beside the client.

    `secured`: to the other sidecar by mutual TLS; otherwise straight to the
    application. `endpoints`: more addresses of the other sidecar than one.
    """
    inner = ports.INNER if secured else ports.BACKEND
    identity = f"      identity: {IDENTITY.format('server')}\n" if secured else ""
    services = "services:\n"
    for name in SERVICE:
        services += f"  {host(name)}:\n"
        for known in endpoints or ["127.0.0.1"]:
            services += f"    - address: {known}:{inner[name]}\n{identity}"
    listeners = [f"127.0.0.1:{ports.ENTRY[name]}={host(name)}" for name in SERVICE]
    return environment(work, "client", services) | {
        "LINNET_OUTBOUND_LISTENERS": ",".join(listeners),
        "LINNET_OPAQUE_PORTS": OPAQUE,
    }


def server_side(work, any_address=False):
    """The environment of the sidecar beside the application."""
    listen = "0.0.0.0" if any_address else "127.0.0.1"
    listeners = [
        f"{listen}:{ports.INNER[name]}=127.0.0.1:{ports.BACKEND[name]}" for name in SERVICE
    ]
    return environment(work, "server", "inboundMtls: STRICT\nservices: {}\n") | {
        "LINNET_INBOUND_LISTENERS": ",".join(listeners),
    }


def many_hosts(work, count):
    """The environment of a sidecar that knows so many endpoints of one service."""
    name = "tcp"
    services = f"services:\n  {host(name)}:\n"
    for position in range(count):
        services += f"    - address: {address(position)}:8080\n"
        services += f"      identity: {IDENTITY.format('server')}\n"
    return environment(work, "client", services) | {
        "LINNET_OUTBOUND_LISTENERS": f"127.0.0.1:{ports.ENTRY[name]}={host(name)}",
    }


def environment(work, side, static):
    """What both sides have in common."""
    position = ("client", "server").index(side)
    path = work / f"linnet-{side}.yaml"
    path.write_text(static)
    return {
        "LINNET_CERTIFICATE_DIR": str(work / "certificates" / side),
        "LINNET_STATIC_CONFIG": str(path),
        "LINNET_METRICS_LISTEN": f"127.0.0.1:{ports.METRICS[position]}",
        "LINNET_ADMIN_LISTEN": f"127.0.0.1:{ports.ADMIN[position]}",
        "LINNET_DATA_THREADS": "1",
        "LINNET_LOG": "warn",
    }
