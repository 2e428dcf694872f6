"""What is measured: each subject's processes, in the order they are started.

The process that a client calls comes last, so that its start is what "start to
ready" means: everything behind it is already up.
"""

import dataclasses
import json
import pathlib
import socket
import string
import time

from . import envoy, full, linnet, load, machine, ports

HERE = pathlib.Path(__file__).resolve().parent.parent
CURVE = "X25519MLKEM768"
# More addresses than a client remembers sessions of, so that none is resumed.
FULL_HANDSHAKES = 5000

# Names of functions in measure.py, which say what each is.
HTTP = ("memory", "closed", "bodies", "paced")
HTTP2 = ("http2", "grpc")
PLAIN_TCP = ("plain_iperf", "plain_connections")
MESH_TCP = ("iperf", "paced_tcp")
SIDECARS = ("idle_http2", "idle_tcp", *HTTP, *HTTP2, *MESH_TCP)
# After all that is load; the second takes the subject's place.
LAST = ("after_load", "endpoints")


@dataclasses.dataclass
class Subject:
    """One or two proxies in a row, and which rows they are measured for."""

    name: str
    describes: str
    start: object
    measures: tuple
    quick: bool = True
    # Ports of a client, if not those of ENTRY.
    entry: dict = dataclasses.field(default_factory=lambda: ports.ENTRY)


class Catalogue:
    """All subjects, given where the programs are and a place for files."""

    def __init__(self, work, programs):
        """`programs`: paths by the names envoy, linnet, relay and control."""
        self.work = work
        names = ("envoy", "linnet", "relay", "control")
        self.envoy, self.linnet, self.relay, self.control = map(programs.get, names)
        self.control_plane = None

    def all(self):
        """In the order of the report."""
        direct = {"http": ports.HTTP, "http2": ports.HTTP2, "tcp": ports.HTTP, "iperf": ports.IPERF}
        baseline = ("closed", "bodies", "paced", *HTTP2, "plain_iperf")
        return [
            Subject("direct", "no proxy", self.nothing, baseline, entry=direct),
            Subject("relay", "byte relay, two hops, mutual TLS: the limit", self.byte_relay,
                    ("idle_tcp", *HTTP, "iperf", "resumed_tcp"),
                    quick=False),
            Subject("nginx", "nginx, one hop, plaintext", self.nginx, HTTP),
            Subject("haproxy", "haproxy, one hop, plaintext", self.haproxy, HTTP + PLAIN_TCP, quick=False),
            Subject("envoy-tcp", "Envoy, one hop, plaintext TCP", self.envoy_tcp, PLAIN_TCP),
            Subject("linnet-tcp", "Linnet, one hop, plaintext TCP", self.linnet_tcp, PLAIN_TCP),
            Subject("envoy-h1", "Envoy, two hops, mutual TLS, HTTP/1.1 between", self.envoy_h1,
                    ("closed", "bodies", "paced"), quick=False),
            Subject("envoy", "Envoy, two hops, mutual TLS, HTTP/2 between", self.envoy_h2,
                    (*SIDECARS, "connections", "resumed", *LAST)),
            Subject("linnet", "Linnet, two hops, mutual TLS, bare", self.linnet_bare,
                    (*SIDECARS, "resumed_tcp", *LAST)),
            Subject("linnet-full", "Linnet, two hops, mutual TLS, everything on", self.linnet_full,
                    (*HTTP, *HTTP2, *MESH_TCP)),
            Subject("linnet-fresh", "Linnet, two hops, no session ever resumed",
                    self.linnet_full_handshakes, ("connections",)),
        ]

    def nothing(self, processes):
        """The application alone."""

    def byte_relay(self, processes):
        """The sidecars' TLS, and bytes; HTTP is bytes like any other."""
        certificates = self.work / "certificates"
        names = ("http", "tcp", "iperf")
        for mode, side, listen, target in (
            ("accept", "server", ports.INNER, ports.BACKEND),
            ("connect", "client", ports.ENTRY, ports.INNER),
        ):
            if mode == "connect":
                wait_listening(ports.INNER["http"])
            pairs = [f"127.0.0.1:{listen[name]}=127.0.0.1:{target[name]}" for name in names]
            processes.start([self.relay, mode, certificates / side, *pairs])

    def nginx(self, processes):
        """One process, HTTP only."""
        path = self.fill("nginx.conf", http=ports.ENTRY["http"], backend=ports.HTTP)
        processes.start(["nginx", "-c", path])

    def haproxy(self, processes):
        """One process."""
        entry = ports.ENTRY
        path = self.fill("haproxy.cfg", http=entry["http"], tcp=entry["tcp"], iperf=entry["iperf"],
                         backend=ports.HTTP, iperf_backend=ports.IPERF)
        processes.start(["haproxy", "-db", "-f", path])

    def envoy_tcp(self, processes):
        """One process, bytes only."""
        self.start_envoy(processes, "tcp", envoy.plaintext_tcp())

    def envoy_h1(self, processes):
        """HTTP/1.1 between."""
        self.start_envoys(processes, "http/1.1")

    def envoy_h2(self, processes):
        """HTTP/2 between, which is what Envoy does best under load."""
        self.start_envoys(processes, "h2")

    def start_envoys(self, processes, between):
        """Server side, then client side."""
        certificates = self.work / "certificates"
        self.start_envoy(processes, "server", envoy.server_side(certificates, CURVE))
        wait_listening(ports.INNER["http"])
        self.start_envoy(processes, "client", envoy.client_side(certificates, between, CURVE))

    def start_envoy(self, processes, name, configuration):
        """One data thread, no hot restart: nothing shared with another."""
        path = self.work / f"envoy-{name}.json"
        path.write_text(json.dumps(configuration, indent=1))
        options = ["--concurrency", "1", "--disable-hot-restart", "-l", "error"]
        processes.start([self.envoy, *options, "-c", path])

    def linnet_tcp(self, processes):
        """One process, straight to the application."""
        processes.start([self.linnet], linnet.client_side(self.work, secured=False))

    def linnet_bare(self, processes):
        """No routes, no policies; metrics are always on."""
        processes.start([self.linnet], linnet.server_side(self.work))
        wait_listening(ports.INNER["http"])
        processes.start([self.linnet], linnet.client_side(self.work))

    def linnet_full(self, processes):
        """Routes, policies, limits and an access log, as full.py has them."""
        if self.control_plane is None:
            self.control_plane = full.ControlPlane(self.work, self.control, processes.log)
        told = self.control_plane.sidecar
        processes.start([self.linnet], told(self.work, "server", linnet.server_side(self.work)))
        wait_listening(ports.INNER["http"])
        processes.start([self.linnet], told(self.work, "client", linnet.client_side(self.work)))

    def stop(self):
        """Ends what subjects share."""
        if self.control_plane is not None:
            self.control_plane.stop()

    def linnet_full_handshakes(self, processes):
        """Each connection to another address of the server side, so that there is
        hardly ever a session to resume."""
        processes.start([self.linnet], linnet.server_side(self.work, any_address=True))
        wait_listening(ports.INNER["http"])
        endpoints = [envoy.address(position) for position in range(FULL_HANDSHAKES)]
        processes.start([self.linnet], linnet.client_side(self.work, endpoints=endpoints))

    def many_hosts(self, subject, count, processes):
        """The subject's client side knowing so many endpoints."""
        if subject == "envoy":
            self.start_envoy(processes, "hosts", envoy.many_hosts(count))
        else:
            processes.start([self.linnet], linnet.many_hosts(self.work, count))

    def fill(self, name, **values):
        """A peer's configuration with its values in place."""
        text = string.Template((HERE / "peers" / name).read_text())
        path = self.work / name
        path.write_text(text.substitute(values, work=self.work))
        return path


def backend(catalogue, log):
    """The applications: nginx and an iperf3 server, on the load core."""
    work = catalogue.work
    (work / "files").mkdir(exist_ok=True)
    for name, size in (("64k", 64 << 10), ("10m", 10 << 20)):
        (work / "files" / name).write_bytes(b"x" * size)
    body = "x" * (load.BODY - 1) + "\\n"
    path = catalogue.fill("backend.conf", http=ports.HTTP, http2=ports.HTTP2, body=body)
    processes = machine.Processes(machine.LOAD_CORE, log)
    processes.start(["nginx", "-c", path])
    processes.start(["iperf3", "-s", "-B", "127.0.0.1", "-p", str(ports.IPERF)])
    wait_listening(ports.HTTP)
    return processes


def wait_listening(port, limit=20):
    """Until something listens there."""
    deadline = time.monotonic() + limit
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise load.Failed(f"nothing listens on port {port} after {limit} s") from None
            time.sleep(0.002)
