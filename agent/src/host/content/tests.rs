//! What the content store promises: only bytes that were verified get their name.

use refit_proto::package::compress;

use super::{
    super::recording::{Fault, Kept, RecordingFiles, at_every_operation, put},
    *,
};

/// Frames by digest, with faults of the network.
#[derive(Default)]
struct FakeFetch {
    frames: BTreeMap<Digest, Vec<u8>>,
    /// Fails after this many bytes of a call.
    cut_after: Option<usize>,
    /// Ends there without an error.
    ends_after: Option<usize>,
    asked: Vec<u64>,
}

impl FakeFetch {
    fn with(contents: &[&[u8]]) -> FakeFetch {
        let mut fetch = FakeFetch::default();
        for content in contents {
            let mut frame = vec![];
            compress(&mut &content[..], &mut frame).unwrap();
            fetch.frames.insert(Digest::of(content), frame);
        }
        fetch
    }
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::from(io::ErrorKind::ConnectionReset))
    }
}

impl Fetch for FakeFetch {
    fn frame(&mut self, digest: Digest, offset: u64) -> Result<Box<dyn Read + '_>, FetchError> {
        self.asked.push(offset);
        let frame = self.frames.get(&digest).ok_or(FetchError::Refused("unknown".into()))?;
        let rest = frame.get(offset as usize..).ok_or(FetchError::Shorter { offset })?;
        Ok(match (self.cut_after, self.ends_after) {
            (Some(cut), _) if cut < rest.len() => Box::new(rest[..cut].chain(Broken)),
            (_, Some(end)) if end < rest.len() => Box::new(&rest[..end]),
            _ => Box::new(rest),
        })
    }
}

/// Bytes that zstd cannot shorten, so that offsets in frame and file are alike.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn store(files: &RecordingFiles) -> ContentStore<'_> {
    ContentStore::new(files, "/data/content".into())
}

fn folder() -> RecordingFiles {
    let files = RecordingFiles::default();
    files::create_dirs(&files, Path::new("/data"), 0o700).unwrap();
    files
}

fn needs(contents: &[&[u8]]) -> BTreeSet<FileRef> {
    contents.iter().map(|content| FileRef::to(content)).collect()
}

fn bytes_of(files: &RecordingFiles, content: &[u8]) -> Option<Vec<u8>> {
    files::read_file(files, &store(files).path(&Digest::of(content)), 1 << 20).ok()
}

#[test]
fn a_broken_download_goes_on_behind_what_it_has_also_after_a_power_cut() {
    let content = noise(200_000);
    let mut files = folder();
    let mut fetch = FakeFetch::with(&[&content]);
    fetch.cut_after = Some(70_000);
    let mut tries = 0;
    while let Err(error) = store(&files).bring_in(&needs(&[&content]), &Offered::new(), &mut fetch)
    {
        assert!(matches!(error, ContentError::Fetch { why: FetchError::Away(_), .. }), "{error}");
        files = files.after_power_cut(Kept::Synced);
        tries += 1;
        assert!(tries < 5, "no progress");
    }
    assert_eq!(fetch.asked, [0, 70_000, 140_000]);
    assert_eq!(bytes_of(&files, &content), Some(content));
}

#[test]
fn a_part_that_is_damaged_or_of_another_frame_is_thrown_away_and_fetched_from_its_beginning() {
    let content = noise(10_000);
    let digest = Digest::of(&content);
    for part in [&b"not a frame"[..], &[0; 9_000], &[7; 50_000]] {
        let files = folder();
        put(&files, &store(&files).beside(&digest, ".part"), part, 0o600);
        let mut fetch = FakeFetch::with(&[&content]);
        store(&files).bring_in(&needs(&[&content]), &Offered::new(), &mut fetch).unwrap();
        assert_eq!(fetch.asked, [part.len() as u64, 0]);
        assert_eq!(bytes_of(&files, &content).as_ref(), Some(&content));
        let folder = store(&files).path(&digest);
        let left = files.list(folder.parent().unwrap()).unwrap();
        assert_eq!(left, [digest.to_string().as_str()], "only the content is left");
    }
}

/// CVE-2025-0509, CVE-2019-3462.
#[test]
fn other_bytes_than_signed_are_refused_and_leave_nothing() {
    let content = noise(1000);
    let digest = Digest::of(&content);
    let files = folder();
    let mut fetch = FakeFetch::with(&[&noise(999)]);
    let frame = fetch.frames.pop_first().unwrap().1;
    fetch.frames.insert(digest, frame);
    let error = store(&files).bring_in(&needs(&[&content]), &Offered::new(), &mut fetch);
    assert!(matches!(error, Err(ContentError::Mismatch(_))), "{error:?}");
    // An endless stream is cut where no frame of the file could be so long.
    fetch.frames.insert(digest, vec![7; 1 << 20]);
    let error = store(&files).bring_in(&needs(&[&content]), &Offered::new(), &mut fetch);
    let refused =
        |error| matches!(error, Err(ContentError::Fetch { why: FetchError::Refused(_), .. }));
    assert!(refused(error));
    let left = files.list(store(&files).path(&digest).parent().unwrap()).unwrap();
    assert!(left.is_empty(), "{left:?}");
}

/// Two sources: the first breaks off, the second has other bytes under the same name.
/// CVE-2018-0501.
#[test]
fn what_a_second_source_gives_after_the_first_failed_is_verified_too() {
    let (content, evil) = (noise(100_000), noise(100_001)[1..].to_vec());
    for cut in [0, 50_000] {
        let files = folder();
        let mut first = FakeFetch::with(&[&content]);
        first.cut_after = Some(cut);
        store(&files).bring_in(&needs(&[&content]), &Offered::new(), &mut first).unwrap_err();
        let mut second = FakeFetch::with(&[&evil]);
        let frame = second.frames.pop_first().unwrap().1;
        second.frames.insert(Digest::of(&content), frame);
        let error = store(&files).bring_in(&needs(&[&content]), &Offered::new(), &mut second);
        assert!(matches!(error, Err(ContentError::Mismatch(_))), "{cut}: {error:?}");
        assert_eq!(bytes_of(&files, &content), None, "{cut}");
    }
}

/// CVE-2026-24137, CVE-2024-54143.
#[test]
fn content_is_kept_under_its_whole_digest_and_a_part_of_it_is_no_name() {
    let content = noise(1000);
    let (digest, files) = (Digest::of(&content), folder());
    let mut other = *digest.as_bytes();
    other[31] ^= 1;
    let other = Digest::from(other);
    assert_ne!(store(&files).path(&digest), store(&files).path(&other));
    // Whole content of the same length, under a name that differs in the last digit.
    put(&files, &store(&files).path(&other), &noise(1000), 0o600);
    let missing = store(&files).missing(&needs(&[&content]), &Offered::new()).unwrap();
    assert_eq!(missing, [FileRef::to(&content)]);
}

#[test]
fn a_stream_that_ends_too_early_is_weather_and_goes_on() {
    let content = noise(50_000);
    let files = folder();
    let mut fetch = FakeFetch::with(&[&content]);
    fetch.ends_after = Some(20_000);
    let bring =
        |fetch: &mut FakeFetch| store(&files).bring_in(&needs(&[&content]), &Offered::new(), fetch);
    for _ in 0..2 {
        let error = bring(&mut fetch);
        assert!(
            matches!(error, Err(ContentError::Fetch { why: FetchError::Away(_), .. })),
            "{error:?}"
        );
    }
    bring(&mut fetch).unwrap();
    assert_eq!(fetch.asked, [0, 20_000, 40_000]);
}

#[test]
fn what_an_installed_release_has_is_not_fetched_and_never_believed() {
    let (same, changed) = (noise(3000), noise(3001));
    let files = folder();
    put(&files, Path::new("/opt/old/same"), &same, 0o755);
    put(&files, Path::new("/opt/old/changed"), &changed, 0o755);
    files.tamper(Path::new("/opt/old/changed"), |bytes| bytes[17] ^= 1);
    let offered = Offered::from([
        (FileRef::to(&same), vec!["/opt/old/gone".into(), "/opt/old/same".into()]),
        (FileRef::to(&changed), vec!["/opt/old/changed".into()]),
    ]);
    let mut fetch = FakeFetch::with(&[&changed]);
    let needed = needs(&[&same, &changed]);
    assert_eq!(store(&files).missing(&needed, &offered).unwrap(), []);
    store(&files).bring_in(&needed, &offered, &mut fetch).unwrap();
    assert_eq!(fetch.asked, [0], "only what was tampered with was fetched");
    assert_eq!(bytes_of(&files, &same), Some(same));
    assert_eq!(bytes_of(&files, &changed), Some(changed));
}

#[test]
fn content_that_was_damaged_on_the_disk_is_had_again() {
    let content = noise(3000);
    let files = folder();
    let needed = needs(&[&content]);
    let bring = || {
        let mut fetch = FakeFetch::with(&[&content]);
        store(&files).bring_in(&needed, &Offered::new(), &mut fetch).unwrap();
        fetch.asked.len()
    };
    assert_eq!((bring(), bring()), (1, 0));
    files.tamper(&store(&files).path(&Digest::of(&content)), |bytes| bytes[2999] ^= 1);
    assert_eq!(bring(), 1);
    files.tamper(&store(&files).path(&Digest::of(&content)), |bytes| bytes.clear());
    assert_eq!(bring(), 1);
    assert_eq!(bytes_of(&files, &content), Some(content));
}

/// CVE-2016-1252.
#[test]
fn every_failure_names_its_path_and_the_next_try_succeeds() {
    let (fetched, reused) = (noise(2000), noise(3000));
    let start = folder();
    put(&start, Path::new("/opt/old/file"), &reused, 0o755);
    let offered = Offered::from([(FileRef::to(&reused), vec!["/opt/old/file".into()])]);
    let needed = needs(&[&fetched, &reused]);
    let act = |files: &RecordingFiles| {
        let mut fetch = FakeFetch::with(&[&fetched]);
        store(files).bring_in(&needed, &offered, &mut fetch)
    };
    for errno in [28 /* ENOSPC */, 5 /* EIO */] {
        at_every_operation(&start, Fault::Fails(errno), act, |files, result, step| {
            if let Err(error) = result {
                let ContentError::File(error) = error else { panic!("{step}: {error}") };
                assert_eq!(error.source.raw_os_error(), Some(errno), "{step}");
                let path = error.path.display().to_string();
                assert!(
                    path.starts_with("/data") || path.starts_with("/opt/old"),
                    "{step}: {path}"
                );
            }
            act(files).unwrap();
            assert_eq!(bytes_of(files, &fetched).as_ref(), Some(&fetched), "{step}");
        });
    }
}

/// CVE-2025-0509.
#[test]
fn after_a_power_cut_anywhere_what_has_a_digest_for_a_name_has_its_bytes() {
    let (fetched, reused) = (noise(2000), noise(3000));
    let start = folder();
    put(&start, Path::new("/opt/old/file"), &reused, 0o755);
    let offered = Offered::from([(FileRef::to(&reused), vec!["/opt/old/file".into()])]);
    let act = |files: &RecordingFiles| {
        let mut fetch = FakeFetch::with(&[&fetched]);
        store(files).bring_in(&needs(&[&fetched, &reused]), &offered, &mut fetch)
    };
    at_every_operation(&start, Fault::PowerCut, act, |left, done, step| {
        for kept in Kept::ALL {
            let files = left.after_power_cut(kept);
            for content in [&fetched, &reused] {
                match bytes_of(&files, content) {
                    Some(bytes) => assert_eq!(&bytes, content, "{step}, {kept:?}"),
                    None => assert!(done.is_err(), "{step}, {kept:?}"),
                }
            }
            act(&files).unwrap();
        }
    });
}
