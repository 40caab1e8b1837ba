//! A folder on another host, by OpenSSH's own `sftp`, which needs no shell there. One connection carries all
//! of it. The other host must be known beforehand, and no password is ever asked for.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use refit_copy::Why;
use tempfile::TempDir;

use super::{Failed, Place, too_large};

const SFTP: &str = "/usr/bin/sftp";
const SSH: &str = "/usr/bin/ssh";
/// How often a file that comes is looked at, so that no server makes it larger than it may be.
const LOOK: Duration = Duration::from_millis(20);
/// How much of what the programs say is kept.
const SAID_MAX: usize = 8192;

pub struct Ssh {
    /// `user@host`.
    login: String,
    host: String,
    path: String,
    options: Vec<String>,
    /// What comes and goes, and the socket of the one connection.
    scratch: TempDir,
    /// Folders that were made, or found, there.
    made: std::collections::BTreeSet<String>,
}

/// Whether a text may stand between quotes in what `sftp` is told, and means itself there.
fn plain(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(|c| c.is_control() || "\"'\\*?[]".contains(c))
}

impl Ssh {
    pub fn new(
        host: &str,
        user: &str,
        port: u16,
        path: &str,
        key: &Path,
        known_hosts: &Path,
    ) -> Result<Ssh, Failed> {
        let wrong = |text: String| Failed::new(Why::Host, text);
        let word = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-:".contains(c))
        };
        if !word(host) || !word(user) || user.contains(':') {
            return Err(wrong(format!("`{user}@{host}` is no user and host")));
        }
        if !plain(path) || path.starts_with('-') {
            return Err(wrong(format!("`{path}` is no path that can be given to sftp")));
        }
        let mut files = Vec::new();
        for file in [key, known_hosts] {
            let there = file
                .metadata()
                .map_err(|error| wrong(format!("{} can't be read: {error}", file.display())))?;
            if !there.is_file() {
                return Err(wrong(format!("{} is no file", file.display())));
            }
            let text = file.to_str().filter(|text| plain(text) && !text.contains([' ', '%', '$']));
            let text = text.ok_or_else(|| {
                wrong(format!("{} is no path that can be given to ssh", file.display()))
            })?;
            files.push(text.to_owned());
        }
        let scratch = tempfile::Builder::new().prefix("refit-copy.").tempdir();
        let scratch =
            scratch.map_err(|error| wrong(format!("no folder for what comes: {error}")))?;
        let socket = scratch.path().join("c");
        let mut options = vec!["-F".to_owned(), "none".to_owned()];
        for option in [
            format!("Port={port}"),
            format!("IdentityFile={}", files[0]),
            format!("UserKnownHostsFile={}", files[1]),
            format!("ControlPath={}", socket.display()),
            "GlobalKnownHostsFile=none".into(),
            "StrictHostKeyChecking=yes".into(),
            "UpdateHostKeys=no".into(),
            "IdentitiesOnly=yes".into(),
            "BatchMode=yes".into(),
            "PreferredAuthentications=publickey".into(),
            "ForwardAgent=no".into(),
            "ClearAllForwardings=yes".into(),
            "ConnectTimeout=15".into(),
            "ServerAliveInterval=15".into(),
            "ServerAliveCountMax=4".into(),
            "ControlMaster=auto".into(),
            "ControlPersist=30".into(),
            "LogLevel=ERROR".into(),
        ] {
            options.extend(["-o".to_owned(), option]);
        }
        let login =
            if host.contains(':') { format!("{user}@[{host}]") } else { format!("{user}@{host}") };
        Ok(Ssh {
            login,
            host: host.to_owned(),
            path: path.trim_end_matches('/').to_owned(),
            options,
            scratch,
            made: Default::default(),
        })
    }

    fn at(&self, name: &str) -> String {
        if name.is_empty() { self.path.clone() } else { format!("{}/{name}", self.path) }
    }

    /// Lets `sftp` do this, and says what it printed. `grows`: a file that may not get longer than this.
    fn sftp(&self, batch: &str, grows: Option<(&Path, u64)>) -> Result<String, Said> {
        let here = |error: &dyn std::fmt::Display| {
            Said::Other(Failed::new(
                Why::Host,
                format!("{SFTP} can't be used: {error}; install openssh-client"),
            ))
        };
        // What it prints goes into files: whoever keeps the connection would else keep a pipe open.
        let (out, err) = (self.scratch.path().join("out"), self.scratch.path().join("err"));
        let make = |path: &PathBuf| fs::File::create(path).map_err(|error| here(&error));
        let mut child = Command::new(SFTP)
            .args(&self.options)
            // Not `-q`: it keeps ssh from saying why it was refused.
            .args(["-b", "-", "--"])
            .arg(&self.login)
            .stdin(Stdio::piped())
            .stdout(make(&out)?)
            .stderr(make(&err)?)
            .spawn()
            .map_err(|error| here(&error))?;
        if let Some(mut stdin) = child.stdin.take() {
            // Where it ends before it has read all, its own words say why.
            let _ = stdin.write_all(batch.as_bytes());
        }
        let whole = wait(&mut child, grows).map_err(|error| here(&error))?;
        let read = |path: &PathBuf| {
            let mut bytes = Vec::new();
            let limit = if path == &err { SAID_MAX as u64 } else { 64 << 20 };
            let read =
                fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
            read.map(|_| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
        };
        match whole {
            Some(true) => Ok(read(&out)),
            Some(false) => Err(self.said(&read(&err))),
            None => Err(Said::TooLarge),
        }
    }

    fn said(&self, words: &str) -> Said {
        let lines: Vec<&str> = words.lines().map(str::trim).collect();
        let no_news = |line: &&str| line.is_empty() || line.starts_with("Connected to ");
        let lines: Vec<&str> = lines.into_iter().filter(|line| !no_news(line)).collect();
        let gone = |line: &&str| {
            line.contains("not found") || line.contains("No such file") || line.contains("t ls:")
        };
        let refused =
            ["Permission denied", "verification failed", "REMOTE HOST IDENTIFICATION", "Bad owner"];
        if lines.iter().any(|line| refused.iter().any(|word| line.contains(word))) {
            let text = format!("{} refuses: {}", self.host, short(&lines));
            return Said::Other(Failed::new(Why::Refused, text));
        }
        if lines.iter().any(gone) {
            return Said::Missing(short(&lines));
        }
        let text = format!("{} can't be used: {}", self.host, short(&lines));
        Said::Other(Failed::new(Why::Away, text))
    }

    fn make_folders(&mut self, name: &str) -> Result<(), Failed> {
        let (folder, _) = name.rsplit_once('/').unwrap_or_default();
        if self.made.contains(folder) {
            return Ok(());
        }
        let mut batch = String::new();
        let mut at = String::new();
        for part in folder.split('/') {
            at = if at.is_empty() { part.to_owned() } else { format!("{at}/{part}") };
            // It may be there already; putting something into it tells.
            batch.push_str(&format!("-mkdir \"{}\"\n", self.at(&at)));
        }
        self.sftp(&batch, None).map_err(|said| said.failed(&self.host))?;
        self.made.insert(folder.to_owned());
        Ok(())
    }
}

/// What `sftp` said where it did not do what it was told.
enum Said {
    /// What was named is not there.
    Missing(String),
    /// The file that came got longer than it may be.
    TooLarge,
    /// Anything else.
    Other(Failed),
}

impl Said {
    fn failed(self, host: &str) -> Failed {
        match self {
            Said::Missing(words) => Failed::new(Why::Refused, format!("{host} refuses: {words}")),
            Said::TooLarge => {
                Failed::new(Why::Damaged, format!("{host} sends more than there was"))
            }
            Said::Other(failed) => failed,
        }
    }
}

fn short(lines: &[&str]) -> String {
    match lines {
        [] => "it ended without a word".to_owned(),
        lines => lines.iter().rev().take(3).rev().copied().collect::<Vec<_>>().join("; "),
    }
}

/// Whether it ended well; `None` if it was ended since a file got too long.
fn wait(child: &mut Child, grows: Option<(&Path, u64)>) -> std::io::Result<Option<bool>> {
    let Some((path, limit)) = grows else { return Ok(Some(child.wait()?.success())) };
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if path.metadata().is_ok_and(|file| file.len() > limit) {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(LOOK);
    }
}

impl Place for Ssh {
    fn put(&mut self, name: &str, bytes: &[u8]) -> Result<(), Failed> {
        self.make_folders(name)?;
        let local = self.scratch.path().join("put");
        fs::write(&local, bytes).map_err(|error| {
            Failed::new(Why::Host, format!("cannot write {}: {error}", local.display()))
        })?;
        let (folder, last) = name.rsplit_once('/').unwrap_or(("", name));
        let new = self.at(&format!("{folder}/.new.{last}"));
        // `-f`: it is on the other host's disk before it gets its name.
        let batch = format!(
            "put -f \"{}\" \"{new}\"\nrename \"{new}\" \"{}\"\n",
            local.display(),
            self.at(name)
        );
        let done = self.sftp(&batch, None);
        let _removed_with_the_folder = fs::remove_file(&local);
        done.map(drop).map_err(|said| said.failed(&self.host))
    }

    fn get(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, Failed> {
        let local = self.scratch.path().join("got");
        let _none_there = fs::remove_file(&local);
        let batch = format!("get \"{}\" \"{}\"\n", self.at(name), local.display());
        match self.sftp(&batch, Some((&local, limit))) {
            Ok(_) => {}
            Err(Said::Missing(_)) => return Ok(None),
            Err(Said::TooLarge) => return Err(too_large(name, limit)),
            Err(Said::Other(failed)) => return Err(failed),
        }
        let mut bytes = Vec::new();
        let read =
            fs::File::open(&local).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
        read.map_err(|error| {
            Failed::new(Why::Host, format!("cannot read {}: {error}", local.display()))
        })?;
        if bytes.len() as u64 > limit {
            return Err(too_large(name, limit));
        }
        Ok(Some(bytes))
    }

    fn list(&mut self, folder: &str) -> Result<Vec<String>, Failed> {
        let printed = match self.sftp(&format!("ls -1a \"{}\"\n", self.at(folder)), None) {
            Ok(printed) => printed,
            Err(Said::Missing(_)) => return Ok(Vec::new()),
            Err(said) => return Err(said.failed(&self.host)),
        };
        let lines = printed.lines().filter(|line| !line.starts_with("sftp> "));
        let names = lines.map(|line| line.trim_end().rsplit('/').next().unwrap_or_default());
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.retain(|name| !matches!(name.as_str(), "" | "." | ".."));
        names.sort();
        Ok(names)
    }

    fn remove(&mut self, name: &str) -> Result<(), Failed> {
        match self.sftp(&format!("rm \"{}\"\n", self.at(name)), None) {
            Ok(_) | Err(Said::Missing(_)) => Ok(()),
            Err(said) => Err(said.failed(&self.host)),
        }
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        // The connection would end by itself in half a minute.
        let ended = Command::new(SSH)
            .args(&self.options)
            .args(["-O", "exit", "--"])
            .arg(&self.login)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let _nothing_to_end = ended;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_taken_for_an_option_or_a_second_command_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        fs::write(&file, "").unwrap();
        let new = |host: &str, user: &str, path: &str| {
            Ssh::new(host, user, 22, path, &file, &file).map(drop).is_ok()
        };
        assert!(new("backup.example", "refit", "/srv/backups"));
        assert!(new("2001:db8::1", "refit", "backups/here and there"));
        for (host, user, path) in [
            ("-oProxyCommand=x", "refit", "/srv"),
            ("host", "-refit", "/srv"),
            ("host", "a b", "/srv"),
            ("host", "refit", "/srv\"\n!touch made"),
            ("host", "refit", "-r"),
            ("host", "refit", ""),
            ("ho/st", "refit", "/srv"),
        ] {
            assert!(!new(host, user, path), "{host} {user} {path}");
        }
    }
}
