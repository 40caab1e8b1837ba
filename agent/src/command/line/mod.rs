//! The command line as tables: each command says what it takes, and reading, help and errors come from that alone.
//! Decides what may be typed; what it does is the commands'.

mod help;
mod read;
#[cfg(test)]
mod tests;

use std::{
    ffi::{OsStr, OsString},
    fmt::Display,
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
};

pub(super) use read::{Read, read};

/// A command, or the program itself.
pub(super) struct Command {
    /// As it is typed.
    pub(super) name: &'static str,
    /// What it does, in one line of a list of commands.
    pub(super) about: &'static str,
    /// What it takes. What the program itself takes, each of its commands takes too.
    pub(super) args: &'static [Arg],
    pub(super) does: Does,
    /// What else help says, below the rest.
    pub(super) more: &'static str,
    /// Whether it is left out of the list of commands: it is for programs.
    pub(super) hidden: bool,
}

impl Command {
    /// One that takes nothing, to be written over in part.
    pub(super) const NONE: Command =
        Command { name: "", about: "", args: &[], does: Does::OneOf(&[]), more: "", hidden: false };

    fn commands(&self) -> &'static [Command] {
        match self.does {
            Does::This(_) => &[],
            Does::OneOf(commands) | Does::ThisOr(_, commands) => commands,
        }
    }
}

/// What a command does with what was given.
type Act = fn(&Given) -> anyhow::Result<ExitCode>;

/// What is done.
pub(super) enum Does {
    This(Act),
    /// One of these commands has to follow.
    OneOf(&'static [Command]),
    /// One of these may follow.
    ThisOr(Act, &'static [Command]),
}

/// What a command takes: an option, or a word that stands for itself by its place.
#[derive(Clone, Copy)]
pub(super) struct Arg {
    /// As it is typed after `--`; empty: a word.
    name: &'static str,
    /// What stands for its value in help; empty: a switch, which has none.
    value: &'static str,
    help: &'static str,
    times: Times,
    /// The only values that it may have; empty: any.
    one_of: &'static [&'static str],
    /// Its value where none is given; empty: none.
    default: &'static str,
    /// The variable that gives it where the command line does not; empty: none.
    variable: &'static str,
}

/// How often something has to be given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Times {
    AtMostOnce,
    Once,
    Any,
}

impl Arg {
    const fn new(name: &'static str, value: &'static str, help: &'static str) -> Arg {
        Arg { name, value, help, times: Times::AtMostOnce, one_of: &[], default: "", variable: "" }
    }

    /// `--NAME VALUE`, which may be left out.
    pub(super) const fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
        Arg::new(name, value, help)
    }

    /// `--NAME` alone.
    pub(super) const fn switch(name: &'static str, help: &'static str) -> Arg {
        Arg::new(name, "", help)
    }

    /// A word that must be there.
    pub(super) const fn word(value: &'static str, help: &'static str) -> Arg {
        Arg::new("", value, help).needed()
    }

    /// The same, which must be given.
    pub(super) const fn needed(self) -> Arg {
        Arg { times: Times::Once, ..self }
    }

    /// The same, as often as one likes: the last of a command's words.
    pub(super) const fn any_number(self) -> Arg {
        Arg { times: Times::Any, ..self }
    }

    /// The same, with only these values, of which the first is meant where none is given.
    pub(super) const fn one_of(self, values: &'static [&'static str]) -> Arg {
        Arg { one_of: values, default: values[0], times: Times::AtMostOnce, ..self }
    }

    /// The same, with a value where none is given.
    pub(super) const fn or(self, default: &'static str) -> Arg {
        Arg { default, ..self }
    }

    /// The same, which a variable of the environment may give too.
    pub(super) const fn or_variable(self, variable: &'static str) -> Arg {
        Arg { variable, ..self }
    }

    /// What tells it from the others of its command.
    fn key(&self) -> &'static str {
        if self.name.is_empty() { self.value } else { self.name }
    }

    fn is_word(&self) -> bool {
        self.name.is_empty()
    }
}

impl Display for Arg {
    /// As it is typed, with what stands for its value.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.name, self.value) {
            ("", value) => write!(f, "<{value}>"),
            (name, "") => write!(f, "--{name}"),
            (name, value) => write!(f, "--{name} <{value}>"),
        }
    }
}

/// What was typed can't be done, and why. Says how the command is used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}\n\n{usage}\n\nFor more information, try '--help'.")]
pub(super) struct Wrong {
    why: String,
    usage: String,
}

/// What was given to a command.
pub(super) struct Given {
    /// The program, its command, and so on.
    path: Vec<&'static Command>,
    values: Vec<(&'static str, OsString)>,
}

impl Given {
    fn wrong(&self, why: String) -> Wrong {
        Wrong { why, usage: help::usage(&self.path) }
    }

    /// Whether it was given, or stands by itself.
    pub(super) fn has(&self, arg: &Arg) -> bool {
        self.value(arg).is_some()
    }

    fn value(&self, arg: &Arg) -> Option<&OsStr> {
        self.values.iter().find(|(key, _)| *key == arg.key()).map(|(_, value)| value.as_os_str())
    }

    /// A path.
    pub(super) fn path(&self, arg: &Arg) -> Option<PathBuf> {
        self.value(arg).map(PathBuf::from)
    }

    /// A text.
    ///
    /// # Errors
    /// If it is none.
    pub(super) fn text(&self, arg: &Arg) -> Result<Option<String>, Wrong> {
        Ok(self.texts(arg)?.into_iter().next())
    }

    /// All texts, of what may be given any number of times.
    ///
    /// # Errors
    /// If one is none.
    pub(super) fn texts(&self, arg: &Arg) -> Result<Vec<String>, Wrong> {
        let values = self.values.iter().filter(|(key, _)| *key == arg.key());
        let text = |value: &OsString| match value.to_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(self.invalid(arg, &value.to_string_lossy(), "it is not UTF-8")),
        };
        values.map(|(_, value)| text(value)).collect()
    }

    /// What a text says.
    ///
    /// # Errors
    /// If it says nothing of the kind.
    pub(super) fn parsed<T>(&self, arg: &Arg) -> Result<Option<T>, Wrong>
    where
        T: FromStr<Err: Display>,
    {
        let Some(text) = self.text(arg)? else { return Ok(None) };
        let parsed = text.parse().map_err(|error: T::Err| error.to_string());
        parsed.map(Some).map_err(|why| self.invalid(arg, &text, &why))
    }

    /// What must have been given was; the reader sees to it.
    ///
    /// # Errors
    /// If it was not.
    pub(super) fn must<T>(&self, arg: &Arg, value: Option<T>) -> Result<T, Wrong> {
        value.ok_or_else(|| self.missing(&[arg]))
    }

    /// One of them can't be given without the other.
    ///
    /// # Errors
    /// If it was.
    pub(super) fn needs(&self, arg: &Arg, other: &Arg) -> Result<(), Wrong> {
        match self.has(arg) && !self.has(other) {
            true => Err(self.wrong(format!("the argument '{arg}' needs '{other}'"))),
            false => Ok(()),
        }
    }

    /// One of them has to be given, and not both.
    ///
    /// # Errors
    /// If it is not so.
    pub(super) fn either(&self, arg: &Arg, other: &Arg) -> Result<(), Wrong> {
        match (self.has(arg), self.has(other)) {
            (true, true) => {
                Err(self.wrong(format!("the argument '{arg}' cannot be used with '{other}'")))
            }
            (false, false) => Err(self.wrong(format!("'{arg}' or '{other}' has to be given"))),
            (true, false) | (false, true) => Ok(()),
        }
    }

    fn invalid(&self, arg: &Arg, value: &str, why: &str) -> Wrong {
        self.wrong(format!("invalid value '{value}' for '{arg}': {why}"))
    }

    fn missing(&self, args: &[&Arg]) -> Wrong {
        let mut why = "the following required arguments were not provided:".to_owned();
        for arg in args {
            why.push_str(&format!("\n  {arg}"));
        }
        self.wrong(why)
    }
}
