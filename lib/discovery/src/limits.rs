//! How much a proxy may ask of a controller: every bound of discovery's requests, in
//! one place.
//!
//! Both ends use these numbers. A proxy keeps itself within them, by letting go of what
//! it has not used for longest; a controller refuses more, by an error that names the
//! bound. So no number that a client of the proxy can drive ever ends a stream.

use crate::{
    DecodeError,
    proto::{self, proxy_message::Kind, target},
};

/// A host and its port, bytes: a DNS name of 253, a colon and five digits.
pub const HOST: usize = 253 + 6;
/// An IP address with or without a port, bytes: IPv6 with a scope takes 58.
pub const ADDRESS: usize = 64;
/// A pod's name, bytes, as Kubernetes has it.
pub const POD: usize = 253;
/// A proxy's version, bytes.
pub const VERSION: usize = 128;
/// Why a proxy kept its last good state, bytes.
pub const ERROR: usize = 4096;
/// Targets of one message. A proxy that asks for more sends several messages.
pub const TARGETS_OF_MESSAGE: usize = 512;
/// One message, bytes: the targets of one message at their longest, and a fifth more.
pub const MESSAGE: usize = 160 * 1024;
/// Addresses and hosts of one stream. A busy proxy calls some hundred services; a
/// crawler calls any number of addresses outside, and remembers the last of them.
pub const TARGETS: usize = 4096;
/// Peers of one stream: callers whose names the proxy's telemetry wants to know.
pub const PEERS: usize = 4096;
/// Streams of one pod: the one in use, and the one that replaces it.
pub const STREAMS_OF_POD: usize = 2;
/// Streams of one identity: two each for 2,048 pods of a service account.
pub const STREAMS_OF_IDENTITY: usize = 4096;
/// Targets and peers of one identity, all its streams together; about 60 MB.
pub const TARGETS_OF_IDENTITY: usize = 131_072;

/// The bounds of all fields of a request that have a length or a number, by the names
/// that `discovery.proto` gives them.
pub const REQUEST_FIELDS: [(&str, usize); 7] = [
    ("Hello.pod", POD),
    ("Hello.proxy_version", VERSION),
    ("Targets.targets", TARGETS_OF_MESSAGE),
    ("Target.address", ADDRESS),
    ("Target.host", HOST),
    ("Target.peer", ADDRESS),
    ("Acknowledgement.error", ERROR),
];

/// Checks a message against [`REQUEST_FIELDS`].
///
/// # Errors
/// A field that is longer than its bound.
pub fn check(message: &proto::ProxyMessage) -> Result<(), DecodeError> {
    match &message.kind {
        None => Ok(()),
        Some(Kind::Hello(hello)) => {
            within("Hello.pod", hello.pod.len(), POD)?;
            within("Hello.proxy_version", hello.proxy_version.len(), VERSION)
        }
        Some(Kind::Subscribe(asked) | Kind::Unsubscribe(asked)) => {
            within("Targets.targets", asked.targets.len(), TARGETS_OF_MESSAGE)?;
            asked.targets.iter().try_for_each(check_target)
        }
        Some(Kind::Acknowledgement(acknowledgement)) => {
            within("Acknowledgement.error", acknowledgement.error.len(), ERROR)
        }
    }
}

/// Checks one target.
///
/// # Errors
/// Text that is longer than its bound.
pub(super) fn check_target(target: &proto::Target) -> Result<(), DecodeError> {
    match &target.kind {
        None => Ok(()),
        Some(target::Kind::Address(text)) => within("Target.address", text.len(), ADDRESS),
        Some(target::Kind::Host(text)) => within("Target.host", text.len(), HOST),
        Some(target::Kind::Peer(text)) => within("Target.peer", text.len(), ADDRESS),
    }
}

fn within(field: &'static str, length: usize, most: usize) -> Result<(), DecodeError> {
    if length <= most {
        return Ok(());
    }
    Err(DecodeError {
        field,
        reason: format!("has {length} bytes or entries; at most {most} are taken"),
    })
}

/// Cuts a text to a number of bytes, at a character's end.
pub fn cut(text: &mut String, most: usize) {
    let end = (0..=most.min(text.len()))
        .rev()
        .find(|&end| text.is_char_boundary(end));
    text.truncate(end.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use std::collections::{BTreeMap, BTreeSet};

    const PROTO: &str = include_str!("../proto/linnet/discovery/v1/discovery.proto");

    /// A field of a message: its type and name, and whether it is a list.
    type Field = (String, String, bool);

    /// The messages of the protocol, with their fields.
    fn messages() -> BTreeMap<String, Vec<Field>> {
        let mut messages: BTreeMap<String, Vec<Field>> = BTreeMap::new();
        let mut current = None;
        for line in PROTO.lines() {
            let line = line.split("//").next().unwrap().trim();
            let words: Vec<&str> = line.split([' ', ';']).filter(|w| !w.is_empty()).collect();
            match words.as_slice() {
                ["message", name, ..] => {
                    current = Some((*name).to_owned());
                    messages.entry((*name).to_owned()).or_default();
                }
                ["enum" | "service", ..] => current = None,
                [prefix @ .., kind, name, "=", _] => {
                    if let Some(message) = &current {
                        let fields = messages.get_mut(message).unwrap();
                        let is_list = prefix.contains(&"repeated") || kind.starts_with("map<");
                        fields.push(((*kind).to_owned(), (*name).to_owned(), is_list));
                    }
                }
                _ => {}
            }
        }
        messages
    }

    /// The fields of requests that have a length or a number.
    fn unbounded_by_type() -> BTreeSet<String> {
        let messages = messages();
        let mut found = BTreeSet::new();
        let (mut open, mut seen) = (vec!["ProxyMessage".to_owned()], BTreeSet::new());
        while let Some(message) = open.pop() {
            if !seen.insert(message.clone()) {
                continue;
            }
            for (kind, name, is_list) in &messages[&message] {
                if *is_list || ["string", "bytes"].contains(&kind.as_str()) {
                    found.insert(format!("{message}.{name}"));
                }
                if messages.contains_key(kind) {
                    open.push(kind.clone());
                }
            }
        }
        found
    }

    /// A message of which one field has that many bytes or entries.
    fn message(field: &str, length: usize) -> proto::ProxyMessage {
        let text = "x".repeat(length);
        let of = |kind| {
            Kind::Subscribe(proto::Targets {
                targets: vec![proto::Target { kind: Some(kind) }],
            })
        };
        let kind = match field {
            "Hello.pod" => Kind::Hello(proto::Hello {
                pod: text,
                ..Default::default()
            }),
            "Hello.proxy_version" => Kind::Hello(proto::Hello {
                proxy_version: text,
                ..Default::default()
            }),
            "Targets.targets" => Kind::Unsubscribe(proto::Targets {
                targets: vec![proto::Target::default(); length],
            }),
            "Target.address" => of(target::Kind::Address(text)),
            "Target.host" => of(target::Kind::Host(text)),
            "Target.peer" => of(target::Kind::Peer(text)),
            "Acknowledgement.error" => Kind::Acknowledgement(proto::Acknowledgement {
                error: text,
                ..Default::default()
            }),
            other => panic!("no test builds a message with a long {other}"),
        };
        proto::ProxyMessage { kind: Some(kind) }
    }

    #[test]
    fn every_field_of_a_request_has_a_bound_and_is_refused_beyond() {
        let named: BTreeSet<String> = REQUEST_FIELDS.map(|(name, _)| name.to_owned()).into();
        assert_eq!(unbounded_by_type(), named);
        for (field, most) in REQUEST_FIELDS {
            assert_eq!(check(&message(field, most)), Ok(()), "{field}");
            let refused = check(&message(field, most + 1)).unwrap_err();
            assert_eq!(refused.field, field);
            assert!(refused.to_string().contains(&most.to_string()), "{refused}");
        }
    }

    #[test]
    fn the_longest_message_within_the_bounds_is_taken() {
        let longest = proto::Target {
            kind: Some(target::Kind::Host("x".repeat(HOST))),
        };
        let message = proto::ProxyMessage {
            kind: Some(Kind::Subscribe(proto::Targets {
                targets: vec![longest; TARGETS_OF_MESSAGE],
            })),
        };
        assert_eq!(check(&message), Ok(()));
        assert!(message.encoded_len() <= MESSAGE);
    }

    #[test]
    fn text_is_cut_at_a_character() {
        for (most, cut_text) in [(0, ""), (1, "a"), (2, "a"), (3, "aü"), (9, "aüb")] {
            let mut text = "aüb".to_owned();
            cut(&mut text, most);
            assert_eq!(text, cut_text, "{most}");
        }
    }
}
