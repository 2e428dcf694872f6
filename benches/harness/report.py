"""Samples to figures to Markdown."""

import statistics

from .targets import TARGETS, judge, met

MICROSECONDS = "{:.1f}"
WHOLE = "{:,.0f}"


def mib(value):
    """Bytes as MiB."""
    return f"{value / 2**20:.1f}"


def kib(value):
    """Bytes as KiB."""
    return f"{value / 1024:.1f}"


# Title, then columns: heading, metric, format; "+" marks what is told over direct.
TABLES = [
    ("HTTP/1.1, 1 KiB", [
        ("CPU µs / request", "h1.cpu", MICROSECONDS),
        ("requests / s on one core", "h1.rate", WHOLE),
        ("CPU µs / request at 1,000 rps", "paced_1000.cpu", MICROSECONDS),
        ("added p50 µs", "+paced_1000.p50", WHOLE),
        ("added p90 µs", "+paced_1000.p90", WHOLE),
        ("added p99 µs", "+paced_1000.p99", WHOLE),
    ]),
    ("Added latency at other rates, HTTP/1.1, µs", [
        (f"{quantile} at {rate:,} rps", f"+paced_{rate}.{quantile}", WHOLE)
        for rate in (200, 4000) for quantile in ("p50", "p90", "p99")
    ]),
    ("HTTP/2 and gRPC unary, 1 KiB, 4 connections of 16 streams", [
        ("HTTP/2: CPU µs / request", "h2.cpu", MICROSECONDS),
        ("requests / s on one core", "h2.rate", WHOLE),
        ("gRPC: CPU µs / call", "grpc.cpu", MICROSECONDS),
        ("calls / s on one core", "grpc.rate", WHOLE),
    ]),
    ("Larger bodies, HTTP/1.1", [
        ("64 KiB: CPU µs / request", "body_64k.cpu", MICROSECONDS),
        ("requests / s", "body_64k.rate", WHOLE),
        ("10 MiB: CPU µs / request", "body_10m.cpu", WHOLE),
        ("requests / s", "body_10m.rate", WHOLE),
    ]),
    ("Opaque TCP, mutual TLS", [
        ("1 stream, Gbit/s", "mtls_1.gbit", "{:.1f}"),
        ("CPU ms / GB", "mtls_1.cpu", WHOLE),
        ("4 streams, Gbit/s", "mtls_4.gbit", "{:.1f}"),
        ("CPU ms / GB", "mtls_4.cpu", WHOLE),
        ("small messages at 1,000 a second: added p50 µs", "+tcp_paced_1000.p50", WHOLE),
        ("CPU µs / message", "tcp_paced_1000.cpu", MICROSECONDS),
    ]),
    ("New connections, mutual TLS on both sidecars (X25519MLKEM768, P-256)", [
        ("full handshakes / s", "connections.rate", WHOLE),
        ("CPU µs / connection", "connections.cpu", WHOLE),
        ("resumed / s", "resumed.rate", WHOLE),
        ("CPU µs / connection", "resumed.cpu", WHOLE),
    ]),
    ("Opaque TCP, plaintext", [
        ("1 stream, Gbit/s", "plain_1.gbit", "{:.1f}"),
        ("CPU ms / GB", "plain_1.cpu", WHOLE),
        ("4 streams, Gbit/s", "plain_4.gbit", "{:.1f}"),
        ("CPU ms / GB", "plain_4.cpu", WHOLE),
        ("new connections / s", "plain_connections.rate", WHOLE),
        ("CPU µs / connection", "plain_connections.cpu", MICROSECONDS),
    ]),
    ("Memory of one proxy, start and size", [
        ("idle, anonymous MiB", "idle_anonymous", mib),
        ("idle, resident MiB", "idle_resident", mib),
        ("after load, anonymous MiB", "loaded_anonymous", mib),
        ("12 s later", "settled_anonymous", mib),
        ("start to ready, ms", "start_ms", WHOLE),
        ("binary, MiB", "binary_bytes", mib),
    ]),
    ("Memory that each adds, all hops together", [
        ("idle HTTP/1.1 connection, KiB", "idle_h1", kib),
        ("idle HTTP/2 connection, KiB", "idle_h2", kib),
        ("idle opaque connection, KiB", "idle_tcp", kib),
        ("known endpoint (one process), bytes", "endpoint_bytes", WHOLE),
    ]),
]


class Figures:
    """Medians and ranges over rounds."""

    def __init__(self, samples):
        self.values, self.disturbed = {}, 0
        for (subject, metric), seen in samples.items():
            clean = [value for value, disturbed in seen if not disturbed]
            self.disturbed += len(seen) - len(clean)
            # A disturbed sample is better than none, and is counted above.
            self.values[subject, metric] = clean or [value for value, _ in seen]

    def median(self, subject, metric):
        """One figure, or None."""
        values = self.values.get((subject, metric))
        return statistics.median(values) if values else None

    def text(self, subject, metric, form):
        """Median and range; empty without a figure."""
        over = 0
        if metric.startswith("+"):
            metric = metric[1:]
            none = self.median("direct", metric.replace("tcp_", ""))
            if none is None or subject == "direct":
                return ""
            over = none
        values = self.values.get((subject, metric))
        if not values:
            return ""
        write = form.format if isinstance(form, str) else form
        middle, low, high = (write(pick(values) - over) for pick in (statistics.median, min, max))
        return middle if low == high else f"{middle} ({low}–{high})"


def tables(figures, subjects):
    """All tables that have anything in them."""
    for title, columns in TABLES:
        rows = []
        for subject in subjects:
            cells = [figures.text(subject.name, metric, form) for _, metric, form in columns]
            if any(cells):
                rows.append(f"| {subject.describes} | " + " | ".join(cell or "–" for cell in cells) + " |")
        if rows:
            headings = " | ".join(heading for heading, _, _ in columns)
            yield "\n".join([f"## {title}", "", f"| | {headings} |", "|---" * (len(columns) + 1) + "|", *rows])


def verdicts(figures):
    """Each target with what was measured: (row, wanted, measured text, verdict)."""
    for target in TARGETS:
        wanted = f"{'≥' if target.at_least else '≤'} {target.bound:g} {target.unit_name}"
        measured = judge(target, figures.median)
        if measured is None:
            yield target.row, wanted, "–", "not measured"
        else:
            verdict = "met" if met(target, measured) else "missed"
            yield target.row, wanted, f"{measured:.2f}", verdict


def markdown(result, figures, subjects):
    """The whole report."""
    about = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    mode = " ".join(["just bench", *result["arguments"]])
    head = [
        "# Results",
        "",
        f"One run of `{mode}` on {result['date']}: medians of {result['rounds']} interleaved rounds,"
        " in parentheses the range. Nothing here is written by hand.",
        "",
        f"{about['cores']} cores of {about['cpu']}, {about['memory_mib']} MiB, Linux {about['kernel']};"
        f" load average at the start {about['load_average']:.2f}."
        f" {figures.disturbed} samples of {result['sample_count']} were taken while other processes used"
        " the machine.",
        "",
        f"{versions}.",
        "",
        "Load and backend share one core, all of a subject's processes the other. CPU is user and system"
        " time of those processes together. p99 is mostly the machine's noise: p50 and p90 decide.",
    ]
    rows = [f"| {' | '.join(row)} |" for row in verdicts(figures)]
    heading = "| row | target | measured | |"
    aims = ["## Targets", "", heading, "|---|---|---|---|", *rows]
    troubles = [f"- {trouble}" for trouble in result["troubles"]]
    failed = ["## What could not be measured", "", *troubles] if troubles else []
    parts = ["\n".join(head), "\n".join(aims), *tables(figures, subjects), "\n".join(failed)]
    return "\n\n".join(part for part in parts if part) + "\n"
