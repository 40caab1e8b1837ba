//! The `podman` installer: services in containers, of an image that the package brings as an OCI layout. The
//! release stands in its own folder first; from there podman takes the image into its storage, by digest,
//! without a registry or a network.
//!
//! What podman stores is a copy. The layout in the release's folder stays for as long as the release runs or a
//! backup leads to it, and each service's unit takes the image from there once more where podman has lost it.
//! So whatever somebody prunes, there is a way back. The script that does it is part of the units and of the way
//! back, and needs no agent.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use refit_proto::{
    gathered::Gathered as _,
    names::{Digest, Product},
    package::{Entry, Installer, PodmanImage, podman::IMAGE},
};

use super::{
    deb::in_unit,
    documents::{Documents, Package},
    preflight::{Need, Purpose, on_disk},
    process::{Ended, Program, system_program},
    service::Container,
};
use crate::{
    update::InstallId,
    way_back::{UndoStep, Undoing},
};

const SCRIPT: &str = include_str!("podman/image.sh");
/// Longer than any image takes from a disk into podman's storage, and than what the script allows each call.
const LONGEST: Duration = Duration::from_secs(1800);
/// Longer than podman takes for an answer, also while it removes what takes long.
const ANSWER: Duration = Duration::from_secs(120);
/// All names of images in podman's storage that are Refit's begin so, then product and digest.
const NAMES: &str = "localhost/refit";
/// Where podman keeps each layer while it comes in.
const TEMPORARY: &str = "/var/tmp";
/// As much as is read of the names of images.
const LONGEST_LIST: usize = 1 << 20;

/// How often podman was asked.
static CALLS: AtomicU64 = AtomicU64::new(0);

/// Why a container can't be run, or its image not be brought in.
#[derive(Debug, thiserror::Error)]
pub enum PodmanError {
    /// It is not installed.
    #[error(
        "the release brings a container's image, and this host has no podman (`apt-get install podman`)"
    )]
    NoPodman,
    /// Units are what containers run in.
    #[error("the release brings a container, and services of this host are not run by systemd")]
    NoSystemd,
    /// podman did not take the image.
    #[error("podman does not take the image {name} from {}: {said}", layout.display())]
    Refused {
        /// Its name.
        name: String,
        /// Where its layout is.
        layout: PathBuf,
        /// What podman said.
        said: String,
    },
    /// podman does not answer as it should.
    #[error("podman can't be asked for {what}: {why}")]
    Unasked {
        /// For what.
        what: &'static str,
        /// Why.
        why: String,
    },
}

/// An image of a release, as podman has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Image {
    /// Its name in podman's storage.
    pub name: String,
    /// Its id there.
    pub id: Digest,
    /// Its layout, in the release's folder.
    pub layout: PathBuf,
}

impl Image {
    /// That of a package, which stands in this folder.
    pub fn of(product: &Product, image: &PodmanImage, package: &Path) -> Image {
        let name = format!("{}{}", names_of(product), image.manifest);
        Image { name, id: image.config, layout: package.join(IMAGE) }
    }

    /// What to run so that podman has it; `how`: `load`, or `try` where going on counts more.
    pub(super) fn command(&self, how: &str, podman: &Path) -> Vec<String> {
        let mut command = script(how, podman);
        command.push(self.layout.display().to_string());
        command.extend([self.name.clone(), self.id.to_string()]);
        command
    }
}

/// How the names of a product's images begin. A product's name may end with a hyphen, a part of an image's not.
fn names_of(product: &Product) -> String {
    format!("{NAMES}/{product}-image/")
}

fn script(how: &str, podman: &Path) -> Vec<String> {
    // One line, as it can stand in a unit too.
    let lines = SCRIPT.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let text = lines.collect::<Vec<_>>().join(" ");
    let words = ["/bin/sh", "-c", &text, "refit-image", how].map(str::to_owned);
    words.into_iter().chain([podman.display().to_string()]).collect()
}

/// Where podman stands, or would.
pub fn podman() -> PathBuf {
    system_program("podman").unwrap_or_else(|| "/usr/bin/podman".into())
}

/// The packages of a release that are containers.
fn packages(release: &Documents) -> impl Iterator<Item = (&Package, &PodmanImage)> {
    release.packages.iter().filter_map(|package| match package.manifest.installer {
        Installer::Podman => package.manifest.podman.as_ref().map(|image| (package, image)),
        Installer::Tree
        | Installer::Files
        | Installer::Deb
        | Installer::Mender
        | Installer::Agent => None,
    })
}

/// The container in which a service of this package runs; `folder` is the package's own.
pub fn container(product: &Product, package: &Package, folder: &Path) -> Option<Container> {
    let image = package.manifest.podman.as_ref()?;
    let image = Image::of(product, image, folder);
    Some(Container { podman: podman(), image, options: Vec::new() })
}

/// The images of a release that stands, or will, in this folder.
pub fn images(release: &Documents, folder: &Path) -> BTreeSet<Image> {
    let product = &release.release.product;
    let image = |(package, image): (&Package, &PodmanImage)| {
        Image::of(product, image, &folder.join(package.name.as_str()))
    };
    packages(release).map(image).gathered()
}

/// The installer, on this host.
pub struct Containers {
    podman: PathBuf,
    /// systemd-run, where systemd runs the host: podman then works in a unit of its own, and not within the
    /// limits of the agent's.
    systemd_run: Option<PathBuf>,
}

impl Containers {
    /// On this host; under systemd, podman works in a unit of its own.
    pub fn new(podman: PathBuf, systemd: bool) -> Containers {
        let systemd_run = system_program("systemd-run").filter(|_| systemd);
        Containers { podman, systemd_run }
    }

    /// Whether a release brings images.
    pub fn brings(release: &Documents) -> bool {
        packages(release).next().is_some()
    }

    /// Whether containers can be run here.
    ///
    /// # Errors
    /// What is missing.
    pub fn ready(&self, systemd: bool) -> Result<(), PodmanError> {
        if !self.podman.is_file() {
            return Err(PodmanError::NoPodman);
        }
        if !systemd {
            return Err(PodmanError::NoSystemd);
        }
        self.storage().map(drop)
    }

    /// The folder of podman's storage.
    fn storage(&self) -> Result<PathBuf, PodmanError> {
        let words = ["info", "--format", "{{.Store.GraphRoot}}"];
        let said = self.ask("its storage", &words.map(str::to_owned))?;
        match said.lines().last() {
            Some(path) if path.starts_with('/') => Ok(path.into()),
            Some(_) | None => Err(PodmanError::Unasked { what: "its storage", why: said }),
        }
    }

    /// What podman writes when it takes the images of a release. An image that it has already takes nothing; so
    /// much is not told here.
    ///
    /// # Errors
    /// If podman can't be asked where it stores images.
    pub fn needs(&self, release: &Documents) -> Result<Vec<Need>, PodmanError> {
        let mut needs = Vec::new();
        for (package, image) in packages(release) {
            let need = |at, bytes| Need { purpose: Purpose::Place, at, bytes, inodes: 0 };
            let files = package.manifest.entries.iter().map(|entry| match entry {
                Entry::File { content, .. } => on_disk(content.length),
                Entry::Directory { .. } | Entry::Link { .. } => 0,
            });
            needs.push(need(self.storage()?, image.bytes));
            needs.push(need(TEMPORARY.into(), files.fold(0, u64::saturating_add)));
        }
        Ok(needs)
    }

    /// Has podman take the images of a release that stands in this folder, and reads from it that they are the
    /// ones that were signed. Nothing runs from them yet. Safe to repeat.
    ///
    /// # Errors
    /// If podman does not take one.
    pub fn load(
        &self,
        install: &InstallId,
        release: &Documents,
        folder: &Path,
    ) -> Result<(), PodmanError> {
        for (number, image) in images(release, folder).iter().enumerate() {
            let said = self.run(&format!("refit-image-{install}-{number}"), image);
            said.map_err(|said| PodmanError::Refused {
                name: image.name.clone(),
                layout: image.layout.clone(),
                said,
            })?;
        }
        Ok(())
    }

    fn run(&self, name: &str, image: &Image) -> Result<(), String> {
        let mut command = image.command("load", &self.podman).into_iter();
        let plain = Program {
            program: command.next().unwrap_or_default().into(),
            arguments: command.collect(),
            folder: "/".into(),
            environment: Default::default(),
            mark: format!("{name} {}", self.podman.display()),
        };
        let program = match &self.systemd_run {
            Some(systemd_run) => {
                self.end(name);
                in_unit(systemd_run, name, plain)
            }
            None => plain,
        };
        match program.run(LONGEST).map_err(|error| format!("it does not start: {error}"))? {
            Ended::Exited { code: Some(0), .. } => Ok(()),
            Ended::Exited { output, .. } => Err(output),
            Ended::TimedOut { output } => {
                Err(format!("it took longer than {} s: {output}", LONGEST.as_secs()))
            }
        }
    }

    /// Ends what an agent that is gone has left at work; of it nothing counts. One that can't be ended is in the way of
    /// the next, which says so.
    fn end(&self, name: &str) {
        let Some(systemctl) = system_program("systemctl") else { return };
        let (systemctl, unit) = (systemctl.display().to_string(), format!("{name}.service"));
        let _not_there = self.call("an end", vec![systemctl, "stop".into(), "--".into(), unit]);
    }

    /// Removes the images of a product from podman's storage, but for these. One that a container still uses
    /// stays, until this is called again.
    ///
    /// # Errors
    /// If podman can't be asked.
    pub fn clean(&self, product: &Product, keep: &BTreeSet<Image>) -> Result<(), PodmanError> {
        let keep: BTreeSet<&str> = keep.iter().map(|image| image.name.as_str()).gathered();
        let begins = names_of(product);
        let format = ["images", "--no-trunc", "--format", "{{.Repository}}"].map(str::to_owned);
        let listed = self.ask("its images", &format)?;
        let surplus = listed
            .lines()
            .filter(|name| name.starts_with(&begins) && !keep.contains(name))
            .map(str::to_owned);
        let mut command = script("drop", &self.podman);
        let words = command.len();
        command.extend(surplus);
        if command.len() == words {
            return Ok(());
        }
        self.call("the end of old images", command).map(drop)
    }

    fn ask(&self, what: &'static str, words: &[String]) -> Result<String, PodmanError> {
        let podman = self.podman.display().to_string();
        self.call(what, std::iter::once(podman).chain(words.iter().cloned()).collect())
    }

    fn call(&self, what: &'static str, command: Vec<String>) -> Result<String, PodmanError> {
        let unasked = |why: String| PodmanError::Unasked { what, why };
        let mut words = command.into_iter();
        let program = Program {
            program: words.next().unwrap_or_default().into(),
            arguments: words.collect(),
            folder: "/".into(),
            environment: Default::default(),
            // Of its own for each call: another call's must not end with this one.
            mark: format!("podman {}", CALLS.fetch_add(1, Ordering::Relaxed)),
        };
        match program
            .run_keeping(ANSWER, LONGEST_LIST)
            .map_err(|error| unasked(error.to_string()))?
        {
            Ended::Exited { code: Some(0), output } => Ok(output),
            Ended::Exited { output, .. } => Err(unasked(output)),
            Ended::TimedOut { output } => {
                Err(unasked(format!("it took longer than {} s: {output}", ANSWER.as_secs())))
            }
        }
    }

    /// The steps of a way back from `after` to `before`, with the folders that they stand in: containers and images
    /// that only `after` has go, and those of `before` are seen to. Services are stopped by then.
    pub fn undo_steps(
        &self,
        before: Option<(&Documents, &Path)>,
        after: (&Documents, &Path),
    ) -> Vec<UndoStep> {
        let old = before.map(|(release, folder)| images(release, folder)).unwrap_or_default();
        let kept: BTreeSet<&String> = old.iter().map(|image| &image.name).gathered();
        let new = images(after.0, after.1);
        let gone = new.iter().map(|image| &image.name).filter(|name| !kept.contains(name));
        let services = packages(after.0).flat_map(|(package, _)| &package.manifest.services);
        // Containers first: podman removes no image that one is made of.
        let names: Vec<String> = services
            .map(|service| Container::name_of(service.name.as_str()))
            .chain(gone.cloned())
            .collect();
        let timeout_seconds = u32::try_from(LONGEST.as_secs()).unwrap_or(u32::MAX);
        let run = |command| UndoStep::from(Undoing::Run { command, timeout_seconds });
        let mut steps = Vec::new();
        if !names.is_empty() {
            let command = script("drop", &self.podman).into_iter().chain(names).collect();
            steps.push(run(command));
        }
        steps.extend(old.iter().map(|image| run(image.command("try", &self.podman))));
        steps
    }
}

#[cfg(test)]
pub(crate) mod tests;
