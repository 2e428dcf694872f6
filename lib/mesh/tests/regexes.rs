//! Whatever patterns there are, and however many: what a process takes for them. A process
//! of its own, since all of a process share one bound.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failing unwrap is a failing test, and figures are for whoever reads its output"
)]

use linnet_mesh::regexes::{self, Budget, OF_PROCESS, OF_RESOURCE, OF_THREAD};
use linnet_meter::{allocated, alone, resident};

/// Runs a test alone in this process, and lets go of what its thread keeps before the next.
fn measured(test: fn()) {
    let _alone = alone();
    let ended = std::thread::spawn(test).join();
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Patterns that take as much as they can, each another way.
fn patterns(number: usize) -> [String; 6] {
    [
        format!(r"\w{{1,9}}{number}"),
        format!(r"(?i)[a-z]{{1,300}}{number}"),
        format!(r"(a|b|c|dd|ee{number}){{1,500}}"),
        format!(r".*{number}.*.*[^é]*"),
        format!(r"(\d+)\.(\d+)\.{number}"),
        format!(r"{}|{number}", ["GET", "POST", "PUT"].join("|")),
    ]
}

#[test]
fn a_process_takes_no_more_than_its_bound_and_gives_it_back() {
    measured(bound);
}

fn bound() {
    let before = resident();
    let text = "Ab1é.ddee00".repeat(400);
    let (mut kept, mut refused) = (Vec::new(), 0);
    for number in 0..120 {
        let mut resource = Budget::of_resource();
        for pattern in patterns(number) {
            match resource.whole(&pattern) {
                Ok(regex) => {
                    regex.is_match(&text);
                    kept.push(regex);
                }
                Err(_) => refused += 1,
            }
        }
        assert!(resource.used() <= OF_RESOURCE);
        assert!(regexes::size() <= OF_PROCESS);
    }
    assert!(refused > 20, "the bound is met: {} taken", kept.len());
    let grown = resident().saturating_sub(before);
    println!("{} taken, {} KiB", kept.len(), grown / 1024);
    // The allocator rounds up, and keeps what compiling took for a moment.
    assert!(grown < (OF_PROCESS + OF_THREAD) * 3 / 2, "{grown}");
    drop(kept);
    assert_eq!(regexes::size(), 0);
    assert!(Budget::of_resource().whole(&patterns(0)[0]).is_ok());
}

/// What is counted of an expression is what it takes, however little there is to it.
#[test]
fn what_an_expression_takes_is_counted() {
    measured(counted);
}

fn counted() {
    for (what, pattern) in [
        ("a text", "a"),
        ("a class", "[a-z]+"),
        ("words", r"\w+"),
        ("alternatives", "GET|POST|PUT"),
        ("groups", r"(\d+)\.(\d+)\."),
    ] {
        let (before, counted) = (allocated(), regexes::size());
        let compiled: Vec<_> = (0..50)
            .map(|number| {
                let pattern = format!("{pattern}{number}");
                let mut budget = Budget::of_resource();
                (budget.whole(&pattern), budget.replace(&pattern))
            })
            .collect();
        let (taken, counted) = (allocated() - before, regexes::size() - counted);
        println!("{what}: {taken} bytes, {counted} counted");
        assert!(
            compiled
                .iter()
                .all(|(whole, replace)| whole.is_ok() && replace.is_ok())
        );
        assert!(taken <= counted, "{what}: {taken} bytes, {counted} counted");
    }
}
