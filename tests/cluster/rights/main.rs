//! Each component's rights are as small as its calls: the API server of the test
//! node records what the control plane asks for (`tests/cluster/node`, its audit
//! log), and the rendered manifests say what it may ask for.
//!
//! It reads what `just e2e` and `just conformance` left behind, so it runs after
//! them, on the same node: a right that nothing there used is one too many.

// This whole crate is tests; clippy takes only #[test] functions for such.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod audit;
mod rules;

use audit::Call;
use rules::Right;
use std::collections::BTreeSet;

/// Rights that no test here comes to use: account, verb, resource, and what for.
const RARE: [(&str, &str, &str, &str); 3] = [
    (
        "linnet-injector",
        "update",
        "secrets",
        "its serving certificate, renewed before its year is over (injector/tests/upkeep)",
    ),
    (
        "linnet-controller",
        "update",
        "secrets",
        "its serving certificate, likewise",
    ),
    (
        "linnet-injector",
        "get",
        "namespaces",
        "a pod in a namespace that is younger than what the watch has told",
    ),
];

#[test]
fn every_right_is_used_and_every_call_is_allowed() {
    let calls = audit::calls();
    let rights = rules::granted();
    let components: BTreeSet<_> = rights.iter().map(|right| &right.account).collect();
    assert!(components.len() >= 3, "{components:?}");
    for component in components {
        let heard = calls.iter().any(|call| call.account == *component);
        assert!(
            heard,
            "{component} never called the API server: run `just e2e` first"
        );
    }
    let refused: BTreeSet<_> = calls
        .iter()
        .filter(|call| call.status == 403)
        // Uninstalled, a role may go before the last pod that it is for.
        .filter(|call| !rights.iter().any(|right| right.covers(call)))
        .map(Call::to_string)
        .collect();
    assert!(
        refused.is_empty(),
        "calls that no role allows: {refused:#?}"
    );
    let unused: Vec<_> = rights
        .iter()
        .filter(|right| !is_rare(right) && !calls.iter().any(|call| right.covers(call)))
        .map(Right::to_string)
        .collect();
    println!("{} rights, {} calls", rights.len(), calls.len());
    assert!(unused.is_empty(), "rights that nothing used: {unused:#?}");
}

fn is_rare(right: &Right) -> bool {
    let Right {
        account,
        verb,
        resource,
        ..
    } = right;
    RARE.iter()
        .any(|(who, what, of, _)| who == account && what == verb && of == resource)
}
