//! What is wrong with a set of resources, found without running anything.
//!
//! The verdicts are the index's own, so that a file is judged here as the
//! controller would judge it in force. To these come findings that need a look
//! at the whole: rules that nothing reaches, subsets without pods, selectors
//! that select nothing. What the set does not hold at all is not missed: a file
//! with routes and no Service speaks of services that stand elsewhere.

mod alone;
mod input;
mod path;
mod stand_in;
mod together;

pub use alone::remarks;
pub use input::Input;

use crate::{
    compile::{Context, Severity, Status, Verdict},
    index::Index,
    object::Object,
    source::Change,
};
use linnet_mesh::TrustDomain;
use std::collections::HashMap;

/// A verdict on every resource of the input, in its order of kind and name,
/// and one on everything in it that can't be read.
pub fn analyze(input: &Input, context: &Context) -> Vec<Verdict> {
    let mut index = Index::new(context.clone(), TrustDomain::default());
    for object in input.objects().cloned() {
        index.apply(Change::Apply(object));
    }
    if !input.has_services() {
        for service in stand_in::services(input, context) {
            index.apply(Change::Apply(service));
        }
    }
    let mut verdicts = index.verdicts();
    let surroundings = together::Surroundings::of(input, context);
    let configurations: HashMap<_, _> = input
        .objects()
        .filter_map(|object| match object {
            Object::Configuration(configuration) => {
                Some((configuration.reference().to_string(), configuration))
            }
            _ => None,
        })
        .collect();
    for verdict in &mut verdicts {
        // What else is wrong with a resource that is not in force can wait.
        if verdict.status != Status::Rejected
            && let Some(configuration) = configurations.get(&verdict.resource.to_string())
        {
            let mut notes = alone::remarks(configuration, &verdict.messages);
            notes.extend(surroundings.remarks(configuration));
            verdict.messages.extend(notes);
        }
    }
    verdicts.extend(input.problems().cloned());
    verdicts
}

/// How many remarks of a severity there are.
pub fn count(verdicts: &[Verdict], severity: Severity) -> usize {
    let messages = verdicts.iter().flat_map(|verdict| &verdict.messages);
    messages.filter(|note| note.severity == severity).count()
}

#[cfg(test)]
mod tests;
