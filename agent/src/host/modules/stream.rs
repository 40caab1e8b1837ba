//! The payload as streams: two named pipes, over which a module asks for one file after the other. Talk and
//! not state, so the pipes are made here and not through [`Files`]; whatever is left of them after a cut goes
//! with the file tree.
//!
//! The next name is written only when its pipe is there, since modules read with `cat`, to the end.

use std::{
    fs,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, mknodat, open},
    io::Errno,
};

use super::{
    super::files::{Files, Reading},
    tree::Part,
};

/// A piece of a file, as large as a pipe.
const PIECE: usize = 64 * 1024;

enum Stage {
    /// The next file, or the end, as soon as the module asks.
    Next,
    /// Its pipe is named; the module has to open it.
    Named,
    /// Bytes go.
    Flows { source: Box<dyn Reading>, pipe: fs::File, piece: Vec<u8>, sent: usize },
    /// The module has read the end.
    Over,
}

/// A payload that is offered to a module.
pub(super) struct Stream<'a> {
    files: &'a dyn Files,
    tree: &'a Path,
    payload: &'a [Part],
    with_sizes: bool,
    at: usize,
    asked: bool,
    stage: Stage,
}

impl<'a> Stream<'a> {
    /// Makes the first pipe.
    pub(super) fn offer(
        files: &'a dyn Files,
        tree: &'a Path,
        payload: &'a [Part],
        with_sizes: bool,
    ) -> Result<Stream<'a>, String> {
        let stream =
            Stream { files, tree, payload, with_sizes, at: 0, asked: false, stage: Stage::Next };
        stream.clear().and_then(|()| pipe(&stream.next())).map_err(said)?;
        fs::create_dir(stream.folder()).map_err(said)?;
        Ok(stream)
    }

    fn next(&self) -> PathBuf {
        self.tree.join("stream-next")
    }

    fn folder(&self) -> PathBuf {
        self.tree.join("streams")
    }

    fn clear(&self) -> io::Result<()> {
        let gone = |result: io::Result<()>| match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        gone(fs::remove_file(self.next()))?;
        gone(fs::remove_dir_all(self.folder()))
    }

    /// Goes on as far as the module does; `false`: it has to be waited for.
    pub(super) fn go_on(&mut self) -> Result<bool, String> {
        let (stage, got_on) = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Next => self.name_next(),
            Stage::Named => self.begin(),
            Stage::Flows { source, pipe, piece, sent } => self.flow(source, pipe, piece, sent),
            Stage::Over => Ok((Stage::Over, false)),
        }
        .map_err(|error| format!("the payload does not reach it: {error}"))?;
        self.stage = stage;
        Ok(got_on)
    }

    fn name_next(&mut self) -> io::Result<(Stage, bool)> {
        let Some(next) = reader(&self.next())? else { return Ok((Stage::Next, false)) };
        self.asked = true;
        let Some(part) = self.payload.get(self.at) else {
            // Nothing is written: that is the end.
            return Ok((Stage::Over, true));
        };
        pipe(&self.folder().join(&part.name))?;
        let size = if self.with_sizes { format!(" {}", part.length) } else { String::new() };
        // Shorter than a pipe takes at once.
        fs::File::from(next).write_all(format!("streams/{}{size}\n", part.name).as_bytes())?;
        Ok((Stage::Named, true))
    }

    fn begin(&mut self) -> io::Result<(Stage, bool)> {
        let part = &self.payload[self.at];
        let Some(pipe) = reader(&self.folder().join(&part.name))? else {
            return Ok((Stage::Named, false));
        };
        let source = self.files.open(&part.path).map_err(io::Error::other)?;
        Ok((Stage::Flows { source, pipe: pipe.into(), piece: Vec::new(), sent: 0 }, true))
    }

    fn flow(
        &mut self,
        mut source: Box<dyn Reading>,
        mut pipe: fs::File,
        mut piece: Vec<u8>,
        mut sent: usize,
    ) -> io::Result<(Stage, bool)> {
        if sent == piece.len() {
            piece.resize(PIECE, 0);
            let read = source.read(&mut piece)?;
            piece.truncate(read);
            sent = 0;
            if read == 0 {
                drop(pipe);
                fs::remove_file(self.folder().join(&self.payload[self.at].name))?;
                self.at += 1;
                return Ok((Stage::Next, true));
            }
        }
        let got_on = match pipe.write(&piece[sent..]) {
            Ok(written) => {
                sent += written;
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => return Err(error),
        };
        Ok((Stage::Flows { source, pipe, piece, sent }, got_on))
    }

    /// Removes the pipes, and says whether the module took the payload: all of it, or nothing.
    pub(super) fn end(self) -> Result<bool, String> {
        self.clear().map_err(said)?;
        match self.stage {
            Stage::Over => Ok(true),
            Stage::Next | Stage::Named | Stage::Flows { .. } if self.asked => {
                Err("it ended without reading its payload to the end".into())
            }
            Stage::Next | Stage::Named | Stage::Flows { .. } => Ok(false),
        }
    }
}

fn pipe(path: &Path) -> io::Result<()> {
    Ok(mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?)
}

/// The writing end, if somebody reads.
fn reader(path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match open(path, flags, Mode::empty()) {
        Ok(pipe) => Ok(Some(pipe)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn said(error: io::Error) -> String {
    format!("its pipes can't be made: {error}")
}
