//! The modules of a crate, and which of them each one names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};
use syn::{Attribute, Item, UseTree, visit::Visit};

/// A module's path below its crate: `["http", "body"]`; the root's is empty.
pub(crate) type ModulePath = Vec<String>;

/// The modules of a crate that are files, each with the modules that its code names.
/// Tests are left out: they may look at everything.
pub(crate) fn modules(source: &Path) -> BTreeMap<ModulePath, BTreeSet<ModulePath>> {
    let mut files = BTreeMap::new();
    collect(source, &mut Vec::new(), &mut files);
    let known: BTreeSet<ModulePath> = files.keys().cloned().collect();
    let named = |(module, file): (&ModulePath, &PathBuf)| {
        let text = fs::read_to_string(file).unwrap();
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{file:?}: {error}"));
        (module.clone(), names(&parsed, module, &known))
    };
    files.iter().map(named).collect()
}

fn collect(folder: &Path, path: &mut ModulePath, files: &mut BTreeMap<ModulePath, PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap().path();
        let name = entry.file_stem().unwrap().to_str().unwrap().to_owned();
        if matches!(&*name, "tests" | "testing" | "main" | "bin") {
            continue;
        }
        let is_root = matches!(&*name, "lib" | "mod");
        if !is_root {
            path.push(name);
        }
        if entry.is_dir() {
            collect(&entry, path, files);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            files.insert(path.clone(), entry);
        }
        if !is_root {
            path.pop();
        }
    }
}

/// The modules that a file names, itself left out.
fn names(
    file: &syn::File,
    module: &ModulePath,
    known: &BTreeSet<ModulePath>,
) -> BTreeSet<ModulePath> {
    let mut names = Names::default();
    names.visit_file(file);
    let resolved = names
        .0
        .iter()
        .filter_map(|name| resolve(name, module, known));
    resolved.filter(|named| named != module).collect()
}

/// The module that a path leads to, as far as its segments name modules.
fn resolve(
    name: &[String],
    module: &ModulePath,
    known: &BTreeSet<ModulePath>,
) -> Option<ModulePath> {
    let ups = name
        .iter()
        .take_while(|segment| *segment == "super")
        .count();
    let (mut path, rest) = match name.first()?.as_str() {
        "crate" => (Vec::new(), &name[1..]),
        "self" => (module.clone(), &name[1..]),
        "super" => (
            module[..module.len().checked_sub(ups)?].to_vec(),
            &name[ups..],
        ),
        _ => (module.clone(), name),
    };
    let relative = !matches!(&*name[0], "crate" | "self" | "super");
    let mut went = 0;
    for segment in rest {
        path.push(segment.clone());
        if !known.contains(&path) {
            path.pop();
            break;
        }
        went += 1;
    }
    // What begins with another crate's name, or a type's.
    (!relative || went > 0).then_some(path)
}

/// Paths of a file: those it imports, and those it spells out.
#[derive(Default)]
struct Names(Vec<Vec<String>>);

impl Names {
    fn expand(&mut self, tree: &UseTree, before: &mut Vec<String>) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.expand(&path.tree, before);
                before.pop();
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.expand(tree, before);
                }
            }
            UseTree::Name(name) => self.add(before, &name.ident.to_string()),
            UseTree::Rename(rename) => self.add(before, &rename.ident.to_string()),
            UseTree::Glob(_) => self.0.push(before.clone()),
        }
    }

    fn add(&mut self, before: &[String], last: &str) {
        let mut path = before.to_vec();
        if last != "self" {
            path.push(last.to_owned());
        }
        self.0.push(path);
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test(item) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.expand(&item.tree, &mut Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            let segments = path.segments.iter();
            self.0
                .push(segments.map(|segment| segment.ident.to_string()).collect());
        }
        syn::visit::visit_path(self, path);
    }
}

/// Reports whether an item is compiled for tests alone.
fn is_test(item: &Item) -> bool {
    let attributes: &[Attribute] = match item {
        Item::Mod(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        _ => &[],
    };
    attributes.iter().any(|attribute| {
        let words = match &attribute.meta {
            syn::Meta::List(list) if list.path.is_ident("cfg") => list.tokens.to_string(),
            _ => return false,
        };
        words
            .split(|letter: char| !letter.is_alphanumeric())
            .any(|word| word == "test")
            && !words.contains("not")
    })
}
