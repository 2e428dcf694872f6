//! When something began, as lines write it: RFC 3339 with the milliseconds that are
//! not 0. A second's text is made once for all lines of a thread.

use super::json;
use std::{
    cell::RefCell,
    time::{Duration, SystemTime},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The second that a thread's lines began in last, without its end.
struct Second {
    since_epoch: Option<u64>,
    text: String,
}

thread_local! {
    static SECOND: RefCell<Second> = const {
        RefCell::new(Second { since_epoch: None, text: String::new() })
    };
}

/// The present time.
pub(super) fn now() -> String {
    text_of(SystemTime::now())
}

pub(super) fn text_of(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let time = time.replace_millisecond(time.millisecond()).unwrap_or(time);
    time.format(&Rfc3339).unwrap_or_default()
}

/// Appends what [`text_of`] says.
pub(super) fn write(time: SystemTime, out: &mut Vec<u8>) {
    let Ok(since_epoch) = time.duration_since(SystemTime::UNIX_EPOCH) else {
        return out.extend_from_slice(text_of(time).as_bytes());
    };
    SECOND.with_borrow_mut(|second| {
        let whole = since_epoch.as_secs();
        if second.since_epoch != Some(whole) {
            second.since_epoch = Some(whole);
            second.text = text_of(SystemTime::UNIX_EPOCH + Duration::from_secs(whole));
            second.text.pop();
        }
        out.extend_from_slice(second.text.as_bytes());
    });
    let rest = since_epoch.subsec_millis();
    if rest > 0 {
        out.push(b'.');
        json::thousandths(out, rest.into());
    }
    out.push(b'Z');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cached_second_is_written_as_any() {
        let begin = Duration::from_secs(1_767_225_599);
        let steps = [0, 1, 10, 100, 120, 123, 999, 1000, 1001, 1500, 86_400_000];
        for step in steps {
            for nanos in [0, 999_999] {
                let since = begin + Duration::from_millis(step) + Duration::from_nanos(nanos);
                let time = SystemTime::UNIX_EPOCH + since;
                let mut out = Vec::new();
                write(time, &mut out);
                assert_eq!(String::from_utf8(out).unwrap(), text_of(time));
            }
        }
        let before = SystemTime::UNIX_EPOCH - Duration::from_millis(1);
        let mut out = Vec::new();
        write(before, &mut out);
        assert_eq!(out, b"1969-12-31T23:59:59.999Z");
    }
}
