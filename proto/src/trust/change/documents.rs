//! What the documents say that a signed file names, for whoever signs it: a release's counter, and
//! what the policy role's documents change. A document that does not come with the change is not told of.

use std::collections::BTreeMap;

use crate::{
    names::Digest,
    package::Release,
    policy::{LabelPolicy, ProductPolicy, words},
    printable::printable,
    servers::{SERVERS, ServersPolicy},
    trust::metadata::Targets,
};

type Documents = BTreeMap<Digest, Vec<u8>>;

/// One sentence for each change in a document.
pub(super) fn told(old: Option<&Targets>, new: &Targets, documents: &Documents) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, file) in &new.targets {
        let before = old.and_then(|old| old.targets.get(path));
        if before.is_some_and(|before| before.same_bytes(file)) {
            continue;
        }
        let document = |digest: Option<Digest>| documents.get(&digest?).map(Vec::as_slice);
        let Some(bytes) = document(file.digest()) else { continue };
        if let Ok(release) = Release::parse(bytes) {
            let (name, counter) = (&release.version, release.counter);
            let brings = brings(&release);
            lines.push(format!("release {name} has counter {counter}, {brings}"));
        } else {
            let before = document(before.and_then(|before| before.digest()));
            lines.extend(of_policy_role(path, before, bytes));
        }
    }
    lines.iter().map(|line| printable(line)).collect()
}

fn brings(release: &Release) -> String {
    if !release.is_removal() {
        let packages: usize = release.platforms.values().map(Vec::len).sum();
        return format!("{packages} packages");
    }
    let also = release.removal.paths.iter().map(|path| format!(", with {path}"));
    let purges = if release.removal.purge { ", and purges Debian packages" } else { "" };
    format!("and removes {}{}{purges}", release.product, also.collect::<String>())
}

/// What a document of the policy role changes. One that can't be read is told of as such: nobody should sign
/// for what they can't be told.
fn of_policy_role(path: &str, before: Option<&[u8]>, bytes: &[u8]) -> Vec<String> {
    let Some(name) = path.strip_prefix("policy/") else { return Vec::new() };
    let unreadable = || vec![format!("{path} can't be read: do not sign for it")];
    match name {
        SERVERS => match ServersPolicy::parse(bytes) {
            Ok(new) => words::of_servers(
                before.and_then(|it| ServersPolicy::parse(it).ok()).as_ref(),
                &new,
            ),
            Err(_) => unreadable(),
        },
        "labels.json" => match LabelPolicy::parse(bytes) {
            Ok(new) => {
                words::of_labels(before.and_then(|it| LabelPolicy::parse(it).ok()).as_ref(), &new)
            }
            Err(_) => unreadable(),
        },
        _ => match ProductPolicy::parse(bytes) {
            Ok(new) => {
                words::of_policy(before.and_then(|it| ProductPolicy::parse(it).ok()).as_ref(), &new)
            }
            Err(_) => unreadable(),
        },
    }
}
