//! What the jobs promise at a place that fails, forgets and lies.

use proptest::prelude::*;
use refit_copy::About;

use super::*;

/// A place in memory that fails at one operation.
#[derive(Default, Clone)]
struct Memory {
    holds: BTreeMap<String, Vec<u8>>,
    /// Operations until one fails.
    fails_in: Option<usize>,
    reads: usize,
}

impl Memory {
    fn turn(&mut self) -> Result<(), Failed> {
        match &mut self.fails_in {
            Some(0) => Err(Failed::new(Why::Away, "unplugged")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Place for Memory {
    fn put(&mut self, name: &str, bytes: &[u8]) -> Result<(), Failed> {
        self.turn()?;
        self.holds.insert(name.into(), bytes.into());
        Ok(())
    }
    fn get(&mut self, name: &str, _: u64) -> Result<Option<Vec<u8>>, Failed> {
        self.turn()?;
        self.reads += 1;
        Ok(self.holds.get(name).cloned())
    }
    fn list(&mut self, folder: &str) -> Result<Vec<String>, Failed> {
        self.turn()?;
        let below =
            self.holds.keys().filter_map(|name| name.strip_prefix(folder)?.strip_prefix('/'));
        Ok(below.map(str::to_owned).collect())
    }
    fn remove(&mut self, name: &str) -> Result<(), Failed> {
        self.turn()?;
        self.holds.remove(name);
        Ok(())
    }
}

/// Files of a host, by what they hold.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Host {
        Host(tempfile::tempdir().unwrap())
    }

    fn file(&self, bytes: &[u8]) -> File {
        let sha256 = sha256(bytes);
        let path = self.0.path().join(&sha256);
        fs::write(&path, bytes).unwrap();
        File { sha256, length: bytes.len() as u64, path }
    }
}

fn record(id: &str, seal: &str) -> Record {
    Record::new(About {
        host: "h".into(),
        id: id.into(),
        product: "payments".into(),
        from: None,
        to: None,
        made: 1,
        order: 1,
        seal: seal.into(),
        bytes: 1,
    })
}

fn save(
    place: &mut Memory,
    files: &[File],
    unsure: Vec<Pack>,
    record: Option<Record>,
) -> (Vec<Pack>, Result<(), Failed>) {
    let mut stored = Vec::new();
    let mut say = |answer| {
        if let Answer::Stored { pack } = answer {
            stored.push(pack);
        }
        Ok(())
    };
    let done =
        At { place, host: "h".into() }.save(files, unsure, Vec::new(), &[], record, &mut say);
    (stored, done)
}

fn verify(place: &mut Memory) -> Vec<Verified> {
    let mut all = Vec::new();
    let mut say = |answer| {
        if let Answer::Verified { verified } = answer {
            all.push(verified);
        }
        Ok(())
    };
    At { place, host: "h".into() }.verify(Vec::new(), &mut say).unwrap();
    all
}

#[test]
fn files_of_every_length_come_back_from_their_packs() {
    let host = Host::new();
    let large: Vec<u8> = (0..20_000_000_u32).map(|n| (n ^ (n >> 7)) as u8).collect();
    let index = host.file(b"{the index}");
    let files: Vec<File> = [b"".as_slice(), b"a", &large, &large[..8 << 20], b"end"]
        .iter()
        .map(|bytes| host.file(bytes))
        .chain([index.clone()])
        .collect();
    let mut place = Memory::default();
    let (packs, done) = save(&mut place, &files, Vec::new(), Some(record("b1", &index.sha256)));
    done.unwrap();
    assert!(packs.len() >= 4, "a large file is in several packs");
    assert_eq!(verify(&mut place)[0].damages, Vec::<String>::new());
    let to = tempfile::tempdir().unwrap();
    At { place: &mut place, host: "h".into() }.fetch("b1", to.path(), None).unwrap();
    assert_eq!(fs::read(to.path().join("index.json")).unwrap(), b"{the index}");
    assert_eq!(fs::read_to_string(to.path().join("seal")).unwrap(), index.sha256);
    for file in files.iter().filter(|file| file.sha256 != index.sha256) {
        let bytes = fs::read(to.path().join("content").join(&file.sha256)).unwrap();
        assert_eq!(sha256(&bytes), file.sha256);
    }
}

#[test]
fn a_place_that_fails_at_any_operation_has_no_backup_that_counts_and_the_next_try_goes_on() {
    let host = Host::new();
    let files: Vec<File> = (0..40_u8).map(|n| host.file(&vec![n; 400_000 + n as usize])).collect();
    for n in 0.. {
        let mut place = Memory { fails_in: Some(n), ..Memory::default() };
        let (stored, done) =
            save(&mut place, &files, Vec::new(), Some(record("b1", &files[0].sha256)));
        let failed = done.is_err();
        place.fails_in = None;
        let whole = verify(&mut place);
        assert!(whole.iter().all(|it| it.damages.is_empty()), "{n}");
        assert!(failed || whole.len() == 1, "{n}");
        // What was read back is not sent again.
        let sent = place.holds.len();
        let (again, done) =
            save(&mut place, &files, stored.clone(), Some(record("b1", &files[0].sha256)));
        done.unwrap();
        assert!(stored.iter().all(|pack| again.contains(pack)), "{n}");
        assert!(place.holds.len() <= sent.max(stored.len()) + 4, "{n}");
        assert_eq!(verify(&mut place)[0].damages, Vec::<String>::new(), "{n}");
        if !failed {
            return;
        }
    }
}

#[test]
fn what_is_damaged_or_gone_there_is_found_named_and_stored_anew() {
    let host = Host::new();
    let files: Vec<File> = (0..30_u8).map(|n| host.file(&vec![n; 1_000_000])).collect();
    let mut place = Memory::default();
    let (packs, _) = save(&mut place, &files, Vec::new(), Some(record("b1", &files[0].sha256)));
    assert!(packs.len() > 2);
    let name = |n: usize| format!("h/packs/{}", packs[n].sha256);
    place.holds.get_mut(&name(0)).unwrap()[7] ^= 1;
    place.holds.remove(&name(1));
    let damages = verify(&mut place).remove(0).damages;
    assert_eq!(damages.len(), 2);
    assert!(damages.iter().all(|it| it.contains(&name(0)) || it.contains(&name(1))), "{damages:?}");
    let (_, done) = save(&mut place, &files, packs, Some(record("b2", &files[0].sha256)));
    done.unwrap();
    let now = verify(&mut place);
    assert_eq!(now.last().unwrap().damages, Vec::<String>::new());
}

#[test]
fn a_file_that_is_not_what_its_name_says_is_not_stored_as_it() {
    let host = Host::new();
    let file = host.file(b"as it was saved");
    fs::write(&file.path, b"as it never was").unwrap();
    let mut place = Memory::default();
    let (_, done) =
        save(&mut place, std::slice::from_ref(&file), Vec::new(), Some(record("b1", &file.sha256)));
    assert!(done.unwrap_err().text.contains(&file.sha256));
    assert!(place.holds.is_empty());
}

#[derive(Debug, Clone)]
enum Turn {
    Save(Vec<u8>, Option<usize>),
    Prune(usize, Option<usize>),
}

fn turn() -> impl Strategy<Value = Turn> {
    let fails = prop::option::weighted(0.3, 0..6_usize);
    prop_oneof![
        (prop::collection::vec(0..12_u8, 1..5), fails.clone())
            .prop_map(|(files, n)| Turn::Save(files, n)),
        (0..6_usize, fails).prop_map(|(which, n)| Turn::Prune(which, n)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn in_whatever_order_backups_are_saved_and_removed_with_failures_between_each_that_counts_is_whole(
        turns in prop::collection::vec(turn(), 1..14),
    ) {
        let host = Host::new();
        let mut place = Memory::default();
        let mut known: Vec<Pack> = Vec::new();
        let mut kept: Vec<String> = Vec::new();
        for (n, turn) in turns.into_iter().enumerate() {
            match turn {
                Turn::Save(which, fails_in) => {
                    let files: Vec<File> = which.iter().map(|n| host.file(&[*n; 3000])).collect();
                    let id = format!("b{n}");
                    place.fails_in = fails_in;
                    let (stored, done) = save(&mut place, &files, known.clone(), Some(record(&id, &files[0].sha256)));
                    known.extend(stored);
                    if done.is_ok() {
                        kept.push(id);
                    }
                }
                Turn::Prune(which, fails_in) => {
                    let gone: Vec<String> = kept.get(which).cloned().into_iter().collect();
                    place.fails_in = fails_in;
                    let pruned = At { place: &mut place, host: "h".into() }.prune(&gone, &[]);
                    if pruned.is_ok() {
                        kept.retain(|id| !gone.contains(id));
                    }
                }
            }
            place.fails_in = None;
            let whole = verify(&mut place);
            for it in &whole {
                prop_assert_eq!(&it.damages, &Vec::<String>::new(), "{}", it.id);
            }
            let there: Vec<&String> = whole.iter().map(|it| &it.id).collect();
            // One whose removal was cut may be gone already, or not.
            let missing = kept.iter().filter(|id| !there.contains(id)).count();
            prop_assert!(missing <= 1, "{kept:?} {there:?}");
            kept.retain(|id| there.contains(&id));
        }
    }
}
