//! The agent's own package: what it must be, so that a host may hand itself over to what is in it. A release
//! of the reserved product is one such package and nothing else, and no other product has one.

use super::{DocumentError, Entry, Health, Installer, Manifest};
use crate::names::Product;

/// The product that is the agent itself, and the name of its one package.
pub const AGENT: &str = "refit-agent";
/// The agent's program in its package.
pub const AGENT_PROGRAM: &str = "bin/refit-agent";
/// The rescuer's, beside it.
pub const RESCUE_PROGRAM: &str = "bin/refit-rescue";

/// Whether a product is the agent itself.
pub fn is_agent(product: &Product) -> bool {
    product.as_str() == AGENT
}

/// Whether the packages that a release has for one platform are what its product may be: the agent is one
/// package of its own kind, and nobody else has such a package.
///
/// # Errors
/// What is wrong.
pub fn check_agent<'a>(
    product: &Product,
    packages: impl IntoIterator<Item = &'a Manifest>,
) -> Result<(), DocumentError> {
    let kinds: Vec<_> = packages.into_iter().map(|manifest| manifest.installer).collect();
    let problem = match (is_agent(product), kinds.as_slice()) {
        (true, [Installer::Agent]) => return Ok(()),
        (true, _) => {
            format!("{AGENT} is the agent itself: one package with `installer = \"agent\"`")
        }
        (false, kinds) if kinds.contains(&Installer::Agent) => {
            format!("only the product {AGENT} has a package with `installer = \"agent\"`")
        }
        (false, _) => return Ok(()),
    };
    Err(DocumentError::Invalid { document: "release", problem })
}

/// Both programs, and nothing that would run beside them: the agent is started by its own unit alone.
pub(super) fn check(manifest: &Manifest) -> Result<(), String> {
    if manifest.installer != Installer::Agent {
        return Ok(());
    }
    if manifest.package.as_str() != AGENT {
        return Err(format!("the agent's package is {AGENT}, not {}", manifest.package));
    }
    for program in [AGENT_PROGRAM, RESCUE_PROGRAM] {
        let runs = |entry: &Entry| match entry {
            Entry::File { path, mode, .. } => path.as_str() == program && mode & 0o100 != 0,
            Entry::Directory { .. } | Entry::Link { .. } => false,
        };
        if !manifest.entries.iter().any(runs) {
            return Err(format!("the agent's package has no program {program}"));
        }
    }
    let more = !manifest.services.is_empty()
        || !manifest.hooks.is_empty()
        || !manifest.backup.paths.is_empty()
        || manifest.data != super::Data::default()
        || manifest.reboot != super::Reboot::Never;
    if more {
        return Err("the agent's package has no services, hooks, backup or boot of its own".into());
    }
    match manifest.health {
        Health::Checked(_) => Ok(()),
        Health::None => {
            Err("the agent's health is always looked at: write [health.checked]".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        names::PackageName,
        package::{Backup, FileRef, Hook, HookNeeds, HookTime, Observed, PackagePath},
    };

    fn entries(programs: &[(&str, u32)]) -> Vec<Entry> {
        let path = |text: &str| PackagePath::parse(text).unwrap();
        let mut entries = vec![Entry::Directory { path: path("bin"), mode: 0o755 }];
        entries.extend(programs.iter().map(|(program, mode)| Entry::File {
            path: path(program),
            mode: *mode,
            content: FileRef::to(b"x"),
        }));
        entries
    }

    fn made(
        name: &str,
        programs: &[(&str, u32)],
        hooks: Vec<Hook>,
    ) -> Result<Manifest, DocumentError> {
        let health = Health::Checked(Observed::default());
        let name = PackageName::parse(name).unwrap();
        let all =
            Manifest::unchecked(name, entries(programs), vec![], health, Backup::default(), hooks);
        all.installed_by(Installer::Agent, vec![])
    }

    const BOTH: [(&str, u32); 2] = [(AGENT_PROGRAM, 0o755), (RESCUE_PROGRAM, 0o755)];

    #[test]
    fn the_agents_package_has_both_programs_requires_its_reader_to_know_and_runs_nothing_beside_them()
     {
        let good = made(AGENT, &BOTH, vec![]).unwrap();
        assert_eq!(Manifest::parse(&good.to_bytes()).unwrap(), good);
        assert_eq!(good.required, ["agent"]);
        assert!(made("payments", &BOTH, vec![]).is_err());
        assert!(made(AGENT, &BOTH[..1], vec![]).is_err());
        assert!(made(AGENT, &[BOTH[0], (RESCUE_PROGRAM, 0o644)], vec![]).is_err());
        let hook = Hook {
            when: HookTime::AfterSwitch,
            command: vec!["x".into()],
            timeout_seconds: 5,
            needs: HookNeeds::default(),
        };
        assert!(made(AGENT, &BOTH, vec![hook]).is_err());
        let mut blind = good;
        blind.health = Health::None;
        assert!(Manifest::parse(&blind.to_bytes()).is_err());
    }

    #[test]
    fn the_reserved_product_is_the_agent_and_no_other_product_is() {
        let agent = made(AGENT, &BOTH, vec![]).unwrap();
        let tree = agent.clone().installed_by(Installer::Tree, vec![]).unwrap_err();
        assert!(tree.to_string().contains("no checks"), "{tree}");
        let (own, other) = (Product::parse(AGENT).unwrap(), Product::parse("payments").unwrap());
        assert!(check_agent(&own, [&agent]).is_ok());
        assert!(check_agent(&other, [&agent]).is_err());
        assert!(check_agent(&own, []).is_err(), "the agent does not remove itself");
        assert!(check_agent(&own, [&agent, &agent]).is_err());
        assert!(check_agent(&other, []).is_ok());
    }
}
