//! The sidecar's own ports, called by somebody who is not meant to.

use crate::{
    support::{Mesh, identity},
    wire::{peer, send},
};
use linnet_proxy::server::Running;
use std::{collections::HashMap, fs};
use tokio::net::TcpStream;

/// A sidecar as the injector makes it: it takes redirected connections.
async fn injected(mesh: &Mesh) -> Running {
    let files = tempfile::tempdir().unwrap();
    let services = files.path().join("services.yaml");
    fs::write(&services, "inboundMtls: PERMISSIVE\nservices: {}\n").unwrap();
    let loopback = || "127.0.0.1:0".to_owned();
    let environment = HashMap::from([
        ("LINNET_STATIC_CONFIG", services.display().to_string()),
        ("LINNET_OUTBOUND_LISTEN", loopback()),
        ("LINNET_INBOUND_LISTEN", loopback()),
    ]);
    mesh.run("payment", environment).await
}

fn get(host: &str, method: &str, path: &str, headers: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: 0\r\n{headers}\r\n")
        .into_bytes()
}

/// Ports 15001 and 15006 lead where the kernel says that a connection was going;
/// whoever calls them directly was going nowhere.
#[tokio::test]
async fn a_direct_call_to_a_redirect_port_is_closed() {
    let mesh = Mesh::new();
    let sidecar = injected(&mesh).await;
    for address in [sidecar.outbound[0], sidecar.inbound[0]] {
        let stream = TcpStream::connect(address).await.unwrap();
        let answer = send(stream, &get("payment", "GET", "/", "")).await;
        assert_eq!(answer, "");
    }
}

/// The same with a certificate of the mesh.
#[tokio::test]
async fn a_mesh_peer_has_no_way_to_a_redirect_port_either() {
    let mesh = Mesh::new();
    let sidecar = injected(&mesh).await;
    let workload = mesh.authority.workload("default", "checkout");
    let config = workload.client_config(&[b"linnet/http1"]);
    let dialled = crate::wire::dial(sidecar.inbound[0], config).await;
    assert!(dialled.is_err());
}

#[tokio::test]
async fn the_admin_port_is_on_loopback_alone() {
    let mesh = Mesh::new();
    let sidecar = injected(&mesh).await;
    assert!(sidecar.admin.ip().is_loopback());
    let told = |name: &str| (name == "LINNET_ADMIN_LISTEN").then(|| "0.0.0.0:15000".to_owned());
    let error = linnet_proxy::config::Config::read(linnet_runtime::settings::Settings::new(&told))
        .unwrap_err();
    let admin = "LINNET_ADMIN_LISTEN";
    assert!(
        error
            .mistakes
            .iter()
            .any(|problem| problem.starts_with(admin)),
        "{error}"
    );
}

/// A page in a browser: by a name of its own that leads to loopback (rebinding), or
/// across origins.
#[tokio::test]
async fn the_admin_port_answers_no_browser() {
    let mesh = Mesh::new();
    let sidecar = injected(&mesh).await;
    let admin = sidecar.admin.to_string();
    for (host, origin) in [
        ("evil.example:15000", ""),
        ("localhost.evil.example", ""),
        ("127.0.0.1.evil.example:15000", ""),
        (&*admin, "origin: https://evil.example\r\n"),
        (&*admin, "origin: null\r\n"),
    ] {
        for (method, path) in [
            ("GET", "/config"),
            ("POST", "/drain"),
            ("PUT", "/log?filter=off"),
        ] {
            let stream = TcpStream::connect(sidecar.admin).await.unwrap();
            let answer = send(stream, &get(host, method, path, origin)).await;
            assert!(
                answer.starts_with("HTTP/1.1 403"),
                "{host} {path}: {answer}"
            );
        }
    }
    let stream = TcpStream::connect(sidecar.admin).await.unwrap();
    let answer = send(stream, &get(&admin, "GET", "/config", "")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// What all pods may call tells what it must, and does nothing.
#[tokio::test]
async fn the_public_port_is_no_way_to_the_admin_endpoints() {
    let mesh = Mesh::new();
    let sidecar = injected(&mesh).await;
    for (method, path) in [
        ("GET", "/config"),
        ("GET", "/certificates"),
        ("GET", "/authorization"),
        ("POST", "/drain"),
        ("POST", "/why"),
        ("PUT", "/log?filter=off"),
        ("GET", "/metrics/../config"),
        ("GET", "//config"),
    ] {
        let stream = TcpStream::connect(sidecar.metrics).await.unwrap();
        let answer = send(stream, &get("payment", method, path, "")).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
}

/// Neither a key nor a token is told to anybody.
#[tokio::test]
async fn no_port_tells_a_key() {
    let mesh = Mesh::new();
    let sidecar = injected(&mesh).await;
    for (address, path) in [
        (sidecar.admin, "/config"),
        (sidecar.admin, "/certificates"),
        (sidecar.metrics, "/metrics"),
    ] {
        let stream = TcpStream::connect(address).await.unwrap();
        let answer = send(stream, &get("localhost", "GET", path, "")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        assert!(!answer.contains("PRIVATE KEY"), "{path}");
        assert!(!answer.contains("BEGIN"), "{path}");
    }
    assert_eq!(
        sidecar.certificates().current().unwrap().id().as_str(),
        identity("payment")
    );
}

/// A mesh peer that names a protocol the mesh does not have.
#[tokio::test]
async fn an_unknown_protocol_is_refused() {
    let mesh = Mesh::new();
    let app = crate::app::App::start().await;
    let server = crate::wire::inbound(&mesh, "STRICT", &[app.address]).await;
    for alpn in [&b"linnet/http3"[..], b"h2", b"http/1.1", b"linnet/"] {
        let workload = mesh.authority.workload("default", "checkout");
        let dialled = crate::wire::dial(server.inbound[0], workload.client_config(&[alpn])).await;
        assert!(dialled.is_err(), "{alpn:?}");
    }
    let stream = peer(&mesh, server.inbound[0], b"linnet/http1").await;
    let answer = send(stream, &get("payment", "GET", "/", "")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
