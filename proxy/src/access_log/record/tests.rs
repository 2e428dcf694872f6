use super::*;
use crate::{
    access_log::Decision,
    telemetry::{DestinationService, Flags},
};
use linnet_mesh::{TrustDomain, Workload};
use proptest::prelude::*;

/// All that a line can be made of.
#[derive(Clone, Debug)]
struct Case {
    request: Option<(String, String, String, String, u8)>,
    texts: [String; 8],
    identities: (bool, bool),
    decided: Option<u8>,
    addresses: (Option<SocketAddr>, Option<SocketAddr>),
    outcome: Outcome,
    began: u64,
    destination: bool,
    grpc: bool,
}

fn case() -> impl Strategy<Value = Case> {
    // Any text with many of the characters that have to be escaped, and long ones.
    let text = || {
        prop_oneof![
            any::<String>(),
            "[\"\\\\\\x00-\\x20é/a-z]{0,40}",
            "[é\"]{100,300}"
        ]
    };
    let request = (
        "[A-Z]{1,300}|GET|[!#$%&'*+.^_`|~0-9a-z-]{1,9}",
        "/[\"!$-;=@-_a-z|~{}]{0,60}|/[a-z]{1000,1100}",
        text(),
        "[ -~]{0,40}|[a-z]{200,300}|",
        0..3_u8,
    );
    let outcome = (
        prop_oneof![Just(0), 100..600_u16],
        any::<Option<u16>>(),
        0..3_u8,
        prop_oneof![
            any::<Duration>(),
            (0..10_000_000_u64).prop_map(Duration::from_micros)
        ],
        any::<(u64, u64)>(),
    );
    let outcome = outcome.prop_map(|(status, grpc_status, flags, duration, bytes)| Outcome {
        status,
        grpc_status,
        flags: [Flags::NONE, Flags::UAEX, Flags::UF | Flags::URX][usize::from(flags)],
        duration,
        request_bytes: bytes.0,
        response_bytes: bytes.1,
    });
    let rest = (
        any::<(bool, bool, bool, bool)>(),
        prop::option::of(0..4_u8),
        any::<(Option<SocketAddr>, Option<SocketAddr>)>(),
        0..4_000_000_000_000_u64,
    );
    let texts = prop::array::uniform8(text());
    (prop::option::of(request), texts, outcome, rest).prop_map(|(request, texts, outcome, rest)| {
        let (flags, decided, addresses, began) = rest;
        Case {
            request,
            texts,
            identities: (flags.0, flags.1),
            decided,
            addresses,
            outcome,
            began,
            destination: flags.2,
            grpc: flags.3,
        }
    })
}

impl Case {
    fn record(&self, log: &Log) -> Record {
        let setting = AccessLog::default();
        let record = match &self.request {
            None => Record::of_connection(log, &setting),
            Some((method, uri, authority, id, version)) => {
                let mut request = Request::builder()
                    .method(method.as_str())
                    .uri(uri.as_str())
                    .version(
                        [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2]
                            [usize::from(*version)],
                    );
                if !id.is_empty() {
                    request = request.header(&REQUEST_ID, id);
                }
                let request = request.body(()).unwrap();
                Record::of_request(log, &setting, &request, authority)
            }
        };
        let decisions = [
            Decision::Allowed,
            Decision::Denied,
            Decision::WouldDeny,
            Decision::Audited,
        ];
        let principal = Some(self.texts[0].as_str()).filter(|text| !text.is_empty());
        let mut record = record
            .decided(self.decided.map(|decision| Decided {
                decision: decisions[usize::from(decision)],
                by: self.texts[1].as_str().into(),
            }))
            .speaking_for(principal)
            .called_from(self.addresses.0);
        record.upstream = self.addresses.1;
        record.began = SystemTime::UNIX_EPOCH + Duration::from_millis(self.began);
        record
    }

    fn ends(&self) -> Ends {
        let identity = |account: &str| SpiffeId::new(&TrustDomain::default(), "shop", account);
        let workload = |name: &String, namespace: &String| {
            Arc::new(Workload {
                name: name.clone(),
                namespace: namespace.clone(),
                ..Workload::default()
            })
        };
        let [_, _, source, own, destination, theirs, hostname, _] = &self.texts;
        Ends::new(Parties {
            reporter: if self.destination {
                Reporter::Destination
            } else {
                Reporter::Source
            },
            source: workload(source, own),
            source_principal: identity("web").ok().filter(|_| self.identities.0),
            destination: workload(destination, theirs),
            destination_principal: identity("db").ok().filter(|_| self.identities.1),
            service: (!hostname.is_empty()).then(|| DestinationService {
                namespace: "shop".into(),
                name: "db".into(),
                hostname: hostname.as_str().into(),
            }),
            secured: self.identities.0,
        })
    }
}

proptest! {
    /// What is written fast is what serde writes of the line, and is read as that line.
    #[test]
    fn json_is_what_serde_makes_of_the_line(case in case()) {
        let (log, waiting) = Log::for_test(1 << 20);
        let (record, ends) = (case.record(&log), case.ends());
        let mut serde = Vec::new();
        record.write_line(&case.outcome, case.grpc, &ends, &mut serde);
        record.write(&case.outcome, case.grpc, Some(&ends));
        let fast = waiting.take();
        let serde = String::from_utf8(serde).unwrap();
        prop_assert_eq!(&fast, &serde);
        let read: Line<'_> = serde_json::from_str(&fast).unwrap();
        prop_assert_eq!(read.log, KIND);
        prop_assert_eq!(read.source_workload, case.texts[2].as_str());
        if let Some((method, uri, authority, ..)) = &case.request {
            prop_assert_eq!(read.method, cut(method, LONGEST));
            prop_assert_eq!(read.path, cut(uri, LONGEST_PATH));
            prop_assert_eq!(read.authority, cut(authority, LONGEST));
        }
    }
}

#[test]
fn text_is_written_where_it_is_asked_for() {
    let (log, waiting) = Log::for_test(1024);
    let setting = "all;format=text".parse().unwrap();
    let request = Request::get("/a?b").body(()).unwrap();
    let mut record = Record::of_request(&log, &setting, &request, "shop");
    record.began = SystemTime::UNIX_EPOCH;
    let ends = Rc::new(Ends::new(Parties {
        reporter: Reporter::Source,
        source: Arc::default(),
        source_principal: None,
        destination: Arc::default(),
        destination_principal: None,
        service: None,
        secured: false,
    }));
    record.place(ends, Some(SocketAddr::from(([10, 0, 0, 7], 80))));
    let outcome = Outcome {
        status: 200,
        duration: Duration::from_micros(1500),
        ..Outcome::default()
    };
    record.write(&outcome, false, None);
    assert_eq!(
        waiting.take(),
        "1970-01-01T00:00:00Z access source unknown -> unknown GET shop /a http/1.1 200 - \
         0B in 0B out 1.5ms upstream 10.0.0.7:80\n"
    );
}

#[test]
fn a_record_without_parties_is_a_line_that_is_missing() {
    let (log, waiting) = Log::for_test(1024);
    let record = Record::of_connection(&log, &AccessLog::default());
    record.write(&Outcome::default(), false, None);
    assert_eq!((waiting.take().as_str(), log.untold()), ("", 1));
}
