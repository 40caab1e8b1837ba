//! A change on its way to its signatures: the next file of one role or of several that belong together,
//! with everything that a holder needs to judge it far from any network. The same bytes are handed round
//! as a file, and kept by the server while signatures are missing.

mod documents;
mod error;
mod judge;
mod line;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use self::{
    error::ChangeError,
    judge::{By, Judged, JudgedStep, Need},
    line::SignatureLine,
};
use super::{role::Role, set::TrustedSet, signing, verify::Opened};
use crate::{names::Digest, printable::printable};

/// How long a change stays open: then whoever still wants it opens it again, on what is newest.
pub const OPEN_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Largest change that anyone reads, bytes: what a server keeps in one record.
pub const MAX_LENGTH: usize = 2_000_000;

const KIND: &str = "change";
const FORMAT: u32 = 1;

/// What a change is made on: every root from the first on, and the newest file of the roles in question
/// and of targets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Base {
    /// From version 1 on. Empty where the change founds the repository.
    pub roots: Vec<Vec<u8>>,
    /// Targets, and what it delegates to, as far as the change is about it.
    pub held: BTreeMap<Role, Vec<u8>>,
}

impl Base {
    /// What these roles are changed on, from a verified set and the roots that lead to it.
    pub fn of(roots: Vec<Vec<u8>>, set: &TrustedSet, roles: &[Role]) -> Base {
        let mut held = BTreeMap::from([(Role::Targets, set.targets().bytes().to_vec())]);
        for role in roles {
            if let Some(file) = set.delegated(role) {
                held.insert(role.clone(), file.bytes().to_vec());
            }
        }
        Base { roots, held }
    }
}

/// A change with the signatures that it has so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeFile {
    /// Who proposes it, as people call them. Nothing depends on it.
    pub owner: String,
    /// When it was proposed.
    pub opened: Timestamp,
    base: Base,
    steps: Vec<(Role, Vec<u8>)>,
    documents: BTreeMap<Digest, Vec<u8>>,
}

impl ChangeFile {
    /// A change on this base. The steps come in the order in which they are checked: root, targets, then
    /// what targets delegates to.
    pub fn new(
        owner: String,
        opened: Timestamp,
        base: Base,
        steps: Vec<(Role, Vec<u8>)>,
    ) -> ChangeFile {
        ChangeFile { owner, opened, base, steps, documents: BTreeMap::new() }
    }

    /// Adds a document that a signed file names, so that its holders can be told what it says.
    pub fn with_document(mut self, bytes: Vec<u8>) -> ChangeFile {
        self.documents.insert(Digest::of(&bytes), bytes);
        self
    }

    /// The files, each with the signatures that it has so far.
    pub fn steps(&self) -> &[(Role, Vec<u8>)] {
        &self.steps
    }

    /// What it was made on.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// The roles whose files it changes.
    pub fn roles(&self) -> impl Iterator<Item = &Role> {
        self.steps.iter().map(|(role, _)| role)
    }

    /// The role by which people call the change: that of its first file.
    pub fn role(&self) -> Option<&Role> {
        self.roles().next()
    }

    /// When it lapses.
    pub fn lapses(&self) -> Timestamp {
        self.opened.saturating_add(OPEN_FOR).unwrap_or(Timestamp::MAX)
    }

    /// Names exactly what is to be signed, whoever has signed it by now.
    ///
    /// # Errors
    /// If a file can't be read.
    pub fn id(&self) -> Result<Digest, ChangeError> {
        let mut all = Vec::new();
        for (role, file) in &self.steps {
            let opened = Opened::open(file, role, None)?;
            all.extend_from_slice(format!("{role}\n{}\n", opened.canonical().len()).as_bytes());
            all.extend_from_slice(opened.canonical());
        }
        Ok(Digest::of(&all))
    }

    /// Adds a signature to every file that it fits.
    ///
    /// # Errors
    /// If it fits none, or the change can't be judged.
    pub fn add(&mut self, line: &SignatureLine, now: Timestamp) -> Result<(), ChangeError> {
        let judged = self.judge(None, now)?;
        let fits = |step: &&JudgedStep| step.takes(line);
        let mut fitting = judged.steps.iter().enumerate().filter(|(_, step)| fits(step)).peekable();
        if fitting.peek().is_none() {
            let holder = judged.holder(line.key).map(str::to_owned);
            return Err(ChangeError::FitsNothing { key: line.key, holder });
        }
        let fitting: Vec<usize> = fitting.map(|(at, _)| at).collect();
        for at in fitting {
            let (role, file) = &mut self.steps[at];
            *file = signing::insert(file, role, line.key, &line.signature)?;
        }
        Ok(())
    }

    /// Takes over the signatures of another copy of the same change.
    ///
    /// # Errors
    /// If it is another change.
    pub fn join(&mut self, other: &ChangeFile, now: Timestamp) -> Result<(), ChangeError> {
        if self.id()? != other.id()? {
            return Err(ChangeError::AnotherChange { this: self.id()?, other: other.id()? });
        }
        for line in other.lines(now)? {
            self.add(&line, now)?;
        }
        Ok(())
    }

    /// The signatures that it has and that count.
    ///
    /// # Errors
    /// If it can't be judged.
    pub fn lines(&self, now: Timestamp) -> Result<Vec<SignatureLine>, ChangeError> {
        let judged = self.judge(None, now)?;
        let mut lines: Vec<SignatureLine> = Vec::new();
        for (step, (role, file)) in judged.steps.iter().zip(&self.steps) {
            let opened = Opened::open(file, role, None)?;
            for key in step.signed() {
                let signature = opened.signatures().get(&key.to_string());
                let signature = signature.and_then(|bytes| bytes.as_slice().try_into().ok());
                lines.extend(signature.map(|signature| SignatureLine { key, signature }));
            }
        }
        Ok(lines)
    }

    /// Reads what [`ChangeFile::to_bytes`] wrote. Nothing of it is judged yet.
    ///
    /// # Errors
    /// If it is no change.
    pub fn from_bytes(bytes: &[u8]) -> Result<ChangeFile, ChangeError> {
        if bytes.len() > MAX_LENGTH {
            return Err(ChangeError::NotAChange { flaw: format!("over {MAX_LENGTH} bytes") });
        }
        let not = |flaw: String| ChangeError::NotAChange { flaw };
        let written: Written =
            serde_json::from_slice(bytes).map_err(|error| not(error.to_string()))?;
        if written.kind != KIND {
            return Err(not(format!("its `_type` is {:?}", written.kind)));
        }
        if written.format != FORMAT {
            return Err(ChangeError::OtherFormat { found: written.format });
        }
        let role = |name: &str| Role::parse(name).map_err(|error| not(error.to_string()));
        let mut held = BTreeMap::new();
        for (name, file) in written.held {
            held.insert(role(&name)?, file.into_bytes());
        }
        let mut steps: Vec<(Role, Vec<u8>)> = Vec::new();
        for step in written.steps {
            let role = role(&step.role)?;
            if steps.iter().any(|(before, _)| *before == role) {
                return Err(not(format!("{role} stands in it twice")));
            }
            steps.push((role, step.file.into_bytes()));
        }
        if steps.is_empty() {
            return Err(not("it changes nothing".to_owned()));
        }
        let documents = written.documents.into_iter().map(String::into_bytes);
        Ok(ChangeFile {
            owner: printable(&written.owner.chars().take(100).collect::<String>()),
            opened: written.opened,
            base: Base { roots: written.roots.into_iter().map(String::into_bytes).collect(), held },
            steps,
            documents: documents.map(|bytes| (Digest::of(&bytes), bytes)).collect(),
        })
    }

    /// The file that is handed round.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Metadata and documents are JSON, and thus text.
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let step =
            |(role, file): &(Role, Vec<u8>)| Step { role: role.to_string(), file: text(file) };
        let written = Written {
            kind: KIND.to_owned(),
            format: FORMAT,
            owner: self.owner.clone(),
            opened: self.opened,
            roots: self.base.roots.iter().map(|file| text(file)).collect(),
            held: self
                .base
                .held
                .iter()
                .map(|(role, file)| (role.to_string(), text(file)))
                .collect(),
            steps: self.steps.iter().map(step).collect(),
            documents: self.documents.values().map(|bytes| text(bytes)).collect(),
        };
        // Strings and lists alone: this cannot fail.
        serde_json::to_vec_pretty(&written).unwrap_or_default()
    }
}

/// As it is written. Files stand in it as text, so that their bytes stay as they are.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(rename = "_type")]
    kind: String,
    format: u32,
    owner: String,
    opened: Timestamp,
    roots: Vec<String>,
    held: BTreeMap<String, String>,
    steps: Vec<Step>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    documents: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Step {
    role: String,
    file: String,
}
