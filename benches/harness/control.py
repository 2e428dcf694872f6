"""What the control plane is to reach, and its part of the report."""

import statistics

HEADING = "The control plane"
MS, WHOLE = "{:.1f}", "{:,.0f}"


def mb(value):
    """Bytes as MB."""
    return f"{value / 1e6:.1f}"


def kb(value):
    """Bytes as KB."""
    return f"{value / 1e3:.1f}"


# Row, metric, bound, at least, the bound's unit in the figure's, its name.
TARGETS = [
    ("one edit to its last acknowledgement, p50", "edit_p50", 15, False, 1, "ms"),
    ("one edit to its last acknowledgement, p99", "edit_p99", 50, False, 1, "ms"),
    ("100 edits at once", "burst_p50", 250, False, 1, "ms"),
    ("controller with 1,000 proxies, anonymous", "controller_anonymous", 100, False, 1e6, "MB"),
    ("each proxy's part of that", "proxy_anonymous", 60, False, 1e3, "KB"),
    ("messages for one edit: its 20 subscribers", "edit_messages", 20, False, 1, "messages"),
    ("injection webhook at 100 requests a second, p99", "webhook_p99", 5, False, 1, "ms"),
    ("injection webhook on one core", "webhook_rate", 1000, True, 1, "a second"),
    ("certificates on one core", "sign_rate", 1000, True, 1, "a second"),
]

# Title, then columns: heading, metric, form.
TABLES = [
    ("Convergence: 1,000 services, 2,000 endpoints, 1,000 proxies, 20 subscriptions each", [
        ("one edit, p50 ms", "edit_p50", MS),
        ("p99 ms", "edit_p99", MS),
        ("mean by the controller's own metric, ms", "edit_controller_mean", MS),
        ("controller's CPU, µs", "edit_cpu", WHOLE),
        ("100 edits, median ms", "burst_p50", MS),
        ("slowest ms", "burst_max", MS),
        ("1,000 proxies connect and learn, ms", "connect_ms", WHOLE),
    ]),
    ("The controller's memory", [
        ("without proxies, anonymous MB", "controller_idle_anonymous", mb),
        ("with 1,000", "controller_anonymous", mb),
        ("resident", "controller_resident", mb),
        ("each proxy, KB", "proxy_anonymous", kb),
        ("after all edits, anonymous MB", "controller_loaded_anonymous", mb),
    ]),
    ("Webhook and identity", [
        ("review at 100 a second, p50 ms", "webhook_p50", "{:.2f}"),
        ("p99 ms", "webhook_p99", "{:.2f}"),
        ("reviews a second on one core", "webhook_rate", WHOLE),
        ("CPU µs / review", "webhook_cpu", WHOLE),
        ("certificates a second on one core", "sign_rate", WHOLE),
        ("CPU µs / certificate", "sign_cpu", WHOLE),
        ("injector, anonymous MB", "injector_anonymous", mb),
        ("identity, anonymous MB", "identity_anonymous", mb),
    ]),
]


def cell(values, form):
    """Median and range."""
    if not values:
        return "–"
    write = form.format if isinstance(form, str) else form
    middle, low, high = (write(pick(values)) for pick in (statistics.median, min, max))
    return middle if low == high else f"{middle} ({low}–{high})"


def table(headings, rows):
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdicts(medians):
    """Each target with what was measured."""
    for row, metric, bound, at_least, unit, name in TARGETS:
        value = medians.get(metric)
        wanted = f"{'≥' if at_least else '≤'} {bound:,} {name}"
        if value is None:
            yield [row, wanted, "–", "not measured"]
        else:
            value /= unit
            met = value >= bound if at_least else value <= bound
            yield [row, wanted, f"{value:,.1f}", "met" if met else "missed"]


def markdown(result):
    """This part of the report."""
    about, samples = result["machine"], result["samples"]
    mode = " ".join(["just bench-control", *result["arguments"]])
    parts = [
        f"# {HEADING}",
        f"One run of `{mode}` on {result['date']}, linnet {result['linnet']}: medians of {result['rounds']} rounds,"
        " in parentheses the range. Nothing here is written by hand.",
        f"{about['cores']} cores of {about['cpu']}, Linux {about['kernel']}; load average at the start"
        f" {about['load_average']:.2f}, and other processes used {result['foreign_cores']:.2f} cores meanwhile."
        " The service has one core, the simulated load the other.",
        "## Targets of the control plane",
        table(["row", "target", "measured", ""], verdicts(result["medians"])),
    ]
    for title, columns in TABLES:
        cells = [cell(samples.get(metric), form) for _, metric, form in columns]
        if any(text != "–" for text in cells):
            rows = [[heading, text] for (heading, _, _), text in zip(columns, cells)]
            parts += [f"## {title}", table(["", ""], rows)]
    images = [(name.removeprefix("image "), values[0]) for name, values in samples.items() if name.startswith("image ")]
    if images:
        rows = [[name, mb(size)] for name, size in images]
        parts += ["## Images, uncompressed", table(["", "MB"], rows)]
    if result["troubles"]:
        parts += ["## What could not be measured", "\n".join(f"- {trouble}" for trouble in result["troubles"])]
    return "\n\n".join(parts) + "\n"
