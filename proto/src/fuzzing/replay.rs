//! Replays the corpus on every run of the tests, without a fuzzer.

use std::{collections::BTreeSet, fs, path::PathBuf};

use super::TARGETS;

fn fuzz() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(fuzz().join(folder)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn every_target_has_a_program_and_a_corpus() {
    let targets: BTreeSet<String> = TARGETS.map(|(name, _)| name.to_owned()).into();
    assert_eq!(names("corpus"), targets);
    let programs: BTreeSet<String> = targets.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names("fuzz_targets"), programs);
}

#[test]
fn every_target_holds_on_its_whole_corpus() {
    for (target, run) in TARGETS {
        let folder = fuzz().join("corpus").join(target);
        let mut replayed = 0;
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let data = fs::read(&path).unwrap();
            if let Err(panic) = std::panic::catch_unwind(|| run(&data)) {
                eprintln!("{} fails {target}", path.display());
                std::panic::resume_unwind(panic);
            }
            replayed += 1;
        }
        assert!(replayed >= 8, "{target} has {replayed} cases only");
    }
}

/// What it takes for the corpus to be worth replaying: its good ones are taken as far as they should be.
#[test]
fn the_good_ones_of_the_corpus_are_good() {
    let good = |target: &str| -> Vec<Vec<u8>> {
        let folder = fuzz().join("corpus").join(target);
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let good = entries.filter(|e| e.file_name().to_string_lossy().starts_with("good-"));
        good.map(|entry| fs::read(entry.path()).unwrap()).collect()
    };
    assert!(good("manifest").iter().any(|bytes| crate::package::Manifest::parse(bytes).is_ok()));
    assert!(good("manifest").iter().any(|bytes| crate::package::Release::parse(bytes).is_ok()));
    assert!(
        good("metadata").iter().any(|bytes| crate::trust::verify::verify_root(bytes, None).is_ok())
    );
    assert!(good("bundle").iter().any(|bytes| crate::bundle::read(&mut bytes.as_slice()).is_ok()));
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    assert!(good("token").iter().any(|bytes| crate::token::Token::parse(&text(bytes)).is_ok()));
}
