//! The table in docs/known-failures.md: every row names tests that exist and are compiled, or says that
//! Refit lacks what broke.

use super::{
    Tree,
    holes::{code_spans, named, runs},
    sources,
};

const DOCUMENT: &str = "docs/known-failures.md";

/// How the last cell begins where nothing could break that way.
const WITHOUT: &str = "Refit has no ";

/// What is wrong with the table.
pub(super) fn every_row_has_its_test(tree: &Tree, features: &[&str]) -> Vec<String> {
    let Some(document) = tree.text(DOCUMENT) else {
        return vec![format!("{DOCUMENT} is missing")];
    };
    let modules = sources::modules(tree, features);
    let mut problems = Vec::new();
    for (line, text) in document.lines().enumerate().filter(|(_, text)| is_row(text)) {
        let at = format!("{DOCUMENT}:{}", line + 1);
        let held_by = text.trim_end_matches('|').rsplit('|').next().unwrap_or_default().trim();
        let tests: Vec<_> = code_spans(held_by).filter_map(named).collect();
        if tests.is_empty() && !held_by.starts_with(WITHOUT) {
            problems.push(format!("{at} names no test"));
        }
        for test in &tests {
            if let Err(why) = runs(tree, &modules, test) {
                problems.push(format!("{at}: {test} {why}"));
            }
        }
    }
    problems
}

fn is_row(line: &str) -> bool {
    line.starts_with("| ") && !line.starts_with("| what broke ")
}

#[cfg(test)]
mod tests {
    use super::{super::File, *};

    fn problems(cell: &str) -> Vec<String> {
        let file = |path: &str, text: String| File { path: path.into(), text };
        let table = format!("| what broke | held by |\n|---|---|\n| it | {cell} |\n");
        let source = "//! x\n#[test]\nfn holds() {}\n".to_owned();
        let files = vec![
            file(DOCUMENT, table),
            file("a/src/lib.rs", "mod b;".into()),
            file("a/src/b.rs", source),
        ];
        every_row_has_its_test(&Tree { files }, &[])
    }

    #[test]
    fn a_row_names_a_test_that_runs_or_what_is_not_there_to_break() {
        assert_eq!(problems("`a/src/b.rs::holds`"), Vec::<String>::new());
        assert_eq!(problems("Refit has no boot slots"), Vec::<String>::new());
        assert!(problems("Not yet: nobody tried")[0].contains("names no test"));
        assert!(problems("surely fine")[0].contains("known-failures.md:3 names no test"));
        assert!(problems("`a/src/b.rs::gone`")[0].contains("a/src/b.rs::gone is no test"));
        assert_eq!(problems("Refit has no x. `a/src/b.rs::gone`").len(), 1);
    }
}
