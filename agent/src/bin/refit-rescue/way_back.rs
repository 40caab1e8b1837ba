//! The way back as it lies on the disk: docs/decisions/0002-way-back.md, read a second time by other code
//! than the one that wrote it. Unknown headers and fields are skipped; a step of an unknown kind refuses
//! the whole file, since half a way back leads nowhere.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt as _,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use crate::owners::Names;

const FIRST_LINE: &str = "refit-way-back 1\n";

/// For how long no agent may run in the middle of an update, where the file does not say.
const ALONE: Duration = Duration::from_secs(600);

/// What an update left for the case that nobody else brings the host back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WayBack {
    /// Which update armed it.
    pub(crate) install: String,
    /// For how much running time the update may take.
    pub(crate) patience: Duration,
    /// For how much running time no agent may run meanwhile.
    pub(crate) alone: Duration,
    /// After how many starts of the host it has failed.
    pub(crate) starts: u32,
    /// Names of those whose numbers stand in the steps.
    pub(crate) users: Names,
    pub(crate) groups: Names,
    /// What to do, in this order.
    pub(crate) steps: Vec<Step>,
}

/// One step, and when it is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// Its line, for messages.
    pub(crate) line: String,
    pub(crate) undoing: Undoing,
    /// Left out where this path exists.
    pub(crate) unless: Option<PathBuf>,
}

/// Mode and owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What a step does: the table of decision 0002.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Undoing {
    Link { path: PathBuf, target: PathBuf },
    RemoveLink { path: PathBuf },
    Folder { path: PathBuf, owned: Owned },
    File { path: PathBuf, from: PathBuf, sha256: String, owned: Owned },
    Remove { path: PathBuf },
    Swap { path: PathBuf, from: PathBuf, aside: PathBuf },
    Attribute { path: PathBuf, name: OsString, value: Vec<u8> },
    Owner { path: PathBuf, uid: u32, gid: u32 },
    Mode { path: PathBuf, mode: u32 },
    Modified { path: PathBuf, seconds: i64, nanos: u32 },
    HardLink { path: PathBuf, from: PathBuf },
    StopUnit { unit: String },
    ReloadUnits,
    StartUnit { unit: String },
    Run { command: Vec<OsString>, timeout: Duration },
}

impl WayBack {
    /// Reads a whole file.
    ///
    /// # Errors
    /// If it is not exactly what was written, or can't be done to the letter.
    pub(crate) fn parse(bytes: &[u8]) -> Result<WayBack> {
        let text = std::str::from_utf8(bytes).context("it is no text")?;
        ensure!(text.starts_with(FIRST_LINE), "it does not begin with {:?}", FIRST_LINE.trim());
        let (mut install, mut patience, mut starts, mut alone) = (None, None, None, ALONE);
        let (mut users, mut groups) = (Names::new(), Names::new());
        let mut steps = Vec::new();
        for line in sealed(text)?.lines().skip(1) {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "install" => install = Some(rest.to_owned()),
                "patience" => patience = Some(Duration::from_nanos(rest.parse()?)),
                "starts" => starts = Some(rest.parse()?),
                "alone" => alone = Duration::from_nanos(rest.parse()?),
                "user" => name(rest, &mut users).with_context(|| format!("in {line:?}"))?,
                "group" => name(rest, &mut groups).with_context(|| format!("in {line:?}"))?,
                "step" => steps.push(step(rest).with_context(|| format!("in {line:?}"))?),
                _ => {}
            }
        }
        Ok(WayBack {
            install: install.context("it names no install")?,
            patience: patience.context("it has no patience")?,
            alone,
            starts: starts.context("it counts no starts")?,
            users,
            groups,
            steps,
        })
    }
}

/// The text before its last line, if that holds its hash.
///
/// # Errors
/// If it does not.
pub(crate) fn sealed(text: &str) -> Result<&str> {
    let cut = "it is cut or changed: it does not end with the hash of what stands before";
    let body = text.strip_suffix('\n').context(cut)?;
    let start = body.rfind('\n').context(cut)? + 1;
    let (before, last) = body.split_at(start);
    ensure!(last.strip_prefix("end ") == Some(&hex(before.as_bytes())), "{cut}");
    Ok(before)
}

/// The SHA-256 of these bytes, as it is written.
pub(crate) fn hex(bytes: &[u8]) -> String {
    hex_of(Sha256::digest(bytes).as_slice())
}

/// A digest as it is written.
pub(crate) fn hex_of(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A number and its name.
fn name(rest: &str, names: &mut Names) -> Result<()> {
    let (number, name) = rest.split_once(' ').context("it names nobody")?;
    names.insert(number.parse()?, String::from_utf8(decode(name)?)?);
    Ok(())
}

fn step(rest: &str) -> Result<Step> {
    let mut words = rest.split(' ');
    let kind = words.next().unwrap_or_default();
    let fields = Fields(words.map(field).collect::<Result<_>>()?);
    let undoing = match kind {
        "link" => Undoing::Link {
            path: fields.path("path")?,
            target: OsString::from_vec(fields.bytes("target")?.to_vec()).into(),
        },
        "remove-link" => Undoing::RemoveLink { path: fields.path("path")? },
        "folder" => Undoing::Folder { path: fields.path("path")?, owned: fields.owned()? },
        "file" => Undoing::File {
            path: fields.path("path")?,
            from: fields.path("from")?,
            sha256: fields.text("sha256")?,
            owned: fields.owned()?,
        },
        "remove" => Undoing::Remove { path: fields.path("path")? },
        "swap" => Undoing::Swap {
            path: fields.path("path")?,
            from: fields.path("from")?,
            aside: fields.path("aside")?,
        },
        "attribute" => Undoing::Attribute {
            path: fields.path("path")?,
            name: OsString::from_vec(fields.bytes("name")?.to_vec()),
            value: fields.bytes("value")?.to_vec(),
        },
        "owner" => Undoing::Owner {
            path: fields.path("path")?,
            uid: fields.text("uid")?.parse()?,
            gid: fields.text("gid")?.parse()?,
        },
        "mode" => Undoing::Mode { path: fields.path("path")?, mode: fields.mode()? },
        "modified" => Undoing::Modified {
            path: fields.path("path")?,
            seconds: fields.text("seconds")?.parse()?,
            nanos: fields.text("nanos")?.parse()?,
        },
        "hard-link" => Undoing::HardLink { path: fields.path("path")?, from: fields.path("from")? },
        "stop-unit" => Undoing::StopUnit { unit: fields.text("unit")? },
        "reload-units" => Undoing::ReloadUnits,
        "start-unit" => Undoing::StartUnit { unit: fields.text("unit")? },
        "run" => Undoing::Run {
            command: fields.words()?,
            timeout: Duration::from_secs(fields.text("timeout")?.parse()?),
        },
        unknown => bail!("no step of the kind {unknown:?} is known"),
    };
    Ok(Step { line: rest.to_owned(), undoing, unless: fields.optional_path("unless")? })
}

fn field(word: &str) -> Result<(&str, Vec<u8>)> {
    let (name, value) = word.split_once('=').with_context(|| format!("{word:?} is no field"))?;
    Ok((name, decode(value)?))
}

fn decode(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (b'%', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits)?;
                bytes.push(u8::from_str_radix(digits, 16)?);
                after
            }
            (b'%', _) => bail!("{text:?} ends in the middle of a byte"),
            (plain, after) => {
                let plain_bytes = b"/._-:@+,";
                ensure!(
                    plain.is_ascii_alphanumeric() || plain_bytes.contains(plain),
                    "byte {plain} stands for itself"
                );
                bytes.push(*plain);
                after
            }
        };
    }
    Ok(bytes)
}

struct Fields<'a>(Vec<(&'a str, Vec<u8>)>);

impl Fields<'_> {
    fn bytes(&self, name: &str) -> Result<&[u8]> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.as_slice()).with_context(|| format!("no field {name:?}"))
    }

    fn text(&self, name: &str) -> Result<String> {
        Ok(String::from_utf8(self.bytes(name)?.to_vec())?)
    }

    fn owned(&self) -> Result<Owned> {
        Ok(Owned {
            mode: self.mode()?,
            uid: self.text("uid")?.parse()?,
            gid: self.text("gid")?.parse()?,
        })
    }

    fn mode(&self) -> Result<u32> {
        Ok(u32::from_str_radix(&self.text("mode")?, 8)?)
    }

    fn path(&self, name: &str) -> Result<PathBuf> {
        plain_path(self.bytes(name)?)
    }

    fn optional_path(&self, name: &str) -> Result<Option<PathBuf>> {
        self.bytes(name).ok().map(plain_path).transpose()
    }

    fn words(&self) -> Result<Vec<OsString>> {
        let words = self.0.iter().filter(|(name, _)| *name == "word");
        let words: Vec<_> = words.map(|(_, value)| OsString::from_vec(value.clone())).collect();
        ensure!(!words.is_empty(), "no command");
        Ok(words)
    }
}

/// A path from the root without detours, and never the root itself.
fn plain_path(bytes: &[u8]) -> Result<PathBuf> {
    let path = PathBuf::from(OsString::from_vec(bytes.to_vec()));
    ensure!(is_plain(&path) && !bytes.contains(&0), "{} is no plain path", path.display());
    Ok(path)
}

fn is_plain(path: &Path) -> bool {
    let mut components = path.components();
    components.next() == Some(Component::RootDir)
        && components.clone().next().is_some()
        && components.all(|component| matches!(component, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(lines: &str) -> Vec<u8> {
        let text = format!("{FIRST_LINE}install 1\npatience 5\nstarts 3\n{lines}");
        let end = hex(text.as_bytes());
        format!("{text}end {end}\n").into_bytes()
    }

    #[test]
    fn what_a_later_writer_adds_is_skipped_and_a_step_that_it_invents_refuses_the_file() {
        let read = WayBack::parse(&file("tomorrow x\nstep remove path=/a%20b more=1\n")).unwrap();
        assert_eq!(read.steps[0].undoing, Undoing::Remove { path: "/a b".into() });
        assert_eq!((read.starts, read.alone), (3, ALONE));
        for wrong in [
            "step levitate\n",
            "step remove path=a\n",
            "step remove path=/\n",
            "step run timeout=1\n",
        ] {
            assert!(WayBack::parse(&file(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_that_is_cut_longer_or_changed_in_a_bit_is_refused() {
        let whole = file("step reload-units\n");
        assert!(WayBack::parse(&whole).is_ok());
        for length in 0..whole.len() {
            assert!(WayBack::parse(&whole[..length]).is_err(), "cut at {length}");
            let mut flipped = whole.clone();
            flipped[length] ^= 1;
            assert!(WayBack::parse(&flipped).is_err(), "flipped at {length}");
        }
        assert!(WayBack::parse(&[whole, b"\n".to_vec()].concat()).is_err());
    }
}
