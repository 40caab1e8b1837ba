//! `refit bundle export`: writes the file, reads it back, and only then gives it its name.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use refit_durable::file::{Access, Pending};
use refit_proto::{
    bundle::{self, Head, PartName, Writer},
    names::{Platform, Product, RingName, Version},
    package::{FileRef, decompress},
    trust::{Role, repository::BUNDLE_LONGEST},
};

use super::gather::{self, Gathered, Wanted};
use crate::{Context, connect::Connection, content, duration, output};

/// Options of `refit bundle export`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Of which product.
    product: Product,
    /// Which release.
    #[arg(value_name = "VERSION")]
    label: Version,
    /// For hosts of this ring, which permits the release now. May be given more than once.
    #[arg(long = "ring", required = true, value_name = "RING")]
    rings: Vec<RingName>,
    /// Only for this platform; may be given more than once. All that the release has, if left out.
    #[arg(long = "platform", value_name = "PLATFORM")]
    platforms: Vec<Platform>,
    /// For how long it can be installed: at most 30d. Whoever holds it can freeze a host until then.
    #[arg(long, default_value = "7d", value_name = "SPAN")]
    valid_for: String,
    /// The file to write, which must not be there.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// What to export where.
pub(super) struct Request {
    wanted: Wanted,
    out: PathBuf,
}

impl Args {
    /// What can be refused without asking anybody.
    pub(super) fn check(self) -> anyhow::Result<Request> {
        let valid_seconds = duration::seconds(&self.valid_for)?;
        let longest = BUNDLE_LONGEST.as_secs().unsigned_abs();
        ensure!(
            (1..=longest).contains(&valid_seconds),
            "a bundle is valid for at most {}, not {}\n\
             help: whoever holds it can freeze a host for so long; make another bundle later",
            duration::in_words(longest),
            self.valid_for
        );
        ensure!(
            !self.out.exists(),
            "{} is there already\nhelp: name another file, or remove it",
            self.out.display()
        );
        let rings: BTreeSet<RingName> = self.rings.into_iter().collect();
        let wanted = Wanted {
            product: self.product,
            version: self.label,
            rings: rings.into_iter().collect(),
            platforms: self.platforms,
            valid_seconds,
        };
        Ok(Request { wanted, out: self.out })
    }
}

pub(super) async fn run(
    context: &Context,
    connection: &Connection,
    request: Request,
) -> anyhow::Result<()> {
    let Request { wanted, out } = request;
    let gathered = gather::gather(context, connection, &wanted).await?;
    let (first, expires) = gathered.expires.clone();
    let head = Head::new(
        gathered.about.clone(),
        wanted.rings.clone(),
        gathered.platforms.clone(),
        context.now,
        expires,
    );
    let mut pending = Pending::create(&out, Access::Shared)?;
    write(connection, &head, &gathered, pending.file()).await?;
    let length = read_back(pending.file(), &gathered.content)
        .with_context(|| format!("{} was not written as it should be", out.display()))?;
    // By a rename, which a stick without hard links knows too.
    pending.publish()?;
    say(&wanted, &head, &out, length)?;
    if !matches!(first, Role::Timestamp | Role::Snapshot) {
        output::line(&format!("note: {first} expires before the timestamp does"))?;
    }
    Ok(())
}

async fn write(
    connection: &Connection,
    head: &Head,
    gathered: &Gathered,
    file: &mut File,
) -> anyhow::Result<()> {
    let mut writer = Writer::new(BufWriter::new(file), head)?;
    for (name, bytes) in &gathered.metadata {
        writer.part(name.clone(), bytes)?;
    }
    for wanted in &gathered.content {
        add_content(connection, &mut writer, *wanted).await?;
    }
    writer.finish()?;
    Ok(())
}

/// One content file as the server keeps it; what it is worth is seen when it is read back.
async fn add_content<W: Write>(
    connection: &Connection,
    writer: &mut Writer<W>,
    wanted: FileRef,
) -> anyhow::Result<()> {
    let mut frame = content::frame(connection, wanted).await?;
    writer.begin(PartName::Content(wanted.sha256), frame.length)?;
    while let Some(bytes) = frame.next().await? {
        writer.add(&bytes)?;
    }
    Ok(())
}

/// The whole file again, as a host will read it: that it can be installed is known before it travels.
fn read_back(file: &mut File, content: &BTreeSet<FileRef>) -> anyhow::Result<u64> {
    file.seek(SeekFrom::Start(0))?;
    let index = bundle::read(&mut BufReader::new(&mut *file))?;
    for wanted in content {
        let span = index
            .span(&PartName::Content(wanted.sha256))
            .with_context(|| format!("content {} is not in it", wanted.sha256))?;
        file.seek(SeekFrom::Start(span.offset))?;
        let mut frame = BufReader::new((&mut *file).take(span.length));
        decompress(&mut frame, &mut io::sink(), wanted.sha256, wanted.length)?;
    }
    Ok(file.seek(SeekFrom::End(0))?)
}

fn say(wanted: &Wanted, head: &Head, out: &Path, length: u64) -> anyhow::Result<()> {
    let names = |names: Vec<String>| names.join(", ");
    output::line(&format!(
        "{} has {length} bytes: {} {} for ring {}, platform {}\n\
         it can be installed until {}; whoever holds it can keep a host on this state until then\n\
         next, as root on the host: refit-agent install FILE",
        out.display(),
        wanted.product,
        wanted.version,
        names(head.rings.iter().map(ToString::to_string).collect()),
        names(head.platforms.iter().map(ToString::to_string).collect()),
        output::moment(&head.expires.to_string()),
    ))
}
