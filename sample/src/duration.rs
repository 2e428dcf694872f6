//! Durations as they are typed, on the command line and in a request's query.

use std::time::Duration;

/// Not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no duration: write a number and a unit, such as 100ms, 15s or 5m")]
pub struct InvalidDuration(String);

/// Parses `100ms`, `15s`, `5m` and `1h`.
///
/// # Errors
/// A text that is none of these, or longer than a duration can be.
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let refused = || InvalidDuration(text.to_owned());
    let unit_start = text.find(|c: char| c.is_ascii_alphabetic());
    let (number, unit) = text.split_at(unit_start.ok_or_else(refused)?);
    let scale = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(refused()),
    };
    let number: f64 = number.parse().map_err(|_| refused())?;
    Duration::try_from_secs_f64(number * scale).map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(parse("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse("5m"), Ok(Duration::from_secs(300)));
        for bad in ["", "5", "s", "-1s", "1d", "1e300h"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
