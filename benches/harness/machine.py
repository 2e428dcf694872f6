"""The machine: a network of our own, processes on a given core, what they use.

Processes are ended by their own pid, in `Processes.stop`; nothing is ever looked
up by name.
"""

import contextlib
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

PROXY_CORE, LOAD_CORE = 0, 1
# Set for the process that runs inside the namespace.
INSIDE = "LINNET_BENCH_INSIDE"
# Of one core, by processes that are not ours: more spoils a sample.
QUIET = 0.25
SETTINGS = {
    # Above every port that anything here listens on.
    "net/ipv4/ip_local_port_range": "20000 65535",
    "net/ipv4/tcp_tw_reuse": "1",
    "net/core/somaxconn": "8192",
    "net/ipv4/tcp_max_syn_backlog": "8192",
}


class Unusable(Exception):
    """This machine can't run the benchmark; the text says what to do."""


def enter_namespace():
    """Starts this program again in a network namespace with nothing but loopback."""
    if os.environ.get(INSIDE) == str(os.getpid()):
        set_up_namespace()
        return
    if os.geteuid() != 0:
        raise Unusable("needs root for a network namespace of its own: run it by sudo -E")
    if (os.cpu_count() or 1) < 2:
        raise Unusable("needs two cores: one for the proxies, one for load and backend")
    # unshare(1) execs, so that the pid stays and tells the inside from the outside.
    environment = {**os.environ, INSIDE: str(os.getpid())}
    command = ["unshare", "--net", "--", sys.executable, *sys.argv]
    os.execvpe(command[0], command, environment)


def set_up_namespace():
    """Loopback up, room for many short connections."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for name, value in SETTINGS.items():
        path = pathlib.Path("/proc/sys", name)
        with contextlib.suppress(FileNotFoundError, PermissionError):
            path.write_text(value)
    # Requests are due to the microsecond.
    pathlib.Path("/proc/self/timerslack_ns").write_text("1")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.sched_setaffinity(0, {LOAD_CORE})


class Processes:
    """Processes started together, on one core."""

    def __init__(self, core, log):
        self.core, self.log, self.all = core, log, []

    def start(self, command, environment=None):
        """Starts one more."""
        process = subprocess.Popen(
            ["taskset", "-c", str(self.core), *map(str, command)],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )
        self.all.append(process)
        return process

    def pids(self):
        """All are exec'ed by taskset and fork nothing, so these are their own."""
        return [process.pid for process in self.all]

    def check(self):
        """Raises if one has ended by itself."""
        for process in self.all:
            if process.poll() is not None:
                raise RuntimeError(f"{process.args[3:]} ended by itself: {process.returncode}")

    def stop(self, patience=2):
        """Ends them, gently for a while (seconds)."""
        for process in self.all:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + patience
        for process in self.all:
            try:
                process.wait(max(0.05, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.all.clear()


def cpu_seconds(pids):
    """User and system time of processes, all their threads included.

    A process's CPU clock has the same sum as utime + stime of /proc/PID/stat, to
    the nanosecond instead of to the tick.
    """
    scheduled = 2
    return sum(time.clock_gettime((~pid << 3) | scheduled) for pid in pids)


def memory(pids):
    """Anonymous and resident memory of processes, bytes."""
    anonymous = resident = 0
    for pid in pids:
        rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        anonymous += 1024 * int(re.search(r"^Anonymous:\s+(\d+)", rollup, re.M)[1])
        resident += 1024 * int(re.search(r"^Rss:\s+(\d+)", rollup, re.M)[1])
    return anonymous, resident


def foreign_seconds(ours):
    """CPU time of all processes that we did not start."""
    tick = os.sysconf("SC_CLK_TCK")
    mine = {os.getpid(), *ours}
    total = 0
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in mine:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                stat = pathlib.Path("/proc", entry, "stat").read_text()
                fields = stat.rpartition(")")[2].split()
                # Also of children that have ended and were waited for.
                total += sum(map(int, fields[11:15]))
    return total / tick


class Meter:
    """What was used between its making and `read`."""

    def __init__(self, proxies, others):
        self.proxies, self.others = proxies, others
        self.began = self.now()

    def now(self):
        ours = self.proxies + self.others
        return time.monotonic(), cpu_seconds(self.proxies), foreign_seconds(ours)

    def read(self):
        """CPU seconds of the proxies, and how many cores others used."""
        wall, cpu, foreign = (b - a for a, b in zip(self.began, self.now()))
        return cpu, max(0.0, foreign) / wall


def describe():
    """What the numbers were measured on."""
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.*)$", cpuinfo, re.M)
    return {
        "cpu": model[1] if model else "unknown",
        "cores": os.cpu_count(),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "kernel": os.uname().release,
        "load_average": os.getloadavg()[0],
    }


def missing(programs):
    """Those of the programs that are not in PATH (sbin included)."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    return [program for program in programs if shutil.which(program) is None]


def commit(root):
    """The commit that was built, if that can be told."""
    command = ["git", "-c", f"safe.directory={root}", "-C", root, "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"at {done.stdout.strip()}" if done.returncode == 0 else "built from an unknown commit"
