//! The manifest of one package: its files, services, health checks, hooks and what to back up.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    Data, DocumentError, FileRef, MenderPayload, PackagePath, PodmanImage, parse_document_knowing,
};
use crate::{gathered::Gathered as _, names::PackageName};

mod probe;

use probe::PROBES;
pub use probe::{Growth, Limit, Probe};

/// What one package puts on a host, and how its health is told. Pinned by the release document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always `manifest`.
    #[serde(rename = "_type")]
    kind: String,
    format: u32,
    /// Features that a reader must know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
    /// The package's name, as in the release document.
    pub package: PackageName,
    /// How it is put on a host.
    pub installer: Installer,
    /// With the installer `files`: what is not root's, or has more than a mode.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PlacedAs>,
    /// Everything in the package's tree, folders before what lies in them.
    pub entries: Vec<Entry>,
    /// What runs.
    #[serde(default)]
    pub services: Vec<Service>,
    /// How a host tells whether it works.
    pub health: Health,
    /// What is saved beside the tree, the link and the units.
    #[serde(default)]
    pub backup: Backup,
    /// Commands of the package's own, run at fixed times.
    #[serde(default)]
    pub hooks: Vec<Hook>,
    /// Whether a host has to boot before the package runs.
    #[serde(default, skip_serializing_if = "Reboot::is_never")]
    pub reboot: Reboot,
    /// Data that it works on, and what the release does with it.
    #[serde(default, skip_serializing_if = "Data::is_default")]
    pub data: Data,
    /// With the installer `mender`: which module, and what it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mender: Option<MenderPayload>,
    /// With the installer `podman`: which image lies in the tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub podman: Option<PodmanImage>,
}

/// Whether a host has to boot before a package runs as it should. The strictest of a release's packages
/// holds for all of them, since they switch together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reboot {
    /// It runs at once.
    #[default]
    Never,
    /// It runs at once, and the host boots if `/run/reboot-required` says so after the switch: the way in
    /// which Debian's packages ask for it, and hooks may.
    WhenRequired,
    /// Its services are started by the boot, and not before.
    Always,
}

impl Reboot {
    fn is_never(&self) -> bool {
        *self == Reboot::Never
    }
}

/// A host that does not know how to boot must refuse a package that needs it.
const REBOOT: &str = "reboot";

/// A host that does not know of data would neither save it nor bring it back.
const DATA: &str = "data";

/// How a package is put on a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Installer {
    /// A versioned folder of its own, and one atomic link that says which one is current.
    #[default]
    Tree,
    /// Each file at its own place on the host: `etc/motd` in the tree is `/etc/motd`.
    Files,
    /// Debian packages, by dpkg: the tree holds `.deb` files and nothing else.
    Deb,
    /// A Mender update module, unchanged: the tree holds its payload.
    Mender,
    /// As `tree`, with the host's own agent in it, which has to qualify beside the one that runs before it
    /// takes over.
    Agent,
    /// A container, by podman: the tree holds its image as an OCI layout.
    Podman,
}

impl Installer {
    /// The feature that a reader must know to follow it; the first one is known to all.
    fn feature(self) -> Option<&'static str> {
        match self {
            Installer::Tree => None,
            Installer::Files => Some("files"),
            Installer::Deb => Some("deb"),
            Installer::Mender => Some("mender"),
            Installer::Agent => Some("agent"),
            Installer::Podman => Some("podman"),
        }
    }

    /// Whether what it installs brings its own units: services then have a name only.
    pub fn brings_units(self) -> bool {
        match self {
            Installer::Tree | Installer::Files | Installer::Agent | Installer::Podman => false,
            Installer::Deb | Installer::Mender => true,
        }
    }
}

/// How something of the tree stands on the host, where that is more than the tree tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacedAs {
    /// Of the tree.
    pub path: PackagePath,
    /// Name or number of its owner; by default root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The same of its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Permission bits in place of the tree's, at most 0o7777.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Extended attributes, capabilities and access control lists among them: text, or `0x` and hex digits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

impl PlacedAs {
    /// An attribute's value as bytes; `None` if it is no hex.
    pub fn value(text: &str) -> Option<Vec<u8>> {
        let Some(hex) = text.strip_prefix("0x") else { return Some(text.as_bytes().to_vec()) };
        let digits = hex.as_bytes().chunks(2);
        digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok()).collect()
    }
}

/// One thing in a package's tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Entry {
    /// A folder.
    Directory {
        /// Inside the package.
        path: PackagePath,
        /// Permission bits, at most 0o777.
        mode: u32,
    },
    /// A file.
    File {
        /// Inside the package.
        path: PackagePath,
        /// Permission bits, at most 0o777.
        mode: u32,
        /// Its content.
        #[serde(flatten)]
        content: FileRef,
    },
    /// A symbolic link that stays inside the package.
    Link {
        /// Inside the package.
        path: PackagePath,
        /// Relative to the link's folder.
        target: String,
    },
}

impl Entry {
    /// Where it lies.
    pub fn path(&self) -> &PackagePath {
        match self {
            Entry::Directory { path, .. } | Entry::File { path, .. } | Entry::Link { path, .. } => {
                path
            }
        }
    }
}

/// A program that runs as long as the package is installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The unit is `<name>.service`.
    pub name: PackageName,
    /// Program and arguments. A program with a `/` that does not begin with one lies in the package.
    /// Host variables are expanded. Empty where a Debian package brings the unit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Environment; values are expanded.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// The user it runs as, where services are run by systemd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A unit file of the package's own, in its tree, in place of one made from `command`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_file: Option<PackagePath>,
    /// With the installer `podman`: options of `podman run`. Host variables are expanded. `command` is then
    /// what runs in the container, and may be left to the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// How a host tells whether a release works on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// By these checks.
    Checked(Observed),
    /// Not at all, by name: the installed tree is verified and the host counts as unobserved.
    None,
}

impl Health {
    fn feature(&self) -> Option<&'static str> {
        match self {
            Health::Checked(observed) => observed.feature(),
            Health::None => None,
        }
    }
}

/// Checks, and how long they must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// All must be good.
    pub checks: Vec<Check>,
    /// Running time from the start of the services in which a failing check is not yet bad.
    pub start_seconds: u32,
    /// Between two rounds of checks.
    pub interval_seconds: u32,
    /// A check is bad when it failed this many times in a row.
    pub failures: u32,
    /// How long all checks must have been good without a break.
    pub good_seconds: u32,
    /// Running time after which a verdict that is still unknown ends the probation as unproven.
    pub max_seconds: u32,
    /// For how long what runs before the update is measured, where a check compares with it.
    #[serde(default = "thirty", skip_serializing_if = "is_thirty")]
    pub baseline_seconds: u32,
}

/// Several rounds, and short beside the ten minutes of a lease.
fn thirty() -> u32 {
    30
}

fn is_thirty(seconds: &u32) -> bool {
    *seconds == thirty()
}

impl Default for Observed {
    fn default() -> Observed {
        Observed {
            checks: Vec::new(),
            start_seconds: 60,
            interval_seconds: 5,
            failures: 3,
            good_seconds: 60,
            max_seconds: 24 * 3600,
            baseline_seconds: thirty(),
        }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Shown in errors and reports.
    pub name: PackageName,
    /// What is asked.
    #[serde(flatten)]
    pub probe: Probe,
    /// Longer than this is a failure.
    #[serde(default = "five")]
    pub timeout_seconds: u32,
}

fn five() -> u32 {
    5
}

/// What is saved before the release may change it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Files and folders, absolute; host variables are expanded.
    #[serde(default)]
    pub paths: Vec<String>,
}

/// A command of the package's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// When it runs.
    pub when: HookTime,
    /// As in [`Service::command`]; must be safe to repeat.
    pub command: Vec<String>,
    /// Longer than this is a failure, and everything it started is ended.
    pub timeout_seconds: u32,
    /// What it needs beyond what every hook may.
    #[serde(flatten)]
    pub needs: HookNeeds,
}

/// What a hook needs beyond what every hook may: read the system, and write its product's folder and what
/// the package backs up. An agent that knows no box gives all of this to every hook, so none of it stands
/// under `required`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookNeeds {
    /// Files and folders that it writes, absolute; host variables are expanded. What is not there when it
    /// starts can't be written: then its folder has to be named.
    #[serde(default)]
    pub writes: Vec<String>,
    /// It talks to others over the network, or to this host by an address.
    #[serde(default)]
    pub network: bool,
    /// It asks the service manager of the host for something: `systemctl`, D-Bus.
    #[serde(default)]
    pub systemd: bool,
    /// How much memory all of it may take together, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u32>,
    /// How many processes and threads it may have at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<u32>,
}

impl HookNeeds {
    /// What a hook may take that says nothing, MiB: a migration fits, and a small host lives.
    pub const MEMORY_MB: u32 = 1024;
    /// Least that may be asked for: a shell needs as much.
    const LEAST_MEMORY_MB: u32 = 16;
    /// The same of processes and threads.
    pub const TASKS: u32 = 512;
    /// Least that may be asked for.
    const LEAST_TASKS: u32 = 4;

    fn check(&self) -> Result<(), String> {
        if let Some(path) = self.writes.iter().find(|path| !is_absolute(path)) {
            return Err(format!("{path:?} under a hook's `writes` is not an absolute path"));
        }
        Self::check_limits(self.memory_mb, self.tasks, "a hook")
    }

    /// Whether what is asked for is enough to run anything.
    pub(super) fn check_limits(
        memory_mb: Option<u32>,
        tasks: Option<u32>,
        who: &str,
    ) -> Result<(), String> {
        let least = Self::LEAST_MEMORY_MB;
        if memory_mb.is_some_and(|memory| memory < least) {
            return Err(format!("{who} has less than {least} MiB: memory_mb"));
        }
        let least = Self::LEAST_TASKS;
        if tasks.is_some_and(|tasks| tasks < least) {
            return Err(format!("{who} has fewer than {least} processes: tasks"));
        }
        Ok(())
    }
}

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookTime {
    /// Services are stopped, the link still points to the old release.
    BeforeSwitch,
    /// The link points to the new release, services are not started yet.
    AfterSwitch,
    /// After commit; its failure is reported and changes nothing.
    AfterCommit,
}

impl Manifest {
    /// Largest manifest that anyone reads, bytes: 100,000 entries of 160 bytes.
    pub const MAX_LENGTH: u64 = 16_000_000;
    /// Most entries in a manifest.
    pub const MAX_ENTRIES: usize = 100_000;

    /// A manifest of a tree, checked.
    ///
    /// # Errors
    /// As for [`Manifest::parse`].
    pub fn new(
        package: PackageName,
        entries: Vec<Entry>,
        services: Vec<Service>,
        health: Health,
        backup: Backup,
        hooks: Vec<Hook>,
    ) -> Result<Manifest, DocumentError> {
        let manifest = Manifest::unchecked(package, entries, services, health, backup, hooks);
        manifest.check()?;
        Ok(manifest)
    }

    /// The same before it is said how it is installed, and so before it can be checked.
    pub(crate) fn unchecked(
        package: PackageName,
        entries: Vec<Entry>,
        services: Vec<Service>,
        health: Health,
        backup: Backup,
        hooks: Vec<Hook>,
    ) -> Manifest {
        Manifest {
            kind: "manifest".into(),
            format: super::FORMAT,
            required: health.feature().map(str::to_owned).into_iter().collect(),
            package,
            installer: Installer::Tree,
            files: Vec::new(),
            entries,
            services,
            health,
            backup,
            hooks,
            reboot: Reboot::Never,
            data: Data::default(),
            mender: None,
            podman: None,
        }
    }

    /// The same, put on hosts by another installer.
    ///
    /// # Errors
    /// As for [`Manifest::parse`].
    pub fn installed_by(
        mut self,
        installer: Installer,
        files: Vec<PlacedAs>,
    ) -> Result<Manifest, DocumentError> {
        let before = self.installer.feature();
        self.required.retain(|feature| Some(feature.as_str()) != before);
        self.required.extend(installer.feature().map(str::to_owned));
        (self.installer, self.files) = (installer, files);
        self.check()?;
        Ok(self)
    }

    /// The same, installed by a Mender update module.
    ///
    /// # Errors
    /// As for [`Manifest::parse`].
    pub fn with_mender(mut self, payload: MenderPayload) -> Result<Manifest, DocumentError> {
        self.mender = Some(payload);
        self.installed_by(Installer::Mender, Vec::new())
    }

    /// The same, of a package with this image, which podman runs.
    ///
    /// # Errors
    /// As for [`Manifest::parse`].
    pub fn with_image(mut self, image: PodmanImage) -> Result<Manifest, DocumentError> {
        self.podman = Some(image);
        self.installed_by(Installer::Podman, Vec::new())
    }

    /// The same, of a package that may need a boot.
    #[must_use]
    pub fn with_reboot(mut self, reboot: Reboot) -> Manifest {
        self.required.retain(|feature| feature != REBOOT);
        if !reboot.is_never() {
            self.required.push(REBOOT.into());
        }
        self.reboot = reboot;
        self
    }

    /// The same, of a package that works on data. Checked with the rest.
    #[must_use]
    pub fn with_data(mut self, data: Data) -> Manifest {
        self.required.retain(|feature| feature != DATA);
        if !data.is_default() {
            self.required.push(DATA.into());
        }
        self.data = data;
        self
    }

    /// Reads a manifest whose digest and length have been checked against the release document.
    ///
    /// # Errors
    /// Anything that this program cannot follow to the letter.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, DocumentError> {
        let manifest: Manifest = parse_document_knowing(
            "manifest",
            bytes,
            &[REBOOT, PROBES, "files", "deb", DATA, "mender", "agent", "podman"],
        )?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The manifest's bytes, which the release document pins.
    pub fn to_bytes(&self) -> Vec<u8> {
        // No map with other than string keys and no fallible value: this cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Every content file that the package needs, each once.
    pub fn content(&self) -> BTreeSet<FileRef> {
        self.entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::File { content, .. } => Some(*content),
                Entry::Directory { .. } | Entry::Link { .. } => None,
            })
            .gathered()
    }

    fn check(&self) -> Result<(), DocumentError> {
        let invalid = |problem| Err(DocumentError::Invalid { document: "manifest", problem });
        if self.entries.len() > Self::MAX_ENTRIES {
            return invalid(format!("it has {} entries, more than 100000", self.entries.len()));
        }
        if let Err(problem) = check_entries(&self.entries) {
            return invalid(problem);
        }
        let names: BTreeSet<_> = self.services.iter().map(|service| &service.name).gathered();
        if names.len() != self.services.len() {
            return invalid("a service stands twice".into());
        }
        if let Some(service) = self.services.iter().find(|service| is_own_unit(&service.name)) {
            let name = &service.name;
            return invalid(format!(
                "{name} is a unit of Refit's own, and no service of a product"
            ));
        }
        if let Err(problem) = self.check_debs().and_then(|()| super::agent::check(self)) {
            return invalid(problem);
        }
        if let Err(problem) = self.check_mender() {
            return invalid(problem);
        }
        if let Err(problem) = self.check_podman() {
            return invalid(problem);
        }
        // A container runs what its image says.
        let has_own = self.installer.brings_units() || self.installer == Installer::Podman;
        let made = self.services.iter().filter(|_| !has_own);
        let commands = made.map(|service| &service.command);
        let commands = commands.chain(self.hooks.iter().map(|hook| &hook.command));
        if commands.into_iter().any(|command| command.first().is_none_or(String::is_empty)) {
            return invalid("a command is empty".into());
        }
        if let Some(path) = self.backup.paths.iter().find(|path| !is_absolute(path)) {
            return invalid(format!("{path:?} under backup is not an absolute path"));
        }
        let feature = self.installer.feature();
        if feature.is_some_and(|feature| !self.required.iter().any(|known| known == feature)) {
            return invalid("it names an installer, and not under `required`".into());
        }
        if let Err(problem) = self.check_files() {
            return invalid(problem);
        }
        if !self.reboot.is_never() && !self.required.iter().any(|feature| feature == REBOOT) {
            return invalid("it asks for a boot, and not under `required`".into());
        }
        if !self.data.is_default() && !self.required.iter().any(|feature| feature == DATA) {
            return invalid("it works on data, and does not say so under `required`".into());
        }
        if let Err(problem) = self.data.check() {
            return invalid(problem);
        }
        let probes = self.health.feature();
        if probes.is_some_and(|feature| !self.required.iter().any(|known| known == feature)) {
            return invalid("it has probes of a later kind, and not under `required`".into());
        }
        if self.hooks.iter().any(|hook| hook.timeout_seconds == 0) {
            return invalid("a hook has no time".into());
        }
        if let Err(problem) = self.hooks.iter().try_for_each(|hook| hook.needs.check()) {
            return invalid(problem);
        }
        match &self.health {
            Health::None if self.services.is_empty() => Ok(()),
            Health::None => invalid("it runs a service and has no health check".into()),
            // An agent looks at itself.
            Health::Checked(observed)
                if self.installer == Installer::Agent && observed.checks.is_empty() =>
            {
                observed.check_times().or_else(invalid)
            }
            Health::Checked(observed) => observed.check(&names).or_else(invalid),
        }
    }
}

impl Manifest {
    /// Debian packages and nothing else, whose units are their own.
    fn check_debs(&self) -> Result<(), String> {
        if self.installer != Installer::Deb {
            return Ok(());
        }
        let is_deb = |entry: &Entry| {
            let path = entry.path().as_str();
            matches!(entry, Entry::File { .. }) && path.ends_with(".deb") && !path.contains('/')
        };
        if self.entries.is_empty() || !self.entries.iter().all(is_deb) {
            return Err("a tree of Debian packages holds .deb files, and nothing else".into());
        }
        let own = |service: &Service| service.command.is_empty() && service.unit_file.is_none();
        match self.services.iter().find(|service| !own(service)) {
            Some(service) => {
                Err(format!("{} has a command or unit: its package brings that", service.name))
            }
            None => Ok(()),
        }
    }

    /// A payload where a module installs, and nowhere else.
    fn check_mender(&self) -> Result<(), String> {
        match (&self.mender, self.installer) {
            (Some(payload), Installer::Mender) => payload.check(&self.entries, &self.services),
            (None, Installer::Mender) => {
                Err("it is installed by an update module, and does not say by which".into())
            }
            (Some(_), _) => {
                Err("it says what an update module is told, and is installed by none".into())
            }
            (None, _) => Ok(()),
        }
    }

    /// An image where podman runs the services, and nowhere else.
    fn check_podman(&self) -> Result<(), String> {
        match (&self.podman, self.installer) {
            (Some(image), Installer::Podman) => image.check(&self.entries, &self.services),
            (None, Installer::Podman) => {
                Err("it is run by podman, and does not say which image".into())
            }
            (Some(_), _) => Err("it names an image, and is not run by podman".into()),
            (None, _) => match self.services.iter().find(|it| !it.options.is_empty()) {
                Some(service) => {
                    Err(format!("{} has options of podman, which does not run it", service.name))
                }
                None => Ok(()),
            },
        }
    }

    /// Each names something of the tree, once, and can be followed.
    fn check_files(&self) -> Result<(), String> {
        if self.installer != Installer::Files && !self.files.is_empty() {
            return Err("it says how files stand on the host, and places none there".into());
        }
        let entries: BTreeMap<_, _> =
            self.entries.iter().map(|entry| (entry.path(), entry)).gathered();
        let mut seen = BTreeSet::new();
        for file in &self.files {
            let path = &file.path;
            let Some(entry) = entries.get(path) else {
                return Err(format!("{path} under files is not in the tree"));
            };
            if !seen.insert(path) {
                return Err(format!("{path} stands twice under files"));
            }
            let plain = |name: &String| {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
                !name.is_empty() && !name.starts_with('-') && name.bytes().all(plain)
            };
            if !file.owner.iter().chain(&file.group).all(plain) {
                return Err(format!("{path} under files has an owner or group that is none"));
            }
            if file.mode.is_some_and(|mode| mode > 0o7777) {
                return Err(format!("{path} under files has a mode above 7777"));
            }
            let is_link = matches!(entry, Entry::Link { .. });
            if is_link && (file.mode.is_some() || !file.attributes.is_empty()) {
                return Err(format!("{path} under files is a link, which has an owner only"));
            }
            for (name, value) in &file.attributes {
                let known = ["user.", "security.", "system.posix_acl_", "trusted."];
                let named = known.iter().any(|space| name.starts_with(space));
                let is_plain = name.bytes().all(|byte| byte.is_ascii_graphic());
                if !named || !is_plain || PlacedAs::value(value).is_none() {
                    return Err(format!(
                        "{path} under files has an attribute that is none: {name}"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Units of Refit's own on a host: its two halves, the rescuer and its timer.
const OWN_UNITS: [&str; 4] = ["refit-agent", "refit-link", "refit-rescue", "refit-rescue-tick"];
/// How the names of the transient units begin in which it runs hooks, modules and dpkg.
const OWN_PREFIXES: [&str; 3] = ["refit-hook-", "refit-module-", "refit-dpkg-"];

/// Whether a service of this name would take the place of what updates the host, or brings it back.
fn is_own_unit(name: &PackageName) -> bool {
    let name = name.as_str();
    OWN_UNITS.contains(&name) || OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

pub(super) fn is_absolute(path: &str) -> bool {
    (path.starts_with('/') || path.starts_with("${"))
        && !path.chars().any(char::is_control)
        && path.split('/').all(|component| !matches!(component, "." | ".."))
}

/// Each path once, each parent a folder that stands before it, modes without set-user-id, links inside.
fn check_entries(entries: &[Entry]) -> Result<(), String> {
    let mut folders = BTreeSet::new();
    let mut paths = BTreeSet::new();
    for entry in entries {
        let path = entry.path();
        if !paths.insert(path.clone()) {
            return Err(format!("{path} stands twice"));
        }
        if path.parent().is_some_and(|parent| !folders.contains(&parent)) {
            return Err(format!("the folder of {path} does not stand before it"));
        }
        match entry {
            Entry::Directory { mode, .. } | Entry::File { mode, .. } if *mode > 0o777 => {
                return Err(format!("{path} has mode {mode:o}; at most 777 is allowed"));
            }
            Entry::Directory { .. } => {
                folders.insert(path.clone());
            }
            Entry::File { .. } => {}
            Entry::Link { target, .. } if !path.keeps_link_inside(target) => {
                return Err(format!("the link {path} points out of the package, to {target:?}"));
            }
            Entry::Link { .. } => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> PackagePath {
        PackagePath::parse(text).unwrap()
    }

    fn manifest(entries: Vec<Entry>) -> Result<Manifest, DocumentError> {
        let package = PackageName::parse("payments").unwrap();
        Manifest::new(package, entries, vec![], Health::None, Backup::default(), vec![])
    }

    fn file(at: &str, mode: u32) -> Entry {
        Entry::File { path: path(at), mode, content: FileRef::to(b"x") }
    }

    fn folder(at: &str) -> Entry {
        Entry::Directory { path: path(at), mode: 0o755 }
    }

    #[test]
    fn a_package_of_files_requires_that_its_reader_knows_and_says_nothing_that_cannot_be_done() {
        let plain = manifest(vec![folder("etc"), file("etc/key", 0o640)]).unwrap();
        let as_what = |text: &str| -> Vec<PlacedAs> {
            vec![serde_json::from_str(&text.replace('\'', "\"")).unwrap()]
        };
        let by = |files| plain.clone().installed_by(Installer::Files, files);
        let good = "{'path':'etc/key','owner':'app','group':'4','mode':2541,
            'attributes':{'user.note':'yes','security.capability':'0x0100ff'}}";
        let placed = by(as_what(good)).unwrap();
        assert_eq!(Manifest::parse(&placed.to_bytes()).unwrap(), placed);
        assert_eq!(placed.required, ["files"]);
        assert_eq!(PlacedAs::value("0x0100ff").unwrap(), [1, 0, 255]);
        let text = String::from_utf8(placed.to_bytes()).unwrap();
        let hidden = text.replace("\"required\":[\"files\"],", "");
        assert!(Manifest::parse(hidden.as_bytes()).is_err());
        for bad in [
            "{'path':'etc/other'}",
            "{'path':'etc/key','owner':'a:b'}",
            "{'path':'etc/key','owner':'-r'}",
            "{'path':'etc/key','mode':4096}",
            "{'path':'etc/key','attributes':{'note':'x'}}",
            "{'path':'etc/key','attributes':{'user.a':'0x1g'}}",
        ] {
            assert!(by(as_what(bad)).is_err(), "{bad}");
        }
        assert!(by([as_what(good), as_what(good)].concat()).is_err());
        assert!(plain.clone().installed_by(Installer::Tree, as_what(good)).is_err());
    }

    #[test]
    fn a_package_of_debian_packages_holds_nothing_else_and_makes_no_unit() {
        let service = |command: &[&str]| Service {
            name: PackageName::parse("payments").unwrap(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            environment: BTreeMap::new(),
            user: None,
            unit_file: None,
            options: vec![],
        };
        let check = Check {
            name: PackageName::parse("runs").unwrap(),
            probe: Probe::Unit { service: PackageName::parse("payments").unwrap() },
            timeout_seconds: 5,
        };
        let by = |entries: Vec<Entry>, command: &[&str]| {
            let health =
                Health::Checked(Observed { checks: vec![check.clone()], ..Observed::default() });
            let name = PackageName::parse("payments").unwrap();
            let services = vec![service(command)];
            let plain =
                Manifest::unchecked(name, entries, services, health, Backup::default(), vec![]);
            plain.installed_by(Installer::Deb, vec![])
        };
        let good = by(vec![file("payments_1.0_amd64.deb", 0o644)], &[]).unwrap();
        assert_eq!(Manifest::parse(&good.to_bytes()).unwrap(), good);
        assert!(by(vec![file("payments.deb", 0o644)], &["bin/payments"]).is_err());
        assert!(by(vec![], &[]).is_err());
        assert!(by(vec![file("a.deb", 0o644), file("README", 0o644)], &[]).is_err());
        assert!(by(vec![folder("d"), file("d/a.deb", 0o644)], &[]).is_err());
    }

    #[test]
    fn a_service_that_would_take_the_place_of_refit_itself_is_refused_by_name() {
        let named = |name: &str, installer| {
            let package = PackageName::parse("payments").unwrap();
            let service = PackageName::parse(name).unwrap();
            let probe = Probe::Unit { service: service.clone() };
            let check = Check { name: service.clone(), probe, timeout_seconds: 5 };
            let health = Health::Checked(Observed { checks: vec![check], ..Observed::default() });
            let command = match installer {
                Installer::Deb => vec![],
                _ => vec!["bin/serve".to_owned()],
            };
            let environment = BTreeMap::new();
            let service = Service {
                name: service,
                command,
                environment,
                user: None,
                unit_file: None,
                options: vec![],
            };
            let entries = vec![file("a.deb", 0o644)];
            let services = vec![service];
            Manifest::unchecked(package, entries, services, health, Backup::default(), vec![])
                .installed_by(installer, vec![])
        };
        for installer in [Installer::Tree, Installer::Files, Installer::Deb] {
            for own in [
                "refit-agent",
                "refit-link",
                "refit-rescue",
                "refit-rescue-tick",
                "refit-hook-1",
                "refit-module-1",
                "refit-dpkg-1",
            ] {
                let error = named(own, installer).unwrap_err().to_string();
                assert!(error.contains(&format!("{own} is a unit of Refit's own")), "{error}");
            }
            for other in ["refit-agent-exporter", "refit", "refit-server", "agent"] {
                assert!(named(other, installer).is_ok(), "{other}");
            }
        }
    }

    #[test]
    fn a_package_that_needs_a_boot_requires_that_its_reader_knows_how() {
        let plain = manifest(vec![]).unwrap();
        assert!(!String::from_utf8(plain.to_bytes()).unwrap().contains("reboot"));
        for reboot in [Reboot::WhenRequired, Reboot::Always] {
            let asking = plain.clone().with_reboot(reboot);
            assert_eq!(Manifest::parse(&asking.to_bytes()).unwrap(), asking);
            let text = String::from_utf8(asking.to_bytes()).unwrap();
            let hidden = text.replace("\"required\":[\"reboot\"],", "");
            assert_ne!(hidden, text);
            let said = Manifest::parse(hidden.as_bytes()).unwrap_err().to_string();
            assert!(said.contains("under `required`"), "{said}");
            assert_eq!(asking.with_reboot(Reboot::Never), plain);
        }
    }

    #[test]
    fn a_package_that_works_on_data_requires_that_its_reader_knows_how() {
        let plain = manifest(vec![]).unwrap();
        assert!(!String::from_utf8(plain.to_bytes()).unwrap().contains("data"));
        let data = Data { paths: vec!["/var/lib/payments".into()], ..Data::default() };
        let working = plain.clone().with_data(data);
        assert_eq!(Manifest::parse(&working.to_bytes()).unwrap(), working);
        let text = String::from_utf8(working.to_bytes()).unwrap();
        let hidden = text.replace("\"required\":[\"data\"],", "");
        assert_ne!(hidden, text);
        assert!(Manifest::parse(hidden.as_bytes()).is_err());
        assert_eq!(working.with_data(Data::default()), plain);
    }

    #[test]
    fn a_manifest_reads_back_as_it_was_written() {
        let link = Entry::Link { path: path("bin/b"), target: "a".into() };
        let written = manifest(vec![folder("bin"), file("bin/a", 0o755), link]).unwrap();
        assert_eq!(Manifest::parse(&written.to_bytes()).unwrap(), written);
        assert_eq!(written.content(), BTreeSet::from([FileRef::to(b"x")]));
    }

    #[test]
    fn a_hook_says_what_it_needs_and_one_of_before_needs_nothing() {
        let plain = r#"{"when":"after-switch","command":["x"],"timeout_seconds":5}"#;
        let hook: Hook = serde_json::from_str(plain).unwrap();
        assert_eq!(hook.needs, HookNeeds::default());
        let with = |needs: &str| {
            let text = plain.replace("}", &format!(",{needs}}}"));
            let hook: Hook = serde_json::from_str(&text).unwrap();
            let package = PackageName::parse("payments").unwrap();
            Manifest::new(package, vec![], vec![], Health::None, Backup::default(), vec![hook])
        };
        let good = with(r#""writes":["/etc/x","${HOME_OF_X}/y"],"network":true,"memory_mb":16"#);
        let good = good.unwrap();
        assert_eq!(Manifest::parse(&good.to_bytes()).unwrap(), good);
        assert!(good.hooks[0].needs.network && !good.hooks[0].needs.systemd);
        for bad in
            [r#""writes":["etc"]"#, r#""writes":["/a/../b"]"#, r#""tasks":0"#, r#""memory_mb":1"#]
        {
            assert!(with(bad).is_err(), "{bad}");
        }
    }

    /// CVE-2021-38511, CVE-2026-33055, CVE-2026-33056, RUSTSEC-2025-0110, CVE-2025-62518.
    #[test]
    fn a_manifest_that_leaves_its_folder_is_refused() {
        let good = manifest(vec![folder("bin"), file("bin/a", 0o755)]).unwrap();
        for escape in ["../../etc/cron.d/x", "/etc/passwd", "bin/../../x", "bin//a", "."] {
            let text = String::from_utf8(good.to_bytes()).unwrap().replace("bin/a", escape);
            assert!(Manifest::parse(text.as_bytes()).is_err(), "{escape}");
        }
        let out = Entry::Link { path: path("etc"), target: "../../../etc".into() };
        assert!(manifest(vec![out]).is_err());
        // A link may not stand in for a folder: what lies below it would leave the package.
        let link = Entry::Link { path: path("bin"), target: "lib".into() };
        assert!(manifest(vec![folder("lib"), link, file("bin/a", 0o755)]).is_err());
    }

    /// CVE-2021-38511, CVE-2026-33055, CVE-2026-33056, RUSTSEC-2025-0110, CVE-2025-62518.
    fn checked(checks: &str) -> Result<Manifest, DocumentError> {
        let service = Service {
            name: PackageName::parse("payments").unwrap(),
            command: vec!["bin/serve".into()],
            environment: BTreeMap::new(),
            user: None,
            unit_file: None,
            options: vec![],
        };
        let checks = serde_json::from_str(&checks.replace('\'', "\"")).unwrap();
        let health = Health::Checked(Observed { checks, ..Observed::default() });
        let package = PackageName::parse("payments").unwrap();
        Manifest::new(package, vec![], vec![service], health, Backup::default(), vec![])
    }

    const ASKS: &str = "{'name':'runs','kind':'unit','service':'payments'}";

    #[test]
    fn probes_of_a_later_kind_are_required_of_the_reader_and_the_first_ones_are_not() {
        let first = "{'name':'a','kind':'http','url':'http://x/','status':204}";
        assert!(checked(&format!("[{ASKS},{first}]")).unwrap().required.is_empty());
        for later in [
            "{'name':'a','kind':'http','url':'http://x/','body':'ok'}",
            "{'name':'a','kind':'grpc','address':'x:1','service':'payments.Ledger'}",
            "{'name':'a','kind':'errors','service':'payments'}",
            "{'name':'a','kind':'cpu','service':'payments','growth':{'percent':150,'least':9}}",
            "{'name':'a','kind':'memory','service':'payments','growth':{'most':1000}}",
            "{'name':'a','kind':'descriptors','service':'payments'}",
            "{'name':'a','kind':'disk','paths':['/var/lib/payments']}",
        ] {
            let manifest = checked(&format!("[{ASKS},{later}]")).unwrap();
            assert_eq!(manifest.required, ["probes"], "{later}");
            assert_eq!(Manifest::parse(&manifest.to_bytes()).unwrap(), manifest);
            let text = String::from_utf8(manifest.to_bytes()).unwrap();
            let hidden = text.replace("\"required\":[\"probes\"],", "");
            assert!(Manifest::parse(hidden.as_bytes()).is_err(), "{later}");
        }
    }

    #[test]
    fn a_check_that_could_never_fail_or_be_told_is_refused() {
        for wrong in [
            "{'name':'a','kind':'cpu','service':'other'}",
            "{'name':'a','kind':'cpu','service':'payments','growth':{'percent':99}}",
            "{'name':'a','kind':'http','url':'http://x/','body':''}",
            "{'name':'a','kind':'disk','paths':[]}",
            "{'name':'a','kind':'disk','paths':['var']}",
            "{'name':'runs','kind':'cpu','service':'payments'}",
        ] {
            assert!(checked(&format!("[{ASKS},{wrong}]")).is_err(), "{wrong}");
        }
        // Nobody could say anything on a host where nothing ran before.
        let compares = "{'name':'a','kind':'memory','service':'payments'}";
        assert!(checked(&format!("[{compares}]")).is_err());
        let bounded = "{'name':'a','kind':'memory','service':'payments','growth':{'most':9}}";
        assert!(checked(&format!("[{bounded}]")).is_ok());
    }

    #[test]
    fn a_manifest_with_a_path_twice_or_a_set_user_id_bit_is_refused() {
        assert!(manifest(vec![file("a", 0o644), file("a", 0o755)]).is_err());
        assert!(manifest(vec![file("a", 0o4755)]).is_err());
    }

    #[test]
    fn an_unknown_required_feature_is_refused_by_name_and_an_unknown_member_is_ignored() {
        let text = String::from_utf8(manifest(vec![]).unwrap().to_bytes()).unwrap();
        let optional = text.replacen('{', "{\"colour\":1,", 1);
        assert!(Manifest::parse(optional.as_bytes()).is_ok());
        let required = text.replacen('{', "{\"required\":[\"convert-data\"],", 1);
        let error = Manifest::parse(required.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("convert-data"), "{error}");
    }
}
