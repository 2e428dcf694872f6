use super::*;
use crate::{cluster::scripted::ApiServer, terminal::Terminal};
use clap::Parser;
use serde_json::json;
use std::path::Path;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

fn typed(words: &[&str]) -> Arguments {
    Line::parse_from(["analyze"].iter().chain(words)).arguments
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn of_files(directory: &str) -> Vec<Verdict> {
    let input = files::read(&[root().join(directory)], "default").unwrap();
    let mut verdicts = analysis::analyze(&input, &default_context());
    let start = format!("{}/", root().display());
    for verdict in &mut verdicts {
        verdict.origin = verdict
            .origin
            .as_ref()
            .map(|origin| origin.replace(&start, ""));
        verdict.resource.name = verdict.resource.name.replace(&start, "");
    }
    verdicts
}

fn same_as(file: &str, made: &str) {
    let path = root().join("tests/fixtures/analyze").join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(made, kept, "{file}: UPDATE_GOLDEN=1 writes it");
}

#[test]
fn the_output_is_as_reviewed() {
    let verdicts = of_files("tests/fixtures/analyze/shop");
    same_as("shop.txt", &report::text(&verdicts, &Terminal::silent()));
    let json = crate::command::json(&report::Summary::of(&verdicts)).unwrap();
    same_as("shop.json", &json);
    assert_eq!(exit_code(&verdicts, FailOn::Error), ExitCode::FAILURE);
}

#[test]
fn nothing_is_wrong_with_the_examples() {
    let verdicts = of_files("manifests/examples");
    assert!(verdicts.len() >= 14, "{}", verdicts.len());
    let text = report::text(&verdicts, &Terminal::silent());
    assert!(text.ends_with("resources: nothing wrong.\n"), "{text}");
    assert_eq!(exit_code(&verdicts, FailOn::Warning), ExitCode::SUCCESS);
}

#[test]
fn a_warning_fails_only_where_it_is_asked_to() {
    let mut input = Input::default();
    input.add_yaml(
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: v}, spec: {hosts: [a], gateways: [g]}}",
        "a.yaml",
        "default",
    );
    let verdicts = analysis::analyze(&input, &default_context());
    assert_eq!(exit_code(&verdicts, FailOn::Error), ExitCode::SUCCESS);
    assert_eq!(exit_code(&verdicts, FailOn::Warning), ExitCode::FAILURE);
}

#[test]
fn a_file_that_does_not_exist_is_an_error_that_names_it() {
    let error = files::read(&["/does/not/exist.yaml".into()], "default").unwrap_err();
    assert!(error.to_string().contains("/does/not/exist.yaml"));
}

fn virtual_service(namespace: &str, host: &str) -> serde_json::Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "v", "namespace": namespace},
        "spec": {"hosts": [host], "http": [{"route": [{"destination": {"host": host}}]}]},
    })
}

/// Two namespaces; in the bank the route leads nowhere.
fn cluster() -> ApiServer {
    let networking = "/apis/networking.istio.io/v1/namespaces";
    ApiServer::new()
        .with(
            "/api/v1/namespaces/shop/services/payment",
            json!({"metadata": {"name": "payment", "namespace": "shop"}, "spec": {"ports": [{"port": 80}]}}),
        )
        .with(
            &format!("{networking}/shop/virtualservices/v"),
            virtual_service("shop", "payment"),
        )
        .with(
            &format!("{networking}/bank/virtualservices/v"),
            virtual_service("bank", "ledger"),
        )
}

#[tokio::test]
async fn a_cluster_is_judged_as_a_whole_and_shown_by_namespace() {
    let cluster = cluster().cluster().await;
    let shown = async |words: &[&str]| {
        let verdicts = of_cluster(&typed(words), &cluster).await.unwrap();
        let named = verdicts
            .iter()
            .map(|verdict| format!("{}: {}", verdict.resource, verdict.messages.len()));
        named.collect::<Vec<_>>()
    };
    let (bank, shop) = ("VirtualService bank/v: 2", "VirtualService shop/v: 0");
    assert_eq!(shown(&["-A"]).await, [bank, shop]);
    assert_eq!(shown(&["-n", "shop"]).await, [shop]);
    assert!(shown(&[]).await.is_empty(), "the context's is `default`");
}

#[test]
fn files_and_all_namespaces_exclude_each_other() {
    let line = ["analyze", "-A", "-f", "a.yaml"];
    assert!(Line::try_parse_from(line).is_err());
    let line = typed(&["-f", "a.yaml", "b.yaml", "-n", "shop"]);
    assert_eq!(line.files.len(), 2);
}
