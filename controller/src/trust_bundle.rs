//! wip
use linnet_runtime::certificate;
/// wip
pub async fn keep(_client: kube::Client, _certificate: certificate::Handle) {}
