"""What is measured on a subject while it runs: one function a measure, named as
in a subject's list, each adding samples of metrics."""

import contextlib
import dataclasses
import subprocess
import time

from . import load, machine, ports

FAILURES = (load.Failed, OSError, RuntimeError, subprocess.SubprocessError)
CONNECTIONS = 64
# HTTP/2: as many requests at once as there are HTTP/1.1 connections.
SESSIONS, STREAMS = 4, 16
IDLE_BEFORE, IDLE = 100, 1000
HOSTS = 10_000
# Longer than an allocator keeps what nobody uses.
SETTLE = 12


@dataclasses.dataclass
class Settings:
    """How long and how often."""

    rounds: int = 3
    seconds: int = 3
    tcp_seconds: int = 2
    rates: tuple = (200, 1000, 4000)
    skip: frozenset = frozenset()
    # Measured in the first round only.
    once: frozenset = frozenset({"after_load", "endpoints"})
    # How often a measurement is made until nothing disturbs it.
    attempts: int = 2

    @classmethod
    def quick(cls):
        """Under three minutes."""
        skip = frozenset({"bodies", "paced_tcp", "resumed", "plain_connections", "after_load"})
        # What memory takes is the same each time.
        once = cls.once | {"memory", "idle_http2", "idle_tcp"}
        return cls(rounds=2, seconds=2, tcp_seconds=1, rates=(1000,), skip=skip, once=once, attempts=1)


class Visit:
    """One subject, started, measured and stopped once."""

    def __init__(self, subject, catalogue, backend, settings, log, first):
        self.subject, self.catalogue, self.backend = subject, catalogue, backend
        self.settings, self.log, self.first = settings, log, first
        self.proxies = machine.Processes(machine.PROXY_CORE, log)
        self.samples, self.troubles = [], []

    def run(self, wanted):
        """Fills `samples` with (metric, value, disturbed), and `troubles`."""
        try:
            started = self.restart()
            if "memory" in self.subject.measures:
                self.add("start_ms", started * 1e3)
            done = frozenset() if self.first else self.settings.once
            for measure in self.subject.measures:
                chosen = measure in wanted if wanted else measure not in self.settings.skip
                if chosen and measure not in done:
                    self.attempt(measure)
                    self.proxies.check()
        except FAILURES as failure:
            self.troubles.append(str(failure))
        finally:
            self.proxies.stop()

    def restart(self):
        """The subject as new; seconds from its start to its first answer."""
        self.proxies.stop()
        self.subject.start(self.proxies)
        # Whoever is measured for TCP alone need not speak HTTP.
        speaks_http = "closed" in self.subject.measures
        return load.until_answers(self.port("http" if speaks_http else "tcp"))

    def attempt(self, measure):
        """One measure; its failure does not stop the others."""
        try:
            getattr(self, measure)()
        except FAILURES as failure:
            self.troubles.append(f"{measure}: {failure}")

    def port(self, name):
        """Where a client calls."""
        return self.subject.entry[name]

    def add(self, metric, value, disturbed=False):
        """One sample."""
        self.samples.append((metric, value, disturbed))

    def metered(self, function, *arguments, **named):
        """What a function saw, the proxies' CPU time, and whether the machine was
        busy with something else; if so, once more."""
        for _ in range(self.settings.attempts):
            meter = machine.Meter(self.proxies.pids(), self.backend.pids())
            seen = function(*arguments, **named)
            cpu, foreign = meter.read()
            if foreign <= machine.QUIET:
                break
        return seen, cpu, foreign > machine.QUIET

    def requests(self, metric, function, *arguments, **named):
        """Requests a second, and CPU microseconds for each."""
        seen, cpu, disturbed = self.metered(function, *arguments, **named)
        self.add(f"{metric}.rate", seen["rate"], disturbed)
        if self.proxies.all:
            self.add(f"{metric}.cpu", cpu / seen["requests"] * 1e6, disturbed)

    # HTTP

    def closed(self):
        """HTTP/1.1, 1 KiB, as fast as 64 connections go."""
        load.closed(self.port("http"), 1, CONNECTIONS)
        self.requests("h1", load.closed, self.port("http"), self.settings.seconds, CONNECTIONS)

    def bodies(self):
        """Larger bodies."""
        for name, connections in (("64k", CONNECTIONS), ("10m", 4)):
            self.requests(f"body_{name}", load.closed, self.port("http"), self.settings.tcp_seconds,
                          connections, f"/files/{name}")

    def http2(self):
        """The same over HTTP/2."""
        self.requests("h2", load.http2, self.port("http2"), self.settings.seconds, SESSIONS, STREAMS)

    def grpc(self):
        """A unary call: 1 KiB each way, status in trailers."""
        message = self.catalogue.work / "message"
        message.write_bytes(b"\x00\x00\x00\x03\xfb" + b"x" * 1019)
        self.requests("grpc", load.http2, self.port("http2"), self.settings.seconds, SESSIONS,
                      STREAMS, post=message)

    def paced(self):
        """HTTP/1.1 at fixed rates."""
        for rate in self.settings.rates:
            self.at_rate(f"paced_{rate}", "http", rate)

    def at_rate(self, metric, entry, rate):
        """Latency from when each request was due."""
        seen, cpu, disturbed = self.metered(load.paced, self.port(entry), rate, self.settings.seconds)
        for name in ("p50", "p90", "p99", "sent_late"):
            self.add(f"{metric}.{name}", seen[name], disturbed)
        if self.proxies.all:
            self.add(f"{metric}.cpu", cpu / seen["requests"] * 1e6, disturbed)

    # TCP

    def paced_tcp(self):
        """Small messages through an opaque port."""
        self.at_rate("tcp_paced_1000", "tcp", 1000)

    def iperf(self, prefix="mtls"):
        """Throughput of opaque TCP."""
        for streams in (1, 4):
            seen, cpu, disturbed = self.metered(
                load.iperf, self.port("iperf"), self.settings.tcp_seconds, streams)
            self.add(f"{prefix}_{streams}.gbit", seen["gbit"], disturbed)
            if self.proxies.all:
                self.add(f"{prefix}_{streams}.cpu", cpu / (seen["bytes"] / 1e9) * 1e3, disturbed)

    def plain_iperf(self):
        """The same without TLS."""
        self.iperf("plain")

    def connections(self, metric="connections", entry="tcp"):
        """A connection for each request, through an opaque port."""
        port = self.port(entry)
        load.closed(port, 1, 16, keep_alive=False)
        self.requests(metric, load.closed, port, self.settings.seconds, 16, keep_alive=False)

    def plain_connections(self):
        """The same without TLS."""
        self.connections("plain_connections")

    def resumed(self):
        """The same with sessions remembered, on an entry of its own."""
        self.connections("resumed", "resumed")

    def resumed_tcp(self):
        """The same where all entries remember sessions."""
        self.connections("resumed")

    # Memory

    def memory(self):
        """At rest, and what idle HTTP/1.1 connections add."""
        self.restart()
        time.sleep(0.5)
        anonymous, resident = machine.memory(self.proxies.pids())
        hops = len(self.proxies.all)
        self.add("idle_anonymous", anonymous / hops)
        self.add("idle_resident", resident / hops)
        self.idle("idle_h1", "http", load.ask)

    def idle_http2(self):
        """What idle HTTP/2 connections add."""
        self.restart()
        self.idle("idle_h2", "http2", load.ask_http2)

    def idle_tcp(self):
        """What idle opaque connections add, each with a TLS connection between."""
        self.restart()
        self.idle("idle_tcp", "tcp", load.ask)

    def idle(self, metric, entry, first):
        """Bytes that each of a thousand connections adds to all hops together, in
        processes that have no freed memory to reuse."""
        with contextlib.ExitStack() as stack:
            used = []
            for count in (IDLE_BEFORE, IDLE):
                stack.enter_context(load.idle(self.port(entry), count, first))
                time.sleep(0.3)
                used.append(machine.memory(self.proxies.pids())[0])
            self.add(metric, (used[1] - used[0]) / IDLE)
        time.sleep(0.3)

    def after_load(self):
        """Whether the memory of load comes back."""
        hops = len(self.proxies.all)
        self.add("loaded_anonymous", machine.memory(self.proxies.pids())[0] / hops)
        time.sleep(SETTLE)
        self.add("settled_anonymous", machine.memory(self.proxies.pids())[0] / hops)

    def endpoints(self):
        """Bytes that each known endpoint takes, in a process of its own."""
        used = []
        for count in (1, HOSTS):
            # On the subject's ports.
            self.proxies.stop()
            self.catalogue.many_hosts(self.subject.name, count, self.proxies)
            self.wait_for_entry()
            used.append(machine.memory(self.proxies.pids())[0])
        self.add("endpoint_bytes", (used[1] - used[0]) / (HOSTS - 1))

    def wait_for_entry(self):
        """Until the process listens, and has done what it does at its start."""
        deadline = time.monotonic() + 20
        while True:
            try:
                load.connect(ports.ENTRY["tcp"]).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise load.Failed("the process with many endpoints does not listen") from None
                time.sleep(0.01)
        time.sleep(1)
