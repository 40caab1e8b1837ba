//! `refit key generate` and `refit key add`: a new key of one's own, or one that a signer program has.
//! Nothing that is there is ever overwritten.

use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use refit_durable::file::{self, Access};
use refit_proto::{
    names::{PersonName, Product, RingName},
    trust::{LocalKey, PublicKey, Role, Signer as _},
};
use zeroize::Zeroizing;

use super::{
    command::{self, SignerCommand},
    kept::{private_path, public_path, signer_path},
    pem,
    shown::fingerprint,
};
use crate::{Context, output};

/// Whose key it is, and what for: its name.
#[derive(clap::Args)]
pub(super) struct Name {
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
}

/// Options of `refit key generate`.
#[derive(clap::Args)]
pub(super) struct Generate {
    #[command(flatten)]
    name: Name,
    /// Where to write it, instead of the keys folder. The public half goes beside it, to `.pub.json`.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Without a passphrase: whoever reads the file, or a copy of the disk, has the key. For CI and tests.
    #[arg(long)]
    unencrypted: bool,
}

/// Options of `refit key add`.
#[derive(clap::Args)]
pub(super) struct Add {
    #[command(flatten)]
    name: Name,
    /// How long the signer may take, with the person who has to touch or type something.
    #[arg(long, default_value_t = command::default_timeout(), value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout_seconds: u64,
    /// The program that signs, and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Purpose {
    Root,
    Targets,
    Policy,
    Release,
    Ring,
}

impl Name {
    /// `root.alice`, `ring.payments.pilot.alice`.
    fn full(self) -> anyhow::Result<String> {
        let role = role(self.role, self.product, self.ring)?;
        Ok(format!("{role}.{}", self.name))
    }
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

pub(super) fn generate(context: &Context, args: Generate) -> anyhow::Result<()> {
    let name = args.name.full()?;
    let path = args.out.unwrap_or_else(|| private_path(context, &name));
    let others = [signer_path(context, &name)];
    let beside = place(&path, &others)?;
    let key = LocalKey::generate()?;
    let text: Zeroizing<String> = if args.unencrypted {
        key.to_pem()?
    } else {
        pem::encrypt(&key, &context.home.secrets().new_passphrase()?)?
    };
    keep(context, (&path, text.as_bytes()), (&beside, key.public()))?;
    if args.unencrypted {
        eprintln!("warning: {} is not encrypted: whoever reads it has the key", path.display());
    }
    tell("made", &path, &beside, key.public())
}

pub(super) fn add(context: &Context, args: Add) -> anyhow::Result<()> {
    let name = args.name.full()?;
    let path = signer_path(context, &name);
    let beside = place(&path, &[private_path(context, &name)])?;
    let signer =
        SignerCommand { command: absolute(args.command)?, timeout_seconds: args.timeout_seconds };
    let public = signer.public()?;
    // What can't sign is better known now than when everybody waits.
    signer.sign(&public, b"refit key add: a test of the signer; this signs no metadata")?;
    let text = serde_json::to_vec_pretty(&signer)?;
    keep(context, (&path, &text), (&beside, &public))?;
    tell("added", &path, &beside, &public)
}

/// A program that was named by its place has to be found from elsewhere too.
fn absolute(mut command: Vec<String>) -> anyhow::Result<Vec<String>> {
    if let Some(program) = command.first_mut().filter(|program| program.contains('/')) {
        *program = std::path::absolute(&program)?.display().to_string();
    }
    Ok(command)
}

/// Where the public half goes, if all places are free.
fn place(path: &Path, others: &[PathBuf]) -> anyhow::Result<PathBuf> {
    let beside = public_path(path);
    for taken in [path, &beside].into_iter().chain(others.iter().map(PathBuf::as_path)) {
        free(!taken.exists(), taken)?;
    }
    Ok(beside)
}

fn free(is_free: bool, path: &Path) -> anyhow::Result<()> {
    ensure!(
        is_free,
        "{} is there already, and a key is never overwritten\nhelp: choose another --name or --out",
        path.display()
    );
    Ok(())
}

/// The private half first: without it, a public half is worth nothing.
fn keep(
    context: &Context,
    private: (&Path, &[u8]),
    public: (&Path, &PublicKey),
) -> anyhow::Result<()> {
    free(context.home.write_new(private.0, private.1)?, private.0)?;
    free(file::write_new(public.0, &public.1.to_json(), Access::Shared)?, public.0)
}

fn tell(done: &str, path: &Path, beside: &Path, public: &PublicKey) -> anyhow::Result<()> {
    output::line(&format!(
        "{done} {}\npublic half {}, to hand over\nkey id {}\nto compare by voice:\n{}",
        path.display(),
        beside.display(),
        public.id(),
        fingerprint(&public.id())
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

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
