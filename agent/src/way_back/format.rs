//! The way back as text: lines of words, values percent-encoded, closed by a hash of all that stands
//! before. Frozen: what is written today is read by every later rescuer. Unknown headers and unknown
//! fields of a step are skipped; a step of an unknown kind makes the whole file unusable before
//! anything of it is done, since half a way back leads nowhere.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt::Write as _,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use refit_proto::names::Digest;

use super::{UndoStep, Undoing, WayBack};
use crate::{
    host::{files::Time, owners::Owners},
    update::{BackupId, BootId, InstallId, LeaseId, Running},
};

const FIRST_LINE: &str = "refit-way-back 1";

/// For how long no agent may run in the middle of an update, where the file does not say.
const ALONE: Duration = Duration::from_secs(600);

/// Why a text is no way back. Nothing of it may be done then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It does not begin as a way back does, or is of a later format.
    #[error("it does not begin with `{FIRST_LINE}`")]
    Start,
    /// It does not end with the hash of what stands before.
    #[error("it is cut or changed: it does not end with the hash of what stands before")]
    End,
    /// A line makes no sense.
    #[error("line {line}: {why}")]
    Line {
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// A header is missing.
    #[error("it has no line {0:?}")]
    Missing(&'static str),
}

impl WayBack {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("{FIRST_LINE}\n");
        let mut line = |words: &str| {
            text.push_str(words);
            text.push('\n');
        };
        line(&format!("install {}", self.install));
        line(&format!("boot {}", self.boot));
        line(&format!("deadline {}", self.deadline.as_nanos()));
        line(&format!("patience {}", nanos(self.patience)));
        line(&format!("alone {}", nanos(self.alone)));
        line(&format!("starts {}", self.starts));
        // What an attempt is can grow; the rescuer never reads it.
        if let Some(json) =
            self.attempt.as_ref().and_then(|attempt| serde_json::to_vec(attempt).ok())
        {
            line(&format!("attempt {}", encode(&json)));
        }
        if let Some(lease) = &self.lease {
            line(&format!("lease {lease}"));
        }
        if let Some(backup) = &self.restores {
            line(&format!("restores {backup}"));
        }
        for (word, names) in [("user", &self.owners.users), ("group", &self.owners.groups)] {
            for (number, name) in names {
                line(&format!("{word} {number} {}", encode(name.as_bytes())));
            }
        }
        for step in &self.steps {
            line(&step_line(step));
        }
        let end = Digest::of(text.as_bytes());
        text.push_str(&format!("end {end}\n"));
        text.into_bytes()
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// Anything that is not exactly what a writer has written, or that this reader cannot do.
    pub fn parse(bytes: &[u8]) -> Result<WayBack, FormatError> {
        let text = std::str::from_utf8(bytes).map_err(|_| FormatError::End)?;
        if !text.starts_with(&format!("{FIRST_LINE}\n")) {
            return Err(FormatError::Start);
        }
        let mut headers = Headers::default();
        let mut steps = Vec::new();
        for (index, words) in unsealed(text)?.lines().enumerate().skip(1) {
            let in_line = |why: String| FormatError::Line { line: index + 1, why };
            match words.split_once(' ').unwrap_or((words, "")) {
                ("step", rest) => steps.push(read_step(rest).map_err(in_line)?),
                (name, value) => headers.read(name, value).map_err(in_line)?,
            }
        }
        headers.with(steps)
    }
}

/// How long the lines of these steps are: nearly all of a way back.
pub(crate) fn length(steps: &[UndoStep]) -> u64 {
    steps.iter().map(|step| step_line(step).len() as u64 + 1).sum()
}

/// The text before the last line, if that line holds its hash.
fn unsealed(text: &str) -> Result<&str, FormatError> {
    let body = text.strip_suffix('\n').and_then(|text| text.rsplit_once('\n'));
    let (before, last) = body.ok_or(FormatError::End)?;
    let covered = &text[..before.len() + 1];
    let end = last.strip_prefix("end ").and_then(|hex| Digest::parse(hex).ok());
    if end != Some(Digest::of(covered.as_bytes())) {
        return Err(FormatError::End);
    }
    Ok(covered)
}

#[derive(Default)]
struct Headers {
    install: Option<InstallId>,
    boot: Option<BootId>,
    deadline: Option<u64>,
    patience: Option<u64>,
    alone: Option<u64>,
    starts: Option<u32>,
    attempt: Option<crate::update::Attempt>,
    lease: Option<LeaseId>,
    restores: Option<BackupId>,
    owners: Owners,
}

impl Headers {
    fn read(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "install" => self.install = Some(InstallId::parse(value).map_err(why)?),
            "boot" => self.boot = Some(BootId::parse(value).map_err(why)?),
            "deadline" => self.deadline = Some(value.parse().map_err(why)?),
            "patience" => self.patience = Some(value.parse().map_err(why)?),
            "alone" => self.alone = Some(value.parse().map_err(why)?),
            "starts" => self.starts = Some(value.parse().map_err(why)?),
            "restores" => self.restores = Some(BackupId::parse(value).map_err(why)?),
            "lease" => self.lease = Some(LeaseId::parse(value).map_err(why)?),
            "user" => name_of(value, &mut self.owners.users)?,
            "group" => name_of(value, &mut self.owners.groups)?,
            // Only for the report. One that this version cannot read keeps nobody from going back.
            "attempt" => self.attempt = serde_json::from_slice(&decode(value)?).ok(),
            // A later version's.
            _ => {}
        }
        Ok(())
    }

    fn with(self, steps: Vec<UndoStep>) -> Result<WayBack, FormatError> {
        let missing = FormatError::Missing;
        Ok(WayBack {
            install: self.install.ok_or(missing("install"))?,
            boot: self.boot.ok_or(missing("boot"))?,
            deadline: Running::from_nanos(self.deadline.ok_or(missing("deadline"))?),
            patience: Duration::from_nanos(self.patience.ok_or(missing("patience"))?),
            alone: self.alone.map_or(ALONE, Duration::from_nanos),
            starts: self.starts.ok_or(missing("starts"))?,
            attempt: self.attempt,
            lease: self.lease,
            restores: self.restores,
            owners: self.owners,
            steps,
        })
    }
}

/// A number and its name.
fn name_of(value: &str, names: &mut BTreeMap<u32, String>) -> Result<(), String> {
    let (number, name) = value.split_once(' ').ok_or_else(|| format!("{value:?} names nobody"))?;
    let name = String::from_utf8(decode(name)?).map_err(why)?;
    names.insert(number.parse().map_err(why)?, name);
    Ok(())
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

fn why(error: impl ToString) -> String {
    error.to_string()
}

fn step_line(step: &UndoStep) -> String {
    let mut line = format!("step {}", step.undoing.kind());
    let mut field = |name: &str, value: &[u8]| {
        line.push_str(&format!(" {name}={}", encode(value)));
    };
    match &step.undoing {
        Undoing::Link { path, target } => {
            field("path", bytes(path));
            field("target", bytes(target));
        }
        Undoing::RemoveLink { path } | Undoing::Remove { path } => field("path", bytes(path)),
        Undoing::Folder { path, mode, uid, gid } => {
            field("path", bytes(path));
            owned(&mut field, *mode, *uid, *gid);
        }
        Undoing::File { path, from, digest, mode, uid, gid } => {
            field("path", bytes(path));
            field("from", bytes(from));
            field("sha256", digest.to_string().as_bytes());
            owned(&mut field, *mode, *uid, *gid);
        }
        Undoing::Swap { path, from, aside } => {
            field("path", bytes(path));
            field("from", bytes(from));
            field("aside", bytes(aside));
        }
        Undoing::Attribute { path, name, value } => {
            field("path", bytes(path));
            field("name", name.as_bytes());
            field("value", value);
        }
        Undoing::Owner { path, uid, gid } => {
            field("path", bytes(path));
            field("uid", uid.to_string().as_bytes());
            field("gid", gid.to_string().as_bytes());
        }
        Undoing::Mode { path, mode } => {
            field("path", bytes(path));
            field("mode", format!("{mode:o}").as_bytes());
        }
        Undoing::Modified { path, time } => {
            field("path", bytes(path));
            field("seconds", time.seconds.to_string().as_bytes());
            field("nanos", time.nanos.to_string().as_bytes());
        }
        Undoing::HardLink { path, from } => {
            field("path", bytes(path));
            field("from", bytes(from));
        }
        Undoing::StopUnit { unit } | Undoing::StartUnit { unit } => field("unit", unit.as_bytes()),
        Undoing::ReloadUnits => {}
        Undoing::Run { command, timeout_seconds } => {
            for word in command {
                field("word", word.as_bytes());
            }
            field("timeout", timeout_seconds.to_string().as_bytes());
        }
    }
    if let Some(unless) = &step.unless {
        field("unless", bytes(unless));
    }
    line
}

fn owned(field: &mut impl FnMut(&str, &[u8]), mode: u32, uid: u32, gid: u32) {
    field("mode", format!("{mode:o}").as_bytes());
    field("uid", uid.to_string().as_bytes());
    field("gid", gid.to_string().as_bytes());
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn read_step(line: &str) -> Result<UndoStep, String> {
    let mut words = line.split(' ');
    let kind = words.next().unwrap_or_default();
    let fields = Fields(words.map(read_field).collect::<Result<_, _>>()?);
    let undoing = match kind {
        "link" => {
            let target = PathBuf::from(OsString::from_vec(fields.bytes("target")?.to_vec()));
            Undoing::Link { path: fields.path("path")?, target }
        }
        "remove-link" => Undoing::RemoveLink { path: fields.path("path")? },
        "folder" => Undoing::Folder {
            path: fields.path("path")?,
            mode: fields.mode()?,
            uid: fields.number("uid")?,
            gid: fields.number("gid")?,
        },
        "file" => Undoing::File {
            path: fields.path("path")?,
            from: fields.path("from")?,
            digest: Digest::parse(&fields.text("sha256")?).map_err(why)?,
            mode: fields.mode()?,
            uid: fields.number("uid")?,
            gid: fields.number("gid")?,
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
            uid: fields.number("uid")?,
            gid: fields.number("gid")?,
        },
        "mode" => Undoing::Mode { path: fields.path("path")?, mode: fields.mode()? },
        "modified" => Undoing::Modified {
            path: fields.path("path")?,
            time: Time {
                seconds: fields.text("seconds")?.parse().map_err(why)?,
                nanos: fields.number("nanos")?,
            },
        },
        "hard-link" => Undoing::HardLink { path: fields.path("path")?, from: fields.path("from")? },
        "stop-unit" => Undoing::StopUnit { unit: fields.text("unit")? },
        "reload-units" => Undoing::ReloadUnits,
        "start-unit" => Undoing::StartUnit { unit: fields.text("unit")? },
        "run" => {
            Undoing::Run { command: fields.command()?, timeout_seconds: fields.number("timeout")? }
        }
        unknown => return Err(format!("no step of the kind {unknown:?} is known")),
    };
    Ok(UndoStep { undoing, unless: fields.optional_path("unless")? })
}

fn read_field(word: &str) -> Result<(&str, Vec<u8>), String> {
    let (name, value) = word.split_once('=').ok_or_else(|| format!("{word:?} is no field"))?;
    Ok((name, decode(value)?))
}

/// The fields of a step, in their order.
struct Fields<'a>(Vec<(&'a str, Vec<u8>)>);

impl Fields<'_> {
    fn bytes(&self, name: &str) -> Result<&[u8], String> {
        let field = self.0.iter().find(|(known, _)| *known == name);
        field.map(|(_, value)| value.as_slice()).ok_or_else(|| format!("no field {name:?}"))
    }

    fn text(&self, name: &str) -> Result<String, String> {
        String::from_utf8(self.bytes(name)?.to_vec()).map_err(why)
    }

    fn number(&self, name: &str) -> Result<u32, String> {
        self.text(name)?.parse().map_err(why)
    }

    fn mode(&self) -> Result<u32, String> {
        u32::from_str_radix(&self.text("mode")?, 8).map_err(why)
    }

    fn path(&self, name: &str) -> Result<PathBuf, String> {
        plain_path(self.bytes(name)?)
    }

    fn optional_path(&self, name: &str) -> Result<Option<PathBuf>, String> {
        match self.bytes(name) {
            Ok(bytes) => plain_path(bytes).map(Some),
            Err(_) => Ok(None),
        }
    }

    fn command(&self) -> Result<Vec<String>, String> {
        let words = self.0.iter().filter(|(name, _)| *name == "word");
        let words = words.map(|(_, value)| String::from_utf8(value.clone()).map_err(why));
        let command: Vec<_> = words.collect::<Result<_, _>>()?;
        if command.is_empty() { Err("no command".into()) } else { Ok(command) }
    }
}

/// A path from the root without detours, and never the root itself.
fn plain_path(bytes: &[u8]) -> Result<PathBuf, String> {
    let path = PathBuf::from(OsString::from_vec(bytes.to_vec()));
    let mut components = path.components();
    let plain = components.next() == Some(Component::RootDir)
        && components.clone().next().is_some()
        && components.all(|component| matches!(component, Component::Normal(_)))
        && !bytes.contains(&0);
    if plain { Ok(path) } else { Err(format!("{} is no plain path", path.display())) }
}

/// Bytes that stand for themselves.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/._-:@+,".contains(&byte)
}

/// Bytes as one word: those that are not plain stand as `%XX`.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if is_plain(byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// The bytes of such a word.
///
/// # Errors
/// If no [`encode`] wrote it.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let hex: Vec<u8> = rest.by_ref().take(2).collect();
                let hex = std::str::from_utf8(&hex).map_err(why)?;
                let value = u8::from_str_radix(hex, 16).map_err(why)?;
                if hex.len() != 2 {
                    return Err(format!("{text:?} ends in the middle of a byte"));
                }
                bytes.push(value);
            }
            plain if is_plain(plain) => bytes.push(plain),
            other => return Err(format!("byte {other} stands for itself")),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::update::testing::attempt_of;

    fn any_path() -> impl Strategy<Value = PathBuf> {
        let name = prop::collection::vec(1..=255_u8, 1..12)
            .prop_map(|name| name.into_iter().filter(|b| *b != b'/').collect::<Vec<_>>())
            .prop_filter("a name", |name| !matches!(name.as_slice(), b"" | b"." | b".."));
        prop::collection::vec(name, 1..4).prop_map(|names| {
            PathBuf::from(OsString::from_vec([b"/", &*names.join(&b'/')].concat()))
        })
    }

    fn any_undoing() -> impl Strategy<Value = Undoing> {
        let owner = (0..0o7777_u32, any::<u32>(), any::<u32>());
        let digest = any::<[u8; 32]>().prop_map(Digest::from);
        prop_oneof![
            (any_path(), any_path()).prop_map(|(path, target)| Undoing::Link { path, target }),
            any_path().prop_map(|path| Undoing::RemoveLink { path }),
            (any_path(), owner.clone()).prop_map(|(path, (mode, uid, gid))| Undoing::Folder {
                path,
                mode,
                uid,
                gid
            }),
            (any_path(), any_path(), digest, owner).prop_map(
                |(path, from, digest, (mode, uid, gid))| Undoing::File {
                    path,
                    from,
                    digest,
                    mode,
                    uid,
                    gid
                }
            ),
            any_path().prop_map(|path| Undoing::Remove { path }),
            (any_path(), any_path(), any_path()).prop_map(|(path, from, aside)| Undoing::Swap {
                path,
                from,
                aside
            }),
            (any_path(), any_path(), prop::collection::vec(any::<u8>(), 0..9)).prop_map(
                |(path, name, value)| Undoing::Attribute { path, name: name.into(), value }
            ),
            (any_path(), 0..0o7777_u32).prop_map(|(path, mode)| Undoing::Mode { path, mode }),
            (any_path(), any::<[u32; 2]>()).prop_map(|(path, [uid, gid])| Undoing::Owner {
                path,
                uid,
                gid
            }),
            (any_path(), any::<i64>(), 0..1_000_000_000_u32).prop_map(|(path, seconds, nanos)| {
                Undoing::Modified { path, time: Time { seconds, nanos } }
            }),
            (any_path(), any_path()).prop_map(|(path, from)| Undoing::HardLink { path, from }),
            ".{0,20}".prop_map(|unit| Undoing::StopUnit { unit }),
            Just(Undoing::ReloadUnits),
            ".{0,20}".prop_map(|unit| Undoing::StartUnit { unit }),
            (prop::collection::vec("(?s).{0,20}", 1..4), any::<u32>())
                .prop_map(|(command, timeout_seconds)| Undoing::Run { command, timeout_seconds }),
        ]
    }

    fn any_way_back() -> impl Strategy<Value = WayBack> {
        let step = (any_undoing(), prop::option::of(any_path()))
            .prop_map(|(undoing, unless)| UndoStep { undoing, unless });
        (any::<[u64; 3]>(), any::<u32>(), any::<bool>(), prop::collection::vec(step, 0..8))
            .prop_map(|([deadline, patience, alone], starts, known, steps)| WayBack {
                install: InstallId::parse("install-1").unwrap(),
                boot: BootId::parse("b6a3-22").unwrap(),
                deadline: Running::from_nanos(deadline),
                patience: Duration::from_nanos(patience),
                alone: Duration::from_nanos(alone),
                starts,
                attempt: known.then(|| attempt_of("payments", "2.0")),
                lease: known.then(|| LeaseId::parse("lease-1").unwrap()),
                restores: known.then(|| BackupId::parse("b-1").unwrap()),
                owners: Owners {
                    users: known.then(|| (starts, "a b".into())).into_iter().collect(),
                    groups: known.then(|| (7, "ledgers".into())).into_iter().collect(),
                },
                steps,
            })
    }

    fn example() -> WayBack {
        WayBack {
            install: InstallId::parse("install-1").unwrap(),
            boot: BootId::parse("boot-1").unwrap(),
            deadline: Running::from_nanos(7),
            patience: Duration::from_secs(600),
            alone: Duration::from_secs(60),
            starts: 3,
            attempt: None,
            lease: None,
            restores: None,
            owners: Owners::default(),
            steps: vec![
                UndoStep::from(Undoing::StopUnit { unit: "payments.service".into() }),
                UndoStep {
                    undoing: Undoing::Link {
                        path: "/opt/pay ments/current".into(),
                        target: "releases/1.0".into(),
                    },
                    unless: Some("/opt/aside".into()),
                },
            ],
        }
    }

    const EXAMPLE: &str = "refit-way-back 1
install install-1
boot boot-1
deadline 7
patience 600000000000
alone 60000000000
starts 3
step stop-unit unit=payments.service
step link path=/opt/pay%20ments/current target=releases/1.0 unless=/opt/aside
";

    fn sealed(text: &str) -> Vec<u8> {
        format!("{text}end {}\n", Digest::of(text.as_bytes())).into_bytes()
    }

    #[test]
    fn the_format_is_what_it_was_when_it_was_frozen() {
        assert_eq!(String::from_utf8(example().to_bytes()).unwrap().as_bytes(), sealed(EXAMPLE));
        assert_eq!(WayBack::parse(&sealed(EXAMPLE)), Ok(example()));
    }

    #[test]
    fn what_a_later_writer_adds_is_skipped() {
        let more = EXAMPLE
            .replace("starts 3", "starts 3\nmood good")
            .replace("unit=payments.service", "unit=payments.service patience=7");
        assert_eq!(WayBack::parse(&sealed(&more)), Ok(example()));
    }

    #[test]
    fn a_step_of_an_unknown_kind_makes_the_whole_file_unusable() {
        let more = EXAMPLE.replace("step stop-unit", "step pray");
        let refused = WayBack::parse(&sealed(&more)).unwrap_err();
        assert_eq!(refused.to_string(), "line 8: no step of the kind \"pray\" is known");
    }

    #[test]
    fn a_path_is_never_relative_a_detour_or_the_root() {
        for path in ["opt/x", "/", "/opt/../etc", "", "/opt/%00"] {
            let bad = EXAMPLE.replace("/opt/pay%20ments/current", path);
            assert!(WayBack::parse(&sealed(&bad)).is_err(), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(way_back in any_way_back()) {
            prop_assert_eq!(WayBack::parse(&way_back.to_bytes()), Ok(way_back));
        }

        #[test]
        fn whatever_is_cut_or_flipped_is_refused(way_back in any_way_back(), bit in 0..8_u32) {
            let bytes = way_back.to_bytes();
            for place in 0..bytes.len() {
                prop_assert!(WayBack::parse(&bytes[..place]).is_err(), "cut at {}", place);
                let mut flipped = bytes.clone();
                flipped[place] ^= 1_u8 << bit;
                prop_assert!(WayBack::parse(&flipped).is_err(), "flipped at {}", place);
            }
            let more = [bytes.as_slice(), b"\n"].concat();
            prop_assert!(WayBack::parse(&more).is_err());
        }

        #[test]
        fn no_bytes_make_the_reader_fail(bytes in any::<Vec<u8>>(), line in ".{0,80}") {
            let _ = WayBack::parse(&bytes);
            let _ = WayBack::parse(&sealed(&format!("{FIRST_LINE}\nstep {line}\n")));
        }
    }
}
