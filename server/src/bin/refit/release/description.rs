//! `refit.toml`: what the publisher writes beside the tree. One package, or several under `[[package]]`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use refit_proto::{
    names::{PackageName, Platform},
    package::{
        Backup, ChangePlan, Check, Data, Health, Hook, Installer, MenderPayload, Observed,
        PackageDescription, PackagePath, PlacedAs, Reboot, Removal, Service,
    },
};
use serde::{Deserialize, Serialize};

use crate::toml_text;

/// What the file says of the whole release, and of each package.
#[derive(Debug)]
pub(super) struct Description {
    pub(super) plan: ChangePlan,
    pub(super) links: Vec<String>,
    pub(super) content: Content,
}

/// What a release does on a host.
#[derive(Debug)]
pub(super) enum Content {
    /// It brings these; at least one.
    Packages(Vec<Described>),
    /// It removes the product.
    Removal(Removal),
}

/// One package.
#[derive(Debug)]
pub(super) struct Described {
    /// Where its tree lies.
    pub(super) tree: PathBuf,
    /// By default the one of the command line.
    pub(super) platform: Option<Platform>,
    pub(super) description: PackageDescription,
}

/// The file of a release that removes the product: there is no tree.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Removing {
    remove: Removal,
    #[serde(default)]
    plan: ChangePlan,
    #[serde(default)]
    links: Vec<String>,
}

/// The file with one package: its tree is `tree`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct One {
    #[serde(default)]
    plan: ChangePlan,
    #[serde(default)]
    links: Vec<String>,
    package: Option<PackageName>,
    #[serde(default)]
    services: Vec<Service>,
    health: WrittenHealth,
    #[serde(default)]
    backup: Backup,
    #[serde(default)]
    hooks: Vec<Hook>,
    #[serde(default)]
    reboot: Reboot,
    #[serde(default)]
    installer: Installer,
    #[serde(default)]
    files: Vec<PlacedAs>,
    #[serde(default)]
    data: Data,
    mender: Option<MenderPayload>,
}

/// The file with several.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Several {
    #[serde(default)]
    plan: ChangePlan,
    #[serde(default)]
    links: Vec<String>,
    package: Vec<OneOfSeveral>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct OneOfSeveral {
    name: PackageName,
    tree: String,
    platform: Option<Platform>,
    #[serde(default)]
    services: Vec<Service>,
    health: WrittenHealth,
    #[serde(default)]
    backup: Backup,
    #[serde(default)]
    hooks: Vec<Hook>,
    #[serde(default)]
    reboot: Reboot,
    #[serde(default)]
    installer: Installer,
    #[serde(default)]
    files: Vec<PlacedAs>,
    #[serde(default)]
    data: Data,
    mender: Option<MenderPayload>,
}

/// [`Health`], with defaults for what is left out. A manifest says everything.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum WrittenHealth {
    Checked(WrittenObserved),
    None,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WrittenObserved {
    #[serde(default)]
    checks: Vec<Check>,
    start_seconds: Option<u32>,
    interval_seconds: Option<u32>,
    failures: Option<u32>,
    good_seconds: Option<u32>,
    max_seconds: Option<u32>,
    baseline_seconds: Option<u32>,
}

impl From<WrittenHealth> for Health {
    fn from(written: WrittenHealth) -> Health {
        let usual = Observed::default();
        match written {
            WrittenHealth::Checked(written) => Health::Checked(Observed {
                checks: written.checks,
                start_seconds: written.start_seconds.unwrap_or(usual.start_seconds),
                interval_seconds: written.interval_seconds.unwrap_or(usual.interval_seconds),
                failures: written.failures.unwrap_or(usual.failures),
                good_seconds: written.good_seconds.unwrap_or(usual.good_seconds),
                max_seconds: written.max_seconds.unwrap_or(usual.max_seconds),
                baseline_seconds: written.baseline_seconds.unwrap_or(usual.baseline_seconds),
            }),
            WrittenHealth::None => Health::None,
        }
    }
}

/// Reads `refit.toml` in a folder.
pub(super) fn read(folder: &Path) -> anyhow::Result<Description> {
    let path = folder.join("refit.toml");
    let text = toml_text::text(&path).context(
        "a release is built from a folder with a refit.toml\nhelp: docs/FILES.md shows one",
    )?;
    parse(folder, &path.display().to_string(), &text)
}

fn parse(folder: &Path, name: &str, text: &str) -> anyhow::Result<Description> {
    let table = toml::from_str::<toml::Table>(text).unwrap_or_default();
    if table.contains_key("remove") {
        let Removing { remove, plan, links } = toml_text::parse(name, text)?;
        return Ok(Description { plan, links, content: Content::Removal(remove) });
    }
    if !table.get("package").is_some_and(toml::Value::is_array) {
        let One {
            plan,
            links,
            package,
            services,
            health,
            backup,
            hooks,
            reboot,
            installer,
            files,
            data,
            mender,
        } = toml_text::parse(name, text)?;
        let health = health.into();
        let description = PackageDescription {
            package,
            services,
            health,
            backup,
            hooks,
            reboot,
            installer,
            files,
            data,
            mender,
        };
        let tree = folder.join("tree");
        let packages = vec![Described { tree, platform: None, description }];
        return Ok(Description { plan, links, content: Content::Packages(packages) });
    }
    let Several { plan, links, package } = toml_text::parse(name, text)?;
    ensure!(!package.is_empty(), "{name}: there is no package");
    let packages = package.into_iter().map(|one| one.described(folder, name));
    let content = Content::Packages(packages.collect::<anyhow::Result<_>>()?);
    Ok(Description { plan, links, content })
}

impl OneOfSeveral {
    fn described(self, folder: &Path, name: &str) -> anyhow::Result<Described> {
        let OneOfSeveral {
            name: package,
            tree,
            platform,
            services,
            health,
            backup,
            hooks,
            reboot,
            installer,
            files,
            data,
            mender,
        } = self;
        let Ok(inside) = PackagePath::parse(&tree) else {
            bail!("{name}: the tree {tree:?} of {package} is not a folder beside the file");
        };
        let (package, health) = (Some(package), health.into());
        let description = PackageDescription {
            package,
            services,
            health,
            backup,
            hooks,
            reboot,
            installer,
            files,
            data,
            mender,
        };
        Ok(Described { tree: folder.join(inside.as_str()), platform, description })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Description> {
        super::parse(Path::new("/src"), "refit.toml", text)
    }

    fn packages(read: &Description) -> &[Described] {
        let Content::Packages(packages) = &read.content else { panic!("{read:?}") };
        packages
    }

    const ONE: &str = r#"
        links = ["https://docs.example/payments"]
        [[services]]
        name = "payments"
        command = ["bin/payments"]
        [health.checked]
        good_seconds = 5
        checks = [{ name = "answers", kind = "tcp", address = "127.0.0.1:80" }]
        [plan]
        goal = "faster"
    "#;

    #[test]
    fn a_file_describes_one_package_with_the_tree_beside_it() {
        let read = parse(ONE).unwrap();
        assert_eq!(read.plan.goal, "faster");
        let [one] = packages(&read) else { panic!("{read:?}") };
        assert_eq!(one.tree, Path::new("/src/tree"));
        let Health::Checked(observed) = &one.description.health else { panic!() };
        assert_eq!((observed.good_seconds, observed.failures), (5, Observed::default().failures));
    }

    #[test]
    fn a_file_describes_several_packages_with_trees_of_their_own() {
        let read = parse(
            r#"
            [[package]]
            name = "server"
            tree = "out/server"
            health = "none"
            [[package]]
            name = "tools"
            tree = "out/tools"
            platform = "any"
            health = "none"
        "#,
        )
        .unwrap();
        let packages = packages(&read);
        let trees: Vec<_> = packages.iter().map(|one| one.tree.to_str().unwrap()).collect();
        assert_eq!(trees, ["/src/out/server", "/src/out/tools"]);
        assert!(packages[1].platform.as_ref().is_some_and(|name| name.as_str() == "any"));
    }

    #[test]
    fn a_file_describes_that_the_product_goes_and_what_goes_with_it() {
        let read = parse("[remove]\n[plan]\ngoal = \"moved\"").unwrap();
        assert_eq!(read.plan.goal, "moved");
        let Content::Removal(plain) = read.content else { panic!("{read:?}") };
        assert_eq!(plain, Removal::default());
        let read = parse("[remove]\npaths = [\"/var/lib/payments\"]\npurge = true").unwrap();
        let Content::Removal(more) = read.content else { panic!("{read:?}") };
        assert_eq!((more.paths, more.purge), (vec!["/var/lib/payments".to_owned()], true));
    }

    #[test]
    fn what_is_misspelt_or_lies_elsewhere_is_refused() {
        for (bad, part) in [
            (ONE.replace("goal", "gaol"), "plan.gaol"),
            (ONE.replace("address", "adress"), "address"),
            (ONE.replace("good_seconds", "good"), "good"),
            (ONE.replace("links", "link"), "link"),
            ("[[package]]\nname = \"a\"\ntree = \"../a\"\nhealth = \"none\"".into(), "../a"),
            ("package = []".into(), "no package"),
            ("[remove]\npath = []".into(), "path"),
            (format!("{ONE}\n[remove]"), "health"),
        ] {
            let error = parse(&bad).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
