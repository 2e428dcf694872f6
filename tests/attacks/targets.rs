//! Every byte in a target, over HTTP/1.1 and HTTP/2, through both sidecars: what reaches the
//! application, and what the client is told instead. `targets.txt` is the table, which
//! docs/threat-model.md shows; `UPDATE_GOLDEN=1` writes it.

use crate::{
    frame::frame,
    http2::{END_HEADERS, END_STREAM, HEADERS, exchange},
    wire::{Front, send},
};
use std::fmt::Write as _;

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/attacks/targets.txt");
const DOCUMENT: &str = include_str!("../../docs/threat-model.md");
/// What a refusal begins with.
const REFUSED: &str = "linnet: the request can't be forwarded: the message is malformed: ";

/// The target of the last request that the application saw.
fn seen(front: &Front) -> Option<Vec<u8>> {
    let seen = front.app.seen();
    let mut heads = seen.iter().map(|seen| &seen.bytes);
    // HTTP/2 is tried first.
    let head = heads.rfind(|head| !head.starts_with(b"PRI "))?;
    let line = head.split(|byte| *byte == b'\r').next()?;
    let target = line.strip_prefix(b"GET ")?.strip_suffix(b" HTTP/1.1")?;
    Some(target.to_vec())
}

fn forwarded(front: &Front, target: &[u8]) -> String {
    let seen = seen(front).expect("the application saw it");
    match seen == target {
        true => "forwarded as it came".to_owned(),
        false => format!("forwarded as {}", seen.escape_ascii()),
    }
}

async fn over_http1(front: &Front, target: &[u8]) -> String {
    let end = b" HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n";
    let request = [b"GET ", target, end].concat();
    let answer = send(front.as_app().await, &request).await;
    if answer.starts_with("HTTP/1.1 200") {
        return forwarded(front, target);
    }
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    let status = head.get(9..12).unwrap_or_default();
    let reason = body.strip_prefix(REFUSED).expect("a reason");
    format!("{status}: {reason}")
}

async fn over_http2(front: &Front, target: &[u8]) -> String {
    let length = u8::try_from(target.len()).unwrap();
    // `:method: GET`, `:scheme: http`, `:path` and `:authority`, HPACK.
    let head = [b"\x82\x86\x04", &[length][..], target, b"\x41\x07payment"].concat();
    let bytes = frame(HEADERS, END_STREAM | END_HEADERS, 1, &head);
    let said = exchange(front.pair.port(0), bytes, |said| {
        !said.heads.is_empty() || said.resets > 0 || said.goaway.is_some()
    });
    let said = said.await;
    match (said.successes(), said.goaway) {
        (1, _) => forwarded(front, target),
        (_, Some(code)) => format!("the connection ends (GOAWAY {code})"),
        _ if said.resets > 0 => "the stream is reset".to_owned(),
        _ => format!("{said:?}"),
    }
}

fn shown(first: u8, last: u8) -> String {
    let shown = |byte: u8| match byte {
        0x21..=0x7e => format!("{:02x} {}", byte, char::from(byte)),
        _ => format!("{byte:02x}"),
    };
    match first == last {
        true => shown(first),
        false => format!("{first:02x}-{last:02x}"),
    }
}

#[tokio::test]
async fn every_byte_of_a_target_is_forwarded_or_refused_with_a_reason() {
    let front = Front::start().await;
    let mut table = String::new();
    for (version, is_http2) in [("HTTP/1.1", false), ("HTTP/2", true)] {
        for place in ["path", "query"] {
            let mut outcomes: Vec<(u8, u8, String)> = Vec::new();
            for byte in 0..=255 {
                let before: &[u8] = if place == "path" { b"/a" } else { b"/a?b=" };
                let target = [before, &[byte], b"c"].concat();
                let outcome = match is_http2 {
                    true => over_http2(&front, &target).await,
                    false => over_http1(&front, &target).await,
                };
                match outcomes.last_mut() {
                    Some((_, last, known)) if *known == outcome => *last = byte,
                    _ => outcomes.push((byte, byte, outcome)),
                }
            }
            for (first, last, outcome) in outcomes {
                let bytes = shown(first, last);
                let _ = writeln!(table, "{version:8}  {place:5}  {bytes:5}  {outcome}");
            }
        }
        let text = "/caf\u{e9}?\u{e9}".as_bytes();
        let outcome = match is_http2 {
            true => over_http2(&front, text).await,
            false => over_http1(&front, text).await,
        };
        let _ = writeln!(table, "{version:8}  both   UTF-8  {outcome}");
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(TABLE, &table).unwrap();
    }
    assert_eq!(table, std::fs::read_to_string(TABLE).unwrap());
    assert!(
        DOCUMENT.contains(&table),
        "docs/threat-model.md shows another table"
    );
}

/// Words of query languages that browsers and dashboards send as they are.
#[tokio::test]
async fn what_clients_send_unescaped_reaches_the_application() {
    let front = Front::start().await;
    for target in [
        &b"/api/v1/query?query=sum(rate(up{job=\"x\"}[5m]))>0"[..],
        b"/select?where={\"a\":\"<b>\"}|`c`^d\\e",
        b"/files/<name>/`x`",
        b"/caf\xe9/?q=\xfcber",
        b"http://payment/a?q=\"<\"",
        b"http://payment?q=\"<\"",
    ] {
        let outcome = over_http1(&front, target).await;
        let origin = match target.strip_prefix(b"http://payment") {
            None => target.to_vec(),
            Some(rest) if rest.starts_with(b"/") => rest.to_vec(),
            Some(rest) => [b"/", rest].concat(),
        };
        assert_eq!(seen(&front), Some(origin), "{outcome}");
    }
}
