//! Response flags: why a response or a connection was not the application's
//! plain answer, in Envoy's short names, which dashboards and people know.

use std::{
    fmt,
    ops::{BitOr, BitOrAssign},
};

/// A set of response flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(u32);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal;)*) => {
        impl Flags {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*

            pub(crate) const NAMES: &'static [(Self, &'static str)] = &[$((Self::$name, stringify!($name))),*];
        }
    };
}

flags! {
    /// No endpoint that could take the request.
    UH = 0;
    /// The upstream did not answer in time.
    UT = 1;
    /// The upstream could not be connected to.
    UF = 2;
    /// The upstream ended the connection amid a request.
    UC = 3;
    /// A limit of the connection pool was reached.
    UO = 4;
    /// No route matches.
    NR = 5;
    /// A delay was injected.
    DI = 6;
    /// A fault was injected.
    FI = 7;
    /// Authorization refused it.
    UAEX = 8;
    /// The client went away.
    DC = 9;
    /// All retries were used up.
    URX = 10;
    /// The stream was idle too long.
    SI = 11;
    /// The client broke the protocol.
    DPE = 12;
    /// The connection or request lasted too long.
    DT = 13;
    /// The destination is not known.
    NC = 14;
    /// The upstream broke the protocol.
    UPE = 15;
}

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);

    /// Whether no flag is set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of `other`'s flags are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        let mut separator = "";
        for (flag, name) in Self::NAMES {
            if self.contains(*flag) {
                write!(f, "{separator}{name}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_envoys() {
        assert_eq!(Flags::default().to_string(), "-");
        assert_eq!(Flags::UF.to_string(), "UF");
        let mut both = Flags::URX | Flags::UF;
        assert_eq!(both.to_string(), "UF,URX");
        both |= Flags::UAEX;
        assert_eq!(both.to_string(), "UF,UAEX,URX");
    }

    #[test]
    fn each_flag_is_its_own() {
        let all = Flags::NAMES
            .iter()
            .fold(Flags::NONE, |all, (flag, _)| all | *flag);
        assert_eq!(all.0.count_ones() as usize, Flags::NAMES.len());
        assert!(all.contains(Flags::DPE | Flags::NC));
        assert!(!Flags::UF.contains(Flags::UF | Flags::URX));
    }
}
