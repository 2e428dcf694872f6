//! Settings: read once, from the environment, by one reader for all services.
//!
//! Whoever repairs a deployment is told all mistakes at once, each with its variable. A
//! variable that is empty or blank counts as not set. No value of a variable is logged
//! except as part of a mistake, and no secret is passed in a variable.

use linnet_mesh::names;
use std::{
    cell::RefCell,
    collections::BTreeSet,
    env, fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    ops::RangeInclusive,
    str::FromStr,
    sync::LazyLock,
    time::Duration,
};

/// How the names of all of Linnet's variables begin.
const PREFIX: &str = "LINNET_";

/// All settings of a service that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} of the settings cannot be used:\n  {}", mistakes.len(), mistakes.join("\n  "))]
pub struct SettingsError {
    /// The mistakes, each beginning with its variable.
    pub mistakes: Vec<String>,
}

/// Reads variables and collects what is wrong with them.
pub struct Settings<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    mistakes: Vec<String>,
    /// Names that were asked for.
    known: RefCell<BTreeSet<String>>,
    is_process: bool,
}

impl fmt::Debug for Settings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mistakes = &self.mistakes;
        f.debug_struct("Settings")
            .field("mistakes", mistakes)
            .finish_non_exhaustive()
    }
}

impl<'a> Settings<'a> {
    /// Reads the environment of this process.
    pub fn of_process() -> Self {
        // Those that `logging` has read.
        let known = [names::env::LOG, names::env::LOG_FORMAT].map(str::to_owned);
        Self {
            variable: &|name| env::var(name).ok(),
            mistakes: Vec::new(),
            known: RefCell::new(BTreeSet::from(known)),
            is_process: true,
        }
    }

    /// Reads from `variable`, which returns a variable's value by its name.
    pub fn new(variable: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            variable,
            mistakes: Vec::new(),
            known: RefCell::default(),
            is_process: false,
        }
    }

    /// Returns what was made of the settings, and warns of variables of the process that
    /// nothing has asked for.
    ///
    /// # Errors
    /// All mistakes, if there is one.
    pub fn finish<T>(self, made: Option<T>) -> Result<T, SettingsError> {
        if self.is_process {
            for variable in
                self.unknown(env::vars_os().filter_map(|(name, _)| name.into_string().ok()))
            {
                tracing::warn!(variable, "there is no such setting");
            }
        }
        match made {
            Some(made) if self.mistakes.is_empty() => Ok(made),
            _ => Err(SettingsError {
                mistakes: self.mistakes,
            }),
        }
    }

    /// Takes note of a mistake in a variable.
    pub fn mistake(&mut self, name: &str, reason: impl fmt::Display) {
        self.mistakes.push(format!("{name}: {reason}"));
    }

    /// Reports whether a variable is set, blank or not.
    pub fn is_set(&self, name: &str) -> bool {
        (self.variable)(name).is_some()
    }

    /// Returns a variable's text, without the space around it.
    pub fn text(&self, name: &str) -> Option<String> {
        self.known.borrow_mut().insert(name.to_owned());
        let text = (self.variable)(name)?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// Returns a variable's text, or `default`.
    pub fn text_or(&self, name: &str, default: &str) -> String {
        self.text(name).unwrap_or_else(|| default.to_owned())
    }

    /// Returns the text of a variable that must be set. `what` says what it holds.
    pub fn required(&mut self, name: &str, what: &str) -> Option<String> {
        let text = self.text(name);
        if text.is_none() {
            self.mistake(name, format_args!("is not set: {what}"));
        }
        text
    }

    /// Returns a variable's value, read by `read`.
    pub fn read<T, E: fmt::Display>(
        &mut self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(name)?;
        self.read_text(name, &text, read)
    }

    /// Returns the value of a variable whose text, or a part of it, is known.
    pub fn read_text<T, E: fmt::Display>(
        &mut self,
        name: &str,
        text: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        match read(text.trim()) {
            Ok(value) => Some(value),
            Err(error) => {
                self.mistake(name, format_args!("{text:?}: {error}"));
                None
            }
        }
    }

    /// Returns a variable's value.
    pub fn parsed<T: FromStr<Err: fmt::Display>>(&mut self, name: &str) -> Option<T> {
        self.read(name, str::parse)
    }

    /// Returns the elements of a variable, which commas separate.
    pub fn list<T: FromStr<Err: fmt::Display>>(&mut self, name: &str) -> Vec<T> {
        let text = self.text(name).unwrap_or_default();
        text.split(',')
            .filter(|element| !element.trim().is_empty())
            .filter_map(|element| self.read_text(name, element, str::parse))
            .collect()
    }

    /// Returns the address that a variable says to listen on, or `port` of all addresses.
    pub fn address(&mut self, name: &str, port: u16) -> SocketAddr {
        self.parsed(name)
            .unwrap_or_else(|| SocketAddr::new(unspecified(), port))
    }

    /// Returns a variable's duration, such as `24h`, `1h30m` or `7d`.
    pub fn duration(&mut self, name: &str, allowed: RangeInclusive<Duration>) -> Option<Duration> {
        self.read(name, |text| {
            duration(text)
                .filter(|found| allowed.contains(found))
                .ok_or_else(|| {
                    let seconds = allowed.start().as_secs();
                    let days = allowed.end().as_secs() / (24 * 3600);
                    format!(
                        "not a duration between {seconds}s and {days}d (examples: 24h, 1h30m, 7d)"
                    )
                })
        })
    }

    /// Returns those of `names` that are spelled like a variable of Linnet's and that
    /// nothing has asked for. They do nothing: one may be misspelled, or of another version,
    /// so they are worth a warning and no reason to stop.
    fn unknown(&self, names: impl IntoIterator<Item = String>) -> Vec<String> {
        let known = self.known.borrow();
        let mut unknown: Vec<_> = names
            .into_iter()
            .filter(|name| name.starts_with(PREFIX) && !is_service_link(name))
            .filter(|name| !known.contains(name))
            .collect();
        unknown.sort_unstable();
        unknown
    }
}

/// Reports whether Kubernetes sets such a variable for each Service of a pod's namespace
/// (`enableServiceLinks` of the pod).
fn is_service_link(name: &str) -> bool {
    let is_port = |rest: &str| {
        let mut parts = rest.split('_');
        rest.is_empty()
            || (parts.next() == Some("") && parts.next().is_some_and(|n| n.parse::<u16>().is_ok()))
    };
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name
            .rsplit_once("_PORT")
            .is_some_and(|(_, rest)| is_port(rest))
        || name
            .split_once("_PORT_")
            .is_some_and(|(_, rest)| is_port(&format!("_{rest}")))
}

/// Reads `24h`, `1h30m`, `7d`, `90s`: whole numbers, each with its unit.
fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(unit_at);
        let seconds = match tail.chars().next()? {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 24 * 3600,
            _ => return None,
        };
        let number: u64 = number.parse().ok()?;
        total = total.checked_add(Duration::from_secs(number.checked_mul(seconds)?))?;
        rest = &tail[1..];
    }
    Some(total)
}

/// Returns all of a pod's addresses: `::`, which takes IPv4 connections too, or `0.0.0.0`
/// where there is no IPv6.
pub fn unspecified() -> IpAddr {
    static UNSPECIFIED: LazyLock<IpAddr> = LazyLock::new(|| {
        if TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok() {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        }
    });
    *UNSPECIFIED
}

/// Checks `host:port`; the host is a DNS name or an address, an IPv6 one in brackets.
///
/// # Errors
/// What it should be.
pub fn host_and_port(text: &str) -> Result<String, String> {
    let text = text.trim();
    let is_name = |host: &str| {
        !host.is_empty()
            && host.len() <= 253
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
    };
    let valid = text.parse::<SocketAddr>().is_ok_and(|a| a.port() > 0)
        || text.rsplit_once(':').is_some_and(|(host, port)| {
            is_name(host) && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
    if valid {
        Ok(text.to_owned())
    } else {
        Err("is not host:port".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| {
            let found = pairs.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        }
    }

    #[test]
    fn every_mistake_is_told_with_its_variable() {
        let variables = of(&[
            ("LINNET_PORT_A", "many"),
            ("LINNET_LIST", "1, two,,3"),
            ("LINNET_SPAN", "1s"),
            ("LINNET_BLANK", "  "),
        ]);
        let mut settings = Settings::new(&variables);
        assert_eq!(settings.parsed::<u16>("LINNET_PORT_A"), None);
        assert_eq!(settings.list::<u16>("LINNET_LIST"), [1, 3]);
        let minute = Duration::from_secs(60);
        assert_eq!(
            settings.duration("LINNET_SPAN", minute..=minute * 1440),
            None
        );
        assert_eq!(settings.required("LINNET_BLANK", "a name"), None);
        let error = settings.finish(Some(())).unwrap_err();
        let named = error
            .mistakes
            .iter()
            .map(|mistake| mistake.split(':').next());
        let named: Vec<_> = named.flatten().collect();
        let all = [
            "LINNET_PORT_A",
            "LINNET_LIST",
            "LINNET_SPAN",
            "LINNET_BLANK",
        ];
        assert_eq!(named, all, "{error}");
        assert!(
            error
                .to_string()
                .starts_with("4 of the settings cannot be used:\n")
        );
    }

    #[test]
    fn without_a_mistake_there_is_what_was_made() {
        let variables = of(&[("LINNET_N", " 7 ")]);
        let mut settings = Settings::new(&variables);
        let made = settings.parsed::<u16>("LINNET_N");
        assert_eq!(settings.finish(made), Ok(7));
        assert!(Settings::new(&variables).finish(None::<()>).is_err());
    }

    #[test]
    fn unknown_variables_are_found_and_service_links_are_not() {
        let variables = of(&[]);
        let settings = Settings::new(&variables);
        settings.text("LINNET_KNOWN");
        let unknown = settings.unknown(
            [
                "LINNET_KNOWN",
                "LINNET_KNOWM",
                "LINNET_IDENTITY_SERVICE_HOST",
                "LINNET_IDENTITY_SERVICE_PORT",
                "LINNET_IDENTITY_SERVICE_PORT_HTTPS",
                "LINNET_IDENTITY_PORT",
                "LINNET_IDENTITY_PORT_15443_TCP",
                "LINNET_IDENTITY_PORT_15443_TCP_ADDR",
                "LINNET_OPAQUE_PORTZ",
                "PATH",
            ]
            .map(str::to_owned),
        );
        assert_eq!(unknown, ["LINNET_KNOWM", "LINNET_OPAQUE_PORTZ"]);
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("24h"), Some(Duration::from_secs(86_400)));
        assert_eq!(duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(duration("7d"), Some(Duration::from_secs(604_800)));
        for bad in ["24", "h", "1x", "-1h", "1.5h", "99999999999999999999h", "é"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn hosts_and_ports_are_checked() {
        for good in [
            "payment.default.svc.cluster.local:80",
            "linnet-controller.linnet-system.svc:15010",
            "10.0.0.1:80",
            "[fd00::1]:80",
        ] {
            assert_eq!(host_and_port(good), Ok(good.to_owned()));
        }
        for bad in [
            "payment",
            "payment:",
            ":80",
            "payment:0",
            "payment:70000",
            "fd00::1:80",
            "a b:80",
            "http://payment:80",
            "[fd00::1]:0",
        ] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn unspecified_address_takes_connections() {
        let listener = TcpListener::bind((unspecified(), 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    }
}
