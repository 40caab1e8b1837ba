//! How a failure is shown: the thing, its causes, and the remedy last.

use tonic::{Code, Status};

/// The failure and its causes, one a line, then what to do about it. A cause that its error has already
/// told is not told twice, and of several remedies the outermost knows best.
pub(crate) fn in_words(error: &anyhow::Error) -> String {
    let mut told: Vec<String> = Vec::new();
    let mut remedy: Option<String> = None;
    for cause in error.chain() {
        let text = cause.to_string();
        let (body, help) = match text.split_once("\nhelp: ") {
            Some((body, help)) => (body.to_owned(), Some(help.trim_end().to_owned())),
            None => (text, None),
        };
        if !body.is_empty() && !told.iter().any(|before| before.contains(&body)) {
            told.push(body);
        }
        remedy = remedy.or(help);
    }
    let mut lines = vec![format!("error: {}", told.first().map_or("", String::as_str))];
    lines.extend(told.iter().skip(1).map(|cause| format!("  because {cause}")));
    lines.extend(remedy.map(|help| format!("help: {help}")));
    lines.join("\n")
}

/// The server's refusal, in words.
#[derive(Debug, thiserror::Error)]
#[error("cannot {act}: {}{}", message(status), remedy(status, &message(status)))]
pub(crate) struct Refused {
    act: String,
    pub(crate) status: Status,
}

/// Turns a call's failure into an error that says what was being done.
pub(crate) fn refused(act: impl Into<String>) -> impl FnOnce(Status) -> anyhow::Error {
    let act = act.into();
    move |status| Refused { act, status }.into()
}

fn message(status: &Status) -> String {
    let mut message = status.message().to_owned();
    // A transport's failure says little in itself; what lies below it says what happened.
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.contains(&text) {
            message = if message.is_empty() { text } else { format!("{message}: {text}") };
        }
        source = cause.source();
    }
    if message.is_empty() { format!("the server answers {:?}", status.code()) } else { message }
}

fn remedy(status: &Status, message: &str) -> &'static str {
    if message.contains("help: ") {
        return "";
    }
    if message.contains("invalid peer certificate") {
        return "\nhelp: somebody else answers at the server's address, or the server was set up anew: \
                ask an administrator for a new token";
    }
    match status.code() {
        Code::Unauthenticated => "\nhelp: log in with a new token: `refit login TOKEN`",
        Code::PermissionDenied => {
            "\nhelp: ask an administrator for a token with the role that this needs \
             (`refit token create --person NAME --role ROLE`)"
        }
        Code::Unavailable => {
            "\nhelp: see that the server runs, and that its address can be reached from here"
        }
        Code::DeadlineExceeded => "\nhelp: try again; the server took too long",
        Code::Unimplemented => "\nhelp: the server is of another version; update it first",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn a_failure_is_told_once_and_ends_with_the_remedy() {
        let error = anyhow!("cannot read /x: not there\nhelp: make it")
            .context("cannot read /x: not there and more")
            .context("cannot sign the release");
        assert_eq!(
            in_words(&error),
            "error: cannot sign the release\n  because cannot read /x: not there and more\nhelp: make it"
        );
    }

    #[test]
    fn what_the_server_says_is_shown_with_what_was_being_done() {
        let error = Err::<(), _>(Status::permission_denied("bob is not a publisher"))
            .map_err(refused("publish payments 2.4.1"))
            .context("nothing was published")
            .unwrap_err();
        let words = in_words(&error);
        assert!(words.contains("cannot publish payments 2.4.1: bob is not a publisher"), "{words}");
        assert!(words.lines().last().unwrap().starts_with("help: ask an administrator"), "{words}");
    }
}
