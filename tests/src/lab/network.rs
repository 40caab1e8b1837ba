//! The network of a lab: one network namespace with a bridge, in which the server and the people are, and
//! one for each host, joined to the bridge as by a cable. Nothing of this machine's own network is touched.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsFd,
    path::PathBuf,
    process::Command,
    thread::{self, ThreadId},
};

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::Ran;

/// Where the server listens: the bridge's own address. No other machine is ever on this network.
const MIDDLE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// States of a bridge's port: it passes everything on, or drops everything.
const FORWARDS: &str = "3";
const DISABLED: &str = "0";

/// The network of one lab.
#[derive(Debug)]
pub(super) struct Network {
    name: String,
}

/// The end of a host's cable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cable {
    /// Everything passes.
    Plugged,
    /// Nothing passes, and the host is not told: its interface stays up.
    Silent,
    /// Nothing passes, and the host's interface has no carrier.
    Pulled,
}

impl Network {
    /// Makes the middle of a new network.
    pub(super) fn new(name: &str) -> Result<Network> {
        ip(&["netns", "add", name])?;
        let network = Network { name: name.to_owned() };
        network.batch(
            &network.name,
            &format!(
                "link set lo up\nlink add lab0 type bridge\naddr add {MIDDLE}/16 dev lab0\n\
                 link set lab0 up\n"
            ),
        )?;
        Ok(network)
    }

    /// One that was made before.
    pub(super) fn named(name: &str) -> Network {
        Network { name: name.to_owned() }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn middle() -> IpAddr {
        MIDDLE.into()
    }

    /// The address of the host with this number, from 1 on.
    pub(super) fn address(number: u16) -> IpAddr {
        let [high, low] = number.to_be_bytes();
        Ipv4Addr::new(10, 77, 1 + high, low).into()
    }

    /// Joins a host's namespace of its own to the bridge.
    pub(super) fn join(&self, number: u16) -> Result<()> {
        let (namespace, address) = (self.of_host(number), Network::address(number));
        ip(&["netns", "add", &namespace])?;
        let cable = format!("link add h{number} type veth peer name eth0 netns {namespace}\n");
        self.batch(&self.name, &format!("{cable}link set h{number} master lab0 up\n"))?;
        let own = format!("link set lo up\naddr add {address}/16 dev eth0\nlink set eth0 up\n");
        self.batch(&namespace, &own)
    }

    /// The namespace of the host with this number.
    pub(super) fn of_host(&self, number: u16) -> String {
        format!("{}-{number}", self.name)
    }

    /// Plugs a host's cable in, pulls it, or lets nothing through it.
    pub(super) fn set_cable(&self, number: u16, cable: Cable) -> Result<()> {
        let port = format!("h{number}");
        let link = |state: &str| self.batch(&self.name, &format!("link set {port} {state}\n"));
        match cable {
            Cable::Plugged => {
                link("up")?;
                self.set_port(&port, FORWARDS)
            }
            Cable::Silent => self.set_port(&port, DISABLED),
            Cable::Pulled => link("down"),
        }
    }

    /// The state of a port of the bridge, which `ip` alone does not set.
    fn set_port(&self, port: &str, state: &str) -> Result<()> {
        let mut bridge = Command::new("bridge");
        bridge.args(["-n", &self.name, "link", "set", "dev", port, "state", state]);
        Ran::of(&mut bridge)?.good().context("bridge link set")?;
        Ok(())
    }

    fn batch(&self, namespace: &str, commands: &str) -> Result<()> {
        Ran::fed(Command::new("ip").args(["-n", namespace, "-batch", "-"]), commands)?
            .good()
            .with_context(|| format!("ip -n {namespace}: {commands}"))?;
        Ok(())
    }

    /// Moves the calling thread into the middle of this network: what it starts from now on, threads and
    /// programs, is there.
    pub(super) fn enter(&self) -> Result<Entered> {
        Entered::into(&self.name)
    }

    /// The namespaces of this network that are there.
    pub(super) fn namespaces(&self) -> Vec<String> {
        let listed = ip(&["netns", "list"]).unwrap_or_default();
        let names = listed.lines().filter_map(|line| line.split_whitespace().next());
        let hosts = format!("{}-", self.name);
        let own = |name: &&str| *name == self.name || name.starts_with(&hosts);
        names.filter(own).map(str::to_owned).collect()
    }

    /// Ends every process that is in this network but this one's own.
    pub(super) fn end_processes(&self) -> Result<()> {
        for namespace in self.namespaces() {
            let ids = ip(&["netns", "pids", &namespace])?;
            for id in ids.split_whitespace().filter(|id| **id != *std::process::id().to_string()) {
                if let Some(id) = id.parse().ok().and_then(rustix::process::Pid::from_raw) {
                    // It may have ended with another one meanwhile.
                    let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
                }
            }
        }
        Ok(())
    }

    /// Removes the namespaces, and with them bridge and cables.
    pub(super) fn remove(&self) -> Result<()> {
        for namespace in self.namespaces() {
            ip(&["netns", "delete", &namespace])?;
        }
        Ok(())
    }
}

/// A thread that is in another network, and where it came from.
#[derive(Debug)]
pub(super) struct Entered {
    thread: ThreadId,
    before: File,
}

impl Entered {
    fn into(namespace: &str) -> Result<Entered> {
        let before = File::open("/proc/thread-self/ns/net")?;
        let path = PathBuf::from("/run/netns").join(namespace);
        let network = File::open(&path).with_context(|| path.display().to_string())?;
        move_into(&network)?;
        Ok(Entered { thread: thread::current().id(), before })
    }

    /// Brings the thread back, if this is the one.
    pub(super) fn leave(&self) -> Result<()> {
        if self.thread == thread::current().id() { move_into(&self.before) } else { Ok(()) }
    }
}

fn move_into(network: &File) -> Result<()> {
    Ok(move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?)
}

fn ip(arguments: &[&str]) -> Result<String> {
    Ran::of(Command::new("ip").args(arguments))?
        .good()
        .with_context(|| format!("ip {}", arguments.join(" ")))
}
