//! The `linnet` command, run as an operator runs it.

use std::path::PathBuf;
use std::process::{Output, Stdio};

use super::cluster::{kubeconfig, project};

/// What a run of `linnet` came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) success: bool,
    /// Both streams: what the operator saw.
    pub(crate) text: String,
}

/// Runs `linnet` with nobody at the keyboard.
pub(crate) async fn linnet(arguments: &[&str]) -> Outcome {
    let program = std::env::var_os("LINNET_BIN")
        .map_or_else(|| project().join("target/release/linnet"), PathBuf::from);
    let output = tokio::process::Command::new(&program)
        .args(arguments)
        .env("KUBECONFIG", kubeconfig())
        .stdin(Stdio::null())
        .output()
        .await;
    let Output {
        status,
        stdout,
        stderr,
    } = output.unwrap_or_else(|error| {
        panic!(
            "cannot run {}: {error}; build it (cargo build --release) or set LINNET_BIN",
            program.display()
        )
    });
    let text = [stdout, stderr].concat();
    Outcome {
        success: status.success(),
        text: String::from_utf8_lossy(&text).into_owned(),
    }
}

/// Runs `linnet` and expects success.
pub(crate) async fn linnet_succeeds(arguments: &[&str]) -> String {
    let outcome = linnet(arguments).await;
    assert!(
        outcome.success,
        "linnet {}:\n{}",
        arguments.join(" "),
        outcome.text
    );
    outcome.text
}
