//! What was asked of the API server, from the test node's audit log.

use serde::Deserialize;
use std::{collections::BTreeSet, fmt, path::Path};

const ACCOUNTS: &str = "system:serviceaccount:linnet-system:";

/// A call to the API server.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Call {
    /// The ServiceAccount that called.
    pub(crate) account: String,
    pub(crate) verb: String,
    pub(crate) group: String,
    /// With its subresource, `pods/status`.
    pub(crate) resource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The answer's HTTP status.
    pub(crate) status: u16,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {}.{} {}/{}",
            self.account, self.verb, self.resource, self.group, self.namespace, self.name
        )
    }
}

/// An event of `audit.k8s.io/v1`, as far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    verb: String,
    user: User,
    object_ref: Option<ObjectRef>,
    response_status: Option<Status>,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct ObjectRef {
    resource: String,
    subresource: String,
    api_group: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
struct Status {
    code: u16,
}

/// Every distinct call of the control plane since the node came up.
pub(crate) fn calls() -> BTreeSet<Call> {
    let logs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cluster/logs");
    let mut calls = BTreeSet::new();
    let mut files: Vec<_> = match std::fs::read_dir(&logs) {
        Ok(files) => files.map(|file| file.unwrap().path()).collect(),
        Err(error) => panic!("{}: {error}; run `just cluster-up`", logs.display()),
    };
    // A full log is kept beside the new one, its name with a time added.
    files.retain(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("audit") && name.ends_with(".json")
    });
    assert!(!files.is_empty(), "no audit log in {}", logs.display());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        // The last line may be half written.
        let events = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        calls.extend(events.filter_map(call));
    }
    calls
}

fn call(event: Event) -> Option<Call> {
    let account = event.user.username.strip_prefix(ACCOUNTS)?.to_owned();
    let object = event.object_ref?;
    Some(Call {
        account,
        verb: event.verb,
        group: object.api_group,
        resource: match &*object.subresource {
            "" => object.resource,
            subresource => format!("{}/{subresource}", object.resource),
        },
        namespace: object.namespace,
        name: object.name,
        status: event.response_status.map_or(0, |status| status.code),
    })
}
