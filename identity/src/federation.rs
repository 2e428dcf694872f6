//! Other trust domains, from a directory with a file `<trust domain>.pem` each: a
//! mounted ConfigMap, read anew every few seconds.
//!
//! A file that is damaged leaves that domain as it was; a file that is gone ends
//! the trust. Workloads hear of it with their next certificate.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use linnet_mesh::TrustDomain;
use linnet_workload::Federation;
use tokio::time::sleep;

use crate::authority::Authority;

const INTERVAL: Duration = Duration::from_secs(10);
const EXTENSION: &str = "pem";

/// What keeps the configured federation up to date.
pub(crate) struct Federated {
    pub(crate) own: TrustDomain,
    pub(crate) aliases: Vec<TrustDomain>,
    pub(crate) directory: Option<std::path::PathBuf>,
    told: BTreeMap<String, String>,
}

impl Federated {
    pub(crate) fn new(
        own: TrustDomain,
        aliases: Vec<TrustDomain>,
        directory: Option<std::path::PathBuf>,
    ) -> Self {
        Self {
            own,
            aliases,
            directory,
            told: BTreeMap::new(),
        }
    }

    /// What is configured now; `before` is what stays where a file is damaged.
    pub(crate) fn read(&mut self, before: &Federation, own_bundle: &str) -> Federation {
        let mut next = Federation {
            aliases: self.aliases.iter().map(ToString::to_string).collect(),
            bundles: BTreeMap::new(),
        };
        next.aliases.retain(|alias| alias != self.own.as_str());
        let Some(directory) = self.directory.clone() else {
            return next;
        };
        let mut problems = BTreeMap::new();
        for (domain, pem) in files(&directory, &mut problems) {
            let mut with = next.clone();
            with.bundles.insert(domain.clone(), pem);
            match with.check(&self.own, own_bundle) {
                Ok(()) => next = with,
                Err(error) => {
                    problems.insert(domain, error.to_string());
                }
            }
        }
        for domain in problems.keys() {
            if let Some(pem) = before.bundles.get(domain) {
                next.bundles.insert(domain.clone(), pem.clone());
            }
        }
        self.tell(problems);
        next
    }

    fn tell(&mut self, problems: BTreeMap<String, String>) {
        for (domain, problem) in &problems {
            if self.told.get(domain) != Some(problem) {
                tracing::error!(
                    domain,
                    problem,
                    "federation: what was in force for it stays"
                );
            }
        }
        metrics::gauge!("linnet_identity_federation_problems").set(problems.len() as f64);
        self.told = problems;
    }

    /// Keeps `shared` up to date, for as long as it is polled.
    pub(crate) async fn keep(
        mut self,
        shared: Arc<ArcSwap<Federation>>,
        authority: Arc<Authority>,
    ) {
        loop {
            sleep(INTERVAL).await;
            let before = shared.load_full();
            let next = self.read(&before, &authority.bundle_pem());
            if next != *before {
                let domains: Vec<_> = next.bundles.keys().map(String::as_str).collect();
                tracing::info!(
                    domains = domains.join(","),
                    "trusted besides the own trust domain"
                );
                shared.store(Arc::new(next));
            }
        }
    }
}

/// The files of a directory by trust domain. One that does not exist has none: the
/// ConfigMap is optional.
fn files(directory: &Path, problems: &mut BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(directory) else {
        return found;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_stem().and_then(|name| name.to_str());
        let is_pem = path
            .extension()
            .is_some_and(|extension| extension == EXTENSION);
        let Some(domain) = name.filter(|name| is_pem && !name.starts_with('.')) else {
            continue;
        };
        match std::fs::read_to_string(&path) {
            Ok(pem) => {
                found.insert(domain.to_owned(), pem);
            }
            Err(error) => {
                problems.insert(domain.to_owned(), error.to_string());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use linnet_workload::testing;

    #[test]
    fn a_damaged_bundle_leaves_a_domain_as_it_was_and_a_deleted_one_ends_it() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).unwrap();
        };
        let own = testing::Authority::default().bundle_pem();
        let west = testing::Authority::new("west.example").bundle_pem();
        let path = Some(directory.path().to_owned());
        let aliases = vec!["old.example".parse().unwrap()];
        let mut federated = Federated::new(TrustDomain::default(), aliases, path);
        write("west.example.pem", &west);
        write("..data", "not a bundle");
        write("notes.txt", "not a bundle");
        let first = federated.read(&Federation::default(), &own);
        assert_eq!(first.aliases, ["old.example"]);
        assert_eq!(first.bundles.keys().collect::<Vec<_>>(), ["west.example"]);

        write("west.example.pem", "damaged");
        write("east.example.pem", &own);
        let second = federated.read(&first, &own);
        assert_eq!(
            second, first,
            "a root of ours vouches for nobody else's domain"
        );
        assert_eq!(federated.told.len(), 2);

        std::fs::remove_file(directory.path().join("west.example.pem")).unwrap();
        std::fs::remove_file(directory.path().join("east.example.pem")).unwrap();
        assert!(federated.read(&second, &own).bundles.is_empty());
        assert!(federated.told.is_empty());
    }
}
