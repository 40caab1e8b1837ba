//! Who is called directly although there is a proxy: `NO_PROXY` as curl reads it, with networks and ports.
//! Names are compared as texts: nobody asks the DNS whether a name lies in a network.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// Longest list.
const MOST: usize = 1000;

/// Those who are called directly.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exceptions(Vec<Exception>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Exception {
    who: Who,
    /// Any, if none is named.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Who {
    Everybody,
    /// The name itself and all names below it.
    Domain(String),
    /// Those addresses that begin with the same bits.
    Network(IpAddr, u8),
}

/// An entry that names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name, address or network; write example.org, 192.0.2.7, 10.0.0.0/8, [2001:db8::1]:7700 or *"
)]
pub struct NotAnException(String);

impl Exceptions {
    /// From entries.
    ///
    /// # Errors
    /// The first that names nobody.
    pub fn new<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, NotAnException> {
        entries.into_iter().take(MOST).map(str::parse).collect::<Result<_, _>>().map(Exceptions)
    }

    /// From a text with commas or spaces between its entries, as the environment has it. What names
    /// nobody is left out, and given back.
    pub fn read(text: &str) -> (Exceptions, Vec<NotAnException>) {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for entry in text.split([',', ' ', '\t']).filter(|entry| !entry.is_empty()).take(MOST) {
            match entry.parse() {
                Ok(exception) => good.push(exception),
                Err(error) => bad.push(error),
            }
        }
        (Exceptions(good), bad)
    }

    /// Whether this name or address, without brackets, is called directly at this port.
    pub fn have(&self, host: &str, port: u16) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host.parse().ok().map(plain);
        self.0.iter().any(|exception| {
            exception.port.is_none_or(|only| only == port)
                && match (&exception.who, address) {
                    (Who::Everybody, _) => true,
                    (Who::Network(network, bits), Some(address)) => {
                        within(address, *network, *bits)
                    }
                    (Who::Domain(domain), None) => host
                        .strip_suffix(domain.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
                    (Who::Network(..), None) | (Who::Domain(_), Some(_)) => false,
                }
        })
    }
}

/// Version 4 in version 6 is version 4.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let same = |a: u128, b: u128, width: u32| {
        let shift = width.saturating_sub(u32::from(bits));
        a.checked_shr(shift).unwrap_or(0) == b.checked_shr(shift).unwrap_or(0)
    };
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

impl FromStr for Exception {
    type Err = NotAnException;

    fn from_str(text: &str) -> Result<Exception, NotAnException> {
        parse(text.trim()).ok_or_else(|| NotAnException(text.chars().take(80).collect()))
    }
}

fn parse(text: &str) -> Option<Exception> {
    let (who, port) = split_port(text)?;
    let who = match who {
        "*" => Who::Everybody,
        _ => match network(who) {
            Some((address, bits)) => Who::Network(address, bits),
            None => Who::Domain(domain(who)?),
        },
    };
    Some(Exception { who, port })
}

/// The entry without its port. The colons of an address of version 6 are none of a port's.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let number = |port: &str| {
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        port.parse().ok().filter(|port: &u16| digits && *port != 0)
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (address, after) = rest.split_once(']')?;
        address.parse::<Ipv6Addr>().ok()?;
        return match after.strip_prefix(':') {
            Some(port) => Some((address, Some(number(port)?))),
            None => after.is_empty().then_some((address, None)),
        };
    }
    match text.rsplit_once(':') {
        Some((who, port)) if !who.contains(':') => Some((who, Some(number(port)?))),
        _ => Some((text, None)),
    }
}

fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let width: u8 = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        Some(bits) => bits.parse().ok().filter(|bits: &u8| *bits <= width)?,
        None => width,
    };
    let mapped = plain(address);
    match mapped.is_ipv4() && !address.is_ipv4() {
        true => Some((mapped, bits.checked_sub(96)?)),
        false => Some((address, bits)),
    }
}

/// A name, with or without `.` or `*.` before it: all three mean the name and what is below it.
fn domain(text: &str) -> Option<String> {
    let name = text.strip_prefix('*').unwrap_or(text);
    let name = name.strip_prefix('.').unwrap_or(name).trim_end_matches('.');
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let whole = !name.is_empty() && name.split('.').all(|label| !label.is_empty());
    // `*name` without a dot would be a pattern, which this is not.
    let star = !text.starts_with('*') || text.starts_with("*.");
    (whole && star && name.bytes().all(fits)).then(|| name.to_ascii_lowercase())
}

impl fmt::Display for Exceptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} exceptions", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_addresses_networks_and_ports_are_told_apart() {
        for (list, host, port, direct) in [
            ("*", "anything", 1, true),
            ("", "anything", 1, false),
            ("example.org", "example.org", 1, true),
            ("example.org", "EXAMPLE.org.", 1, true),
            (".example.org", "example.org", 1, true),
            ("*.example.org", "a.b.example.org", 1, true),
            ("example.org", "notexample.org", 1, false),
            ("example.org", "example.org.evil", 1, false),
            ("a, b\tc  d", "c", 1, true),
            ("example.org:7700", "example.org", 7700, true),
            ("example.org:7700", "example.org", 7701, false),
            ("10.0.0.0/8", "10.255.0.1", 1, true),
            ("10.0.0.0/8", "11.0.0.1", 1, false),
            ("10.1.2.3/8", "10.9.9.9", 1, true),
            ("0.0.0.0/0", "192.0.2.1", 1, true),
            ("0.0.0.0/0", "2001:db8::1", 1, false),
            ("192.0.2.7", "192.0.2.7", 1, true),
            ("192.0.2.7", "192.0.2.70", 1, false),
            ("192.0.2.7:80", "192.0.2.7", 81, false),
            ("10.0.0.0/8:443", "10.0.0.1", 443, true),
            ("fd00::/8", "fd12::1", 1, true),
            ("fd00::/8", "fe80::1", 1, false),
            ("::/0", "2001:db8::1", 1, true),
            ("::1", "0:0:0:0:0:0:0:1", 1, true),
            ("[::1]:7700", "::1", 7700, true),
            ("[::1]:7700", "::1", 7701, false),
            ("[::1]", "::1", 5, true),
            ("10.0.0.0/8", "::ffff:10.0.0.1", 1, true),
            ("::ffff:10.0.0.0/104", "10.9.9.9", 1, true),
            // A name is not an address, also where it looks like the end of one.
            ("0.2.1", "192.0.2.1", 1, false),
            ("localhost", "127.0.0.1", 1, false),
        ] {
            let (exceptions, bad) = Exceptions::read(list);
            assert_eq!(bad, [], "{list}");
            assert_eq!(exceptions.have(host, port), direct, "{list:?} for {host}:{port}");
        }
    }

    #[test]
    fn what_names_nobody_is_left_out_and_named() {
        let text = "10.0.0.0/33,::1/129,a..b,a:b,a:0,a/8,[::1]x,[a],*a,::ffff:10.0.0.0/8,ok";
        let (exceptions, bad) = Exceptions::read(text);
        assert_eq!(bad.len(), 10, "{bad:?}");
        assert!(exceptions.have("ok", 1));
        let error = Exceptions::new(["ok", "10.0.0.0/33"]).unwrap_err();
        assert!(error.to_string().contains("10.0.0.0/33"));
    }
}
