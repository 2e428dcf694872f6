use super::*;
use crate::plan::Family;
use crate::settings::{Args, Settings};
use clap::Parser;

fn plan(line: &[&str], family: Family) -> Plan {
    let args = Args::parse_from(std::iter::once(&"linnet-init").chain(line));
    Plan::new(&Settings::parse(&args).unwrap(), family)
}

#[test]
fn golden_defaults() {
    insta::assert_snapshot!("defaults_v4", restore(&plan(&[], Family::V4), ""));
    insta::assert_snapshot!("defaults_v6", restore(&plan(&[], Family::V6), ""));
}

#[test]
fn golden_every_setting() {
    let line = [
        "--proxy-uid",
        "2000",
        "--proxy-gid",
        "2001",
        "--inbound-port",
        "16006",
        "--outbound-port",
        "16001",
        "--skip-inbound-ports",
        "22,8000-8010",
        "--include-inbound-ports",
        "80,9000-9100",
        "--skip-outbound-ports",
        "25",
        "--include-outbound-ports",
        "3306",
        "--skip-outbound-cidrs",
        "10.1.0.0/16,fd00:1::/32",
        "--include-outbound-cidrs",
        "10.0.0.0/8,fd00::/8",
    ];
    insta::assert_snapshot!("everything_v4", restore(&plan(&line, Family::V4), ""));
    insta::assert_snapshot!("everything_v6", restore(&plan(&line, Family::V6), ""));
}

/// A table as `iptables-save` prints it, ours complete.
fn applied() -> String {
    let text = restore(&plan(&[], Family::V4), "");
    let (chains, rules) = text.split_once("-A").unwrap();
    format!(
        "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j LINNET_NOT_NAT\nCOMMIT\n{chains}:PREROUTING ACCEPT [4:240]\n-A{rules}"
    )
}

#[test]
fn jumps_that_are_there_are_not_added_again() {
    let again = restore(&plan(&[], Family::V4), &applied());
    assert!(
        !again.contains("-A PREROUTING") && !again.contains("-A OUTPUT"),
        "{again}"
    );
    assert!(!again.contains("-D ") && !again.contains("-X "), "{again}");
    assert!(
        again.contains(":LINNET_INBOUND - [0:0]"),
        "chains are refilled: {again}"
    );
}

#[test]
fn doubled_jumps_and_older_chains_are_removed() {
    let saved = applied().replace(
        "-A OUTPUT -p tcp -j LINNET_OUTBOUND",
        ":LINNET_OLD - [0:0]\n-A OUTPUT -p tcp -j LINNET_OUTBOUND\n-A OUTPUT -p tcp -j LINNET_OUTBOUND\n\
         -A OUTPUT -m tcp -j LINNET_OLD\n-A LINNET_OLD -j LINNET_OUTBOUND\n-A OUTPUT -j SOMEBODY_ELSE",
    );
    let text = restore(&plan(&[], Family::V4), &saved);
    let removals: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("-D ") || line.starts_with("-X "))
        .collect();
    assert_eq!(
        removals,
        [
            "-D OUTPUT -p tcp -j LINNET_OUTBOUND",
            "-D OUTPUT -m tcp -j LINNET_OLD",
            "-X LINNET_OLD"
        ]
    );
    assert!(
        text.contains(":LINNET_OLD - [0:0]\n"),
        "emptied before it is deleted: {text}"
    );
}

#[test]
fn in_place_wants_every_rule_and_each_jump_once() {
    let plan = plan(&[], Family::V4);
    assert!(in_place(&plan, &applied()));
    assert!(!in_place(&plan, ""));
    assert!(!in_place(
        &plan,
        &applied().replace(
            "-A LINNET_INBOUND -p tcp -j REDIRECT --to-ports 15006\n",
            ""
        )
    ));
    let jump = "-A OUTPUT -p tcp -j LINNET_OUTBOUND\n";
    assert!(!in_place(&plan, &applied().replace(jump, "")));
    assert!(!in_place(&plan, &applied().replace(jump, &jump.repeat(2))));
}
