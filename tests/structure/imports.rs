//! ARCHITECTURE.md's table of parts says what each Cargo.toml says.

use super::{members, root};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

/// The crates of ours that a part's table row allows; `None` allows all.
fn documented() -> BTreeMap<String, Option<BTreeSet<String>>> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line
            .strip_prefix("| `")?
            .split('|')
            .map(str::trim)
            .collect();
        let [folder, _, uses, ""] = cells[..] else {
            return None;
        };
        let folder = folder.strip_suffix("/`")?.to_owned();
        let named = uses.split('`').skip(1).step_by(2);
        let named = named
            .map(|name| name.trim_end_matches('/').to_owned())
            .collect();
        Some((folder, (!uses.starts_with("all")).then_some(named)))
    });
    rows.collect()
}

/// The crates of ours that a manifest's dependencies name, tests' left out.
fn declared(folder: &str) -> Option<BTreeSet<String>> {
    let text = fs::read_to_string(root().join(folder).join("Cargo.toml")).ok()?;
    let section = text.split("\n[dependencies]\n").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    let lines = section
        .lines()
        .filter_map(|line| line.strip_prefix("linnet-"));
    let names = lines.filter_map(|line| line.split(['.', ' ']).next());
    Some(names.map(str::to_owned).collect())
}

#[test]
fn the_table_of_parts_is_what_the_manifests_say() {
    let documented = documented();
    for folder in &members() {
        let allowed = documented.get(folder);
        let allowed = allowed.unwrap_or_else(|| panic!("ARCHITECTURE.md has no row for {folder}/"));
        if let Some(allowed) = allowed {
            assert_eq!(
                Some(allowed),
                declared(folder).as_ref(),
                "{folder}/: what it may use"
            );
        }
    }
}
