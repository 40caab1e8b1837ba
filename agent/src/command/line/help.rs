//! What a command can be asked to do, for people.

use super::{Arg, Command, Does, Times};

/// Help of the last command of this path.
pub(super) fn text(path: &[&'static Command]) -> String {
    let Some(command) = path.last() else { return String::new() };
    let mut text = format!("{}\n\n{}\n", command.about, usage(path));
    section(&mut text, "Commands", commands(command));
    let words = command.args.iter().filter(|arg| arg.is_word());
    section(&mut text, "Arguments", words.map(|arg| (shown(arg), told(arg))).collect());
    let mut rows: Vec<_> =
        options(path).into_iter().map(|arg| (format!("    {arg}"), told(arg))).collect();
    rows.push(("-h, --help".to_owned(), "Print help".to_owned()));
    if path.len() == 1 {
        rows.push(("-V, --version".to_owned(), "Print version".to_owned()));
    }
    section(&mut text, "Options", rows);
    if !command.more.is_empty() {
        text.push_str(&format!("\n{}\n", command.more));
    }
    text
}

/// How the last command of this path is typed.
pub(super) fn usage(path: &[&'static Command]) -> String {
    let names: Vec<&str> = path.iter().map(|command| command.name).collect();
    let (name, mut uses) = (names.join(" "), Vec::new());
    if let Some(command) = path.last() {
        match command.does {
            Does::This(_) => uses.push(arguments(command)),
            Does::OneOf(_) => uses.push(" [OPTIONS] <COMMAND>".to_owned()),
            Does::ThisOr(..) => uses.extend([arguments(command), " <COMMAND>".to_owned()]),
        }
    }
    let lines: Vec<_> = uses.iter().map(|arguments| format!("{name}{arguments}")).collect();
    format!("Usage: {}", lines.join("\n       "))
}

fn arguments(command: &Command) -> String {
    let needed = command.args.iter().filter(|arg| arg.times == Times::Once && !arg.is_word());
    let words = command.args.iter().filter(|arg| arg.is_word()).map(shown);
    let all: Vec<_> = std::iter::once("[OPTIONS]".to_owned())
        .chain(needed.map(|arg| arg.to_string()))
        .chain(words)
        .collect();
    format!(" {}", all.join(" "))
}

/// What may be typed as options here: the command's own, and the program's.
pub(super) fn options(path: &[&'static Command]) -> Vec<&'static Arg> {
    let own = path.iter().skip(1).next_back().map_or(&[][..], |command| command.args);
    let program = path.first().map_or(&[][..], |program| program.args);
    own.iter().chain(program).filter(|arg| !arg.is_word()).collect()
}

/// The commands that may follow.
pub(super) fn names(command: &Command) -> Vec<&'static str> {
    command.commands().iter().filter(|next| !next.hidden).map(|next| next.name).collect()
}

/// The only values that it may have.
pub(super) fn values(arg: &Arg) -> String {
    match arg.one_of {
        [] => String::new(),
        values => format!("\n  [possible values: {}]", values.join(", ")),
    }
}

fn commands(command: &Command) -> Vec<(String, String)> {
    let listed = command.commands().iter().filter(|next| !next.hidden);
    let mut rows: Vec<_> =
        listed.map(|next| (next.name.to_owned(), next.about.to_owned())).collect();
    if !rows.is_empty() {
        let of_help = "Print this message or the help of the given subcommand(s)";
        rows.push(("help".to_owned(), of_help.to_owned()));
    }
    rows
}

fn shown(arg: &Arg) -> String {
    match arg.times {
        Times::Once => format!("<{}>", arg.value),
        Times::AtMostOnce => format!("[{}]", arg.value),
        Times::Any => format!("[{}]...", arg.value),
    }
}

fn told(arg: &Arg) -> String {
    let mut told = arg.help.to_owned();
    if !arg.variable.is_empty() {
        told.push_str(&format!(" [env: {}]", arg.variable));
    }
    if !arg.default.is_empty() {
        told.push_str(&format!(" [default: {}]", arg.default));
    }
    if !arg.one_of.is_empty() {
        told.push_str(&format!(" [possible values: {}]", arg.one_of.join(", ")));
    }
    told
}

fn section(text: &mut String, title: &str, rows: Vec<(String, String)>) {
    let Some(widest) = rows.iter().map(|(left, _)| left.chars().count()).max() else { return };
    text.push_str(&format!("\n{title}:\n"));
    for (left, right) in rows {
        text.push_str(&format!("  {left:widest$}  {right}\n"));
    }
}
