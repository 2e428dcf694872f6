"""Load, and what it sees. All of it runs on the load core, beside the backend.

Every function fails if any answer was not the expected one: a fast error is no
result.
"""

import collections
import contextlib
import gc
import json
import re
import select
import socket
import statistics
import subprocess
import time

BODY = 1024
REQUEST = b"GET / HTTP/1.1\r\nHost: app\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
# Prior-knowledge preface, empty SETTINGS, then HEADERS of stream 1: GET, http, /,
# and the authority "app" as a literal.
REQUEST_HTTP2 = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    b"\x00\x00\x08\x01\x05\x00\x00\x00\x01\x82\x86\x84\x01\x03app"
)


class Failed(Exception):
    """Load that was not answered as it should have been."""


def run(*command, limit):
    """A load program's output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: {done.stdout[-500:]} {done.stderr[-500:]}")
    return done.stdout


def closed(port, seconds, connections, path="/", keep_alive=True):
    """Each connection asks again as soon as it was answered; answers and rate."""
    url = f"http://127.0.0.1:{port}{path}"
    header = [] if keep_alive else ["-H", "Connection: close"]
    size = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    output = run("wrk", *size, *header, url, limit=seconds + 30)
    for trouble in (r"Non-2xx or 3xx responses: .*", r"Socket errors: .*"):
        if found := re.search(trouble, output):
            raise Failed(f"wrk {url}: {found[0]}")
    return {
        "requests": int(re.search(r"(\d+) requests in", output)[1]),
        "rate": float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1]),
    }


def http2(port, seconds, connections, streams, post=None):
    """The same over HTTP/2; `post` is a file to send as a gRPC call's message."""
    call = []
    if post:
        call = ["-d", str(post), "-H", "content-type: application/grpc", "-H", "te: trailers"]
    path = "/bench.Echo/Unary" if post else "/"
    size = ["-t1", f"-c{connections}", f"-m{streams}", "-D", str(seconds)]
    output = run("h2load", *size, *call, f"http://127.0.0.1:{port}{path}", limit=seconds + 30)
    done = re.search(r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored", output)
    requests, succeeded = int(done[1]), int(done[2])
    # Answers whose body was cut short by the end count as statuses only.
    if requests == 0 or requests != succeeded or "2xx, 0 3xx, 0 4xx, 0 5xx" not in output:
        summary = re.findall(r"^(?:requests|status codes): .*$", output, re.M)
        raise Failed(f"h2load: {'; '.join(summary)}")
    return {"requests": requests, "rate": requests / seconds}


def iperf(port, seconds, streams):
    """One direction, client to server, as fast as it goes."""
    arguments = ["-J", "-c", "127.0.0.1", "-p", str(port), "-P", str(streams), "-t", str(seconds)]
    end = json.loads(run("iperf3", *arguments, limit=seconds + 30))["end"]["sum_received"]
    return {"bytes": end["bytes"], "gbit": end["bits_per_second"] / 1e9}


def connect(port):
    """A connection with Nagle's algorithm off."""
    connection = socket.create_connection(("127.0.0.1", port), 5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def complete(answer):
    """Whether a whole 200 is there."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if end and not head.startswith(b"HTTP/1.1 200"):
        raise Failed(f"answered {head[:80]!r}")
    return bool(end) and len(body) >= BODY


def ask(connection):
    """One request and its whole answer."""
    connection.sendall(REQUEST)
    answer = b""
    while not complete(answer):
        received = connection.recv(65536)
        if not received:
            raise Failed(f"closed after {answer[:80]!r}")
        answer += received


def ask_http2(connection):
    """The same as a connection's first HTTP/2 request; the body marks its end."""
    connection.sendall(REQUEST_HTTP2)
    answer = b""
    while answer.count(b"x") < BODY - 1:
        received = connection.recv(65536)
        if not received:
            raise Failed("an HTTP/2 connection was closed unanswered")
        answer += received


def sequence(port, count):
    """So many requests on one connection, one after the other."""
    with contextlib.closing(connect(port)) as connection:
        connection.settimeout(30)
        for _ in range(count):
            ask(connection)


def sequence_http2(port, count):
    """The same over HTTP/2."""
    output = run("h2load", "-c1", "-m1", f"-n{count}", f"http://127.0.0.1:{port}/", limit=300)
    if f"{count} succeeded" not in output:
        raise Failed(f"h2load: {output[-500:]}")


def answers(port):
    """Whether a first request is answered."""
    try:
        with contextlib.closing(connect(port)) as connection:
            # A proxy may take a connection that it can't serve yet.
            connection.settimeout(0.25)
            ask(connection)
            return True
    except (OSError, Failed):
        return False


def until_answers(port, limit=20):
    """Waits for the first answer; how long it took, seconds."""
    began = time.monotonic()
    while not answers(port):
        if time.monotonic() - began > limit:
            raise Failed(f"port {port} did not answer for {limit} s")
        time.sleep(0.001)
    return time.monotonic() - began


@contextlib.contextmanager
def idle(port, count, first=ask):
    """Holds connections on which one request was answered."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(contextlib.closing(connect(port)))
            first(connection)
        yield


def paced(port, rate, seconds, connections=16):
    """Requests evenly spaced, each timed from the moment when it was due.

    A request that waits because all connections are busy is as late as it is for
    whoever waits for it, so nothing is left out that a stall delayed.
    """
    with contextlib.ExitStack() as stack:
        free = collections.deque()
        for _ in range(connections):
            connection = stack.enter_context(contextlib.closing(connect(port)))
            ask(connection)
            free.append(connection)
        gc.disable()
        try:
            times, late = send_paced(free, rate, rate * seconds)
        finally:
            gc.enable()
    cuts = statistics.quantiles(times, n=100)
    return {
        "requests": len(times),
        "p50": cuts[49],
        "p90": cuts[89],
        "p99": cuts[98],
        "sent_late": statistics.median(late),
    }


def send_paced(free, rate, total):
    """Microseconds from due to answered, and from due to sent."""
    period = 1e9 / rate
    busy, times, late = {}, [], []
    sent = 0
    began = time.monotonic_ns() + period
    while len(times) < total:
        now = time.monotonic_ns()
        while sent < total and free and began + sent * period <= now:
            connection, due = free.popleft(), began + sent * period
            connection.sendall(REQUEST)
            busy[connection] = [due, b""]
            late.append((time.monotonic_ns() - due) / 1e3)
            sent += 1
        patience = 5.0
        if sent < total and free:
            patience = max(0.0, (began + sent * period - time.monotonic_ns()) / 1e9)
        readable = select.select(busy, (), (), patience)[0]
        if not readable and patience == 5.0:
            raise Failed("no answer for 5 s")
        for connection in readable:
            received = connection.recv(65536)
            exchange = busy[connection]
            exchange[1] += received
            if complete(exchange[1]):
                times.append((time.monotonic_ns() - exchange[0]) / 1e3)
                del busy[connection]
                free.append(connection)
            elif not received:
                raise Failed("a connection was closed")
    return times, late
