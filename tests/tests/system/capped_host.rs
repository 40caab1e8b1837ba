//! The host's owner limits how fast content comes, and it does not come faster.

use std::{fs, path::Path, time::Instant};

use refit_tests::{release, release::Behaviour, sandbox::Sandbox};

const RATE: u64 = 100_000;

/// Bytes of content and of parts of content that are here.
fn here(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let entries = entries.filter_map(Result::ok);
    entries
        .map(|entry| match entry.metadata() {
            Ok(about) if about.is_dir() => here(&entry.path()),
            Ok(about) => about.len(),
            Err(_) => 0,
        })
        .sum()
}

#[test]
fn content_comes_no_faster_than_the_hosts_owner_allows() {
    let mut fleet: Sandbox = super::one_host_on_1_0();
    assert!(fleet.host_mut("web-1").agent().unwrap().terminate().unwrap().success());
    let data = fleet.host_named("web-1").data();
    let settings = data.join("agent.toml");
    let text = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, format!("most_bytes_per_second = {RATE}\n{text}")).unwrap();

    let source = fleet.path().join("source-1.1");
    release::write(&source, "1.1", Behaviour::Good, Default::default(), "").unwrap();
    // Bytes that zstd can't make fewer.
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(8 * RATE as usize)
    .collect();
    fs::write(source.join("tree/share/noise"), noise).unwrap();
    let built = fleet.build_from(&source, "1.1").unwrap();
    fleet.publish_built(&built).unwrap();

    // From before the first byte on; what is counted was there before the time is looked at, so a slow
    // machine can only make the bound wider.
    let (content, begun) = (data.join("content"), Instant::now());
    let before = here(&content);
    fleet.start_agent("web-1").unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    let (mut most, mut samples) = (0, 0);
    while fleet.host_named("web-1").says().ok().as_deref() != Some("payments 1.1") {
        let came = here(&content).saturating_sub(before);
        let allowed = RATE as f64 * begun.elapsed().as_secs_f64() + RATE as f64;
        // A frame and its plain bytes lie side by side for a moment when it is unpacked.
        if came < 8 * RATE {
            assert!(came as f64 <= allowed, "{came} bytes, {allowed:.0} allowed");
        }
        (most, samples) = (most.max(came), samples + 1);
        assert!(begun.elapsed().as_secs() < 180, "{most} bytes came");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(most >= 4 * RATE && samples > 50, "{most} bytes in {samples} looks");
    // The first second's worth comes at once.
    assert!(begun.elapsed().as_secs_f64() >= 7.0 - 0.5, "{:?}", begun.elapsed());
}
