//! What may be typed, and what is said to what may not.

use super::*;
use crate::command::AGENT;

fn typed(line: &str) -> Result<Read, Wrong> {
    typed_in(line, &|_| None)
}

fn typed_in(line: &str, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Read, Wrong> {
    let words = line.split_whitespace().map(|word| OsString::from(word.replace('_', " ")));
    read(&AGENT, "1.2", words, variable)
}

/// What the last command and its arguments are; the test fails where nothing is to be done.
fn given(line: &str) -> (String, Vec<(&'static str, String)>) {
    let Ok(Read::Act(_, given)) = typed(line) else { panic!("{line}: {:?}", said(line)) };
    let names: Vec<_> = given.path[1..].iter().map(|command| command.name).collect();
    let values = given.values.iter().map(|(key, value)| (*key, value.to_string_lossy().into()));
    (names.join(" "), values.collect())
}

/// What is said where nothing is done.
fn said(line: &str) -> String {
    match typed(line) {
        Ok(Read::Act(..)) => String::new(),
        Ok(Read::Text(text) | Read::Nothing(text)) => text,
        Err(wrong) => format!("error: {wrong}"),
    }
}

/// Every command, with its way there.
fn all() -> Vec<Vec<&'static Command>> {
    fn below(path: Vec<&'static Command>, all: &mut Vec<Vec<&'static Command>>) {
        let command = path[path.len() - 1];
        all.push(path.clone());
        for next in command.commands() {
            below(path.iter().copied().chain([next]).collect(), all);
        }
    }
    let mut all = Vec::new();
    below(vec![&AGENT], &mut all);
    all
}

#[test]
fn what_is_typed_reaches_its_command_in_every_usual_spelling() {
    for line in [
        "backup restore b1 --to /x --second --data /d",
        "--data /d backup restore --second --to=/x b1",
        "backup --data=/d restore --to /x --second -- b1",
    ] {
        let (command, mut values) = given(line);
        values.sort();
        assert_eq!(command, "backup restore", "{line}");
        let wanted = [("ID", "b1"), ("data", "/d"), ("second", ""), ("to", "/x")];
        assert_eq!(values, wanted.map(|(key, value)| (key, value.to_owned())), "{line}");
    }
    assert_eq!(given("hold list").0, "hold list");
    assert_eq!(given("hold --for 2h --why a_demonstration").0, "hold");
    let (_, values) = given("backup verify one two three --output=json");
    let words: Vec<_> = values.iter().filter(|(key, _)| *key == "IDS").collect();
    assert_eq!(words.len(), 3);
    assert!(given("hold --for 2h --why=--later").1.contains(&("why", "--later".to_owned())));
    assert!(given("install -- --odd").1.contains(&("FILE", "--odd".to_owned())));
    assert!(given("install -").1.contains(&("FILE", "-".to_owned())));
}

#[test]
fn what_was_not_typed_comes_from_the_environment_or_stands_by_itself() {
    let data = |variable: &dyn Fn(&str) -> Option<OsString>, line: &str| {
        let Ok(Read::Act(_, given)) = typed_in(line, variable) else { panic!("{line}") };
        given.path(&super::super::DATA).unwrap()
    };
    let set = |name: &str| (name == "REFIT_AGENT_DATA").then(|| OsString::from("/env"));
    let empty = |name: &str| (name == "REFIT_AGENT_DATA").then(OsString::new);
    assert_eq!(data(&set, "status"), PathBuf::from("/env"));
    assert_eq!(data(&set, "status --data /typed"), PathBuf::from("/typed"));
    let stands = PathBuf::from(refit_agent::settings::DEFAULT_DATA);
    assert_eq!(data(&empty, "status"), stands);
    assert_eq!(data(&|_| None, "status"), stands);
    let token = |name: &str| (name == "REFIT_TOKEN").then(|| OsString::from("t"));
    assert!(matches!(typed_in("enroll", &token), Ok(Read::Act(..))));
    assert!(given("status").1.contains(&("output", "text".to_owned())));
}

#[test]
fn what_can_not_be_done_is_said_with_its_cause_and_how_it_is_used() {
    for (line, cause) in [
        ("--nope", "unexpected argument '--nope' found"),
        ("-x", "unexpected argument '-x' found"),
        ("nope", "unrecognized subcommand 'nope'\n  [subcommands: enroll, run,"),
        ("backup restor", "unrecognized subcommand 'restor'\n  [subcommands: list, verify,"),
        ("status x", "unexpected argument 'x' found"),
        (
            "status --output xml",
            "invalid value 'xml' for '--output <OUTPUT>'\n  [possible values: text, json]",
        ),
        ("status --output", "a value is required for '--output <OUTPUT>' but none was supplied"),
        ("status --output --data x", "a value is required for '--output <OUTPUT>'"),
        ("status --data=", "a value is required for '--data <DATA>'"),
        ("status --data a --data b", "'--data <DATA>' cannot be used multiple times"),
        ("backup list --second=yes", "the argument '--second' takes no value"),
        ("enroll", "required arguments were not provided:\n  --token <TOKEN>"),
        ("quarantine lift p", "required arguments were not provided:\n  <DIGEST>"),
        ("hold --for 2h", "required arguments were not provided:\n  --why <WHY>"),
        ("hold --for 2h list", "the subcommand 'list' cannot be used with '--for <SPAN>'"),
        ("help nope", "unrecognized subcommand 'nope'"),
    ] {
        let said = said(line);
        assert!(said.starts_with("error: ") && said.contains(cause), "{line}: {said}");
        assert!(said.contains("\n\nUsage: refit-agent"), "{line}: {said}");
        assert!(said.ends_with("try '--help'."), "{line}: {said}");
    }
    let used = "Usage: refit-agent hold [OPTIONS] --why <WHY>\n       refit-agent hold <COMMAND>";
    assert!(said("hold --for 2h").contains(used));
}

#[test]
fn arguments_that_need_or_exclude_each_other_are_told_apart_by_their_command() {
    let wrong = |line: &str| {
        let Ok(Read::Act(act, given)) = typed(line) else { panic!("{line}") };
        act(&given).unwrap_err().downcast::<Wrong>().unwrap().why
    };
    let both = "the argument '--until <TIME>' cannot be used with '--for <SPAN>'";
    assert_eq!(wrong("hold --for 2h --until x --why b"), both);
    assert_eq!(wrong("hold --why b"), "'--until <TIME>' or '--for <SPAN>' has to be given");
    for line in ["backup restore b1 --of h", "backup list --of h", "backup verify --of h"] {
        assert_eq!(wrong(line), "the argument '--of <HOST>' needs '--second'");
    }
    let needs = "the argument '--identity <FILE>' needs '--second'";
    assert_eq!(wrong("backup restore b1 --identity f"), needs);
    let wrong = wrong("brake forgive A");
    assert!(wrong.starts_with("invalid value 'A' for '<PRODUCT>': product \"A\""), "{wrong}");
}

#[test]
fn help_of_every_command_names_all_that_it_takes_and_is_asked_for_in_each_usual_way() {
    for path in all() {
        let names: Vec<_> = path[1..].iter().map(|command| command.name).collect();
        let (line, command) = (names.join(" "), path[path.len() - 1]);
        let text = said(&format!("{line} --help"));
        assert_eq!(said(&format!("help {line}")), text);
        assert_eq!(said(&format!("{line} -h")), text);
        assert!(text.starts_with(command.about) && !command.about.is_empty(), "{line}: {text}");
        for arg in command.args.iter().chain(AGENT.args) {
            assert!(text.contains(arg.help) && !arg.help.is_empty(), "{line}: {}", arg.help);
        }
        for next in command.commands() {
            assert_eq!(text.contains(&format!("\n  {} ", next.name)), !next.hidden, "{line}");
        }
    }
    assert_eq!(said("--version"), "refit-agent 1.2\n");
    assert_eq!(said(""), said("--help"));
    assert_eq!(said("backup"), said("backup --help"));
}

#[test]
fn help_looks_like_this() {
    assert_eq!(
        said("quarantine lift --help"),
        "Let a release that failed here be tried again; `refit-agent status` shows its digest\n\n\
         Usage: refit-agent quarantine lift [OPTIONS] <PRODUCT> <DIGEST>\n\n\
         Arguments:\n\
         \x20 <PRODUCT>  Of which product\n\
         \x20 <DIGEST>   The release's digest, whole\n\n\
         Options:\n\
         \x20     --data <DATA>      The agent's data folder [env: REFIT_AGENT_DATA] \
         [default: /var/lib/refit-agent]\n\
         \x20     --config <CONFIG>  Settings, instead of agent.toml in the data folder\n\
         \x20 -h, --help             Print help\n"
    );
}

/// The reader goes by these.
#[test]
fn no_table_contradicts_itself() {
    for path in all() {
        let command = path[path.len() - 1];
        let mut keys: Vec<_> = command.args.iter().chain(AGENT.args).map(Arg::key).collect();
        let own = if path.len() == 1 { AGENT.args.len() } else { 0 };
        keys.truncate(keys.len() - own);
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count, "{}: two of one name", command.name);
        let words: Vec<_> = command.args.iter().filter(|arg| arg.is_word()).collect();
        let before_last = &words[..words.len().saturating_sub(1)];
        assert!(before_last.iter().all(|arg| arg.times == Times::Once), "{}", command.name);
    }
}
