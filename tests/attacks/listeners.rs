//! Every listener counts its connections: no source accepts one anywhere else than
//! where there are limits.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The crates that run in a cluster.
const CRATES: [&str; 8] = [
    "lib/runtime",
    "lib/workload",
    "proxy",
    "identity",
    "lib/admission",
    "injector",
    "controller",
    "init",
];
/// Where connections are accepted and counted.
const COUNTED: [&str; 2] = ["lib/runtime/src/serve.rs", "proxy/src/data.rs"];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "tests" {
            sources(&path, found);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push(path);
        }
    }
}

#[test]
fn connections_are_accepted_where_they_are_counted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut accepting = Vec::new();
    for name in CRATES {
        let mut files = Vec::new();
        sources(&root.join(name).join("src"), &mut files);
        for path in files {
            let text = fs::read_to_string(&path).unwrap();
            // Tests may accept what they like.
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            if text.contains(".accept().await") || text.contains("listener.accept()") {
                let path = path.strip_prefix(root).unwrap();
                accepting.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    accepting.sort();
    let mut counted = COUNTED.map(str::to_owned);
    counted.sort();
    assert_eq!(accepting, counted, "a listener without limits");
    for path in COUNTED {
        let text = fs::read_to_string(root.join(path)).unwrap();
        assert!(text.contains(".take("), "{path} counts no connections");
    }
}
