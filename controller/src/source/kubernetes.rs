//! wip
/// wip
pub async fn run(_client: kube::Client, _sink: super::Sink) {}
