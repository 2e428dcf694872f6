//! `iptables-restore` text from a plan and from what the table holds already.
//!
//! Restore is atomic per table and, with `--noflush`, touches only what the
//! text names. Naming one of our chains empties it, so rules never pile up;
//! jumps live in chains that belong to everybody, so each is added only where
//! it is missing, and stale or doubled ones of ours are removed by name.

use std::fmt::Write;

use crate::plan::{CHAIN_PREFIX, Chain, Condition, Plan, Rule, Target};

/// The text that turns a nat table which `iptables-save` printed as `saved`
/// into one that holds the plan, once.
pub fn restore(plan: &Plan, saved: &str) -> String {
    let saved = Saved::parse(saved);
    let mut wanted: Vec<String> = plan.chains.iter().map(jump).collect();
    let mut unwanted = Vec::new();
    for found in &saved.jumps {
        let before = wanted.len();
        wanted.retain(|line| line != found);
        if wanted.len() == before {
            unwanted.push(found);
        }
    }
    let stale: Vec<&String> = saved
        .chains
        .iter()
        .filter(|name| plan.chains.iter().all(|chain| chain.name != name.as_str()))
        .collect();

    let mut lines = vec!["*nat".to_owned()];
    lines.extend(
        plan.chains
            .iter()
            .map(|chain| format!(":{} - [0:0]", chain.name)),
    );
    lines.extend(stale.iter().map(|name| format!(":{name} - [0:0]")));
    lines.extend(unwanted.iter().map(|rest| format!("-D {rest}")));
    lines.extend(wanted.iter().map(|rest| format!("-A {rest}")));
    for chain in &plan.chains {
        lines.extend(
            chain
                .rules
                .iter()
                .map(|rule| format!("-A {} {}", chain.name, text(rule))),
        );
    }
    lines.extend(stale.iter().map(|name| format!("-X {name}")));
    lines.push("COMMIT\n".to_owned());
    lines.join("\n")
}

/// Whether `saved` holds the whole plan, once.
pub fn in_place(plan: &Plan, saved: &str) -> bool {
    let found = Saved::parse(saved);
    let mut jumps: Vec<String> = plan.chains.iter().map(jump).collect();
    jumps.sort();
    let mut found_jumps = found.jumps;
    found_jumps.sort();
    let rules = |chain: &Chain| {
        let start = format!("-A {} ", chain.name);
        saved
            .lines()
            .filter(|line| line.starts_with(&start))
            .count()
    };
    jumps == found_jumps
        && plan
            .chains
            .iter()
            .all(|chain| rules(chain) == chain.rules.len())
}

/// What of ours a table holds.
struct Saved {
    /// Our chains' names.
    chains: Vec<String>,
    /// Rules elsewhere that jump to our chains, without their leading `-A `.
    jumps: Vec<String>,
}

impl Saved {
    fn parse(text: &str) -> Self {
        let mut saved = Self {
            chains: Vec::new(),
            jumps: Vec::new(),
        };
        let target = format!("-j {CHAIN_PREFIX}");
        // Several tables may be printed; only nat is ours.
        let nat = text
            .lines()
            .skip_while(|line| line.trim() != "*nat")
            .take_while(|line| line.trim() != "COMMIT");
        for line in nat {
            if let Some(name) = line
                .strip_prefix(':')
                .and_then(|rest| rest.split_whitespace().next())
            {
                if name.starts_with(CHAIN_PREFIX) {
                    saved.chains.push(name.to_owned());
                }
            } else if let Some(rest) = line.strip_prefix("-A ")
                && !rest.starts_with(CHAIN_PREFIX)
                && rest.contains(&target)
            {
                saved.jumps.push(rest.to_owned());
            }
        }
        saved
    }
}

fn jump(chain: &Chain) -> String {
    format!("{} -p tcp -j {}", chain.entered_from, chain.name)
}

/// A rule in the spelling in which `iptables-save` prints it back.
fn text(rule: &Rule) -> String {
    let mut text = match &rule.condition {
        None => "-p tcp".to_owned(),
        Some(Condition::Ports(ports)) if ports.first == ports.last => {
            format!("-p tcp -m tcp --dport {}", ports.first)
        }
        Some(Condition::Ports(ports)) => {
            format!("-p tcp -m tcp --dport {}:{}", ports.first, ports.last)
        }
        Some(Condition::Destination(net)) => format!("-d {net} -p tcp"),
        Some(Condition::Loopback) => "-o lo -p tcp".to_owned(),
        Some(Condition::User(uid)) => format!("-p tcp -m owner --uid-owner {uid}"),
        Some(Condition::Group(gid)) => format!("-p tcp -m owner --gid-owner {gid}"),
    };
    // Writing to a String cannot fail.
    let _ = match rule.target {
        Target::Return => write!(text, " -j RETURN"),
        Target::Redirect(port) => write!(text, " -j REDIRECT --to-ports {port}"),
    };
    text
}

#[cfg(test)]
mod tests;
