//! What was typed, by the tables.

use std::ffi::{OsStr, OsString};

use super::{Arg, Command, Does, Given, Times, Wrong, help};

/// What was read.
pub(in super::super) enum Read {
    /// What is to be done.
    Act(super::Act, Given),
    /// A text that was asked for.
    Text(String),
    /// Nothing was said of what to do; the help.
    Nothing(String),
}

/// Reads what follows the program's name; `variable` gives the variables of the environment.
///
/// # Errors
/// If it is nothing that the tables allow.
pub(in super::super) fn read(
    program: &'static Command,
    version: &str,
    typed: impl IntoIterator<Item = OsString>,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Read, Wrong> {
    let mut reading = Reading {
        given: Given { path: vec![program], values: Vec::new() },
        typed: typed.into_iter().collect::<Vec<_>>().into_iter(),
        words: 0,
    };
    let mut only_words = false;
    while let Some(typed) = reading.typed.next() {
        match typed.to_str() {
            Some("--") if !only_words => only_words = true,
            Some("-h" | "--help") if !only_words => return Ok(Read::Text(reading.help())),
            Some("-V" | "--version") if !only_words && reading.given.path.len() == 1 => {
                return Ok(Read::Text(format!("{} {version}\n", program.name)));
            }
            Some("help") if !only_words && reading.takes_command() => return reading.help_of(),
            Some(name) if !only_words && reading.takes_command() && reading.enter(name)? => {}
            _ if !only_words && is_option(&typed) => reading.option(&typed)?,
            _ => reading.word(typed)?,
        }
    }
    reading.end(variable)
}

/// `-` alone is a word, as it is everywhere.
fn is_option(typed: &OsStr) -> bool {
    typed.len() > 1 && typed.as_encoded_bytes().starts_with(b"-")
}

struct Reading {
    given: Given,
    typed: std::vec::IntoIter<OsString>,
    /// How many words that stand for themselves were read.
    words: usize,
}

impl Reading {
    fn command(&self) -> &'static Command {
        self.given.path[self.given.path.len() - 1]
    }

    fn takes_command(&self) -> bool {
        self.words == 0 && !self.command().commands().is_empty()
    }

    fn help(&self) -> String {
        help::text(&self.given.path)
    }

    /// Help of the commands that follow.
    fn help_of(mut self) -> Result<Read, Wrong> {
        while let Some(name) = self.typed.next() {
            let name = name.to_string_lossy().into_owned();
            if !self.takes_command() || !self.enter(&name)? {
                return Err(self.given.wrong(format!("unrecognized subcommand '{name}'")));
            }
        }
        Ok(Read::Text(self.help()))
    }

    /// Goes on with this command; says whether it is one.
    fn enter(&mut self, name: &str) -> Result<bool, Wrong> {
        let command = self.command();
        if let Some(next) = command.commands().iter().find(|next| next.name == name) {
            let own = command.args.iter().filter(|_| self.given.path.len() > 1);
            if let Some(arg) = own.into_iter().find(|arg| self.given.has(arg)) {
                let why = format!("the subcommand '{name}' cannot be used with '{arg}'");
                return Err(self.given.wrong(why));
            }
            self.given.path.push(next);
            return Ok(true);
        }
        if is_option(OsStr::new(name)) || command.args.iter().any(Arg::is_word) {
            return Ok(false);
        }
        let names = help::names(command).join(", ");
        let why = format!("unrecognized subcommand '{name}'\n  [subcommands: {names}]");
        Err(self.given.wrong(why))
    }

    fn option(&mut self, typed: &OsStr) -> Result<(), Wrong> {
        let (name, value) = match typed.to_str().and_then(|typed| typed.split_once('=')) {
            Some((name, value)) => (name.to_owned(), Some(OsString::from(value))),
            None => split(typed),
        };
        let unexpected = || self.given.wrong(format!("unexpected argument '{name}' found"));
        let typed = name.strip_prefix("--").ok_or_else(unexpected)?;
        let args = help::options(&self.given.path);
        let arg = args.into_iter().find(|arg| arg.name == typed).ok_or_else(unexpected)?;
        if self.given.has(arg) {
            let why = format!("the argument '{arg}' cannot be used multiple times");
            return Err(self.given.wrong(why));
        }
        let value = match (arg.value, value) {
            ("", None) => OsString::new(),
            ("", Some(_)) => {
                return Err(self.given.wrong(format!("the argument '{arg}' takes no value")));
            }
            (_, Some(value)) => value,
            (_, None) => self.next_value(arg)?,
        };
        self.put(arg, value)
    }

    fn next_value(&mut self, arg: &Arg) -> Result<OsString, Wrong> {
        // What looks like an option is one: `--name=--value` says otherwise.
        let next = self.typed.as_slice().first().filter(|next| !is_option(next));
        if next.is_none() {
            let values = help::values(arg);
            let why = format!("a value is required for '{arg}' but none was supplied{values}");
            return Err(self.given.wrong(why));
        }
        Ok(self.typed.next().unwrap_or_default())
    }

    fn word(&mut self, typed: OsString) -> Result<(), Wrong> {
        let words: Vec<&'static Arg> =
            self.command().args.iter().filter(|arg| arg.is_word()).collect();
        let last = words.last().filter(|arg| arg.times == Times::Any);
        let Some(arg) = words.get(self.words).or(last) else {
            let why = format!("unexpected argument '{}' found", typed.to_string_lossy());
            return Err(self.given.wrong(why));
        };
        self.words += 1;
        self.put(arg, typed)
    }

    fn put(&mut self, arg: &Arg, value: OsString) -> Result<(), Wrong> {
        let known = |value: &OsString| arg.one_of.iter().any(|one| value == one);
        if !arg.one_of.is_empty() && !known(&value) {
            let (value, values) = (value.to_string_lossy(), help::values(arg));
            return Err(self.given.wrong(format!("invalid value '{value}' for '{arg}'{values}")));
        }
        if value.is_empty() && !arg.value.is_empty() {
            let why = format!("a value is required for '{arg}' but none was supplied");
            return Err(self.given.wrong(why));
        }
        self.given.values.push((arg.key(), value));
        Ok(())
    }

    /// Fills in what the environment gives and what stands by itself, and sees what is missing.
    fn end(mut self, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Read, Wrong> {
        let act = match self.command().does {
            Does::OneOf(_) => return Ok(Read::Nothing(self.help())),
            Does::This(act) | Does::ThisOr(act, _) => act,
        };
        let (program, command) = (self.given.path[0], self.command());
        let others = if self.given.path.len() > 1 { command.args } else { &[] };
        let mut missing = Vec::new();
        for arg in program.args.iter().chain(others).filter(|arg| arg.times != Times::Any) {
            if self.given.has(arg) {
                continue;
            }
            let variable = Some(arg.variable).filter(|name| !name.is_empty()).and_then(variable);
            let default = Some(OsString::from(arg.default));
            let mut values = [variable, default].into_iter().flatten();
            match values.find(|value| !value.is_empty()) {
                Some(value) => self.put(arg, value)?,
                None if arg.times == Times::Once => missing.push(arg),
                None => {}
            }
        }
        if missing.is_empty() {
            Ok(Read::Act(act, self.given))
        } else {
            Err(self.given.missing(&missing))
        }
    }
}

/// An option of which the value is no text.
fn split(typed: &OsStr) -> (String, Option<OsString>) {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let bytes = typed.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => {
            let value = OsString::from_vec(bytes[at + 1..].to_vec());
            (String::from_utf8_lossy(&bytes[..at]).into_owned(), Some(value))
        }
        None => (typed.to_string_lossy().into_owned(), None),
    }
}
