//! The values of a JSON line, written as serde_json writes them and for a fraction of
//! its price. Whatever is out of the ordinary is left to serde_json itself.
//!
//! A field is its name with the comma before and the colon behind, ready to copy.

use std::{io::Write, net::SocketAddr, time::Duration};

/// Up to here a number of microseconds has at most 15 digits, and thousandths of it are
/// the shortest text that is read as the same floating point number.
const EXACT: f64 = 1e15;

/// A text, which may be anybody's; none if it is empty.
pub(super) fn text(out: &mut Vec<u8>, field: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    out.extend_from_slice(field.as_bytes());
    if is_plain(value.as_bytes()) {
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
    } else {
        // A vector takes whatever is written to it.
        let _ = serde_json::to_writer(out, value);
    }
}

/// A text of our own, in which nothing has to be escaped.
pub(super) fn word(out: &mut Vec<u8>, field: &str, value: &str) {
    out.extend_from_slice(field.as_bytes());
    out.push(b'"');
    out.extend_from_slice(value.as_bytes());
    out.push(b'"');
}

/// A whole number.
pub(super) fn number(out: &mut Vec<u8>, field: &str, value: u64) {
    out.extend_from_slice(field.as_bytes());
    digits(out, value);
}

/// An address with its port; none if it is not known.
pub(super) fn address(out: &mut Vec<u8>, field: &str, value: Option<SocketAddr>) {
    let Some(value) = value else {
        return;
    };
    out.extend_from_slice(field.as_bytes());
    out.push(b'"');
    match value {
        SocketAddr::V4(value) => {
            for (position, octet) in value.ip().octets().into_iter().enumerate() {
                if position > 0 {
                    out.push(b'.');
                }
                digits(out, octet.into());
            }
            out.push(b':');
            digits(out, value.port().into());
        }
        SocketAddr::V6(value) => {
            let _ = write!(out, "{value}");
        }
    }
    out.push(b'"');
}

/// A time in milliseconds.
pub(super) fn milliseconds(out: &mut Vec<u8>, field: &str, value: Duration) {
    out.extend_from_slice(field.as_bytes());
    let micros = super::record::microseconds(value);
    if micros >= EXACT {
        let _ = serde_json::to_writer(out, &(micros / 1e3));
        return;
    }
    // Whole, positive and small enough.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let micros = micros as u64;
    digits(out, micros / 1000);
    out.push(b'.');
    match micros % 1000 {
        0 => out.push(b'0'),
        rest => thousandths(out, rest),
    }
}

/// The digits behind a decimal point, up to the last that is not 0.
pub(super) fn thousandths(out: &mut Vec<u8>, rest: u64) {
    let digit = |value: u64| b"0123456789"[(value % 10) as usize];
    let all = [digit(rest / 100), digit(rest / 10), digit(rest)];
    let wanted = match rest {
        _ if rest.is_multiple_of(100) => 1,
        _ if rest.is_multiple_of(10) => 2,
        _ => 3,
    };
    out.extend_from_slice(&all[..wanted]);
}

fn digits(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Whether JSON has nothing to escape in it.
fn is_plain(text: &[u8]) -> bool {
    // Without an early end many bytes are looked at at once.
    let odd = |byte: u8| (byte < b' ') | (byte == b'"') | (byte == b'\\');
    !text.iter().fold(false, |found, byte| found | odd(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn values_are_written_as_serde_json_writes_them(
            value in any::<String>(),
            number in any::<u64>(),
            duration in any::<Duration>(),
            micros in 0..10_000_000_u64,
            address in any::<SocketAddr>(),
        ) {
            let field = if value.is_empty() { String::new() } else { serde_json::to_string(&value).unwrap() };
            prop_assert_eq!(written(|out| text(out, "", &value)), field);
            prop_assert_eq!(written(|out| super::number(out, "", number)), number.to_string());
            for duration in [duration, Duration::from_micros(micros), Duration::from_nanos(micros)] {
                let serde = serde_json::to_string(&(super::super::record::microseconds(duration) / 1e3)).unwrap();
                prop_assert_eq!(written(|out| milliseconds(out, "", duration)), serde);
            }
            let serde = serde_json::to_string(&address.to_string()).unwrap();
            prop_assert_eq!(written(|out| super::address(out, "", Some(address))), serde);
        }
    }

    #[test]
    fn each_byte_that_json_escapes_is_found_wherever_it_stands() {
        for byte in 0..=0x7f_u8 {
            for before in [0, 1, 15, 16, 40] {
                let value = format!("{}{}tail", "x".repeat(before), char::from(byte));
                let serde = serde_json::to_string(&value).unwrap();
                assert_eq!(
                    written(|out| text(out, "", &value)),
                    serde,
                    "{byte} {before}"
                );
            }
        }
    }
}
