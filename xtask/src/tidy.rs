//! The layout, and the invariants that can be read off the source (docs/ARCHITECTURE.md names each).

pub(crate) mod holes;
mod known_failures;
mod locked;
mod sources;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};

use crate::{cargo::workspace, test};

/// What may stand at the top. Everything else belongs into one of these folders.
const TOP: [&str; 15] = [
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "agent",
    "docs",
    "proto",
    "server",
    "tests",
    "xtask",
    ".cargo",
    ".ci",
    ".gitignore",
    ".rustfmt.toml",
];
const TOP_OPTIONAL: [&str; 3] = [".clippy.toml", ".deny.toml", ".config"];

/// Folders that decide and do nothing else.
const CORES: [&str; 3] = ["proto/src/trust", "agent/src/update", "server/src/rollout"];

/// What a core must not touch: files, network, runtime, store, processes, clocks.
const IO: [&str; 13] = [
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "tokio",
    "tonic",
    "sled",
    "refit_durable",
    "rustix",
    "::now(",
    "SystemTime",
    "Instant",
    "println!",
];

/// Where words of other people's protocols stand, which are not ours to choose.
const WORDS_OF_OTHERS: [&str; 1] = ["agent/src/host/modules/"];

/// What no source may hold when it lands.
const UNFINISHED: [&str; 4] = ["todo!(", "unimplemented!(", "#[ignore", "FIXME"];

pub(crate) fn run() -> Result<ExitCode> {
    let tree = Tree::read(&workspace())?;
    let mut problems = Vec::new();
    problems.extend(layout(&tree));
    problems.extend(cores_do_no_io(&tree));
    problems.extend(sides_never_meet(&tree));
    problems.extend(the_rescuer_stands_alone(&tree));
    problems.extend(modules_say_what_they_decide(&tree));
    problems.extend(nothing_is_unfinished(&tree));
    problems.extend(glossary_words(&tree));
    problems.extend(locked::no_known_hole_is_locked(&tree));
    problems.extend(known_failures::every_row_has_its_test(&tree, &test::features()));
    problems.extend(holes::every_hole_has_its_test(&tree, &test::features()));
    for problem in &problems {
        println!("tidy: {problem}");
    }
    println!("tidy: {} files, {} problems", tree.files.len(), problems.len());
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The files that git tracks or would track, with their text.
pub(crate) struct Tree {
    files: Vec<File>,
}

struct File {
    path: String,
    text: String,
}

impl Tree {
    pub(crate) fn read(top: &Path) -> Result<Tree> {
        let listed = Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard"])
            .current_dir(top)
            .output()
            .ok()
            .filter(|output| output.status.success());
        let paths: Vec<PathBuf> = match listed {
            Some(output) => {
                String::from_utf8(output.stdout)?.lines().map(|line| top.join(line)).collect()
            }
            // Not a git checkout: an unpacked archive.
            None => walk(top)?,
        };
        let mut files = Vec::new();
        for path in paths {
            // A file that is listed and gone is a deletion that is not committed yet.
            let Ok(bytes) = fs::read(&path) else { continue };
            let path = path.strip_prefix(top)?.to_string_lossy().into_owned();
            files.push(File { path, text: String::from_utf8_lossy(&bytes).into_owned() });
        }
        Ok(Tree { files })
    }

    fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.path.ends_with(".rs"))
    }

    fn text(&self, path: &str) -> Option<&str> {
        self.files.iter().find(|file| file.path == path).map(|file| file.text.as_str())
    }
}

fn walk(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name == "target" || name == ".git") {
            continue;
        }
        if path.is_dir() { found.extend(walk(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

impl File {
    /// Its lines of code, numbered, without comments and without its unit tests.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
            .map(|(at, line)| (at + 1, line.split("//").next().unwrap_or_default()))
    }

    fn is_test(&self) -> bool {
        self.path.contains("/tests/")
            || self.path.ends_with("/tests.rs")
            || self.path.contains("/testing")
            || self.path.contains("_tests.rs")
    }
}

fn layout(tree: &Tree) -> Vec<String> {
    let tops = tree.files.iter().map(|file| file.path.split('/').next().unwrap_or_default());
    let mut tops: Vec<&str> = tops.collect();
    tops.sort_unstable();
    tops.dedup();
    let known = |top: &&str| TOP.contains(top) || TOP_OPTIONAL.contains(top);
    let extra = tops.iter().filter(|top| !known(top));
    let extra = extra.map(|top| format!("{top} stands at the top: move it into a folder there"));
    let lacking = TOP.iter().filter(|top| !tops.contains(top));
    extra.chain(lacking.map(|top| format!("{top} is missing at the top"))).collect()
}

fn cores_do_no_io(tree: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    let cores = tree.rust().filter(|file| {
        CORES.iter().any(|core| file.path.starts_with(&format!("{core}/"))) && !file.is_test()
    });
    for file in cores {
        for (line, code) in file.code() {
            for word in IO.iter().filter(|word| code.contains(**word)) {
                let path = &file.path;
                problems.push(format!("{path}:{line} uses {word}: move it to an adapter"));
            }
        }
    }
    for core in CORES {
        if !tree.rust().any(|file| file.path.starts_with(&format!("{core}/"))) {
            problems.push(format!("{core} has no source: the core moved without its rule"));
        }
    }
    problems
}

/// Where the rescuer's own code is.
const RESCUER: &str = "agent/src/bin/refit-rescue/";

/// The rescuer shares no code with the agent: what breaks one must not break the other.
fn the_rescuer_stands_alone(tree: &Tree) -> Vec<String> {
    let files: Vec<_> = tree.rust().filter(|file| file.path.starts_with(RESCUER)).collect();
    if files.is_empty() {
        return vec![format!("{RESCUER} has no source: the rescuer moved without its rule")];
    }
    let lines = files.iter().flat_map(|file| {
        let shared = ["refit_agent", "refit_proto", "refit_durable"];
        let found =
            file.code().filter(move |(_, code)| shared.iter().any(|word| code.contains(word)));
        found.map(|(line, _)| format!("{}:{line} shares code with the agent", file.path))
    });
    lines.collect()
}

/// Agent and server know `refit-proto` and `refit-durable`, never each other.
fn sides_never_meet(tree: &Tree) -> Vec<String> {
    let pairs = [
        ("agent", "refit-server"),
        ("server", "refit-agent"),
        ("proto", "refit-agent"),
        ("proto", "refit-server"),
        ("proto/durable", "refit-proto"),
    ];
    let knows = |(folder, other): &(&str, &str)| {
        let manifest = tree.text(&format!("{folder}/Cargo.toml")).unwrap_or_default();
        manifest.lines().any(|line| {
            line.split(['.', '=', ' ']).next().is_some_and(|name| name.trim() == *other)
        })
    };
    let problem = |(folder, other): &(&str, &str)| format!("{folder} depends on {other}");
    pairs.iter().filter(|pair| knows(pair)).map(problem).collect()
}

fn modules_say_what_they_decide(tree: &Tree) -> Vec<String> {
    tree.rust()
        .filter(|file| !file.text.starts_with("//!"))
        .map(|file| format!("{} does not open with //!", file.path))
        .collect()
}

fn nothing_is_unfinished(tree: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    for file in tree.rust().filter(|file| !file.path.starts_with("xtask/src/tidy")) {
        for (at, line) in file.text.lines().enumerate() {
            for word in UNFINISHED.iter().filter(|word| line.contains(**word)) {
                problems.push(format!("{}:{} holds {word}", file.path, at + 1));
            }
        }
    }
    problems
}

/// Words that docs/GLOSSARY.md replaces by others: one word for one thing.
fn glossary_words(tree: &Tree) -> Vec<String> {
    let glossary = tree.text("docs/GLOSSARY.md").unwrap_or_default();
    let avoided: Vec<(String, &str)> = glossary
        .lines()
        .skip_while(|line| !line.starts_with("## Words we do not use"))
        .filter_map(|line| {
            let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
            let (avoid, say) = (cells.next()?, cells.next()?);
            (!avoid.starts_with('-') && avoid != "not").then(|| (avoid.to_lowercase(), say))
        })
        .collect();
    if avoided.is_empty() {
        return vec!["docs/GLOSSARY.md lists no words that we do not use".into()];
    }
    let mut problems = Vec::new();
    let ours = tree.files.iter().filter(|file| {
        [".rs", ".proto", ".md", ".html"].iter().any(|end| file.path.ends_with(end))
            && file.path != "docs/GLOSSARY.md"
            && file.path != "xtask/src/tidy.rs"
            && !WORDS_OF_OTHERS.iter().any(|folder| file.path.starts_with(folder))
    });
    for file in ours {
        for (at, line) in file.text.lines().enumerate() {
            let line = line.to_lowercase();
            for (word, say) in avoided.iter().filter(|(word, _)| holds_word(&line, word)) {
                problems.push(format!("{}:{} says {word:?}; we say {say}", file.path, at + 1));
            }
        }
    }
    problems
}

/// Whether `word`, alone or in the plural, stands in `line`; `_` and digits end a word as blanks do.
fn holds_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let rest = &line[at + word.len()..];
        let after = rest.strip_prefix('s').unwrap_or(rest).chars().next();
        !before.is_some_and(char::is_alphabetic) && !after.is_some_and(char::is_alphabetic)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let file =
            |(path, text): &(&str, &str)| File { path: (*path).into(), text: (*text).into() };
        Tree { files: files.iter().map(file).collect() }
    }

    #[test]
    fn io_in_a_core_is_found_and_io_in_its_tests_is_not() {
        let bad = tree(&[("agent/src/update/a.rs", "//! x\nuse std::fs;\n")]);
        assert!(cores_do_no_io(&bad).iter().any(|problem| problem.contains("a.rs:2")));
        let good = tree(&[
            (
                "agent/src/update/a.rs",
                "//! no std::fs here\n// std::fs\n#[cfg(test)]\nuse std::fs;\n",
            ),
            ("proto/src/trust/a.rs", "//! x"),
            ("server/src/rollout/a.rs", "//! x"),
        ]);
        assert_eq!(cores_do_no_io(&good), Vec::<String>::new());
    }

    #[test]
    fn agent_and_server_may_not_know_each_other() {
        let bad = tree(&[("agent/Cargo.toml", "[dependencies]\nrefit-server.workspace = true\n")]);
        assert_eq!(sides_never_meet(&bad).len(), 1);
        let good = tree(&[("agent/Cargo.toml", "[dependencies]\nrefit-proto.workspace = true\n")]);
        assert!(sides_never_meet(&good).is_empty());
    }

    #[test]
    fn the_rescuer_may_use_nothing_of_the_agents() {
        let rescuer = |text| tree(&[("agent/src/bin/refit-rescue/main.rs", text)]);
        assert_eq!(the_rescuer_stands_alone(&rescuer("use refit_proto::names;\n")).len(), 1);
        assert!(the_rescuer_stands_alone(&rescuer("// refit_agent\nuse anyhow;\n")).is_empty());
        assert_eq!(the_rescuer_stands_alone(&tree(&[])).len(), 1, "it moved");
    }

    #[test]
    fn a_word_that_the_glossary_replaces_is_found_whole_and_in_the_plural() {
        let glossary = "## Words we do not use\n| not | but |\n|---|---|\n| artifact | package |\n";
        let found = |text: &str| {
            glossary_words(&tree(&[("docs/GLOSSARY.md", glossary), ("a.rs", text)])).len()
        };
        assert_eq!(found("the artifact"), 1);
        assert_eq!(found("Artifacts and artifact_id"), 1);
        assert_eq!(found("artifactory"), 0);
    }
}
