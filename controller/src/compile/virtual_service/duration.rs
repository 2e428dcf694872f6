//! Durations as resources write them: `1h`, `1m30s`, `250ms`, `0.5s`.

use std::time::Duration;

const UNITS: [(&str, f64); 6] = [
    ("h", 3600.0),
    ("ms", 1e-3),
    ("m", 60.0),
    ("us", 1e-6),
    ("ns", 1e-9),
    ("s", 1.0),
];
/// Longer ones are mistakes: more than ten thousand years.
const LONGEST: f64 = 3.2e11;

/// Reads a duration; the error is for who wrote it.
pub(in crate::compile) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration; write 1h, 1m, 1.5s or 100ms");
    let mut rest = text;
    let mut seconds = 0.0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(wrong)?;
        let (number, behind) = rest.split_at(digits);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let (unit, factor) = UNITS
            .into_iter()
            .find(|(unit, _)| behind.starts_with(unit))
            .ok_or_else(wrong)?;
        seconds += number * factor;
        rest = &behind[unit.len()..];
    }
    if seconds > LONGEST {
        return Err(wrong());
    }
    // To the microsecond, which is what discovery carries.
    Ok(Duration::from_micros((seconds * 1e6).round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_go_s() {
        for (text, millis) in [
            ("5s", 5_000),
            ("1.5s", 1_500),
            ("100ms", 100),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("0s", 0),
            ("2000us", 2),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "-1s",
            "1 s",
            "1d",
            "1.2.3s",
            "5s!",
            "99999999999999h",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
