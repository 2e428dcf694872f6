//! Edits of a pod's JSON, recorded as a JSON Patch (RFC 6902).
//!
//! Every edit is applied to a copy and recorded by the same call, so the patched
//! pod and the patch can't disagree. The operations are few and say what they
//! mean (one `add` per container), where a computed difference would rewrite an
//! array element by element.

use json_patch::{
    AddOperation, Patch, PatchError, PatchOperation, RemoveOperation,
    jsonptr::{PointerBuf, Token},
};
use serde_json::{Value, json};

/// A pod in the course of being patched.
#[derive(Clone, Debug)]
pub struct PodPatch {
    pod: Value,
    operations: Vec<PatchOperation>,
}

impl PodPatch {
    /// Starts from a pod as it came.
    pub fn new(pod: Value) -> Self {
        Self {
            pod,
            operations: Vec::new(),
        }
    }

    /// The pod as it is after the edits so far.
    pub fn pod(&self) -> &Value {
        &self.pod
    }

    /// Sets a member of an object, making the objects above it where they are
    /// absent or null.
    pub fn set(&mut self, path: &[&str], value: Value) -> Result<(), PatchError> {
        let Some((_, parents)) = path.split_last() else {
            return Ok(());
        };
        for depth in 1..=parents.len() {
            self.default_to(&parents[..depth], json!({}))?;
        }
        self.add(pointer(path), value)
    }

    /// Inserts into an array at `index`, making the array where it is absent.
    pub fn insert(&mut self, path: &[&str], index: usize, value: Value) -> Result<(), PatchError> {
        self.default_to(path, json!([]))?;
        let mut target = pointer(path);
        target.push_back(Token::new(index.to_string()));
        self.add(target, value)
    }

    /// Appends to an array, making it where it is absent.
    pub fn append(&mut self, path: &[&str], value: Value) -> Result<(), PatchError> {
        self.default_to(path, json!([]))?;
        let mut target = pointer(path);
        target.push_back(Token::new("-"));
        self.add(target, value)
    }

    /// Removes a member of an object.
    pub fn remove(&mut self, path: &[&str]) -> Result<(), PatchError> {
        let path = pointer(path);
        self.apply(PatchOperation::Remove(RemoveOperation { path }))
    }

    /// The patched pod, and the patch that makes it of the first one.
    pub fn finish(self) -> (Value, Patch) {
        (self.pod, Patch(self.operations))
    }

    fn default_to(&mut self, path: &[&str], value: Value) -> Result<(), PatchError> {
        let path = pointer(path);
        let present = path.resolve(&self.pod).is_ok_and(|found| !found.is_null());
        if present {
            return Ok(());
        }
        self.add(path, value)
    }

    fn add(&mut self, path: PointerBuf, value: Value) -> Result<(), PatchError> {
        self.apply(PatchOperation::Add(AddOperation { path, value }))
    }

    fn apply(&mut self, operation: PatchOperation) -> Result<(), PatchError> {
        json_patch::patch(&mut self.pod, std::slice::from_ref(&operation))?;
        self.operations.push(operation);
        Ok(())
    }
}

fn pointer(path: &[&str]) -> PointerBuf {
    PointerBuf::from_tokens(path.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_made_where_absent_or_null_and_kept_where_present() {
        let original =
            json!({"metadata": {"labels": null, "annotations": {"keep": "me"}}, "future": 1});
        let mut patch = PodPatch::new(original.clone());
        patch
            .set(&["metadata", "labels", "a/b~c"], json!("1"))
            .unwrap();
        patch
            .set(&["metadata", "annotations", "x"], json!("2"))
            .unwrap();
        patch
            .append(&["spec", "volumes"], json!({"name": "v"}))
            .unwrap_err();
        patch.set(&["spec", "x"], json!(1)).unwrap();
        patch
            .append(&["spec", "volumes"], json!({"name": "v"}))
            .unwrap();
        patch
            .insert(&["spec", "volumes"], 0, json!({"name": "u"}))
            .unwrap();
        patch.remove(&["spec", "x"]).unwrap();
        let (patched, operations) = patch.finish();
        assert_eq!(
            patched,
            json!({
                "metadata": {"labels": {"a/b~c": "1"}, "annotations": {"keep": "me", "x": "2"}},
                "spec": {"volumes": [{"name": "u"}, {"name": "v"}]},
                "future": 1,
            })
        );
        let mut replayed = original;
        json_patch::patch(&mut replayed, &operations).unwrap();
        assert_eq!(replayed, patched);
    }
}
