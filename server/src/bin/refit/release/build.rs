//! `refit release build`: a folder becomes a release. The same folder and options give the same bytes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use refit_proto::{
    names::{PackageName, Platform, Product, Version},
    package::{self, Manifest, PackageRef, Release, Removal},
};

use super::{
    description::{self, Content, Described},
    folder::{ReleaseFolder, read_text},
};
use crate::{Context, output};

/// Options of `refit release build`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A folder with a refit.toml and the package's tree.
    #[arg(value_name = "DIR")]
    source: PathBuf,
    /// What it is a release of.
    #[arg(long)]
    product: Product,
    /// Its label; never used twice.
    #[arg(long = "version")]
    label: Version,
    /// Tells the order of releases; larger is newer. [default: the seconds since 1970]
    #[arg(long)]
    counter: Option<u64>,
    /// What is new, in Markdown.
    #[arg(long, value_name = "FILE")]
    notes: Option<PathBuf>,
    /// What the packages run on, where refit.toml does not say. [default: this machine's platform; of a release
    /// that removes the product: any]
    #[arg(long)]
    platform: Option<Platform>,
    /// Where the release goes. [default: PRODUCT-VERSION]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("{}-{}", args.product, args.label)));
    let counter = match args.counter {
        Some(counter) => counter,
        None => u64::try_from(context.now.as_second()).context("the clock stands before 1970")?,
    };
    let release = build(&args, counter, &out)?;
    let digest = package::FileRef::to(&release.to_bytes()).sha256;
    output::line(&format!(
        "built {} {} (counter {}) in {}\ndigest {digest}\nnext: refit release sign {} --key KEY",
        release.product,
        release.version,
        release.counter,
        out.display(),
        out.display(),
    ))
}

fn build(args: &Args, counter: u64, out: &Path) -> anyhow::Result<Release> {
    ensure!((1..=i64::MAX.unsigned_abs()).contains(&counter), "the counter must be at least 1");
    let described = description::read(&args.source)?;
    let notes = args.notes.as_deref().map(read_text).transpose()?.unwrap_or_default();
    let folder = ReleaseFolder::create(out)?;
    let (platforms, removal) = match described.content {
        Content::Packages(packages) => (add_packages(&folder, args, packages)?, Removal::default()),
        Content::Removal(removal) => {
            package::check_agent(&args.product, [])?;
            // Whatever hosts have, it goes everywhere.
            let platform = args.platform.clone().map_or_else(|| Platform::parse("any"), Ok)?;
            (BTreeMap::from([(platform, Vec::new())]), removal)
        }
    };
    let release = Release::new(args.product.clone(), args.label.clone(), counter, platforms);
    let mut release = release.removing(removal);
    (release.notes, release.links, release.plan) = (notes, described.links, described.plan);
    // Read as a host will read it, before anybody signs it.
    let release = Release::parse(&release.to_bytes())?;
    ensure!(
        release.to_bytes().len() as u64 <= Release::MAX_LENGTH,
        "the release document is longer than {} bytes\nhelp: shorten the notes",
        Release::MAX_LENGTH
    );
    folder.finish(&release)?;
    folder.check()?;
    Ok(release)
}

fn add_packages(
    folder: &ReleaseFolder,
    args: &Args,
    described: Vec<Described>,
) -> anyhow::Result<BTreeMap<Platform, Vec<PackageRef>>> {
    let usual = args.platform.clone().map_or_else(this_platform, Ok)?;
    let mut platforms: BTreeMap<Platform, Vec<PackageRef>> = BTreeMap::new();
    let mut manifests: BTreeMap<Platform, Vec<Manifest>> = BTreeMap::new();
    for one in described {
        let platform = one.platform.clone().unwrap_or_else(|| usual.clone());
        let (built, manifest) = add_package(folder, &args.product, one)?;
        platforms.entry(platform.clone()).or_default().push(built);
        manifests.entry(platform).or_default().push(manifest);
    }
    for manifests in manifests.values() {
        package::check_agent(&args.product, manifests)?;
    }
    for packages in platforms.values_mut() {
        packages.sort_by(|one, two| one.name.cmp(&two.name));
    }
    Ok(platforms)
}

fn add_package(
    folder: &ReleaseFolder,
    product: &Product,
    described: Described,
) -> anyhow::Result<(PackageRef, Manifest)> {
    let Described { tree, platform: _, description } = described;
    let name = match &description.package {
        Some(name) => name.clone(),
        None => PackageName::parse(product.as_str())?,
    };
    let built = package::build(&tree, name.clone(), description)
        .with_context(|| format!("cannot build package {name}"))?;
    for file in &built.files {
        folder.add_file(&file.source, file.content)?;
    }
    let manifest = folder.add_bytes(&built.manifest.to_bytes())?;
    Ok((PackageRef { name, manifest }, built.manifest))
}

fn this_platform() -> anyhow::Result<Platform> {
    use std::env::consts::{ARCH, OS};
    Ok(Platform::parse(&format!("{OS}-{ARCH}"))?)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn source(folder: &Path) -> PathBuf {
        let source = folder.join("source");
        fs::create_dir_all(source.join("tree/bin")).unwrap();
        fs::write(source.join("tree/bin/run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(source.join("tree/bin/run"), fs::Permissions::from_mode(0o755))
            .unwrap();
        fs::write(source.join("tree/same"), "#!/bin/sh\n").unwrap();
        fs::write(source.join("refit.toml"), "health = \"none\"\n[plan]\ngoal = \"x\"\n").unwrap();
        source
    }

    fn args(source: &Path) -> Args {
        Args {
            source: source.to_owned(),
            product: "payments".parse().unwrap(),
            label: "2.4.1".parse().unwrap(),
            counter: None,
            notes: None,
            platform: None,
            out: None,
        }
    }

    fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                files.extend(
                    self::files(&path).into_iter().map(|(k, v)| (format!("{name}/{k}"), v)),
                );
            } else {
                files.insert(name, fs::read(&path).unwrap());
            }
        }
        files
    }

    #[test]
    fn the_same_source_gives_the_same_release_byte_for_byte() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for folder in [&one, &two] {
            build(&args(&source(folder.path())), 7, &folder.path().join("out")).unwrap();
        }
        let built = files(&one.path().join("out"));
        assert_eq!(built, files(&two.path().join("out")));
        // Equal files are stored once: the document, one manifest, one content.
        assert_eq!(built.len(), 3);
    }

    #[test]
    fn a_release_that_removes_the_product_has_no_packages_for_anybody_and_no_content() {
        let folder = tempfile::tempdir().unwrap();
        let (source, out) = (source(folder.path()), folder.path().join("out"));
        fs::write(source.join("refit.toml"), "[remove]\npaths = [\"/var/lib/x\"]\n").unwrap();
        let release = build(&args(&source), 7, &out).unwrap();
        assert!(release.is_removal());
        let anybody = Platform::parse("linux-riscv64").unwrap();
        assert_eq!(release.packages_for(&anybody).map(<[_]>::len), Some(0));
        assert_eq!(release.removal.paths, ["/var/lib/x"]);
        assert!(ReleaseFolder::at(&out).check().unwrap().content.is_empty());
        fs::write(source.join("refit.toml"), "[remove]\npaths = [\"x\"]\n").unwrap();
        assert!(build(&args(&source), 8, &folder.path().join("other")).is_err());
    }

    #[test]
    fn a_service_named_as_a_unit_of_refits_own_is_not_built() {
        let folder = tempfile::tempdir().unwrap();
        let source = source(folder.path());
        let text = "[[services]]\nname = \"refit-agent\"\ncommand = [\"bin/run\"]\n\
                    [[health.checked.checks]]\nname = \"runs\"\nkind = \"unit\"\n\
                    service = \"refit-agent\"\n";
        fs::write(source.join("refit.toml"), text).unwrap();
        let out = folder.path().join("out");
        let error = format!("{:#}", build(&args(&source), 7, &out).unwrap_err());
        assert!(error.contains("refit-agent is a unit of Refit's own"), "{error}");
        assert!(!out.join("release.json").exists());
        fs::write(source.join("refit.toml"), text.replace("refit-agent", "agent")).unwrap();
        build(&args(&source), 7, &folder.path().join("good")).unwrap();
    }

    #[test]
    fn a_finished_release_is_never_built_over() {
        let folder = tempfile::tempdir().unwrap();
        let (source, out) = (source(folder.path()), folder.path().join("out"));
        build(&args(&source), 7, &out).unwrap();
        let before = files(&out);
        assert!(build(&args(&source), 8, &out).is_err());
        assert_eq!(files(&out), before);
    }

    #[test]
    fn a_changed_or_missing_file_of_a_release_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        build(&args(&source(folder.path())), 7, &out).unwrap();
        let release = ReleaseFolder::at(&out);
        assert_eq!(release.check().unwrap().content.len(), 2);
        for (name, bytes) in files(&out) {
            let path = out.join(&name);
            let mut changed = bytes.clone();
            let last = changed.len() - 2;
            changed[last] ^= 1;
            fs::write(&path, changed).unwrap();
            if name != "release.json" {
                assert!(release.check().is_err(), "{name} changed");
            }
            fs::remove_file(&path).unwrap();
            assert!(release.check().is_err(), "{name} missing");
            fs::write(&path, bytes).unwrap();
        }
        assert!(release.check().is_ok());
    }
}
