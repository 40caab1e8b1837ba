//! What to do where somebody else was faster. Pure: it can be read in one place and tested without a
//! server.

use refit_proto::{package::FileRef, trust::Targets};

/// What to do after a conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum After {
    /// The change is there already.
    Nothing,
    /// Make the same change on the newest version and sign it.
    SignAgain,
    /// Leave it to people.
    Stop(Why),
}

/// Why it is left to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// They changed the very thing that we change.
    SameTarget,
    /// Others have to sign the new version too.
    NeedsOthers,
    /// It went on and on.
    TooOften,
}

impl Why {
    /// What is said besides who published what.
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Why::SameTarget => {
                "that changed what you were about to change\n\
                 help: look at it, and give the command again if it is still wanted"
            }
            Why::NeedsOthers => {
                "the change has to be made again on that version, and more than one person has to sign it\n\
                 help: give the command again, with every key"
            }
            Why::TooOften => {
                "somebody else was faster again and again\nhelp: give the command again later"
            }
        }
    }
}

/// How often one change is made again on what others published. Each round costs them one publication,
/// so that more of them means a loop somewhere.
const ROUNDS: u32 = 5;

/// What is known after a conflict.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Situation {
    /// What we want is there already.
    pub(crate) there: bool,
    /// They changed what we change.
    pub(crate) touched: bool,
}

impl Situation {
    /// For a change that sets target paths: each of `own` with the digest and length that it gives.
    pub(crate) fn of_targets(
        base: Option<&Targets>,
        newest: Option<&Targets>,
        own: &[(String, FileRef)],
    ) -> Situation {
        let held = |of: Option<&Targets>, path: &str| {
            let file = of?.targets.get(path)?;
            Some(FileRef { sha256: file.digest()?, length: file.length })
        };
        Situation {
            there: own.iter().all(|(path, wanted)| held(newest, path) == Some(*wanted)),
            touched: own.iter().any(|(path, _)| held(newest, path) != held(base, path)),
        }
    }
}

/// Decides, for a role that needs so many signatures, after so many rounds. What somebody else touched as
/// well is never signed over: they knew nothing of us.
pub(crate) fn after_conflict(situation: Situation, threshold: u64, round: u32) -> After {
    let Situation { there, touched } = situation;
    match () {
        () if there => After::Nothing,
        () if touched => After::Stop(Why::SameTarget),
        () if threshold > 1 => After::Stop(Why::NeedsOthers),
        () if round >= ROUNDS => After::Stop(Why::TooOften),
        () => After::SignAgain,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use refit_proto::trust::{
        Authority, LocalKey, Role, Signer as _, Trusted,
        edit::Draft,
        verify::{Expected, verify},
    };

    use super::*;

    fn releases(files: &[(&str, &[u8])]) -> Trusted<Targets> {
        let role = Role::parse("release.payments").unwrap();
        let key = LocalKey::from_seed(&[1; 32]);
        let mut draft = Draft::first(role.clone(), Timestamp::UNIX_EPOCH).unwrap();
        for (version, document) in files {
            draft.add_release(&version.parse().unwrap(), document).unwrap();
        }
        let public = key.public().clone();
        let authority = Authority {
            ids: [public.id()].into(),
            keys: [(public.id(), public)].into(),
            threshold: 1,
        };
        let bytes = draft.sign(&[&key]).unwrap();
        verify(&bytes, Expected { role: &role, authority: &authority, pin: None }).unwrap()
    }

    fn own(document: &[u8]) -> Vec<(String, FileRef)> {
        vec![("releases/payments/2.0.json".to_owned(), FileRef::to(document))]
    }

    fn decide(base: &Targets, newest: &Targets, threshold: u64, round: u32) -> After {
        let own = own(b"ours");
        after_conflict(Situation::of_targets(Some(base), Some(newest), &own), threshold, round)
    }

    #[test]
    fn another_release_beside_ours_is_built_on() {
        let (base, newest) =
            (releases(&[("1.0", b"1")]), releases(&[("1.0", b"1"), ("1.5", b"5")]));
        assert_eq!(decide(&base, &newest, 1, 0), After::SignAgain);
        assert_eq!(decide(&base, &newest, 2, 0), After::Stop(Why::NeedsOthers));
        assert_eq!(decide(&base, &newest, 1, ROUNDS), After::Stop(Why::TooOften));
    }

    #[test]
    fn our_own_target_is_never_signed_over() {
        let base = releases(&[("1.0", b"1")]);
        let theirs = releases(&[("1.0", b"1"), ("2.0", b"theirs")]);
        assert_eq!(decide(&base, &theirs, 1, 0), After::Stop(Why::SameTarget));
        // Nor where they took away what we were about to change.
        assert_eq!(decide(&theirs, &base, 1, 0), After::Stop(Why::SameTarget));
        let gone = Situation::of_targets(Some(&theirs), None, &own(b"ours"));
        assert_eq!(after_conflict(gone, 1, 0), After::Stop(Why::SameTarget));
    }

    #[test]
    fn what_is_there_already_is_not_signed_again() {
        let base = releases(&[]);
        let newest = releases(&[("2.0", b"ours")]);
        // Also where others would have to sign, and however late it is.
        assert_eq!(decide(&base, &newest, 2, ROUNDS), After::Nothing);
    }
}
