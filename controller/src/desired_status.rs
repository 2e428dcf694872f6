//! A resource's status: what it should say of us, and how that goes into what
//! stands there, of which others may have written parts.

use crate::{
    compile::{Condition, ParentStatus, Status, Verdict},
    index::RouteStatus,
    object::ObjectRef,
};
use linnet_mesh::names;
use serde_json::{Value, json};

/// What a resource's status is to say of us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredStatus {
    /// The resource.
    pub object: ObjectRef,
    /// The generation that this is about.
    pub generation: i64,
    /// What it is to say.
    pub content: Content,
}

/// The shape of a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// `status.parents` of the Gateway API: ours are those that carry our
    /// `controllerName`.
    Parents(Vec<ParentStatus>),
    /// `status.conditions`: ours are those of these types.
    Conditions(Vec<Condition>),
}

impl From<RouteStatus> for DesiredStatus {
    fn from(status: RouteStatus) -> Self {
        Self {
            object: status.route,
            generation: status.generation,
            content: Content::Parents(status.parents),
        }
    }
}

/// How many remarks a condition's message names before it only counts.
const REMARKS: usize = 16;

impl From<(ObjectRef, &Verdict)> for DesiredStatus {
    /// What a resource without parents says: one condition, `Accepted`.
    fn from((object, verdict): (ObjectRef, &Verdict)) -> Self {
        let remarked = !verdict.messages.is_empty();
        let reason = match verdict.status {
            Status::Accepted if remarked => "AcceptedWithRemarks",
            Status::Accepted => "Accepted",
            Status::Conflicting => "Conflicting",
            Status::Rejected => "Invalid",
        };
        let notes = verdict.messages.iter().take(REMARKS);
        let mut message: Vec<_> = notes.map(ToString::to_string).collect();
        let more = verdict.messages.len().saturating_sub(REMARKS);
        if more > 0 {
            message.push(format!("{more} more; `linnet analyze` shows all"));
        }
        if verdict.status == Status::Rejected {
            message.push("the last good version stays in force, if there was one".to_owned());
        }
        Self {
            object,
            generation: verdict.generation,
            content: Content::Conditions(vec![Condition {
                kind: "Accepted",
                holds: verdict.status != Status::Rejected,
                reason,
                message: message.join("; "),
            }]),
        }
    }
}

impl DesiredStatus {
    /// The status to write in the place of `current`; `None`: it says so
    /// already. `now` is a time as RFC 3339 has it.
    pub fn over(&self, current: &Value, now: &str) -> Option<Value> {
        let (field, new) = match &self.content {
            Content::Parents(parents) => ("parents", self.parents(parents, current, now)),
            Content::Conditions(conditions) => {
                let old = list(current, "conditions");
                ("conditions", self.conditions(conditions, old, now))
            }
        };
        if new.as_slice() == list(current, field) {
            return None;
        }
        Some(json!({ field: new }))
    }

    /// Others' entries as they are, then ours.
    fn parents(&self, parents: &[ParentStatus], current: &Value, now: &str) -> Vec<Value> {
        let is_ours = |entry: &Value| entry["controllerName"] == names::GATEWAY_CONTROLLER;
        let current = list(current, "parents");
        let (ours, mut entries): (Vec<_>, Vec<_>) = current.iter().cloned().partition(is_ours);
        entries.extend(parents.iter().map(|parent| {
            let reference = json!(parent.parent);
            let old = ours.iter().find(|entry| entry["parentRef"] == reference);
            let old = old.map_or(&[][..], |entry| list(entry, "conditions"));
            json!({
                "parentRef": reference,
                "controllerName": names::GATEWAY_CONTROLLER,
                "conditions": self.own(&parent.conditions, old, now),
            })
        }));
        entries
    }

    /// Others' conditions as they are, then ours.
    fn conditions(&self, conditions: &[Condition], old: &[Value], now: &str) -> Vec<Value> {
        let is_ours = |entry: &Value| conditions.iter().any(|own| entry["type"] == own.kind);
        let mut entries: Vec<Value> = old.iter().filter(|e| !is_ours(e)).cloned().collect();
        entries.extend(self.own(conditions, old, now));
        entries
    }

    /// Our conditions; one that held as it holds now keeps its time.
    fn own(&self, conditions: &[Condition], old: &[Value], now: &str) -> Vec<Value> {
        let entries = conditions.iter().map(|condition| {
            let status = if condition.holds { "True" } else { "False" };
            let before = old.iter().find(|entry| entry["type"] == condition.kind);
            let since = before
                .filter(|entry| entry["status"] == status)
                .and_then(|entry| entry["lastTransitionTime"].as_str());
            json!({
                "type": condition.kind,
                "status": status,
                "reason": condition.reason,
                "message": condition.message,
                "observedGeneration": self.generation,
                "lastTransitionTime": since.unwrap_or(now),
            })
        });
        entries.collect()
    }
}

fn list<'a>(of: &'a Value, field: &str) -> &'a [Value] {
    of[field].as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compile::Note,
        object::{Kind, Name},
        resource::gateway::ParentReference,
    };

    use linnet_mesh::ResourceRef;

    const EARLIER: &str = "2026-01-01T00:00:00Z";
    const NOW: &str = "2026-01-02T00:00:00Z";

    fn accepted(holds: bool) -> Condition {
        Condition {
            kind: "Accepted",
            holds,
            reason: if holds {
                "Accepted"
            } else {
                "NoMatchingParent"
            },
            message: String::new(),
        }
    }

    fn desired(generation: i64, content: Content) -> DesiredStatus {
        DesiredStatus {
            object: ObjectRef {
                kind: Kind::HttpRoute,
                name: Name::new("shop", "r"),
            },
            generation,
            content,
        }
    }

    fn at(name: &str, holds: bool) -> ParentStatus {
        ParentStatus {
            parent: ParentReference {
                group: Some(String::new()),
                kind: Some("Service".to_owned()),
                name: name.to_owned(),
                ..ParentReference::default()
            },
            conditions: vec![accepted(holds)],
        }
    }

    #[test]
    fn what_is_written_is_not_written_again() {
        let first = desired(1, Content::Parents(vec![at("a", true)]));
        let written = first.over(&Value::Null, EARLIER).unwrap();
        assert_eq!(first.over(&written, NOW), None);
        let condition = &written["parents"][0]["conditions"][0];
        assert_eq!(condition["observedGeneration"], 1);
        assert_eq!(
            written["parents"][0]["parentRef"],
            json!({"group": "", "kind": "Service", "name": "a"})
        );
    }

    #[test]
    fn a_time_changes_with_the_status_only() {
        let before = desired(1, Content::Parents(vec![at("a", true)]));
        let written = before.over(&Value::Null, EARLIER).unwrap();
        let time = |status: &Value| {
            let condition = &status["parents"][0]["conditions"][0];
            condition["lastTransitionTime"].clone()
        };
        let same = desired(2, Content::Parents(vec![at("a", true)]));
        assert_eq!(time(&same.over(&written, NOW).unwrap()), EARLIER);
        let other = desired(2, Content::Parents(vec![at("a", false)]));
        assert_eq!(time(&other.over(&written, NOW).unwrap()), NOW);
    }

    #[test]
    fn others_keep_what_they_wrote() {
        let gateway = json!({"controllerName": "example.com/gateway", "parentRef": {"name": "g"},
            "conditions": []});
        let gone = json!({"controllerName": names::GATEWAY_CONTROLLER, "parentRef": {"name": "x"},
            "conditions": []});
        let current = json!({"parents": [gateway, gone]});
        let none = desired(1, Content::Parents(Vec::new()));
        let written = none.over(&current, NOW).unwrap();
        assert_eq!(written, json!({"parents": [gateway]}));
        assert_eq!(none.over(&written, NOW), None);

        let theirs = json!({"type": "Theirs", "status": "True"});
        let conditions = desired(1, Content::Conditions(vec![accepted(true)]));
        let written = conditions
            .over(&json!({"conditions": [theirs]}), NOW)
            .unwrap();
        assert_eq!(written["conditions"][0], theirs);
        assert_eq!(written["conditions"][1]["type"], "Accepted");
        assert_eq!(conditions.over(&written, NOW), None);
    }

    #[test]
    fn a_verdict_is_a_condition() {
        let verdict = |status, notes: Vec<Note>| Verdict {
            resource: ResourceRef {
                kind: "VirtualService".to_owned(),
                namespace: "shop".to_owned(),
                name: "v".to_owned(),
            },
            origin: None,
            generation: 7,
            status,
            messages: notes,
        };
        let object = ObjectRef {
            kind: Kind::VirtualService,
            name: Name::new("shop", "v"),
        };
        let remark = || vec![Note::new("spec.tcp", "is not honoured yet")];
        let last = "the last good version stays in force, if there was one";
        for (status, notes, expected) in [
            (
                Status::Accepted,
                vec![],
                ("True", "Accepted", String::new()),
            ),
            (
                Status::Accepted,
                remark(),
                (
                    "True",
                    "AcceptedWithRemarks",
                    "spec.tcp: is not honoured yet".to_owned(),
                ),
            ),
            (
                Status::Conflicting,
                remark(),
                (
                    "True",
                    "Conflicting",
                    "spec.tcp: is not honoured yet".to_owned(),
                ),
            ),
            (
                Status::Rejected,
                remark(),
                (
                    "False",
                    "Invalid",
                    format!("spec.tcp: is not honoured yet; {last}"),
                ),
            ),
        ] {
            let desired = DesiredStatus::from((object.clone(), &verdict(status, notes)));
            let written = desired.over(&Value::Null, NOW).unwrap();
            let condition = &written["conditions"][0];
            assert_eq!(condition["type"], "Accepted");
            assert_eq!(condition["observedGeneration"], 7);
            let (status, reason, message) = expected;
            assert_eq!(condition["status"], status);
            assert_eq!(condition["reason"], reason);
            assert_eq!(condition["message"], message);
            assert_eq!(desired.over(&written, EARLIER), None, "written once");
        }
        let many = vec![Note::new("f", "x"); 20];
        let desired = DesiredStatus::from((object, &verdict(Status::Accepted, many)));
        let written = desired.over(&Value::Null, NOW).unwrap();
        let message = written["conditions"][0]["message"].as_str().unwrap();
        assert!(
            message.ends_with("4 more; `linnet analyze` shows all"),
            "{message}"
        );
    }
}
