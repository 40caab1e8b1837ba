//! Asks before something is signed or cannot be taken back.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anyhow::bail;

/// Asks a question that only "y" or "yes" answers with yes. Without a terminal, nobody is asked and
/// nothing is done.
///
/// # Errors
/// No, or nobody to ask.
pub(crate) fn ask(question: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        bail!("nobody is here to answer: {question}\nhelp: read what would change, then add --yes");
    }
    eprint!("{question} [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if is_yes(&answer) { Ok(()) } else { bail!("not confirmed; nothing was changed") }
}

/// Asks where somebody can answer, and goes on where nobody can: for what stops or takes back, which must
/// work from a script at night.
///
/// # Errors
/// No.
pub(crate) fn ask_if_somebody_is_there(question: &str, yes: bool) -> anyhow::Result<()> {
    ask(question, yes || !io::stdin().is_terminal())
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_a_yes_is_a_yes() {
        for yes in ["y", "Y\n", " yes \n"] {
            assert!(super::is_yes(yes), "{yes:?}");
        }
        for no in ["", "\n", "n", "yeah", "yes please", "ok"] {
            assert!(!super::is_yes(no), "{no:?}");
        }
    }
}
