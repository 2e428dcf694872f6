//! The root's places, and two replicas on one Secret.

use std::sync::{Arc, Mutex};

use http_body_util::BodyExt;
use kube::{Client, client::Body};
use linnet_mesh::TrustDomain;
use rcgen::PublicKeyData as _;
use serde_json::{Value, json};
use tower::service_fn;

use super::super::{
    rotation::{Phase, Rules},
    *,
};

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

fn keeper(store: &RootStore) -> Keeper {
    Keeper::new(store.clone(), Rules::default())
}

#[tokio::test]
async fn a_directory_keeps_the_root() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca");
    let store = RootStore::Directory(path.clone());
    let first = keeper(&store).step(now()).await.unwrap();
    let again = keeper(&store).step(now()).await.unwrap();
    assert_eq!(first.bundle_pem, again.bundle_pem);
    for name in ["tls.key", "state.json"] {
        let metadata = std::fs::metadata(path.join(name)).unwrap();
        let mode = std::os::unix::fs::MetadataExt::mode(&metadata);
        assert_eq!(mode & 0o777, 0o600);
    }
    // What is in force outlives damage, and the damage is told.
    std::fs::write(path.join("tls.crt"), "damaged").unwrap();
    let kept = keeper(&store).step(now()).await.unwrap();
    assert_eq!(kept.bundle_pem, first.bundle_pem);
    assert!(kept.problem.unwrap().contains("tls.crt"));
    std::fs::remove_file(path.join("state.json")).unwrap();
    let error = keeper(&store).step(now()).await.unwrap_err().to_string();
    assert!(
        error.contains("tls.crt") && error.contains(path.to_str().unwrap()),
        "{error}"
    );
}

#[tokio::test]
async fn a_directory_whose_writer_died_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let store = RootStore::Directory(directory.path().to_owned());
    let first = keeper(&store).step(now()).await.unwrap();
    let before = store.read().await.unwrap().unwrap();
    store.request_rotation("now").unwrap();
    let known = keeper(&store).step(now()).await.unwrap();
    assert!(matches!(known.phase, Phase::Distributing(_)));
    let after = store.read().await.unwrap().unwrap();
    // As it is left between the journal and the last of the files.
    let journal = serde_json::to_string(&after.fields).unwrap();
    std::fs::write(directory.path().join("next.json"), journal).unwrap();
    for name in ["tls.crt", "state.json"] {
        std::fs::write(directory.path().join(name), &before.fields[name]).unwrap();
    }
    let resumed = keeper(&store).step(now()).await.unwrap();
    assert_eq!(resumed.bundle_pem, known.bundle_pem);
    assert_eq!(resumed.root.trusted_by(), first.root.trusted_by());
    assert_eq!(resumed.problem, None);
}

#[derive(Default)]
struct Cluster {
    secret: Option<Value>,
    version: u64,
    writes: u64,
    conflicts: u64,
    /// Requests until the API server stops answering.
    answers: Option<u32>,
}

type Kept = Arc<Mutex<Cluster>>;

/// A Kubernetes API with one Secret and optimistic locking.
fn cluster() -> (RootStore, Kept) {
    let kept = Kept::default();
    let state = kept.clone();
    let service = service_fn(move |request: http::Request<Body>| {
        let state = state.clone();
        async move {
            // Whoever comes at the same time is let in between.
            tokio::task::yield_now().await;
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let (code, answer) = state.lock().unwrap().answer(&parts, &body);
            let response = http::Response::builder().status(code);
            Ok::<_, kube::Error>(
                response
                    .body(Body::from(answer.to_string().into_bytes()))
                    .unwrap(),
            )
        }
    });
    let store = RootStore::Secret {
        client: Client::new(service, "default"),
        namespace: "linnet-system".to_owned(),
    };
    (store, kept)
}

impl Cluster {
    fn answer(&mut self, request: &http::request::Parts, body: &[u8]) -> (u16, Value) {
        if let Some(answers) = &mut self.answers {
            match answers.checked_sub(1) {
                Some(left) => *answers = left,
                None => return failure(500, "InternalError"),
            }
        }
        let all = "/api/v1/namespaces/linnet-system/secrets";
        let path = request.uri.path();
        match request.method.as_str() {
            "GET" if path == format!("{all}/linnet-root") => match &self.secret {
                Some(secret) => (200, secret.clone()),
                None => failure(404, "NotFound"),
            },
            "POST" if path == all && self.secret.is_none() => (201, self.store(body)),
            "PUT" if path == format!("{all}/linnet-root") => {
                let next: Value = serde_json::from_slice(body).unwrap();
                let current = self.secret.as_ref().map(|secret| &secret["metadata"]);
                let current = current.map(|metadata| metadata["resourceVersion"].clone());
                if current.as_ref() == Some(&next["metadata"]["resourceVersion"]) {
                    (200, self.store(body))
                } else {
                    self.conflicts += 1;
                    failure(409, "Conflict")
                }
            }
            "POST" => {
                self.conflicts += 1;
                failure(409, "AlreadyExists")
            }
            method => panic!("{method} {path} is not allowed to identity"),
        }
    }

    fn store(&mut self, body: &[u8]) -> Value {
        self.version += 1;
        self.writes += 1;
        let mut secret: Value = serde_json::from_slice(body).unwrap();
        secret["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.secret = Some(secret.clone());
        secret
    }

    fn annotate(&mut self, name: &str, value: &str) {
        self.version += 1;
        let version = self.version.to_string();
        let metadata = &mut self.secret.as_mut().unwrap()["metadata"];
        metadata["annotations"][name] = json!(value);
        metadata["resourceVersion"] = json!(version);
    }
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code,
    });
    (code, status)
}

#[tokio::test]
async fn replicas_that_race_end_with_one_root() {
    let (store, kept) = cluster();
    let (mut one, mut two) = (keeper(&store), keeper(&store));
    let (one, two) = tokio::join!(one.step(now()), two.step(now()));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.bundle_pem, two.bundle_pem);
    assert_eq!(
        one.root.signer().key().subject_public_key_info(),
        two.root.signer().key().subject_public_key_info()
    );
    let kept = kept.lock().unwrap();
    let secret = kept.secret.as_ref().unwrap();
    assert_eq!(secret["type"], "kubernetes.io/tls");
    assert_eq!(
        secret["metadata"]["labels"]["app.kubernetes.io/part-of"],
        "linnet"
    );
}

/// A whole rotation by two replicas at once, either of which loses the API server
/// after each possible number of requests and starts anew.
#[tokio::test]
async fn two_replicas_rotate_once_wherever_one_dies() {
    for survived in 0..8 {
        let (store, kept) = cluster();
        let (mut one, mut two) = (keeper(&store), keeper(&store));
        let start = now();
        let first = one.step(start).await.unwrap();
        two.step(start).await.unwrap();
        kept.lock()
            .unwrap()
            .annotate("linnet.io/rotate-root", "now");
        let wait = Duration::DAY + rotation::SPREAD;
        let mut roots = std::collections::BTreeSet::new();
        for step in 0..8 {
            let at = start + wait * step / 2;
            // One dies in the middle of this step.
            kept.lock().unwrap().answers = Some(survived);
            let _ = tokio::join!(one.step(at), two.step(at));
            kept.lock().unwrap().answers = None;
            if step % 2 == 0 {
                one = keeper(&store);
            } else {
                two = keeper(&store);
            }
            let (ones, twos) = tokio::join!(one.step(at), two.step(at));
            let (ones, twos) = (ones.unwrap(), twos.unwrap());
            assert_eq!(ones.bundle_pem, twos.bundle_pem);
            assert_eq!(ones.root.trusted_by(), twos.root.trusted_by());
            assert_eq!((&ones.problem, &twos.problem), (&None, &None));
            roots.insert(ones.root.trusted_by().to_owned());
        }
        let last = one.step(start + wait * 4).await.unwrap();
        assert_eq!(last.phase, Phase::Steady);
        assert_eq!(roots.len(), 2, "one rotation, {survived} requests survived");
        assert_ne!(last.bundle_pem, first.bundle_pem);
        assert_eq!(last.bundle_pem.matches("BEGIN").count(), 1);
    }
}

#[tokio::test]
async fn other_peoples_words_in_the_secret_stay() {
    let (store, kept) = cluster();
    keeper(&store).step(now()).await.unwrap();
    {
        let mut kept = kept.lock().unwrap();
        kept.annotate("example.org/owner", "security");
        kept.secret.as_mut().unwrap()["data"]["notes"] = json!("aGVsbG8=");
        kept.annotate("linnet.io/rotate-root", "now");
    }
    keeper(&store).step(now()).await.unwrap();
    let kept = kept.lock().unwrap();
    let secret = kept.secret.as_ref().unwrap();
    assert_eq!(secret["data"]["notes"], "aGVsbG8=");
    assert_eq!(
        secret["metadata"]["annotations"]["example.org/owner"],
        "security"
    );
    assert_eq!(kept.writes, 2, "made, and the rotation begun");
}

#[tokio::test]
async fn a_secret_that_somebody_deletes_is_back_as_it_was() {
    let (store, kept) = cluster();
    let mut keeper = keeper(&store);
    let first = keeper.step(now()).await.unwrap();
    kept.lock().unwrap().secret = None;
    let again = keeper.step(now()).await.unwrap();
    assert_eq!(again.bundle_pem, first.bundle_pem);
    assert!(kept.lock().unwrap().secret.is_some());
}

#[tokio::test]
async fn a_damaged_secret_is_reported_and_left_alone() {
    let (store, kept) = cluster();
    let damaged = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "linnet-root", "resourceVersion": "1"},
        "data": {"tls.crt": "bm90aGluZw=="},
    });
    kept.lock().unwrap().secret = Some(damaged.clone());
    let error = keeper(&store).step(now()).await.unwrap_err().to_string();
    assert!(
        error.contains("Secret linnet-system/linnet-root: tls.key"),
        "{error}"
    );
    assert_eq!(kept.lock().unwrap().secret, Some(damaged));
}

#[test]
fn a_replica_that_knows_nothing_new_does_not_sign() {
    let root = Root::generate(&TrustDomain::default(), root::LIFETIME, now()).unwrap();
    let authority = Authority::new(root, Duration::DAY, now()).unwrap();
    let key = KeyPair::generate().unwrap();
    let id: SpiffeId = "spiffe://cluster.local/ns/a/sa/b".parse().unwrap();
    let at = now();
    authority.refresh(at + rotation::FRESHNESS);
    let sign = |at| authority.sign(&key, &id, Duration::HOUR, at);
    sign(at + Duration::seconds(59)).unwrap();
    let late = sign(at + Duration::seconds(61));
    assert!(matches!(late, Err(SignError::Stale(_))));
    authority.refresh(at + Duration::minutes(2));
    sign(at + Duration::seconds(61)).unwrap();
}
