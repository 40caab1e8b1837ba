//! The table of other updaters' holes in docs/SECURITY-MODEL.md: every id stands in it once, with tests
//! that exist, are compiled, are not left out, and name the id.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Tree,
    sources::{self, Modules},
};

/// Where the table stands.
pub(crate) const DOCUMENT: &str = "docs/SECURITY-MODEL.md";

/// The heading above the table.
const HEADING: &str = "## Holes of others";

/// How the third cell begins where there is nothing that the hole could be in.
const LACKING: &str = "Refit has no ";

/// Every id that the table must hold, so that no row is dropped without being noticed.
const HOLES: [&str; 66] = [
    "CVE-2015-9258",
    "CVE-2015-9259",
    "CVE-2016-1252",
    "CVE-2018-0501",
    "CVE-2019-3462",
    "CVE-2020-10759",
    "CVE-2020-15093",
    "CVE-2020-15163",
    "CVE-2020-25860",
    "CVE-2020-6173",
    "CVE-2020-6174",
    "CVE-2020-7982",
    "CVE-2021-38511",
    "CVE-2021-41131",
    "CVE-2021-41149",
    "CVE-2021-41150",
    "CVE-2022-28756",
    "CVE-2022-29173",
    "CVE-2023-33957",
    "CVE-2023-33958",
    "CVE-2023-46737",
    "CVE-2024-23332",
    "CVE-2024-37019",
    "CVE-2024-39698",
    "CVE-2024-45395",
    "CVE-2024-47534",
    "CVE-2024-54143",
    "CVE-2025-0509",
    "CVE-2025-15556",
    "CVE-2025-2885",
    "CVE-2025-2886",
    "CVE-2025-2887",
    "CVE-2025-2888",
    "CVE-2025-62518",
    "CVE-2025-67903",
    "CVE-2026-23991",
    "CVE-2026-23992",
    "CVE-2026-24137",
    "CVE-2026-24686",
    "CVE-2026-33055",
    "CVE-2026-33056",
    "CVE-2026-33552",
    "CVE-2026-34155",
    "CVE-2026-6966",
    "CVE-2026-6967",
    "CVE-2026-6968",
    "GHSA-3633-5h82-39pq",
    "GMS-2022-4197",
    "GO-2022-1004",
    "MEN-1412",
    "RUSTSEC-2020-0024",
    "RUSTSEC-2022-0093",
    "RUSTSEC-2024-0344",
    "RUSTSEC-2024-0376",
    "RUSTSEC-2025-0110",
    "RUSTSEC-2026-0258",
    "TOB-SIGSTORE-14",
    // Without an id of their own.
    "hawkBit-shared-token",
    "mender-no-keys-no-check",
    "sigstore-rust-198",
    "swupdate-mix-and-match",
    "tough-0.20-cycle",
    // What every updater has to bear.
    "endless-data",
    "frozen-fleet",
    "server-taken-over",
    "slow-retrieval",
];

/// A test that a row names: file and function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Named {
    file: String,
    name: String,
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}::{}", self.file, self.name)
    }
}

#[derive(Debug)]
struct Row {
    ids: Vec<String>,
    held_by: String,
    tests: Vec<Named>,
}

fn rows(document: &str) -> Vec<Row> {
    let table = document.lines().skip_while(|line| *line != HEADING).skip(1);
    let lines = table.take_while(|line| !line.starts_with("## "));
    let cells = lines.filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix('|')?.split('|').map(str::trim).collect();
        let [ids, _hole, held_by, ..] = cells.as_slice() else { return None };
        (!ids.starts_with('-') && *ids != "id").then_some((*ids, *held_by))
    });
    cells
        .map(|(ids, held_by)| Row {
            ids: ids.split(", ").map(str::to_owned).collect(),
            held_by: held_by.to_owned(),
            tests: code_spans(held_by).filter_map(named).collect(),
        })
        .collect()
}

pub(super) fn code_spans(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

pub(super) fn named(span: &str) -> Option<Named> {
    let (file, name) = span.split_once("::")?;
    Some(Named { file: file.to_owned(), name: name.to_owned() })
}

/// What is wrong with the table.
pub(super) fn every_hole_has_its_test(tree: &Tree, features: &[&str]) -> Vec<String> {
    let Some(document) = tree.text(DOCUMENT) else {
        return vec![format!("{DOCUMENT} is missing")];
    };
    let rows = rows(document);
    let modules = sources::modules(tree, features);
    let mut problems = every_id_stands_once(&rows);
    for row in &rows {
        let ids = row.ids.join(", ");
        if row.tests.is_empty() && !row.held_by.starts_with(LACKING) {
            problems.push(format!("{DOCUMENT}: {ids} names no test, nor what Refit lacks"));
        }
        for test in &row.tests {
            if let Err(why) = runs(tree, &modules, test) {
                problems.push(format!("{DOCUMENT}: {ids}: {test} {why}"));
            }
        }
        problems.extend(ids_that_no_test_names(tree, row));
    }
    problems
}

fn every_id_stands_once(rows: &[Row]) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for id in rows.iter().flat_map(|row| &row.ids) {
        *counts.entry(id).or_default() += 1;
    }
    let mut problems = Vec::new();
    for (id, count) in &counts {
        if *count > 1 {
            problems.push(format!("{DOCUMENT}: {id} stands in {count} rows"));
        }
        if !HOLES.contains(id) {
            problems
                .push(format!("{DOCUMENT}: {id} is not in the list of xtask/src/tidy/holes.rs"));
        }
    }
    let lacking = HOLES.iter().filter(|id| !counts.contains_key(**id));
    problems.extend(lacking.map(|id| format!("{DOCUMENT}: the row of {id} is missing")));
    problems
}

pub(super) fn runs(tree: &Tree, modules: &Modules, named: &Named) -> Result<(), &'static str> {
    let file = tree.rust().find(|file| file.path == named.file).ok_or("is in no file")?;
    let test = sources::test(file, &named.name).ok_or("is no test")?;
    let has = |word: &str| test.attributes.iter().any(|attribute| attribute.starts_with(word));
    if has("#[ignore") {
        return Err("is left out");
    }
    if has("#[cfg") {
        return Err("is compiled under a condition only");
    }
    if !modules.contains_key(&named.file) {
        return Err("is in a file that no test program compiles");
    }
    Ok(())
}

/// A reader of a test must see what it is held against.
fn ids_that_no_test_names(tree: &Tree, row: &Row) -> Vec<String> {
    if row.tests.is_empty() {
        return Vec::new();
    }
    let mut said = String::new();
    for named in &row.tests {
        let file = tree.rust().find(|file| file.path == named.file);
        if let Some(test) = file.and_then(|file| sources::test(file, &named.name)) {
            said.push_str(&test.comments);
        }
    }
    let words: BTreeSet<&str> =
        said.split(|c: char| c.is_whitespace() || ",;:()".contains(c)).collect();
    let names = |id: &str| words.iter().any(|word| word.trim_end_matches('.') == id);
    let silent = row.ids.iter().filter(|id| !names(id));
    silent.map(|id| format!("{DOCUMENT}: no test of {id} names it in its comment")).collect()
}

/// Of the tests that the table names, those that are not in `cargo test -- --list`.
pub(crate) fn not_listed(tree: &Tree, features: &[&str], listed: &str) -> Vec<String> {
    let modules = sources::modules(tree, features);
    let listed: Vec<&str> = listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    let is_listed = |test: &Named| {
        let module = modules.get(&test.file).map_or("", String::as_str);
        listed.iter().any(|listed| {
            listed.strip_prefix(module).is_some_and(|rest| {
                rest.rsplit("::").next() == Some(&test.name)
                    && (module.is_empty() || rest.starts_with("::"))
            })
        })
    };
    let rows = rows(tree.text(DOCUMENT).unwrap_or_default());
    let tests: BTreeSet<Named> = rows.into_iter().flat_map(|row| row.tests).collect();
    let silent = tests.into_iter().filter(|test| !is_listed(test));
    silent.map(|test| test.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::File, *};

    const SOURCE: &str = "//! x\n/// CVE-2015-9258.\n#[test]\nfn holds() {}\n\n\
                          /// CVE-2015-9258.\n#[test]\n#[ignore]\nfn sleeps() {}\n\nfn helper() {}\n";

    fn tree(table: &str) -> Tree {
        let document =
            format!("# x\n\n{HEADING}\n\n| id | hole | held by |\n|---|---|---|\n{table}");
        let file = |path: &str, text: &str| File { path: path.into(), text: text.into() };
        Tree {
            files: vec![
                file(DOCUMENT, &document),
                file("a/src/lib.rs", "mod b;"),
                file("a/src/b.rs", SOURCE),
                file("a/src/orphan.rs", SOURCE),
            ],
        }
    }

    fn problems(table: &str) -> Vec<String> {
        let of_rows = |problem: &String| !problem.contains(" is missing");
        every_hole_has_its_test(&tree(table), &[]).into_iter().filter(of_rows).collect()
    }

    #[test]
    fn a_row_with_a_test_that_runs_and_names_it_is_good() {
        assert_eq!(problems("| CVE-2015-9258 | x | `a/src/b.rs::holds` |\n"), Vec::<String>::new());
        assert_eq!(problems("| CVE-2015-9258 | x | Refit has no X |\n"), Vec::<String>::new());
    }

    #[test]
    fn a_test_that_is_gone_left_out_none_or_never_compiled_is_told() {
        for (test, why) in [
            ("a/src/b.rs::gone", "is no test"),
            ("a/src/b.rs::helper", "is no test"),
            ("a/src/b.rs::sleeps", "is left out"),
            ("a/src/c.rs::holds", "is in no file"),
            ("a/src/orphan.rs::holds", "no test program"),
        ] {
            let told = problems(&format!("| CVE-2015-9258 | x | `{test}` |\n"));
            assert!(told.iter().any(|problem| problem.contains(why)), "{test}: {told:?}");
        }
    }

    #[test]
    fn a_row_that_is_missing_doubled_unknown_or_without_a_test_is_told() {
        let missing = every_hole_has_its_test(&tree(""), &[]);
        assert_eq!(missing.len(), HOLES.len());
        let row = "| CVE-2015-9258 | x | `a/src/b.rs::holds` |\n";
        assert!(problems(&row.repeat(2))[0].contains("2 rows"));
        assert!(problems("| CVE-1 | x | Refit has no X |\n")[0].contains("not in the list"));
        assert!(problems("| CVE-2015-9258 | x | surely fine |\n")[0].contains("names no test"));
    }

    #[test]
    fn a_test_whose_comment_does_not_name_its_hole_is_told() {
        let told = problems("| CVE-2015-9259 | x | `a/src/b.rs::holds` |\n");
        assert!(told[0].contains("names it"), "{told:?}");
    }

    #[test]
    fn a_test_that_the_test_programs_do_not_list_is_told() {
        let tree = tree("| CVE-2015-9258 | x | `a/src/b.rs::holds` |\n");
        let listed = |text: &str| not_listed(&tree, &[], text).is_empty();
        assert!(listed("b::holds: test\n") && listed("b::tests::holds: test\n"));
        assert!(!listed("c::holds: test\n") && !listed("b::holds_not: test\n") && !listed(""));
    }

    #[test]
    fn no_id_is_asked_for_twice() {
        assert_eq!(HOLES.iter().collect::<BTreeSet<_>>().len(), HOLES.len());
    }
}
