//! `refit-agent`: what an administrator can ask of the agent on its host. Each command is a module of
//! `command`; this is the table of contents.

mod command;

use std::process::ExitCode;

fn main() -> ExitCode {
    match command::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("refit-agent: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error for a person: what happened and why, each said once, and then one help: that of the
/// outermost error that has any.
fn told(error: &anyhow::Error) -> String {
    let (mut said, mut help) = (String::new(), None);
    for cause in error.chain() {
        let message = cause.to_string();
        // An error may hold another in its own words: the last help is its own.
        let mut helps = message.lines().filter(|line| line.starts_with("help: "));
        help = help.or_else(|| helps.next_back().map(str::to_owned));
        let lines = message.lines().filter(|line| !line.starts_with("help: "));
        let text = lines.collect::<Vec<_>>().join("\n");
        let text = text.trim_end();
        if said.is_empty() {
            said.push_str(text);
        } else if !said.contains(text) {
            said.push_str(": ");
            said.push_str(text);
        }
    }
    if let Some(help) = help {
        said.push('\n');
        said.push_str(&help);
    }
    said
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::told;

    #[test]
    fn a_cause_is_said_once_and_help_comes_last() {
        let error = anyhow!("the disk is full\nhelp: free some space").context("cannot lock x");
        assert_eq!(told(&error), "cannot lock x: the disk is full\nhelp: free some space");
        let error = anyhow!("the disk is full").context("cannot lock x: the disk is full");
        assert_eq!(told(&error), "cannot lock x: the disk is full");
    }

    #[test]
    fn of_several_helps_the_outermost_counts() {
        let inner = anyhow!("no key in it\nhelp: make a key");
        let error =
            inner.context("x is damaged: no key in it\nhelp: make a key\nhelp: enroll again");
        assert_eq!(told(&error), "x is damaged: no key in it\nhelp: enroll again");
    }
}
