//! The mesh on a real Kubernetes cluster, with the guides' own YAML: `just
//! cluster-up`, then `just e2e`.
//!
//! The points build on one installation and run in order, on one thread; each
//! can also run alone, and installs what it misses. The last one uninstalls.
//!
//! Environment: `KUBECONFIG` (default: the test node's), `LINNET_BIN` (default:
//! the release build), `LINNET_E2E_ROTATION_SECONDS` (default 100; `just nightly`
//! takes 300).

// This whole crate is tests; clippy takes only #[test] functions for such.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod authorization;
mod clocks;
mod configuration;
mod install;
mod mtls;
mod pods;
mod prometheus;
mod protocols;
mod resilience;
mod root_rotation;
mod rotation;
mod split;
mod support;
mod uninstall;
mod why;

use support::run;

#[test]
fn point_0_the_cluster_itself() {
    run(protocols::every_protocol_works_without_a_mesh);
}

#[test]
fn point_1_install_and_inject() {
    run(install::control_plane_is_healthy_and_a_labelled_namespace_gets_sidecars);
}

#[test]
fn point_2_every_protocol_over_mutual_tls() {
    run(protocols::every_protocol_is_carried_and_measured);
}

#[test]
fn point_2b_prometheus_reads_it() {
    run(prometheus::prometheus_finds_and_reads_the_sidecars);
}

#[test]
fn point_3_who_may_call_without_a_certificate() {
    run(mtls::modes_decide_who_may_call);
}

#[test]
fn point_3b_who_may_call_the_database() {
    run(authorization::only_the_allowed_reach_the_database);
}

#[test]
fn point_3d_a_token_of_the_right_issuer() {
    run(authorization::only_a_token_reaches_the_database);
}

#[test]
fn point_3c_why_a_call_is_allowed_or_not() {
    run(why::each_decision_explains_itself);
}

#[test]
fn point_4_weights_hold_and_edits_lose_nothing() {
    run(split::weights_hold_and_edits_lose_nothing);
}

#[test]
fn point_4b_trouble_is_contained() {
    run(resilience::trouble_is_contained);
}

#[test]
fn point_4c_apply_says_what_becomes_of_it() {
    run(configuration::apply_says_what_becomes_of_it);
}

#[test]
fn point_5_pods_of_every_kind() {
    run(pods::jobs_complete_and_the_excluded_stay_as_they_are);
}

#[test]
fn point_6_certificates_rotate_under_load() {
    run(rotation::certificates_rotate_under_load);
}

#[test]
fn point_6b_another_root_takes_over_under_load() {
    run(root_rotation::another_root_takes_over_under_load);
}

#[test]
fn point_6c_clocks_that_are_off_and_identity_away() {
    run(clocks::clocks_may_be_off_and_identity_away);
}

#[test]
fn point_7_uninstall_leaves_what_it_promises() {
    run(uninstall::uninstall_leaves_what_it_promises);
}
