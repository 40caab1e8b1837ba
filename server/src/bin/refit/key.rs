//! `refit key`: the keys that sign. They are made and kept on this side; only public halves leave.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use refit_durable::file::{self, Access};
use refit_proto::{
    names::{PersonName, Product, RingName},
    trust::{LocalKey, PublicKey, Role, Signer as _},
};
use serde::Serialize;

use crate::{Context, home, output, output::Output};

/// Options of `refit key`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Make a key.
    #[command(after_help = "Examples:
  refit key generate --role root --name alice
  refit key generate --role ring --product payments --ring pilot --name alice")]
    Generate(Generate),
    /// The keys that are kept here.
    #[command(after_help = "Example:\n  refit key list --output json")]
    List(Output),
    /// The public half of one key, as TUF writes it.
    #[command(after_help = "Example:\n  refit key show root.alice")]
    Show {
        /// A key as `refit key list` names it, or a file.
        key: String,
    },
}

#[derive(clap::Args)]
struct Generate {
    /// What the key is for.
    #[arg(long, value_enum)]
    role: Purpose,
    /// Who holds it.
    #[arg(long)]
    name: PersonName,
    /// For a release or ring key: which product.
    #[arg(long)]
    product: Option<Product>,
    /// For a ring key: which ring.
    #[arg(long)]
    ring: Option<RingName>,
    /// Where to write it, instead of the keys folder. The public half goes beside it, to `.pub.json`.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Purpose {
    Root,
    Targets,
    Policy,
    Release,
    Ring,
}

pub(crate) fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    match args.verb {
        Verb::Generate(generate) => make(context, generate),
        Verb::List(output) => output.print(&kept(&context.home.keys())?, |keys| {
            output::table(
                ["key", "key id", "private half"],
                keys.iter().map(|key| {
                    let private = if key.private { "here" } else { "" };
                    [key.name.clone(), key.key_id[..12].to_owned(), private.to_owned()]
                }),
            )
        }),
        Verb::Show { key } => {
            let public = public(context, None, &key)?;
            output::line(&format!(
                "{}\nkey id {}",
                String::from_utf8_lossy(&public.to_json()),
                public.id()
            ))
        }
    }
}

fn make(context: &Context, generate: Generate) -> anyhow::Result<()> {
    let role = role(generate.role, generate.product, generate.ring)?;
    let path = match generate.out {
        Some(path) => path,
        None => context.home.keys().join(format!("{role}.{}.pem", generate.name)),
    };
    let key = LocalKey::generate()?;
    let beside = public_path(&path);
    ensure!(
        !beside.exists(),
        "{} is there already and is never overwritten\nhelp: choose another --name or --out",
        beside.display()
    );
    let created = context.home.write_new(&path, key.to_pem()?.as_bytes())?;
    ensure!(
        created,
        "{} is there already, and a key is never overwritten\nhelp: choose another --name or --out",
        path.display()
    );
    file::write(&beside, &key.public().to_json(), Access::Shared)?;
    output::line(&format!(
        "made {}\npublic half {}\nkey id {}",
        path.display(),
        beside.display(),
        key.public().id()
    ))
}

fn role(
    purpose: Purpose,
    product: Option<Product>,
    ring: Option<RingName>,
) -> anyhow::Result<Role> {
    Ok(match (purpose, product, ring) {
        (Purpose::Root, None, None) => Role::Root,
        (Purpose::Targets, None, None) => Role::Targets,
        (Purpose::Policy, None, None) => Role::Policy,
        (Purpose::Release, Some(product), None) => Role::Release(product),
        (Purpose::Ring, Some(product), Some(ring)) => Role::Ring(product, ring),
        (Purpose::Root | Purpose::Targets | Purpose::Policy, ..) => {
            bail!("this key is not for one product or ring\nhelp: leave --product and --ring out")
        }
        (Purpose::Release, ..) => bail!("a release key is for a product\nhelp: add --product only"),
        (Purpose::Ring, ..) => {
            bail!("a ring key is for a ring of a product\nhelp: add --product and --ring")
        }
    })
}

/// A key that is kept here.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct Kept {
    name: String,
    key_id: String,
    private: bool,
}

fn kept(folder: &Path) -> anyhow::Result<Vec<Kept>> {
    let mut keys = Vec::new();
    for name in names(folder)? {
        let pem = folder.join(format!("{name}.pem"));
        let private = pem.is_file();
        let public = match public_half(folder, &name)? {
            Some(public) => public,
            None => read_private(&pem)?.public().clone(),
        };
        keys.push(Kept { name, key_id: public.id().to_string(), private });
    }
    Ok(keys)
}

const PUBLIC: &str = ".pub.json";

/// The names of all keys in a folder, whichever half of them is there.
fn names(folder: &Path) -> anyhow::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    if folder.is_dir() {
        let entries =
            fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let file = entry?.file_name().to_string_lossy().into_owned();
            let name = file.strip_suffix(PUBLIC).or_else(|| file.strip_suffix(".pem"));
            names.extend(name.map(str::to_owned));
        }
    }
    Ok(names)
}

fn public_half(folder: &Path, name: &str) -> anyhow::Result<Option<PublicKey>> {
    let path = folder.join(format!("{name}{PUBLIC}"));
    if path.is_file() { read_public(&path).map(Some) } else { Ok(None) }
}

/// `root.alice.pem` → `root.alice.pub.json`.
fn public_path(path: &Path) -> PathBuf {
    path.with_extension(PUBLIC.trim_start_matches('.'))
}

/// The file that a word on the command line means: a path, a holder's key for the role, or a key kept
/// here by its full name.
fn find(context: &Context, role: Option<&Role>, word: &str) -> anyhow::Result<PathBuf> {
    let named = PathBuf::from(word);
    if named.is_file() {
        return Ok(named);
    }
    let keys = context.home.keys();
    let full = role.map(|role| format!("{role}.{word}"));
    full.into_iter()
        .chain([word.to_owned()])
        .flat_map(|name| [format!("{name}.pem"), format!("{name}{PUBLIC}")])
        .map(|name| keys.join(name))
        .find(|path| !word.contains('/') && path.is_file())
        .with_context(|| {
            let purpose = role.map(|role| format!(" for {role}")).unwrap_or_default();
            format!(
                "there is no key {word:?}{purpose}, neither as a file nor in {}\n\
                 help: `refit key list` shows those kept here; `refit key generate` makes one",
                keys.display()
            )
        })
}

/// The public half of the key that a word means; a private key file has it too.
pub(crate) fn public(
    context: &Context,
    role: Option<&Role>,
    word: &str,
) -> anyhow::Result<PublicKey> {
    let path = find(context, role, word)?;
    if path.extension().is_some_and(|ending| ending == "pem") {
        Ok(read_private(&path)?.public().clone())
    } else {
        read_public(&path)
    }
}

/// The private key that a word means.
pub(crate) fn private(context: &Context, role: &Role, word: &str) -> anyhow::Result<LocalKey> {
    read_private(&find(context, Some(role), word)?)
}

/// The private keys kept here whose public half is among these.
pub(crate) fn at_hand(
    context: &Context,
    wanted: impl Fn(&PublicKey) -> bool,
) -> anyhow::Result<Vec<LocalKey>> {
    let folder = context.home.keys();
    let mut keys = Vec::new();
    for name in names(&folder)? {
        let pem = folder.join(format!("{name}.pem"));
        // A public half that does not fit spares reading the private one. What that one says counts.
        let fits = public_half(&folder, &name)?.is_none_or(|public| wanted(&public));
        if fits && pem.is_file() {
            keys.push(read_private(&pem)?);
        }
    }
    keys.retain(|key| wanted(key.public()));
    Ok(keys)
}

fn read_public(path: &Path) -> anyhow::Result<PublicKey> {
    let bytes = home::read(path)?.with_context(|| format!("{} is missing", path.display()))?;
    PublicKey::from_json(&bytes).with_context(|| path.display().to_string())
}

fn read_private(path: &Path) -> anyhow::Result<LocalKey> {
    let bytes = home::read(path)?.with_context(|| format!("{} is missing", path.display()))?;
    let bytes = zeroize::Zeroizing::new(bytes);
    let pem = std::str::from_utf8(&bytes)
        .ok()
        .with_context(|| format!("{} is not PEM", path.display()))?;
    LocalKey::from_pem(pem).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use jiff::Timestamp;

    use super::*;
    use crate::home::Home;

    fn context(folder: &Path) -> Context {
        let home = Home::open(Some(folder.join("refit"))).unwrap();
        Context { home, now: Timestamp::UNIX_EPOCH }
    }

    fn generate(role: Purpose, name: &str, out: Option<PathBuf>) -> Generate {
        Generate { role, name: name.parse().unwrap(), product: None, ring: None, out }
    }

    #[test]
    fn a_key_file_is_private_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let context = context(folder.path());
        let out = folder.path().join("elsewhere.pem");
        for out in [None, Some(out.clone())] {
            let path = out.clone().unwrap_or_else(|| context.home.keys().join("root.alice.pem"));
            make(&context, generate(Purpose::Root, "alice", out.clone())).unwrap();
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let before = (fs::read(&path).unwrap(), fs::read(public_path(&path)).unwrap());
            assert!(make(&context, generate(Purpose::Root, "alice", out)).is_err());
            // Nor where only one of the two files is left.
            fs::remove_file(public_path(&path)).unwrap();
            assert!(make(&context, generate(Purpose::Root, "alice", Some(path.clone()))).is_err());
            assert_eq!(fs::read(&path).unwrap(), before.0);
            assert!(!public_path(&path).exists());
            fs::write(public_path(&path), &before.1).unwrap();
        }
    }

    #[test]
    fn a_key_is_found_by_its_name_its_file_or_its_public_half() {
        let folder = tempfile::tempdir().unwrap();
        let context = context(folder.path());
        make(&context, generate(Purpose::Policy, "alice", None)).unwrap();
        let path = context.home.keys().join("policy.alice.pem");
        let key = private(&context, &Role::Policy, "alice").unwrap();
        for word in [
            "alice".to_owned(),
            "policy.alice".to_owned(),
            path.display().to_string(),
            public_path(&path).display().to_string(),
        ] {
            let found = public(&context, Some(&Role::Policy), &word).unwrap();
            assert_eq!(found, *key.public(), "{word}");
        }
        assert!(public(&context, None, "alice").is_err());
        assert!(private(&context, &Role::Root, "alice").is_err());
        assert!(private(&context, &Role::Policy, "bob").is_err());
        assert!(private(&context, &Role::Policy, "../keys/policy.alice").is_err());
        let kept = kept(&context.home.keys()).unwrap();
        assert_eq!(
            kept,
            [Kept {
                name: "policy.alice".into(),
                key_id: key.public().id().to_string(),
                private: true
            }]
        );
        assert_eq!(at_hand(&context, |public| public == key.public()).unwrap().len(), 1);
        assert_eq!(at_hand(&context, |_| false).unwrap().len(), 0);
        // The public half can always be made again from the private one.
        fs::remove_file(public_path(&path)).unwrap();
        assert_eq!(at_hand(&context, |public| public == key.public()).unwrap().len(), 1);
        assert_eq!(super::kept(&context.home.keys()).unwrap()[0].key_id, kept[0].key_id);
    }

    #[test]
    fn a_key_is_for_exactly_one_role() {
        let product: Option<Product> = Some("payments".parse().unwrap());
        let ring: Option<RingName> = Some("pilot".parse().unwrap());
        let name = |role: anyhow::Result<Role>| role.map(|role| role.to_string()).ok();
        let (some, none) = (product, None);
        assert_eq!(name(role(Purpose::Root, none.clone(), None)).as_deref(), Some("root"));
        assert_eq!(
            name(role(Purpose::Ring, some.clone(), ring.clone())).as_deref(),
            Some("ring.payments.pilot")
        );
        assert_eq!(name(role(Purpose::Root, some.clone(), None)), None);
        assert_eq!(name(role(Purpose::Release, none, None)), None);
        assert_eq!(name(role(Purpose::Release, some.clone(), ring)), None);
        assert_eq!(name(role(Purpose::Ring, some, None)), None);
    }
}
