"""Who listens where. Subjects run one at a time, so they share their ports."""

# The applications.
HTTP, HTTP2, IPERF = 18080, 18081, 18090
# Where clients call, by what they speak.
ENTRY = {"http": 18001, "http2": 18002, "tcp": 18003, "iperf": 18004, "resumed": 18005}
# Where the hop between two sidecars leads, by the same names.
INNER = {"http": 18101, "http2": 18102, "tcp": 18103, "iperf": 18104, "resumed": 18105}
# The application behind each.
BACKEND = {"http": HTTP, "http2": HTTP2, "tcp": HTTP, "iperf": IPERF, "resumed": HTTP}
# Sidecars' own: client side, server side.
METRICS, ADMIN = (18201, 18202), (18203, 18204)
