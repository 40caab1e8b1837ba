//! What counts as outside proof, and what does not.

use super::*;

fn outside(command: &[&str]) -> Outside {
    Outside {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        max_age: Duration::from_secs(24 * 3600),
        max_test_age: Duration::from_secs(30 * 24 * 3600),
        timeout: Duration::from_secs(20),
    }
}

fn now() -> Timestamp {
    "2026-11-30T12:00:00Z".parse().unwrap()
}

fn proof(point: &str, made: &str, tested: &str) -> String {
    format!(r#"{{"restore_point":"{point}","made":"{made}","tested":"{tested}","by":"x"}}"#)
}

const MADE: &str = "2026-11-30T03:00:00Z";
const TESTED: &str = "2026-11-02T03:00:00Z";

#[test]
fn a_young_restore_point_that_was_restored_lately_is_a_proof() {
    let outside = outside(&["last-point"]);
    let said = format!("asking the vault\n{}\n\n", proof("vault 17", MADE, TESTED));
    let proof = outside.judge(&said, now()).unwrap();
    assert_eq!((proof.restore_point.as_str(), proof.made), ("vault 17", MADE.parse().unwrap()));
}

#[test]
fn what_is_old_untested_in_the_future_or_in_other_words_is_none_and_says_which() {
    let outside = outside(&["last-point"]);
    let no = |said: &str| outside.judge(said, now()).unwrap_err().to_string();
    let old = no(&proof("p", "2026-11-29T11:59:59Z", TESTED));
    assert!(old.contains("restore point p is 1 d old"), "{old}");
    let untested = no(&proof("p", MADE, "2026-10-30T12:00:00Z"));
    assert!(untested.contains("test-restore was 31 d"), "{untested}");
    assert!(no(&proof("p", "2026-11-30T12:05:01Z", TESTED)).contains("made of p is in the future"));
    assert!(no(&proof("p", MADE, "2027-01-01T00:00:00Z")).contains("tested of p"));
    // What two clocks may differ by is no future.
    outside.judge(&proof("p", "2026-11-30T12:04:59Z", TESTED), now()).unwrap();
    for said in [
        "",
        "ok",
        r#"{"restore_point":"p"}"#,
        &proof("", MADE, TESTED),
        &proof(r"a\u001b[31m", MADE, TESTED),
        &proof(&"x".repeat(201), MADE, TESTED),
        &proof("p", "yesterday", TESTED),
        // A proof that something else follows was not the last word.
        &format!("{}\nfailed", proof("p", MADE, TESTED)),
    ] {
        assert!(no(said).contains("no proof"), "{said}");
    }
}

#[test]
fn a_command_that_fails_hangs_or_is_not_there_is_no_proof() {
    let said = proof("p", MADE, TESTED);
    assert!(outside(&["/bin/echo", &said]).ask(now()).is_ok());
    let script = format!("echo '{said}'; exit 3");
    let failed = outside(&["/bin/sh", "-c", &script]).ask(now()).unwrap_err().to_string();
    assert!(failed.contains("ended with 3") && failed.contains("restore_point"), "{failed}");
    let hangs = Outside { timeout: Duration::from_millis(300), ..outside(&["/bin/sleep", "60"]) };
    assert!(hangs.ask(now()).unwrap_err().to_string().contains("took longer"));
    let absent = outside(&["/nonexistent/point"]).ask(now()).unwrap_err().to_string();
    assert!(absent.contains("/nonexistent/point did not run"), "{absent}");
}
