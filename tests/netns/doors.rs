//! The sidecar's own ports, called from another pod's address: a real sidecar
//! behind the real redirection, and the neighbour knocks at each.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what cannot be set up fails the test that asked for it"
)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use linnet_workload::testing::{Authority, Leaf};

use crate::namespace::{Link, PEER, POD_V4, POD_V6, Servers, backends, socket};

/// Who the sidecar runs as in a pod: redirection exempts it.
const SIDECAR: [&str; 6] = [
    "setpriv",
    "--reuid=1337",
    "--regid=1337",
    "--clear-groups",
    PEER,
    "sidecar",
];

/// A pod whose application listens on 8080, 15050 and 15099, behind a sidecar.
struct Pod {
    // Before its namespace goes.
    _sidecar: Servers,
    link: Link,
    _files: tempfile::TempDir,
}

impl Pod {
    fn new(backend: &str, mode: &str) -> Self {
        let link = Link::with_listeners("8080,15050,15099", "53");
        let rules = link.init(backend, &[]);
        rules.unwrap_or_else(|error| panic!("linnet-init ({backend}): {error}"));
        let files = tempfile::tempdir().unwrap();
        let authority = Authority::default();
        let leaf = Leaf::new(&["spiffe://cluster.local/ns/default/sa/payment"]);
        let (chain, key) = authority.issue_pem(&leaf);
        let services = format!("inboundMtls: {mode}\nservices: {{}}\n");
        for (name, text) in [
            ("ca.pem", authority.bundle_pem()),
            ("leaf.pem", chain),
            ("leaf.key", key),
            ("services.yaml", services),
        ] {
            fs::write(files.path().join(name), text).unwrap();
        }
        // The sidecar is another user, and its access log is here too.
        fs::set_permissions(files.path(), Permissions::from_mode(0o777)).unwrap();
        let path = |name: &str| files.path().join(name).display().to_string();
        let environment = [
            ("LINNET_STATIC_CONFIG", path("services.yaml")),
            ("LINNET_CERTIFICATE_DIR", path("")),
            ("LINNET_ACCESS_LOG", path("access.log")),
            ("LINNET_POD_IPS", format!("{POD_V4},{POD_V6}")),
        ];
        let sidecar = link.pod.start(&SIDECAR, &environment);
        Self {
            _sidecar: sidecar,
            link,
            _files: files,
        }
    }

    /// What comes back when the neighbour asks for a path.
    fn asked(&self, address: &str, port: u16, path: &str) -> Result<String, String> {
        let target = socket(address, port);
        self.link.peer.run(PEER, &["http", &target, path])
    }
}

#[test]
fn another_pod_reaches_none_of_the_sidecars_ports_but_the_public_one() {
    for backend in backends() {
        let pod = Pod::new(backend, "PERMISSIVE");
        for address in [POD_V4, POD_V6] {
            let asked = |port, path| pod.asked(address, port, path);
            // The rules and the sidecar are in force: the application is called through it.
            let application = pod.link.peer.tcp(address, 8080);
            assert_eq!(
                application,
                Ok(format!("8080 {}", socket(address, 8080))),
                "{backend}"
            );
            // On loopback alone, and what a workload's pod does not serve.
            for port in [15000, 15010, 15021] {
                // The sidecar's word that nobody listens there, at most.
                let answer = asked(port, "/config").unwrap_or_default();
                assert!(
                    answer.is_empty() || answer.starts_with("HTTP/1.1 503"),
                    "{backend} {address} {port}: {answer}"
                );
            }
            // Redirection leads there; who calls them by name was going nowhere.
            for port in [15001, 15006] {
                assert_eq!(
                    asked(port, "/"),
                    Ok(String::new()),
                    "{backend} {address} {port}"
                );
            }
            for path in ["/healthz/ready", "/metrics"] {
                let answer = asked(15020, path).unwrap();
                assert!(
                    answer.starts_with("HTTP/1.1 200"),
                    "{backend} {path}: {answer}"
                );
            }
            for path in ["/config", "/certificates", "/why", "/drain"] {
                let answer = asked(15020, path).unwrap();
                assert!(
                    answer.starts_with("HTTP/1.1 404"),
                    "{backend} {path}: {answer}"
                );
            }
        }
        // From the pod itself the admin port answers: the refusals above are for strangers.
        let admin = socket("127.0.0.1", 15000);
        let own = pod
            .link
            .pod
            .run(PEER, &["http", &admin, "/config"])
            .unwrap();
        assert!(own.starts_with("HTTP/1.1 "), "{backend}: {own}");
    }
}

/// The sidecar exempts the ports that it listens on itself, and no range around
/// them: an application that picks one of those stands behind STRICT like any.
#[test]
fn strict_holds_at_every_port_that_an_application_picks() {
    for backend in backends() {
        let pod = Pod::new(backend, "STRICT");
        for address in [POD_V4, POD_V6] {
            for port in [8080, 15050, 15099] {
                let answer = pod.asked(address, port, "/").unwrap_or_default();
                assert_eq!(answer, "", "{backend} {address} {port}");
            }
            // The pod itself reaches its application, which does listen there.
            let own = pod.link.pod.tcp(address, 15050);
            assert_eq!(own, Ok(format!("15050 {}", socket(address, 15050))));
        }
    }
}
