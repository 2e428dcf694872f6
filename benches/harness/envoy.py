"""Envoy's configurations: a bare router, nothing that a request does not need.

The same certificates, TLS 1.3 and key exchange as the sidecars, and the peer's
identity is checked as they do.
"""

from . import ports
from .certificates import IDENTITY

EXTENSIONS = "type.googleapis.com/envoy.extensions"
UNLIMITED = {"max_connections": 10**6, "max_pending_requests": 10**6, "max_requests": 10**6}


def client_side(certificates, between, curve):
    """Plaintext in, mutual TLS out; `between` is h2 or http/1.1."""
    tls = {"curve": curve, "certificates": certificates / "client", "peer": "server"}
    upstream = {"http": between, "http2": "h2"}
    listeners, clusters = [], []
    for name, inner in ports.INNER.items():
        http = name in upstream
        alpn = upstream.get(name)
        # Only where a row is about resumption are sessions remembered.
        resume = {"max_session_keys": 64 if name == "resumed" else 0}
        socket = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{EXTENSIONS}.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": tls_context(**tls, alpn=alpn),
                **({} if http else resume),
            },
        }
        listeners.append(listener(name, ports.ENTRY[name], http))
        clusters.append(cluster(name, inner, alpn) | {"transport_socket": socket})
    return configuration(listeners, clusters)


def server_side(certificates, curve):
    """Mutual TLS in, plaintext out."""
    tls = {"curve": curve, "certificates": certificates / "server", "peer": "client"}
    listeners, clusters = [], []
    for name, inner in ports.INNER.items():
        http = name in ("http", "http2")
        socket = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext",
                "require_client_certificate": True,
                "common_tls_context": tls_context(**tls, alpn="h2,http/1.1" if http else None),
            },
        }
        listeners.append(listener(name, inner, http, socket))
        clusters.append(cluster(name, ports.BACKEND[name], "h2" if name == "http2" else None))
    return configuration(listeners, clusters)


def plaintext_tcp():
    """One hop, bytes only."""
    names = ("tcp", "iperf")
    listeners = [listener(name, ports.ENTRY[name], False) for name in names]
    return configuration(listeners, [cluster(name, ports.BACKEND[name]) for name in names])


def many_hosts(count):
    """One hop to a cluster of so many hosts; only its memory matters."""
    known = cluster("tcp", ports.HTTP)
    known["load_assignment"] = assignment("tcp", [(address(host), 8080) for host in range(count)])
    return configuration([listener("tcp", ports.ENTRY["tcp"], False)], [known])


def address(position):
    """The position's address in 127.0.0.0/8, away from 127.0.0.1."""
    return f"127.{1 + (position >> 16)}.{position >> 8 & 255}.{position & 255}"


def configuration(listeners, clusters):
    """A whole bootstrap."""
    return {"static_resources": {"listeners": listeners, "clusters": clusters}}


def listener(name, port, http, socket=None):
    """A listener whose connections go to the cluster of the same name."""
    chain = {"filters": [http_filter(name) if http else tcp_filter(name)]}
    if socket:
        chain["transport_socket"] = socket
    return {
        "name": name,
        "address": socket_address("127.0.0.1", port),
        "filter_chains": [chain],
        "tcp_backlog_size": 8192,
    }


def http_filter(name):
    """One route, no timeout, no request IDs."""
    route = {"match": {"prefix": "/"}, "route": {"cluster": name, "timeout": "0s"}}
    router = {"@type": f"{EXTENSIONS}.filters.http.router.v3.Router", "dynamic_stats": False}
    manager = f"{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager"
    return {
        "name": "http",
        "typed_config": {
            "@type": manager,
            "stat_prefix": name,
            "codec_type": "AUTO",
            "generate_request_id": False,
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
            "route_config": {
                "virtual_hosts": [{"name": name, "domains": ["*"], "routes": [route]}]
            },
        },
    }


def tcp_filter(name):
    """Bytes to the cluster."""
    proxy = f"{EXTENSIONS}.filters.network.tcp_proxy.v3.TcpProxy"
    return {"name": "tcp", "typed_config": {"@type": proxy, "stat_prefix": name, "cluster": name}}


def cluster(name, port, alpn=None):
    """A cluster of one host, without limits."""
    options = f"{EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions"
    protocol = "http2_protocol_options" if alpn == "h2" else "http_protocol_options"
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [UNLIMITED]},
        "load_assignment": assignment(name, [("127.0.0.1", port)]),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": {protocol: {}},
            }
        },
    }


def assignment(name, hosts):
    """Endpoints of a cluster."""
    endpoints = [{"endpoint": {"address": socket_address(host, port)}} for host, port in hosts]
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}


def socket_address(host, port):
    """Envoy's form of an address."""
    return {"socket_address": {"address": host, "port_value": port}}


def tls_context(curve, certificates, peer, alpn):
    """TLS 1.3 with one key exchange, one certificate and one accepted identity."""
    context = {
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
            "ecdh_curves": [curve],
        },
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(certificates / "leaf.pem")},
                "private_key": {"filename": str(certificates / "leaf.key")},
            }
        ],
        "validation_context": {
            "trusted_ca": {"filename": str(certificates / "ca.pem")},
            "match_typed_subject_alt_names": [
                {"san_type": "URI", "matcher": {"exact": IDENTITY.format(peer)}}
            ],
        },
    }
    if alpn:
        context["alpn_protocols"] = alpn.split(",")
    return context
