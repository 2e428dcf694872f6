use super::*;

fn args(line: &[&str]) -> Args {
    Args::parse_from(std::iter::once(&"linnet-init").chain(line))
}

fn parse(line: &[&str]) -> Settings {
    Settings::parse(&args(line)).unwrap()
}

fn range(first: u16, last: u16) -> PortRange {
    PortRange { first, last }
}

#[test]
fn defaults_redirect_everything() {
    assert_eq!(
        parse(&[]),
        Settings {
            proxy_uid: 1337,
            proxy_gid: 1337,
            inbound_port: 15006,
            outbound_port: 15001,
            reserved: vec![
                range(15001, 15001),
                range(15006, 15006),
                range(15020, 15020)
            ],
            skip_inbound: vec![],
            include_inbound: Selection::All,
            skip_outbound: vec![],
            include_outbound: vec![],
            skip_outbound_cidrs: vec![],
            include_outbound_cidrs: Selection::All,
        }
    );
}

#[test]
fn every_flag_of_the_contract_is_understood() {
    let settings = parse(&[
        "--proxy-uid",
        "2000",
        "--proxy-gid",
        "2001",
        "--inbound-port",
        "16006",
        "--outbound-port",
        "16001",
        "--skip-inbound-ports",
        "22, 8000-8010",
        "--include-inbound-ports",
        "80,443",
        "--skip-outbound-ports",
        "25:26",
        "--include-outbound-ports",
        "3306",
        "--skip-outbound-cidrs",
        "10.1.2.3/8,fd00::/8,192.0.2.1",
        "--include-outbound-cidrs",
        "172.16.0.0/12",
        "--backend",
        "legacy",
    ]);
    assert_eq!((settings.proxy_uid, settings.proxy_gid), (2000, 2001));
    assert_eq!(
        settings.reserved,
        [
            range(15020, 15020),
            range(16001, 16001),
            range(16006, 16006)
        ]
    );
    assert_eq!(settings.skip_inbound, [range(22, 22), range(8000, 8010)]);
    assert_eq!(
        settings.include_inbound,
        Selection::Only(vec![range(80, 80), range(443, 443)])
    );
    assert_eq!(settings.skip_outbound, [range(25, 26)]);
    assert_eq!(settings.include_outbound, [range(3306, 3306)]);
    let cidrs: Vec<String> = settings
        .skip_outbound_cidrs
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(cidrs, ["10.0.0.0/8", "fd00::/8", "192.0.2.1/32"]);
    assert_eq!(
        settings.include_outbound_cidrs,
        Selection::Only(vec!["172.16.0.0/12".parse().unwrap()])
    );
}

#[test]
fn an_empty_include_selects_nothing() {
    let settings = parse(&["--include-inbound-ports", "", "--include-outbound-cidrs="]);
    assert_eq!(settings.include_inbound, Selection::Only(vec![]));
    assert_eq!(settings.include_outbound_cidrs, Selection::Only(vec![]));
}

#[test]
fn overlapping_and_adjacent_ranges_are_joined() {
    let settings = parse(&["--skip-inbound-ports", "90-100,80,81,95-120,65535,1"]);
    assert_eq!(
        settings.skip_inbound,
        [
            range(1, 1),
            range(80, 81),
            range(90, 120),
            range(65535, 65535)
        ]
    );
}

#[test]
fn all_mistakes_are_reported_at_once_with_their_flags() {
    let error = Settings::parse(&args(&[
        "--proxy-uid",
        "0",
        "--inbound-port",
        "15001",
        "--skip-inbound-ports",
        "http,0,70000,90-80,*",
        "--skip-outbound-ports",
        "*",
        "--skip-outbound-cidrs",
        "10.0.0.0/33,example.com",
    ]))
    .unwrap_err()
    .to_string();
    for part in [
        "--proxy-uid and --proxy-gid: 0",
        "both 15001",
        "--skip-inbound-ports: `http` is not a port",
        "`0` is not a port",
        "`70000` is not a port",
        "`90-80` runs backwards; write 80-90",
        "--skip-inbound-ports: `*` is not a port",
        "--skip-outbound-ports: `*` is not a list; to redirect nothing leave --include-outbound-ports empty",
        "--skip-outbound-cidrs: `10.0.0.0/33` is not a CIDR",
        "`example.com` is not a CIDR",
    ] {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
}
