//! What the policies said, and what a line names it by.

use linnet_mesh::{
    ResourceRef,
    authorization::{Action, By},
};
use std::{
    cell::{OnceCell, RefCell},
    rc::Rc,
};

/// Rules whose names a data thread remembers.
const REMEMBERED: usize = 16;

/// What the policies said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Allowed,
    Denied,
    /// Allowed, but a policy in dry run would have denied it.
    WouldDeny,
    /// Allowed, and an AUDIT rule fits.
    Audited,
}

impl Decision {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::WouldDeny => "dry_run_denied",
            Self::Audited => "audited",
        }
    }
}

/// What the policies said, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decided {
    pub(crate) decision: Decision,
    pub(crate) by: Rc<str>,
}

impl Decided {
    /// Whether it is more than being let through.
    pub(crate) fn is_noteworthy(&self) -> bool {
        self.decision != Decision::Allowed
    }
}

/// The names of what decides, each made once for many requests. Rules are known by
/// what their names are made of, so that no change of the policies makes one wrong.
#[derive(Default)]
pub(crate) struct Names {
    rules: RefCell<[Option<Named>; REMEMBERED]>,
    no_allow_rule: OnceCell<Rc<str>>,
    no_policy: OnceCell<Rc<str>>,
}

struct Named {
    source: ResourceRef,
    action: Action,
    rule: usize,
    name: Rc<str>,
}

impl Names {
    /// What decided, in words.
    pub(crate) fn name(&self, by: By<'_>) -> Rc<str> {
        let made = || Rc::from(by.to_string());
        let (policy, rule) = match by {
            By::NoAllowRule => return self.no_allow_rule.get_or_init(made).clone(),
            By::NoPolicy => return self.no_policy.get_or_init(made).clone(),
            By::TooManyReadings => return made(),
            By::Rule { policy, rule } => (policy, rule),
        };
        let (source, action) = (&policy.source, policy.action);
        // Rules of several policies may share a place; then it is made anew.
        let place = &mut self.rules.borrow_mut()[(rule + source.name.len()) % REMEMBERED];
        match place {
            Some(known)
                if known.rule == rule && known.action == action && known.source == *source =>
            {
                known.name.clone()
            }
            _ => {
                let name: Rc<str> = made();
                *place = Some(Named {
                    source: source.clone(),
                    action,
                    rule,
                    name: name.clone(),
                });
                name
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linnet_mesh::authorization::Policy;

    #[test]
    fn a_name_is_remembered_and_never_anothers() {
        let names = Names::default();
        let policy = |name: &str, action| Policy {
            source: ResourceRef {
                kind: "AuthorizationPolicy".to_owned(),
                namespace: "shop".to_owned(),
                name: name.to_owned(),
            },
            action,
            dry_run: false,
            rules: vec![],
        };
        let policies = [
            policy("a", Action::Allow),
            policy("b", Action::Allow),
            policy("b", Action::Deny),
        ];
        for _ in 0..2 {
            for policy in &policies {
                for rule in 0..2 * REMEMBERED {
                    let by = By::Rule { policy, rule };
                    let name = names.name(by);
                    assert_eq!(*name, by.to_string());
                    assert!(Rc::ptr_eq(&name, &names.name(by)));
                }
            }
            for by in [By::NoAllowRule, By::NoPolicy] {
                assert_eq!(*names.name(by), by.to_string());
            }
        }
    }
}
