//! What the documents say that a signed file names, for whoever signs it: a release's counter, and the
//! rings of a policy. A document that does not come with the change is not told of.

use std::collections::BTreeMap;

use crate::{
    names::Digest,
    package::Release,
    policy::{ProductPolicy, RingDefinition, Selector},
    trust::metadata::Targets,
};

type Documents = BTreeMap<Digest, Vec<u8>>;

/// One sentence for each change in a document.
pub(super) fn words(old: Option<&Targets>, new: &Targets, documents: &Documents) -> Vec<String> {
    let mut words = Vec::new();
    for (path, file) in &new.targets {
        let before = old.and_then(|old| old.targets.get(path));
        if before.is_some_and(|before| before.same_bytes(file)) {
            continue;
        }
        let document = |digest: Option<Digest>| documents.get(&digest?).map(Vec::as_slice);
        let Some(bytes) = document(file.digest()) else { continue };
        if let Ok(release) = Release::parse(bytes) {
            let packages: usize = release.platforms.values().map(Vec::len).sum();
            let (name, counter) = (&release.version, release.counter);
            words.push(format!("release {name} has counter {counter}, {packages} packages"));
        } else if let Ok(policy) = ProductPolicy::parse(bytes) {
            let before = document(before.and_then(|before| before.digest()));
            let before = before.and_then(|bytes| ProductPolicy::parse(bytes).ok());
            rings(before.as_ref(), &policy, &mut words);
        }
    }
    words
}

fn rings(old: Option<&ProductPolicy>, new: &ProductPolicy, words: &mut Vec<String>) {
    let product = &new.product;
    for ring in &new.rings {
        let shown = shown(ring);
        match old.and_then(|old| old.ring(&ring.ring)) {
            None => words.push(format!("{product}: ring {} is {shown}", ring.ring)),
            Some(before) if before == ring => {}
            Some(before) => words.push(format!(
                "{product}: ring {} becomes {shown} (was {})",
                ring.ring,
                self::shown(before)
            )),
        }
    }
    let gone = old.iter().flat_map(|old| &old.rings).filter(|ring| new.ring(&ring.ring).is_none());
    words.extend(gone.map(|ring| format!("{product}: ring {} is no more", ring.ring)));
}

fn shown(ring: &RingDefinition) -> String {
    let hosts = match &ring.select {
        Selector::EveryHost => "every host".to_owned(),
        Selector::Labels(labels) => {
            let pair =
                |(name, values): (&crate::names::LabelName, &Vec<crate::names::LabelValue>)| {
                    let values: Vec<_> = values.iter().map(|value| value.as_str()).collect();
                    format!("{}={}", name.as_str(), values.join("|"))
                };
            format!("hosts with {}", labels.iter().map(pair).collect::<Vec<_>>().join(" "))
        }
    };
    let gate = if ring.gate { ", the server's gate key signs its part" } else { "" };
    format!("{hosts}{gate}")
}
