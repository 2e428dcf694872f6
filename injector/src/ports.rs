//! Sets of ports as annotations write them: `80, 443, 9000-9010`.

use std::{fmt, ops::RangeInclusive};

/// Ports, as sorted ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(Vec<RangeInclusive<u16>>);

/// Why a text is not a list of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortsError {
    /// An entry is no port.
    #[error(
        "{0:?} is not a port: list ports from 1 to 65535 or ranges such as 9000-9010, separated by commas"
    )]
    NotAPort(String),
    /// A range whose end comes before its start.
    #[error("the range {0:?} ends before it starts")]
    Reversed(String),
}

impl Ports {
    /// Reads a comma-separated list; an empty text is the empty set.
    pub fn parse(text: &str) -> Result<Self, PortsError> {
        let mut ranges = Vec::new();
        for entry in text.split(',').map(str::trim).filter(|e| !e.is_empty()) {
            let range = match entry.split_once('-') {
                Some((first, last)) => port(first, entry)?..=port(last, entry)?,
                None => port(entry, entry).map(|port| port..=port)?,
            };
            if range.is_empty() {
                return Err(PortsError::Reversed(entry.to_owned()));
            }
            ranges.push(range);
        }
        Ok(Self(merge(ranges)))
    }

    /// Every port.
    pub fn all() -> Self {
        Self(vec![1..=u16::MAX])
    }

    /// Both sets' ports.
    pub fn union(&self, other: &Self) -> Self {
        Self(merge(self.0.iter().chain(&other.0).cloned().collect()))
    }

    /// Whether no port is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this port is in it.
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, range) in self.0.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            match (range.start(), range.end()) {
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

fn port(text: &str, entry: &str) -> Result<u16, PortsError> {
    match text.trim().parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(PortsError::NotAPort(entry.to_owned())),
    }
}

fn merge(mut ranges: Vec<RangeInclusive<u16>>) -> Vec<RangeInclusive<u16>> {
    ranges.sort_by_key(|range| *range.start());
    let mut merged: Vec<RangeInclusive<u16>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if *range.start() <= last.end().saturating_add(1) => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_and_merged() {
        let ports = Ports::parse(" 443,80, 9000-9010,9005-9020,81,443,65535 ,").unwrap();
        assert_eq!(ports.to_string(), "80-81,443,9000-9020,65535");
        assert!(ports.contains(9020) && !ports.contains(9021));
        assert!(Ports::parse("").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_port_is_named() {
        for bad in ["0", "65536", "http", "*", "80-", "-80", "1-2-3", "80;81"] {
            let error = Ports::parse(bad).unwrap_err();
            assert_eq!(error, PortsError::NotAPort(bad.to_owned()), "{bad}");
        }
        assert_eq!(
            Ports::parse("90-80").unwrap_err(),
            PortsError::Reversed("90-80".to_owned())
        );
    }

    #[test]
    fn union_keeps_both() {
        let both = Ports::parse("1-5,9")
            .unwrap()
            .union(&Ports::parse("6,20").unwrap());
        assert_eq!(both.to_string(), "1-6,9,20");
    }
}
