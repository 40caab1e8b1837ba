//! Whether this host has a way to another one: a check that asks another host says nothing of the release before
//! there is one. A host that boots starts its agent before that. Once there was a way, losing it may be the
//! release's work.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

/// What tells whether there is a way.
pub trait Network: Send {
    /// Whether a route leads to this address now, over an interface that carries.
    fn leads_to(&self, address: IpAddr) -> bool;
}

/// The ways out of this host, and those that were there since the agent started.
pub struct Ways {
    network: Box<dyn Network>,
    found: BTreeSet<IpAddr>,
}

impl Ways {
    /// The ways that this network has.
    pub fn of(network: impl Network + 'static) -> Ways {
        Ways { network: Box::new(network), found: BTreeSet::new() }
    }

    /// Whether there is a way to this address, or was one since the agent started.
    pub fn lead_to(&mut self, address: IpAddr) -> bool {
        if address.is_loopback() || self.found.contains(&address) {
            return true;
        }
        let leads = self.network.leads_to(address);
        if leads {
            self.found.insert(address);
        }
        leads
    }
}

/// What the kernel tells of it.
#[derive(Debug, Clone)]
pub struct KernelNetwork {
    routes: PathBuf,
    interfaces: PathBuf,
}

impl Default for KernelNetwork {
    fn default() -> KernelNetwork {
        KernelNetwork { routes: "/proc/net".into(), interfaces: "/sys/class/net".into() }
    }
}

impl Network for KernelNetwork {
    fn leads_to(&self, address: IpAddr) -> bool {
        // The narrowest route is the one that is taken.
        let routes = self.routes().into_iter().filter(|route| route.covers(address));
        let narrowest = routes.max_by_key(|route| route.length);
        narrowest.is_some_and(|route| !route.refuses && self.carries(&route.interface))
    }
}

struct Route {
    to: IpAddr,
    length: u32,
    refuses: bool,
    interface: String,
}

/// `RTF_REJECT` of `route(7)`.
const REFUSES: u32 = 0x200;

impl Route {
    /// Iface Destination Gateway Flags RefCnt Use Metric Mask ..., in the byte order of the machine.
    fn of_line_4(line: &str) -> Option<Route> {
        let words: Vec<_> = line.split_whitespace().collect();
        let [interface, to, _, flags, _, _, _, mask, ..] = words[..] else { return None };
        let hex = |word| u32::from_str_radix(word, 16).ok();
        Some(Route {
            to: Ipv4Addr::from(hex(to)?.to_ne_bytes()).into(),
            length: hex(mask)?.count_ones(),
            refuses: hex(flags)? & REFUSES != 0,
            interface: interface.to_owned(),
        })
    }

    /// Destination, its length, source, its length, next hop, metric, counts, flags, Iface.
    fn of_line_6(line: &str) -> Option<Route> {
        let words: Vec<_> = line.split_whitespace().collect();
        let [to, length, .., flags, interface] = words[..] else { return None };
        Some(Route {
            to: Ipv6Addr::from(u128::from_str_radix(to, 16).ok()?).into(),
            length: u32::from_str_radix(length, 16).ok()?,
            refuses: u32::from_str_radix(flags, 16).ok()? & REFUSES != 0,
            interface: interface.to_owned(),
        })
    }

    fn covers(&self, address: IpAddr) -> bool {
        match (self.to, address) {
            (IpAddr::V4(to), IpAddr::V4(address)) => {
                let differ = u32::from(to) ^ u32::from(address);
                differ.leading_zeros() >= self.length
            }
            (IpAddr::V6(to), IpAddr::V6(address)) => {
                let differ = u128::from(to) ^ u128::from(address);
                differ.leading_zeros() >= self.length
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl KernelNetwork {
    fn routes(&self) -> Vec<Route> {
        let read = |file: &str| fs::read_to_string(self.routes.join(file)).unwrap_or_default();
        let four = read("route");
        let six = read("ipv6_route");
        let four = four.lines().skip(1).filter_map(Route::of_line_4);
        four.chain(six.lines().filter_map(Route::of_line_6)).collect()
    }

    fn carries(&self, interface: &str) -> bool {
        // Over this one the host speaks to itself.
        if interface == "lo" {
            return true;
        }
        // Not to be read of an interface that is down.
        let carrier = fs::read_to_string(self.interfaces.join(interface).join("carrier"));
        carrier.is_ok_and(|text| text.trim() == "1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of a route, in the byte order of this machine.
    fn four(interface: &str, to: [u8; 4], mask: [u8; 4]) -> String {
        let hex = |bytes| format!("{:08X}", u32::from_ne_bytes(bytes));
        format!("{interface}\t{}\t00000000\t0003\t0\t0\t0\t{}\t0\t0\t0\n", hex(to), hex(mask))
    }

    fn six(interface: &str, to: &str, length: u8, flags: &str) -> String {
        let to = u128::from(to.parse::<Ipv6Addr>().unwrap());
        let zero = "0".repeat(32);
        let counts = "00000400 00000001 00000000";
        format!("{to:032x} {length:02x} {zero} 00 {zero} {counts} {flags} {interface}\n")
    }

    struct Host(tempfile::TempDir);

    impl Host {
        fn with(routes: &str, routes_6: &str, carriers: &[(&str, &str)]) -> Host {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("route"), format!("Iface\tDestination\n{routes}")).unwrap();
            fs::write(dir.path().join("ipv6_route"), routes_6).unwrap();
            for (interface, carrier) in carriers {
                let folder = dir.path().join("class").join(interface);
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join("carrier"), carrier).unwrap();
            }
            Host(dir)
        }

        fn network(&self) -> KernelNetwork {
            let (routes, interfaces) = (self.0.path().to_owned(), self.0.path().join("class"));
            KernelNetwork { routes, interfaces }
        }

        fn leads_to(&self, address: &str) -> bool {
            self.network().leads_to(address.parse().unwrap())
        }
    }

    #[test]
    fn a_way_is_the_narrowest_route_over_an_interface_that_carries() {
        let near = four("eth0", [10, 77, 0, 0], [255, 255, 0, 0]);
        let out = four("eth0", [0, 0, 0, 0], [0, 0, 0, 0]);
        let bridge = four("docker0", [172, 17, 0, 0], [255, 255, 0, 0]);
        let up = Host::with(&format!("{near}{bridge}"), "", &[("eth0", "1\n"), ("docker0", "1\n")]);
        assert!(up.leads_to("10.77.9.9") && up.leads_to("172.17.0.2"));
        assert!(!up.leads_to("8.8.8.8"), "nothing leads there");
        let all = format!("{near}{out}{bridge}");
        let up = Host::with(&all, "", &[("eth0", "1\n"), ("docker0", "0\n")]);
        assert!(up.leads_to("8.8.8.8"));
        assert!(!up.leads_to("172.17.0.2"), "the narrower one carries nothing");
        let pulled = Host::with(&all, "", &[("eth0", "0\n"), ("docker0", "1\n")]);
        assert!(!pulled.leads_to("10.77.9.9") && !pulled.leads_to("8.8.8.8"));
        assert!(!Host::with(&all, "", &[]).leads_to("8.8.8.8"), "it is down");
    }

    #[test]
    fn a_route_that_refuses_is_no_way() {
        let refuses = six("lo", "::", 0, "00200200");
        let host = Host::with("", &refuses, &[("eth0", "1\n")]);
        assert!(!host.leads_to("2001:db8::1"));
        let both = format!("{refuses}{}", six("eth0", "2001:db8::", 32, "00000001"));
        let host = Host::with("", &both, &[("eth0", "1\n")]);
        assert!(host.leads_to("2001:db8::1") && !host.leads_to("2001:db9::1"));
        assert!(!Host::with("garbage\n", "more garbage\n", &[]).leads_to("2001:db8::1"));
    }

    #[test]
    fn a_way_that_was_there_once_stays_found() {
        let near = four("eth0", [10, 77, 0, 0], [255, 255, 0, 0]);
        let host = Host::with(&near, "", &[("eth0", "1\n")]);
        let mut ways = Ways::of(host.network());
        let (asked, other) = ("10.77.0.1".parse().unwrap(), "10.77.0.2".parse().unwrap());
        assert!(ways.lead_to(asked));
        fs::write(host.0.path().join("class/eth0/carrier"), "0\n").unwrap();
        assert!(ways.lead_to(asked) && !ways.lead_to(other));
        assert!(ways.lead_to("127.0.0.1".parse().unwrap()));
    }
}
