//! Kubernetes quantities (`250m`, `64Mi`), checked before a pod carries them.
//!
//! The API server would refuse a bad one too, but with a message about a
//! container that the user never wrote.

use std::fmt;

/// A quantity that Kubernetes accepts, with its text kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantity {
    text: String,
    amount: f64,
}

/// Why a text is not a usable quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a quantity at all.
    #[error("not a quantity, such as 250m (CPU) or 64Mi (memory)")]
    Malformed,
    /// Zero or less.
    #[error("must be more than zero")]
    NotPositive,
    /// So little memory that a unit is missing.
    #[error("is less than 1Mi of memory; memory counts in bytes, as in 64Mi")]
    TinyMemory,
}

const MEBIBYTE: f64 = 1024.0 * 1024.0;

impl Quantity {
    /// Reads an amount of CPU.
    pub fn cpu(text: &str) -> Result<Self, QuantityError> {
        Self::parse(text)
    }

    /// Reads an amount of memory.
    pub fn memory(text: &str) -> Result<Self, QuantityError> {
        let quantity = Self::parse(text)?;
        if quantity.amount < MEBIBYTE {
            return Err(QuantityError::TinyMemory);
        }
        Ok(quantity)
    }

    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this is more than `other`.
    pub fn exceeds(&self, other: &Self) -> bool {
        self.amount > other.amount
    }

    fn parse(text: &str) -> Result<Self, QuantityError> {
        let text = text.trim();
        let number_end = text
            .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at(number_end);
        let number: f64 = number.parse().map_err(|_| QuantityError::Malformed)?;
        let amount = number * scale(suffix).ok_or(QuantityError::Malformed)?;
        if !amount.is_finite() {
            return Err(QuantityError::Malformed);
        }
        if amount <= 0.0 {
            return Err(QuantityError::NotPositive);
        }
        Ok(Self {
            text: text.to_owned(),
            amount,
        })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn scale(suffix: &str) -> Option<f64> {
    let binary = |power: i32| Some(1024_f64.powi(power));
    match suffix {
        "n" => Some(1e-9),
        "u" => Some(1e-6),
        "m" => Some(1e-3),
        "" => Some(1.0),
        "k" => Some(1e3),
        "M" => Some(1e6),
        "G" => Some(1e9),
        "T" => Some(1e12),
        "P" => Some(1e15),
        "E" => Some(1e18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            Some(10_f64.powi(power))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_scale() {
        let amounts = [
            ("250m", 0.25),
            ("1", 1.0),
            ("1.5", 1.5),
            ("2k", 2e3),
            ("1e3", 1e3),
            ("1E", 1e18),
        ];
        for (text, amount) in amounts {
            let quantity = Quantity::cpu(text).unwrap();
            assert!((quantity.amount - amount).abs() < 1e-9 * amount, "{text}");
            assert_eq!(quantity.as_str(), text);
        }
        let [small, big] = ["64Mi", "1Gi"].map(|text| Quantity::memory(text).unwrap());
        assert!(big.exceeds(&small) && !small.exceeds(&big));
    }

    #[test]
    fn what_kubernetes_would_refuse_is_refused() {
        for bad in ["", "lots", "10 m", "1Kb", "1e", "--1", "1e999", "m", "Mi"] {
            assert_eq!(Quantity::cpu(bad), Err(QuantityError::Malformed), "{bad}");
        }
        assert_eq!(Quantity::cpu("0"), Err(QuantityError::NotPositive));
        assert_eq!(Quantity::cpu("-1"), Err(QuantityError::NotPositive));
        assert_eq!(Quantity::memory("128m"), Err(QuantityError::TinyMemory));
    }
}
