//! The demo's words to a person.

use super::{
    report::{Mtls, Report},
    shop::Shop,
};
use crate::{standalone::Mesh, terminal::Terminal};
use linnet_sample::load::Report as Load;

pub(super) fn first(terminal: &Terminal, shop: &Shop, mesh: &Mesh) {
    terminal.line(format_args!(
        "frontend → checkout → payment (v1, v2), {} sidecars, mutual TLS only",
        mesh.sidecars.len()
    ));
    terminal.line(format_args!(
        "  call it:    curl http://{}/\n  edit it:    {}\n  verdicts:   curl http://{}/debug/verdicts\n",
        shop.frontend,
        shop.manifests().join("payment-service.yaml").display(),
        mesh.controller.health_address,
    ));
}

/// One line a second.
pub(super) fn live(terminal: &Terminal, mesh: &Load, direct: &Load, mtls: &Mtls) {
    let hop = |name: &str| mesh.by_hop.get(name).copied().unwrap_or(0);
    let (v1, v2) = (hop("payment/v1"), hop("payment/v2"));
    let share = |count: u64| count as f64 * 100.0 / (v1 + v2).max(1) as f64;
    terminal.line(format_args!(
        "{:>6} requests  {:>6.2} % good  v1 {:>4.1} %  v2 {:>4.1} %  p50 {:.2} ms (direct {:.2})  p99 {:.2} ms (direct {:.2})  mTLS {}  plaintext {}",
        mesh.requests,
        mesh.success_rate() * 100.0,
        share(v1),
        share(v2),
        mesh.latency_ms.p50,
        direct.latency_ms.p50,
        mesh.latency_ms.p99,
        direct.latency_ms.p99,
        mtls.secured,
        mtls.plaintext,
    ));
}

pub(super) fn last(terminal: &Terminal, report: &Report) {
    let latency = &report.latency_ms;
    terminal.line("");
    let requests = format!(
        "{} requests, {:.2} % successful",
        report.requests,
        report.success_rate * 100.0
    );
    if report.success_rate == 1.0 {
        terminal.good(requests);
    } else {
        terminal.bad(requests);
    }
    let mtls = format!(
        "{} hops by mutual TLS, {} in plaintext; a plaintext call to payment was {}",
        report.mtls.secured, report.mtls.plaintext, report.plaintext_probe
    );
    if report.mtls.plaintext == 0 && report.plaintext_probe == "refused" {
        terminal.good(mtls);
    } else {
        terminal.bad(mtls);
    }
    terminal.good(format_args!(
        "90/10 sent {} to v1 and {} to v2; after the edit to 100/0 the last request reached v2 within {} ms",
        report.split.v1, report.split.v2, report.convergence_ms
    ));
    terminal.good(format_args!(
        "the whole chain, two hops: p50 {:.2} ms against {:.2} ms direct (tax {:.2}), p99 {:.2} ms against {:.2} ms",
        latency.mesh.p50, latency.direct.p50, latency.tax.p50, latency.mesh.p99, latency.direct.p99
    ));
    for certificate in &report.certificates {
        terminal.line(format_args!(
            "  {} until {}",
            certificate.identity, certificate.not_after
        ));
    }
}
