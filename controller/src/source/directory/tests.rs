use super::*;
use crate::source;
use std::{fs, time::Duration};
use tokio::time::timeout;

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: NAME}\nspec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}\n";
/// No event of the file system takes this long; a test that waits for one fails.
const PATIENCE: Duration = Duration::from_secs(20);

fn service(name: &str) -> String {
    SERVICE.replace("NAME", name)
}

struct Watched {
    directory: tempfile::TempDir,
    events: mpsc::Receiver<source::Event>,
}

impl Watched {
    async fn start(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let (sink, events) = source::channel();
        let source = Directory::open(directory.path()).unwrap();
        tokio::spawn(source.run(sink));
        Self { directory, events }
    }

    async fn next(&mut self) -> String {
        let event = timeout(PATIENCE, self.events.recv())
            .await
            .expect("an event in time")
            .unwrap();
        match event.change {
            Change::Apply(object) => format!("apply {}", object.reference()),
            Change::Delete(reference) => format!("delete {reference}"),
            Change::Problem {
                origin,
                reason: Some(reason),
            } => format!("{origin}: {reason}"),
            Change::Problem {
                origin,
                reason: None,
            } => format!("{origin}: fine"),
            Change::Keys(source, _) => format!("keys of {source}"),
            Change::Synced => "synced".to_owned(),
        }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.path().join(name), text).unwrap();
    }
}

#[tokio::test]
async fn edits_are_told_as_differences() {
    let two = format!("{}---\n{}", service("a"), service("b"));
    let mut watched = Watched::start(&[("s.yaml", &two), ("notes.txt", "not: [a manifest")]).await;
    assert_eq!(watched.next().await, "apply Service default/a");
    assert_eq!(watched.next().await, "apply Service default/b");
    assert_eq!(watched.next().await, "synced");
    // One document edited, one gone, one new.
    let edited = format!("{}---\n{}", service("a").replace("80", "81"), service("c"));
    watched.write("s.yaml", &edited);
    assert_eq!(watched.next().await, "delete Service default/b");
    assert_eq!(watched.next().await, "apply Service default/a");
    assert_eq!(watched.next().await, "apply Service default/c");
    // A file moved into place, as editors do.
    watched.write(".new", &service("d"));
    let path = watched.directory.path().to_owned();
    fs::rename(path.join(".new"), path.join("d.yml")).unwrap();
    assert_eq!(watched.next().await, "apply Service default/d");
    fs::remove_file(path.join("s.yaml")).unwrap();
    assert_eq!(watched.next().await, "delete Service default/a");
    assert_eq!(watched.next().await, "delete Service default/c");
}

#[tokio::test]
async fn a_malformed_file_changes_nothing_and_is_named() {
    let mut watched = Watched::start(&[("s.yaml", &service("a"))]).await;
    assert_eq!(watched.next().await, "apply Service default/a");
    assert_eq!(watched.next().await, "synced");
    watched.write(
        "s.yaml",
        &format!("{}---\n{}", service("b"), service("c").replace("80", "web")),
    );
    let problem = watched.next().await;
    assert!(
        problem
            .starts_with("s.yaml: document 2: Service default/c: spec.ports[0].port: invalid type"),
        "{problem}"
    );
    watched.write("s.yaml", &service("b"));
    assert_eq!(watched.next().await, "delete Service default/a");
    assert_eq!(watched.next().await, "apply Service default/b");
    assert_eq!(watched.next().await, "s.yaml: fine");
}

#[tokio::test]
async fn of_an_object_in_two_files_the_first_counts() {
    let mut watched = Watched::start(&[
        ("a.yaml", &service("x")),
        ("b.yaml", &service("x").replace("80", "81")),
    ])
    .await;
    assert_eq!(watched.next().await, "apply Service default/x");
    assert_eq!(
        watched.next().await,
        "b.yaml: Service default/x (again): a.yaml has it too, and counts"
    );
    assert_eq!(watched.next().await, "synced");
    fs::remove_file(watched.directory.path().join("a.yaml")).unwrap();
    assert_eq!(watched.next().await, "apply Service default/x");
    assert_eq!(
        watched.next().await,
        "b.yaml: Service default/x (again): fine"
    );
}

#[test]
fn a_directory_that_is_not_there_is_told() {
    let error = Directory::open("/nonexistent/mesh")
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("configuration directory /nonexistent/mesh: "),
        "{error}"
    );
}

#[test]
fn a_file_that_is_being_written_is_not_looked_at() {
    use notify::event::{CreateKind, DataChange, RemoveKind, RenameMode};
    let root = Path::new("/mesh");
    let event = |kind, path: &str| edit(root, Ok(notify::Event::new(kind).add_path(path.into())));
    let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
    if cfg!(target_os = "linux") {
        assert!(event(written, "/mesh/a.yaml").is_none());
        assert!(event(EventKind::Create(CreateKind::File), "/mesh/a.yaml").is_none());
    }
    for kind in [
        closed,
        EventKind::Remove(RemoveKind::File),
        EventKind::Modify(ModifyKind::Name(RenameMode::To)),
    ] {
        assert!(
            matches!(event(kind, "/mesh/a.yaml"), Some(Edit::Files(_))),
            "{kind:?}"
        );
    }
    // A mounted ConfigMap changes by one link.
    let link = EventKind::Create(CreateKind::Any);
    assert!(matches!(
        event(link, "/mesh/..data"),
        Some(Edit::Everything)
    ));
    assert!(event(link, "/mesh/.a.yaml.swp").is_none());
}
