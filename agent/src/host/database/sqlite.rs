//! SQLite by its own program. While it is written to, a copy is made by SQLite itself, which knows how to;
//! the copy is then opened, looked through and hashed.
//!
//! What is in the file is the service's, and the agent may be root: a copy is only ever opened as one whose
//! schema is not trusted, in the program's safe mode.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use refit_proto::{
    gathered::Gathered as _,
    package::{self, Sqlite},
};

use super::{
    super::{
        files::{self, Action, FileError, Files},
        piped::{PipeError, Piped, Take},
    },
    DatabaseError, Size,
    compare::Contents,
    failed, length,
    tool::Tools,
};

pub(super) struct Recipe<'a> {
    files: &'a dyn Files,
    it: Sqlite,
    tools: Tools,
    program: PathBuf,
    /// Where scratch folders are made.
    scratches: PathBuf,
}

/// Nothing that a schema calls is called.
const UNTRUSTED: &str = "PRAGMA trusted_schema=OFF";
/// For how long a lock is waited for, milliseconds.
const LOCKED: &str = ".timeout 60000";

impl<'a> Recipe<'a> {
    pub(super) fn new(
        files: &'a dyn Files,
        it: &Sqlite,
        tools: Tools,
        scratches: PathBuf,
    ) -> Result<Recipe<'a>, DatabaseError> {
        let program = tools.find(None, &["sqlite3"])?;
        let path = files.resolve(Path::new(&it.path))?;
        let it = Sqlite { path: path.to_string_lossy().into_owned(), ..it.clone() };
        Ok(Recipe { files, it, tools, program, scratches })
    }

    /// The program in a folder of its own, so that each name there is fixed.
    fn sqlite(&self, folder: &Path, words: &[&str]) -> Piped {
        let mut all = vec!["-init", "/dev/null", "-batch", "-bail"];
        all.extend(words);
        let words: Vec<String> = all.into_iter().map(Into::into).collect();
        let mut piped = self.tools.run(&self.program, &words, self.tools.longest());
        folder.clone_into(&mut piped.program.folder);
        piped
    }

    fn folder(&self, scratch: &str) -> PathBuf {
        self.scratches.join(scratch)
    }

    /// Whether a copy in the scratch is whole, and what is in it.
    fn look_through(&self, folder: &Path) -> Result<Contents, DatabaseError> {
        let words = ["-safe", "-readonly", COPY, UNTRUSTED, "PRAGMA integrity_check(10)"];
        let asked = self.sqlite(folder, &words).ask("");
        let said = asked.map_err(failed(self.tools.database(), "looked through"))?;
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        if said != "ok" {
            let database = self.it.name.to_string();
            let why = format!("integrity_check says: {}", said.lines().next().unwrap_or_default());
            return Err(DatabaseError::Tool { database, action: "relied on", why });
        }
        self.hash(folder, COPY)
    }

    fn hash(&self, folder: &Path, path: &str) -> Result<Contents, DatabaseError> {
        let words = ["-safe", "-readonly", path, LOCKED, UNTRUSTED, ".sha3sum --schema"];
        let asked = self.sqlite(folder, &words).ask("");
        let hash = asked.map_err(failed(self.tools.database(), "hashed"))?;
        let hash = String::from_utf8_lossy(&hash).trim().to_owned();
        Ok([("content".to_owned(), hash)].into_iter().gathered())
    }

    fn copy_by_sqlite(&self, folder: &Path) -> Result<(), PipeError> {
        let words = ["-readonly", self.it.path.as_str(), LOCKED, ".backup main copy.db"];
        self.sqlite(folder, &words).ask("").map(drop)
    }

    fn in_folder<T>(
        &self,
        name: &str,
        act: impl FnOnce(&Path) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        let folder = self.folder(name);
        files::remove_tree(self.files, &folder)?;
        files::create_dirs(self.files, &folder, 0o700)?;
        let done = act(&folder);
        files::remove_tree(self.files, &folder)?;
        done
    }
}

/// The name of a copy in its folder.
const COPY: &str = "copy.db";

impl super::Recipe for Recipe<'_> {
    fn size(&self) -> Result<Option<Size>, DatabaseError> {
        let path = Path::new(&self.it.path);
        if !files::exists(self.files, path)? {
            return Ok(None);
        }
        let files = package::Sqlite::files(&self.it.path);
        let bytes = length(self.files, &files)?.unwrap_or(0);
        // A copy by SQLite stands beside the dump until that is whole.
        Ok(Some(Size { dump: bytes.saturating_mul(2), at: None }))
    }

    fn look(&self) -> Result<Contents, DatabaseError> {
        self.hash(Path::new("/"), &self.it.path)
    }

    fn dump(&self, scratch: &str, take: Take<'_>) -> Result<Option<u64>, DatabaseError> {
        self.in_folder(scratch, |folder| {
            self.copy_by_sqlite(folder).map_err(failed(self.tools.database(), "copied"))?;
            let copy = folder.join(COPY);
            let mut file = self.files.open(&copy)?;
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let read = io::Read::read(&mut file, &mut buffer);
                match read.map_err(FileError::at(Action::Read, &copy))? {
                    0 => return Ok(None),
                    read => take(&buffer[..read]).map_err(FileError::at(Action::Write, &copy))?,
                }
            }
        })
    }

    fn load(
        &self,
        scratch: &str,
        mut dump: Box<dyn io::Read + Send>,
    ) -> Result<Option<Contents>, DatabaseError> {
        self.in_folder(scratch, |folder| {
            let copy = folder.join(COPY);
            let mut file = self.files.create(&copy, 0o600)?;
            io::copy(&mut dump, &mut file).map_err(FileError::at(Action::Write, &copy))?;
            file.flush().map_err(FileError::at(Action::Write, &copy))?;
            drop(file);
            Ok(Some(self.look_through(folder)?))
        })
    }

    fn clear(&self, scratch: &str) -> Result<(), DatabaseError> {
        Ok(files::remove_tree(self.files, &self.folder(scratch)).map(drop)?)
    }
}
