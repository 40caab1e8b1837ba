//! A whole fleet on loopback: a server, people with their keys, and hosts, each with folders of its own
//! and all of them real processes that speak real TLS.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    http,
    process::{Process, Ran, command, end_all_from},
    release::{self, Behaviour, Probation},
    wait::until,
};

/// The product of the demo and of most tests.
pub const PRODUCT: &str = "payments";

/// One ring of the sandbox: its unsigned limits, as lines of `fleet.toml`.
#[derive(Debug, Clone)]
pub struct Ring {
    /// Its name; hosts with the label `ring=<name>` are in it.
    pub name: &'static str,
    /// Lines under the ring, for example `soak = "1s"`.
    pub limits: &'static str,
}

/// Limits that suit a test: everything at once, soak of a second, the first failure halts.
pub const LIMITS: &str = r#"
max_in_flight = 2
soak = "1s"
lease = "60s"
poll = "1s"
silence = "60s"
update_limit = "120s"
halt = { failures = 1, percent = 50 }
"#;

/// A fleet in a folder of its own; everything ends and goes when it is dropped.
#[derive(Debug)]
pub struct Sandbox {
    hosts: BTreeMap<String, Host>,
    server: Option<Process>,
    folder: Folder,
    address: IpAddr,
    product: &'static str,
    halves: bool,
    port: u16,
    status_port: u16,
    environment: Vec<(String, String)>,
}

/// What differs between sandboxes.
#[derive(Debug, Clone)]
pub struct Setup {
    /// A folder that stays; else it goes with the sandbox.
    pub kept: Option<PathBuf>,
    /// Where the server listens.
    pub address: IpAddr,
    /// The product.
    pub product: &'static str,
    /// Whether each agent is two processes, as our package has it, or one.
    pub halves: bool,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { kept: None, address: Ipv4Addr::LOCALHOST.into(), product: PRODUCT, halves: false }
    }
}

/// Kept by `refit-demo --keep`, else gone with the sandbox.
#[derive(Debug)]
enum Folder {
    Passing(TempDir),
    Kept(PathBuf),
}

/// One host of a sandbox.
#[derive(Debug)]
pub struct Host {
    agent: Option<Process>,
    /// The network half, where the agent is two processes.
    network_half: Option<Process>,
    folder: PathBuf,
    /// Where its service listens.
    pub port: u16,
}

impl Host {
    /// Its folder: `data`, `install`, `agent.log`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The agent's data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Where products are installed.
    pub fn install(&self) -> PathBuf {
        self.folder.join("install")
    }

    /// What the service says when it is asked.
    pub fn says(&self) -> Result<String> {
        Ok(http::get(self.port, "/")?.1.trim().to_owned())
    }

    /// The network half's process; without the sandbox's halves there is none.
    ///
    /// # Errors
    /// If it is not running.
    pub fn network_half(&mut self) -> Result<&mut Process> {
        self.network_half.as_mut().context("the network half was not started")
    }

    /// Where the root half asks the network half.
    fn link(&self) -> PathBuf {
        self.folder.join("link.sock")
    }

    /// The agent's process.
    ///
    /// # Errors
    /// If it is not running.
    pub fn agent(&mut self) -> Result<&mut Process> {
        self.agent.as_mut().context("the agent was not started")
    }
}

/// A port that nobody uses at the moment.
///
/// # Errors
/// If there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Sandbox {
    /// A server with an administrator who has all roles, all keys, and these rings of `payments`.
    ///
    /// # Errors
    /// Whatever does not work.
    pub fn new(rings: &[Ring]) -> Result<Sandbox> {
        Sandbox::set_up(Setup::default(), rings)
    }

    /// The same in a folder that stays.
    ///
    /// # Errors
    /// Whatever does not work.
    pub fn kept(folder: PathBuf, rings: &[Ring]) -> Result<Sandbox> {
        Sandbox::set_up(Setup { kept: Some(folder), ..Setup::default() }, rings)
    }

    /// The same with what else may differ.
    ///
    /// # Errors
    /// Whatever does not work.
    pub fn set_up(setup: Setup, rings: &[Ring]) -> Result<Sandbox> {
        let folder = match setup.kept {
            Some(folder) => {
                fs::create_dir_all(&folder)?;
                Folder::Kept(folder)
            }
            None => Folder::Passing(tempfile::Builder::new().prefix("refit-").tempdir()?),
        };
        let (port, status_port) = (free_port()?, free_port()?);
        let mut sandbox = Sandbox {
            hosts: BTreeMap::new(),
            server: None,
            folder,
            address: setup.address,
            product: setup.product,
            halves: setup.halves,
            port,
            status_port,
            environment: Vec::new(),
        };
        let token = sandbox.init_server()?;
        sandbox.start_server()?;
        sandbox.refit(["login", &token])?;
        sandbox.make_trust(rings)?;
        sandbox.apply(rings)?;
        Ok(sandbox)
    }

    /// Prints the end of every log, for whoever has to find out what went wrong.
    pub fn print_logs(&self) {
        let logs = self.hosts.values().map(|host| host.folder.join("agent.log"));
        for log in logs.chain([self.path().join("server.log")]) {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let end: Vec<&str> = text.lines().rev().take(40).collect();
            eprintln!("--- the end of {}", log.display());
            end.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }

    /// Leaves every process running; their ids.
    pub fn leave_running(&mut self) -> Vec<u32> {
        let agents =
            self.hosts.values_mut().flat_map(|host| [&mut host.agent, &mut host.network_half]);
        let agents = agents.filter_map(|process| process.as_mut());
        let mut ids = Vec::new();
        for process in agents.chain(self.server.as_mut()) {
            process.leave_running();
            ids.push(process.id());
        }
        ids
    }

    /// The folder of everything.
    pub fn path(&self) -> &Path {
        match &self.folder {
            Folder::Passing(folder) => folder.path(),
            Folder::Kept(folder) => folder,
        }
    }

    /// Every program that is started from now on gets these variables.
    pub fn set_environment(&mut self, environment: &[(&str, &str)]) {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.environment = environment.iter().map(owned).collect();
    }

    fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Where the page, `/metrics` and the JSON are.
    pub fn status_port(&self) -> u16 {
        self.status_port
    }

    /// Where agents and people connect.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's data folder.
    pub fn server_data(&self) -> PathBuf {
        self.path().join("server")
    }

    fn listen(&self) -> String {
        SocketAddr::new(self.address, self.port).to_string()
    }

    /// Makes the server's data folder, with new keys, where there is none; its first administrator's token.
    ///
    /// # Errors
    /// If there is one already.
    pub fn init_server(&self) -> Result<String> {
        let out = Ran::of(
            command("refit-server")?
                .args(["init", "--admin", "alice", "--address", &self.address.to_string()])
                .args(["--address", "localhost", "--listen", &self.listen()])
                .arg("--data")
                .arg(self.server_data()),
        )?
        .good()?;
        fs::write(self.path().join("server-init.txt"), &out)?;
        let token = out.split_whitespace().find(|word| word.starts_with("refit1-"));
        Ok(token.with_context(|| format!("`refit-server init` gave no token:\n{out}"))?.to_owned())
    }

    /// Starts the server, for the first time or again, and waits until it is ready.
    ///
    /// # Errors
    /// If it does not get ready.
    pub fn start_server(&mut self) -> Result<()> {
        self.start_server_with(&[])
    }

    /// The same with settings in its environment.
    ///
    /// # Errors
    /// If it does not get ready.
    pub fn start_server_with(&mut self, environment: &[(&str, &str)]) -> Result<()> {
        let mut run = command("refit-server")?;
        run.args(["run", "--listen", &self.listen()])
            .args(["--status-listen", &format!("127.0.0.1:{}", self.status_port)])
            .arg("--data")
            .arg(self.server_data())
            .envs(self.environment())
            .envs(environment.iter().copied());
        let mut server = Process::start(&mut run, &self.path().join("server.log"))?;
        until("the server is ready", || {
            if !server.runs() {
                bail!("it ended:\n{}", server.log());
            }
            Ok((http::get(self.status_port, "/readyz")?.0 == 200).then_some(()))
        })?;
        self.server = Some(server);
        Ok(())
    }

    /// The server's process.
    ///
    /// # Errors
    /// If it is not running.
    pub fn server(&mut self) -> Result<&mut Process> {
        self.server.as_mut().context("the server was not started")
    }

    /// A `refit` command as the administrator would type it.
    ///
    /// # Errors
    /// If it was not built.
    pub fn refit_command(&self) -> Result<Command> {
        self.refit_command_of("alice")
    }

    /// A `refit` command of another person.
    ///
    /// # Errors
    /// If it was not built.
    pub fn refit_command_of(&self, person: &str) -> Result<Command> {
        let mut refit = command("refit")?;
        refit
            .arg("--home")
            .arg(self.path().join(format!("home-{person}")))
            .current_dir(self.path())
            .envs(self.environment());
        Ok(refit)
    }

    /// Runs `refit` and wants it to succeed; its output.
    ///
    /// # Errors
    /// If it fails, with what it printed.
    pub fn refit<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
        let mut refit = self.refit_command()?;
        refit.args(arguments);
        Ran::of(&mut refit)?.good().with_context(|| format!("{refit:?}"))
    }

    /// Runs `refit` and wants it to be refused; its complaint.
    ///
    /// # Errors
    /// If it succeeds.
    pub fn refit_refused<'a>(
        &self,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<String> {
        Ran::of(self.refit_command()?.args(arguments))?.refused()
    }

    /// `refit ... --output json`, read.
    ///
    /// # Errors
    /// If it fails or prints something else.
    pub fn json<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Value> {
        let mut words: Vec<&str> = arguments.into_iter().collect();
        words.extend(["--output", "json"]);
        let out = self.refit(words)?;
        serde_json::from_str(&out).with_context(|| format!("not JSON: {out}"))
    }

    fn make_trust(&self, rings: &[Ring]) -> Result<()> {
        for role in ["root", "targets", "policy"] {
            self.refit(["key", "generate", "--role", role, "--name", role, "--unencrypted"])?;
        }
        let release = ["key", "generate", "--role", "release", "--product", self.product, "--name"];
        self.refit(release.into_iter().chain(["release", "--unencrypted"]))?;
        for ring in rings {
            let key = ["key", "generate", "--role", "ring", "--product", self.product];
            self.refit(key.into_iter().chain([
                "--ring",
                ring.name,
                "--name",
                ring.name,
                "--unencrypted",
            ]))?;
        }
        self.refit([
            "trust",
            "init",
            "--root-key",
            "root",
            "--targets-key",
            "targets",
            "--from-server",
        ])?;
        let mut delegate = vec!["trust", "delegate", "--product", self.product];
        delegate.extend(["--release-key", "release", "--policy-key", "policy"]);
        let pairs: Vec<String> =
            rings.iter().map(|ring| format!("{}={}", ring.name, ring.name)).collect();
        for pair in &pairs {
            delegate.extend(["--ring", pair]);
        }
        self.refit(delegate)?;
        self.refit(["trust", "push"])?;
        Ok(())
    }

    /// Describes the rings of `payments` anew and applies them.
    ///
    /// # Errors
    /// If it is refused.
    pub fn apply(&self, rings: &[Ring]) -> Result<String> {
        let mut fleet = format!("[[product]]\nname = \"{}\"\n", self.product);
        for ring in rings {
            let name = ring.name;
            fleet.push_str(&format!(
                "\n[[product.ring]]\nname = \"{name}\"\nselect = {{ ring = \"{name}\" }}\n{}",
                ring.limits
            ));
        }
        let file = self.path().join("fleet.toml");
        fs::write(&file, fleet)?;
        self.refit(["apply", "fleet.toml", "--yes"])
    }

    /// A token for a host with these labels.
    ///
    /// # Errors
    /// If none is given.
    pub fn token(&self, labels: &[&str]) -> Result<String> {
        let mut words = vec!["token", "create", "--expires", "1h"];
        for label in labels {
            words.extend(["--label", label]);
        }
        let out = self.refit(words)?;
        let token = out.split_whitespace().find(|word| word.starts_with("refit1-"));
        Ok(token.with_context(|| format!("no token in: {out}"))?.to_owned())
    }

    /// A new host with these labels, enrolled and running.
    ///
    /// # Errors
    /// If it can't be enrolled or started.
    pub fn host(&mut self, name: &str, labels: &[&str]) -> Result<()> {
        let token = self.token(labels)?;
        let folder = self.path().join(name);
        fs::create_dir_all(folder.join("data"))?;
        let port = free_port()?;
        let host = Host { agent: None, network_half: None, folder, port };
        let settings = format!(
            "install_root = {:?}\nservices = \"own\"\n\n[variables]\nPORT = \"{port}\"\n\
             HOST_FOLDER = {:?}\n\n\
             # More\n# Tests let one host fail more often than any host should.\n\
             [brake]\nfailures = 0\n",
            host.install(),
            host.folder
        );
        fs::write(host.data().join("agent.toml"), settings)?;
        let mut enroll = command("refit-agent")?;
        enroll.args(["enroll", "--token", &token, "--name", name, "--data"]).arg(host.data());
        Ran::of(&mut enroll)?.good().with_context(|| format!("{name} enrolls"))?;
        self.hosts.insert(name.to_owned(), host);
        self.start_agent(name)
    }

    /// Starts a host's agent, for the first time or again.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start_agent(&mut self, name: &str) -> Result<()> {
        self.start_agent_with(name, &[])
    }

    /// The same with settings in its environment.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start_agent_with(&mut self, name: &str, environment: &[(&str, &str)]) -> Result<()> {
        let mut run = command("refit-agent")?;
        run.envs(self.environment());
        let halves = self.halves;
        let host = self.hosts.get_mut(name).with_context(|| format!("no host {name}"))?;
        run.args(["run", "--data"]).arg(host.data()).envs(environment.iter().copied());
        if halves {
            run.arg("--link").arg(host.link());
            if !host.network_half.as_mut().is_some_and(Process::runs) {
                self.start_network_half(name)?;
            }
        }
        let host = self.hosts.get_mut(name).with_context(|| format!("no host {name}"))?;
        host.agent = Some(Process::start(&mut run, &host.folder.join("agent.log"))?);
        Ok(())
    }

    /// Starts a host's network half, for the first time or again.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start_network_half(&mut self, name: &str) -> Result<()> {
        let host = self.hosts.get_mut(name).with_context(|| format!("no host {name}"))?;
        let mut link = command("refit-agent")?;
        link.args(["link", "--socket"]).arg(host.link());
        host.network_half = Some(Process::start(&mut link, &host.folder.join("link.log"))?);
        Ok(())
    }

    /// A host.
    ///
    /// # Panics
    /// If there is none of this name: the test is wrong.
    pub fn host_named(&self, name: &str) -> &Host {
        self.hosts.get(name).unwrap_or_else(|| panic!("no host {name}"))
    }

    /// A host, to do something to it.
    ///
    /// # Panics
    /// If there is none of this name: the test is wrong.
    pub fn host_mut(&mut self, name: &str) -> &mut Host {
        self.hosts.get_mut(name).unwrap_or_else(|| panic!("no host {name}"))
    }

    /// Builds a release and returns its folder.
    ///
    /// # Errors
    /// If it can't be built.
    pub fn build(&self, version: &str, behaviour: Behaviour) -> Result<PathBuf> {
        self.build_with(version, behaviour, Probation::default(), "")
    }

    /// The same with a probation and a description of the test's own.
    ///
    /// # Errors
    /// If it can't be built.
    pub fn build_with(
        &self,
        version: &str,
        behaviour: Behaviour,
        probation: Probation,
        extra: &str,
    ) -> Result<PathBuf> {
        self.build_headed(version, behaviour, probation, "", extra)
    }

    /// The same with something at the head of the package's description, before its tables.
    ///
    /// # Errors
    /// If it can't be built.
    pub fn build_headed(
        &self,
        version: &str,
        behaviour: Behaviour,
        probation: Probation,
        head: &str,
        extra: &str,
    ) -> Result<PathBuf> {
        let source = self.path().join(format!("source-{version}"));
        release::write(&source, version, behaviour, probation, extra)?;
        let description = source.join("refit.toml");
        fs::write(&description, format!("{head}\n{}", fs::read_to_string(&description)?))?;
        self.build_from(&source, version)
    }

    /// The same with checks that compare with what ran before, which is measured for so many seconds.
    ///
    /// # Errors
    /// If it can't be built.
    pub fn build_measured(
        &self,
        version: &str,
        behaviour: Behaviour,
        probation: Probation,
        seconds: u32,
        checks: &str,
    ) -> Result<PathBuf> {
        let source = self.path().join(format!("source-{version}"));
        release::write(&source, version, behaviour, probation, checks)?;
        let description = source.join("refit.toml");
        let measured = format!("[health.checked]\nbaseline_seconds = {seconds}\n");
        let text = fs::read_to_string(&description)?.replace("[health.checked]\n", &measured);
        fs::write(&description, text)?;
        self.build_from(&source, version)
    }

    /// Builds a release from a folder with a `refit.toml` and returns its folder.
    ///
    /// # Errors
    /// If it can't be built.
    pub fn build_from(&self, source: &Path, version: &str) -> Result<PathBuf> {
        let built = self.path().join(format!("release-{version}"));
        let (source, out) = (source.to_string_lossy(), built.to_string_lossy());
        let words = ["release", "build", &source, "--product", self.product, "--version", version];
        self.refit(words.into_iter().chain(["--out", &*out]))?;
        Ok(built)
    }

    /// Builds, signs and publishes a release.
    ///
    /// # Errors
    /// If one of these is refused.
    pub fn publish(&self, version: &str, behaviour: Behaviour) -> Result<()> {
        let built = self.build(version, behaviour)?;
        self.publish_built(&built)
    }

    /// Signs and publishes what was built.
    ///
    /// # Errors
    /// If one of these is refused.
    pub fn publish_built(&self, built: &Path) -> Result<()> {
        let built = built.to_string_lossy();
        self.refit(["release", "sign", &built, "--key", "release"])?;
        self.refit(["release", "publish", &built])?;
        Ok(())
    }

    /// The versions that are published.
    ///
    /// # Errors
    /// If `refit` doesn't tell.
    pub fn releases(&self) -> Result<Vec<String>> {
        let listed = self.json(["release", "list", self.product])?;
        let listed = listed.as_array().context("no list of releases")?.iter();
        Ok(listed.filter_map(|row| Some(row["version"].as_str()?.to_owned())).collect())
    }

    /// Promotes a release to a ring.
    ///
    /// # Errors
    /// If it is refused.
    pub fn promote(&self, version: &str, ring: &str) -> Result<String> {
        self.refit(["release", "promote", self.product, version, "--to", ring])
    }

    /// Writes a promoted release into a bundle for a ring.
    ///
    /// # Errors
    /// If it is refused.
    pub fn export(&self, version: &str, ring: &str) -> Result<PathBuf> {
        let out = self.path().join(format!("{version}-{ring}.bundle"));
        let words =
            ["bundle", "export", self.product, version, "--ring", ring, "--valid-for", "30d"];
        self.refit(words.into_iter().chain(["--out", &*out.to_string_lossy()]))?;
        Ok(out)
    }

    /// `refit-agent install` on a host, as its root would type it.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn install_from(&self, host: &str, bundle: &Path) -> Result<Ran> {
        let mut install = command("refit-agent")?;
        install.arg("install").arg(bundle).arg("--data").arg(self.host_named(host).data());
        Ran::of(&mut install)
    }

    /// Waits until a host's agent listens to commands on the host.
    ///
    /// # Errors
    /// If it never does.
    pub fn until_listens(&self, host: &str) -> Result<()> {
        let socket = self.host_named(host).data().join("agent.sock");
        until(&format!("{} listens", socket.display()), || {
            Ok(std::os::unix::net::UnixStream::connect(&socket).is_ok().then_some(()))
        })
    }

    /// What a host's agent says of itself, asked on the host.
    ///
    /// # Errors
    /// If it doesn't answer.
    pub fn agent_status(&self, host: &str) -> Result<Value> {
        let mut status = command("refit-agent")?;
        status.args(["status", "--output", "json", "--data"]).arg(self.host_named(host).data());
        Ok(serde_json::from_str(&Ran::of(&mut status)?.good()?)?)
    }

    /// Waits until a host's service says that it is this version.
    ///
    /// # Errors
    /// If it never does.
    pub fn until_runs(&self, host: &str, version: &str) -> Result<()> {
        let host = self.host_named(host);
        let wanted = format!("payments {version}");
        until(&format!("{} says {wanted}", host.folder.display()), || {
            let said = host.says()?;
            if said == wanted { Ok(Some(())) } else { bail!("it says {said:?}") }
        })
    }

    /// The fleet's status as JSON.
    ///
    /// # Errors
    /// If the server doesn't tell.
    pub fn status(&self) -> Result<Value> {
        let (code, body) = http::get(self.status_port, "/api/v1/status")?;
        if code != 200 {
            bail!("/api/v1/status answers {code}: {body}");
        }
        Ok(serde_json::from_str(&body)?)
    }

    /// A ring's status: `rollout.state`, `rollout.counts`, `hold`, ...
    ///
    /// # Errors
    /// If there is no such ring.
    pub fn ring(&self, ring: &str) -> Result<Value> {
        let status = self.status()?;
        let products = status["products"].as_array().context("no products")?;
        let rings = products.iter().filter_map(|product| product["rings"].as_array()).flatten();
        let found = rings.into_iter().find(|found| found["ring"] == ring);
        found.cloned().with_context(|| format!("no ring {ring} in {status}"))
    }

    /// A host's status.
    ///
    /// # Errors
    /// If the server doesn't know it.
    pub fn host_status(&self, name: &str) -> Result<Value> {
        let shown = self.json(["host", "show", name])?;
        Ok(shown)
    }

    /// Waits until what the server knows of a host has all of these words.
    ///
    /// # Errors
    /// If it never has.
    pub fn until_host_reports(&self, name: &str, words: &[&str]) -> Result<()> {
        until(&format!("{name} reports {words:?}"), || {
            let host = self.host_status(name)?.to_string();
            match words.iter().all(|word| host.contains(word)) {
                true => Ok(Some(())),
                false => anyhow::bail!("it reports {host}"),
            }
        })
    }

    /// `refit-agent backup` with these words, on a host.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn agent_backup(&self, host: &str, words: &[&str]) -> Result<Ran> {
        let mut agent = command("refit-agent")?;
        agent.arg("backup").args(words).arg("--data").arg(self.host_named(host).data());
        Ran::of(&mut agent)
    }

    /// Waits until a ring's rollout of `version` is in `state`.
    ///
    /// # Errors
    /// If it never is.
    pub fn until_rollout(&self, ring: &str, version: &str, state: &str) -> Result<Value> {
        until(&format!("the rollout of {version} on {ring} is {state}"), || {
            let found = self.ring(ring)?;
            let rollout = &found["rollout"];
            if rollout["version"] == version && rollout["state"] == state {
                return Ok(Some(found));
            }
            bail!("{rollout}")
        })
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        if matches!(self.folder, Folder::Passing(_)) {
            // Agents first: one that runs would start its service again.
            self.hosts.clear();
            self.server = None;
            end_all_from(self.path());
        }
    }
}
