//! Which tests stand in the source and are compiled, followed from each crate's roots along its `mod`
//! lines: a test in a file that nobody names would be there and never run.

use std::collections::BTreeMap;

use super::{File, Tree};

/// A file that is compiled into a test, and its module's path in its crate.
pub(super) type Modules = BTreeMap<String, String>;

/// A test function as it stands in a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Test {
    /// The comment lines above it.
    pub(super) comments: String,
    /// Its attributes.
    pub(super) attributes: Vec<String>,
}

/// Every file that a build of all tests with these features compiles.
pub(super) fn modules(tree: &Tree, features: &[&str]) -> Modules {
    let mut found = Modules::new();
    for root in tree.rust().filter(|file| is_root(&file.path)) {
        follow(tree, root, "", features, &mut found);
    }
    found
}

/// Roots by cargo's own rules for where targets lie.
fn is_root(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        [.., "src", "lib.rs" | "main.rs"] | [.., "src", "bin", _] => true,
        [.., "src", "bin", _, "main.rs"] => true,
        // `tests/tests/system/main.rs`, and `tests/tests/reference.rs`; not `proto/src/trust/tests/mod.rs`.
        [before @ .., "tests", _] => !before.contains(&"src") && !before.is_empty(),
        [before @ .., "tests", _, "main.rs"] => !before.contains(&"src"),
        _ => false,
    }
}

fn follow(tree: &Tree, file: &File, module: &str, features: &[&str], found: &mut Modules) {
    if found.insert(file.path.clone(), module.to_owned()).is_some() {
        return;
    }
    let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
    let own = is_root(&file.path) || name == "mod.rs";
    let folder = if own { folder.to_owned() } else { format!("{folder}/{}", stem(name)) };
    let lines: Vec<&str> = file.text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let Some(child) = declared(line) else { continue };
        let attributes = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
        if !attributes.into_iter().all(|attribute| is_compiled(attribute, features)) {
            continue;
        }
        let places = [format!("{folder}/{child}.rs"), format!("{folder}/{child}/mod.rs")];
        for next in tree.rust().filter(|file| places.contains(&file.path)) {
            let path = if module.is_empty() { child.into() } else { format!("{module}::{child}") };
            follow(tree, next, &path, features, found);
        }
    }
}

fn stem(name: &str) -> &str {
    name.strip_suffix(".rs").unwrap_or(name)
}

/// `mod name;` at the left edge, with any visibility.
fn declared(line: &str) -> Option<&str> {
    let line = line.strip_suffix(';')?;
    let (before, name) = line.split_once("mod ")?;
    (before.is_empty() || before.starts_with("pub")).then_some(name)
}

/// Whether what stands under this attribute is compiled into a test; a condition that can't be judged
/// here counts as one that is not met.
fn is_compiled(attribute: &str, features: &[&str]) -> bool {
    let Some(condition) = attribute.strip_prefix("#[cfg(") else { return true };
    if condition.starts_with("not(") {
        return false;
    }
    let condition = condition.trim_end_matches([')', ']']);
    let any = condition.strip_prefix("any(");
    any.unwrap_or(condition).split(", ").any(|part| {
        let feature = part.strip_prefix("feature = ").map(|name| name.trim_matches('"'));
        part == "test" || feature.is_some_and(|name| features.contains(&name))
    })
}

/// The test of this name in a file, if there is one.
pub(super) fn test(file: &File, name: &str) -> Option<Test> {
    let lines: Vec<&str> = file.text.lines().map(str::trim).collect();
    let head = format!("fn {name}(");
    let at = lines
        .iter()
        .position(|line| line.strip_prefix("async ").unwrap_or(line).starts_with(&head))?;
    let mut test = Test::default();
    for line in lines[..at].iter().rev() {
        if line.starts_with("//") {
            test.comments.push_str(line);
            test.comments.push('\n');
        } else if line.starts_with("#[") {
            test.attributes.push((*line).to_owned());
        } else {
            break;
        }
    }
    let is = |word: &str| test.attributes.iter().any(|attribute| attribute.starts_with(word));
    (is("#[test]") || is("#[tokio::test")).then_some(test)
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
    fn a_file_is_compiled_if_a_root_leads_to_it() {
        let tree = tree(&[
            ("proto/src/lib.rs", "pub mod trust;\nmod lost_not;\n"),
            ("proto/src/trust/mod.rs", "#[cfg(test)]\nmod tests;\n"),
            ("proto/src/trust/tests/mod.rs", "mod verify;"),
            ("proto/src/trust/tests/verify.rs", ""),
            ("proto/src/trust/tests/orphan.rs", ""),
            ("agent/src/lib.rs", "pub(crate) mod trusted;"),
            ("agent/src/trusted.rs", "mod view;"),
            ("agent/src/trusted/view.rs", ""),
            ("tests/tests/system/main.rs", "mod pause;"),
            ("tests/tests/system/pause.rs", ""),
            ("tests/tests/reference.rs", ""),
        ]);
        let found = modules(&tree, &[]);
        assert_eq!(found["proto/src/trust/tests/verify.rs"], "trust::tests::verify");
        assert_eq!(found["agent/src/trusted/view.rs"], "trusted::view");
        assert_eq!(found["tests/tests/system/pause.rs"], "pause");
        assert_eq!(found["tests/tests/reference.rs"], "");
        assert!(!found.contains_key("proto/src/trust/tests/orphan.rs"));
    }

    #[test]
    fn a_module_behind_a_feature_counts_only_where_tests_enable_it() {
        let files = [
            ("agent/src/lib.rs", "#[cfg(feature = \"rare\")]\nmod rare;\n"),
            ("agent/src/rare.rs", ""),
        ];
        assert!(!modules(&tree(&files), &["testing"]).contains_key("agent/src/rare.rs"));
        assert!(modules(&tree(&files), &["rare"]).contains_key("agent/src/rare.rs"));
        assert!(is_compiled("#[cfg(any(test, feature = \"rare\"))]", &[]));
        assert!(!is_compiled("#[cfg(not(test))]", &[]));
    }

    #[test]
    fn a_test_is_found_with_its_comments_and_only_if_it_is_one() {
        let text = "/// CVE-1.\n#[test]\n#[ignore]\nfn a() {}\n\nfn b() {}\n\
                    \n#[tokio::test]\nasync fn c() {}\n";
        let file = File { path: "a.rs".into(), text: text.into() };
        let found = test(&file, "a").unwrap();
        assert!(found.comments.contains("CVE-1"));
        assert!(found.attributes.contains(&"#[ignore]".to_owned()));
        assert_eq!(test(&file, "b"), None);
        assert!(test(&file, "c").is_some());
    }
}
