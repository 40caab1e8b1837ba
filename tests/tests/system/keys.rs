//! Keys of every kind sign what a server takes: behind a passphrase that is typed, in the environment of a
//! CI job, and on a token behind a PKCS#11 module.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use refit_tests::{
    process::{Ran, program},
    release::Behaviour,
    sandbox::Sandbox,
};

const PASSPHRASE: &str = "four words nobody knows";

#[test]
fn a_passphrase_is_typed_twice_unseen_and_again_when_the_key_signs() {
    let fleet = Sandbox::new(&super::ONE_RING).unwrap();
    let make = ["key", "generate", "--role", "ring", "--product", "payments", "--ring", "early"];
    let make = make.into_iter().chain(["--name", "alice"]);
    // Two that differ make no key.
    let said = typed(&fleet, make.clone(), &[PASSPHRASE, "four words nobody know"]);
    assert!(!said.success && said.out.contains("differ"), "{said:?}");
    let key = fleet.path().join("home-alice/keys/ring.payments.early.alice.pem");
    assert!(!key.exists());
    let said = typed(&fleet, make, &[PASSPHRASE, PASSPHRASE]);
    assert!(said.success && key.exists(), "{said:?}");
    assert!(!said.out.contains(PASSPHRASE), "it was shown: {said:?}");
    let delegate = ["trust", "delegate", "--product", "payments", "--ring", "early=alice"];
    let said = typed(&fleet, delegate, &["mistyped it at first", PASSPHRASE]);
    assert!(said.success && !said.out.contains(PASSPHRASE), "{said:?}");
    fleet.refit(["trust", "push"]).unwrap();
    // Where nobody can type, it says so and signs nothing.
    fleet.publish("1.0", Behaviour::Good).unwrap();
    let promote = ["release", "promote", "payments", "1.0", "--to", "early"];
    let mut refit = Command::new("setsid");
    refit.arg("--wait").arg(program("refit").unwrap()).stdin(Stdio::null());
    refit.arg("--home").arg(fleet.path().join("home-alice")).args(promote);
    let said = Ran::of(&mut refit).unwrap().refused().unwrap();
    assert!(said.contains("nobody is here to type a passphrase"), "{said}");
    let said = typed(&fleet, promote, &[PASSPHRASE]);
    assert!(said.success, "{said:?}");
}

#[test]
fn a_ci_job_signs_with_the_key_of_its_environment() {
    let fleet = Sandbox::new(&super::ONE_RING).unwrap();
    let keys = fleet.path().join("home-alice/keys");
    let pem = fs::read_to_string(keys.join("release.payments.release.pem")).unwrap();
    fs::remove_file(keys.join("release.payments.release.pem")).unwrap();
    let built = fleet.build("1.0", Behaviour::Good).unwrap().to_string_lossy().into_owned();
    let sign = ["release", "sign", &built];
    let without = fleet.refit_refused(sign).unwrap();
    assert!(without.contains("0 of its keys are at hand"), "{without}");
    let with = |key: &str| {
        let mut refit = fleet.refit_command().unwrap();
        Ran::of(refit.args(sign).env("REFIT_SIGNING_KEY", key)).unwrap()
    };
    let wrong = with(&pem[..80]).refused().unwrap();
    assert!(wrong.contains("REFIT_SIGNING_KEY") && !wrong.contains(&pem[40..80]), "{wrong}");
    with(&pem.replace('\n', "\\n")).good().unwrap();
    fleet.refit(["release", "publish", &built]).unwrap();
    assert_eq!(fleet.releases().unwrap(), ["1.0"]);
}

#[test]
fn a_promotion_is_signed_by_a_key_that_never_leaves_its_token() {
    let Some(token) = Token::new() else { return };
    let fleet = Sandbox::new(&super::ONE_RING).unwrap();
    let add =
        ["key", "add", "--role", "ring", "--product", "payments", "--ring", "early", "--name"];
    let refit = |words: &[&str]| {
        let mut refit = fleet.refit_command().unwrap();
        Ran::of(refit.args(words).env("SOFTHSM2_CONF", &token.settings)).unwrap()
    };
    let signer = token.signer("promotions");
    let signer: Vec<&str> = signer.iter().map(String::as_str).collect();
    refit(&[&add[..], &["token", "--"], &signer].concat()).good().unwrap();
    let listed = fleet.json(["key", "list"]).unwrap();
    let kinds: Vec<_> = listed.as_array().unwrap().iter().map(|key| &key["kind"]).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "command").count(), 1, "{listed}");
    refit(&["trust", "delegate", "--product", "payments", "--ring", "early=token"]).good().unwrap();
    refit(&["trust", "push"]).good().unwrap();
    fleet.publish("1.0", Behaviour::Good).unwrap();
    let promote = ["release", "promote", "payments", "1.0", "--to", "early"];
    // With another key under the same label, nothing is signed; nor without the token.
    token.run("pkcs11-tool", &["--delete-object", "--type", "privkey", "--label", "promotions"]);
    token.run("pkcs11-tool", &["--delete-object", "--type", "pubkey", "--label", "promotions"]);
    let without = refit(&promote).refused().unwrap();
    assert!(without.contains("0 objects of the token"), "{without}");
    token.make_key("promotions");
    let other = refit(&promote).refused().unwrap();
    assert!(other.contains("is not the one that is wanted"), "{other}");
    assert!(!fleet.refit(["trust", "status"]).unwrap().contains("made here"));
    // The new key is taken as a new one, under another name and for another ring.
    let add =
        ["key", "add", "--role", "ring", "--product", "payments", "--ring", "broad", "--name"];
    refit(&[&add[..], &["token", "--"], &signer].concat()).good().unwrap();
    refit(&["trust", "delegate", "--product", "payments", "--ring", "broad=token"]).good().unwrap();
    refit(&["trust", "push"]).good().unwrap();
    let said = refit(&["release", "promote", "payments", "1.0", "--to", "broad"]).good().unwrap();
    assert!(said.contains("broad"), "{said}");
    let shown = fleet.json(["key", "show", "ring.payments.broad.token"]).unwrap();
    assert_eq!(shown["roles"], serde_json::json!(["ring.payments.broad"]), "{shown}");
}

/// Runs `refit` on a terminal of its own, and types these lines.
fn typed<'a>(fleet: &Sandbox, words: impl IntoIterator<Item = &'a str>, lines: &[&str]) -> Ran {
    let home = fleet.path().join("home-alice");
    let refit = program("refit").unwrap();
    let words: Vec<&str> = words.into_iter().collect();
    let line = format!("'{}' --home '{}' {}", refit.display(), home.display(), words.join(" "));
    // `script` gives it a terminal; what it says there comes out of `script`.
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--echo", "never", "--command", &line, "/dev/null"]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("REFIT_")) {
        script.env_remove(name);
    }
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = script.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for line in lines {
        writeln!(stdin, "{line}").unwrap();
    }
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    Ran { success: output.status.success(), out, err: String::new() }
}

/// A token of SoftHSM in a folder of its own.
struct Token {
    folder: tempfile::TempDir,
    settings: PathBuf,
    module: PathBuf,
}

const PIN: &str = "1234";

impl Token {
    /// `None`, and said so, where SoftHSM is not installed.
    fn new() -> Option<Token> {
        let modules = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so"];
        let module = modules.into_iter().map(Path::new).find(|path| path.is_file());
        let tool = Command::new("pkcs11-tool").arg("--version").output().is_ok();
        let Some(module) = module.filter(|_| tool) else {
            refit_durable::testing::not_run(
                "a signature by a PKCS#11 token",
                "apt-get install softhsm2 opensc",
            );
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let (tokens, settings) =
            (folder.path().join("tokens"), folder.path().join("softhsm2.conf"));
        fs::create_dir(&tokens).unwrap();
        let text =
            format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display());
        fs::write(&settings, text).unwrap();
        fs::write(folder.path().join("pin"), format!("{PIN}\n")).unwrap();
        let token = Token { folder, settings, module: module.to_owned() };
        let label =
            ["--init-token", "--free", "--label", "refit", "--pin", PIN, "--so-pin", "567890"];
        token.run("softhsm2-util", &label);
        token.make_key("promotions");
        Some(token)
    }

    fn make_key(&self, label: &str) {
        let kind = ["--keypairgen", "--key-type", "EC:edwards25519", "--label", label];
        self.run("pkcs11-tool", &kind);
    }

    fn run(&self, program: &str, words: &[&str]) {
        let mut command = Command::new(program);
        if program == "pkcs11-tool" {
            command.arg("--module").arg(&self.module);
            command.args(["--token-label", "refit", "--login", "--pin", PIN]);
        }
        Ran::of(command.args(words).env("SOFTHSM2_CONF", &self.settings)).unwrap().good().unwrap();
    }

    /// The example of a signer, on this token.
    fn signer(&self, key: &str) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        let program = path(&program("refit-signer-pkcs11").unwrap());
        let pin = path(&self.folder.path().join("pin"));
        let words = ["--module", &path(&self.module), "--token", "refit", "--key", key];
        let words = words.into_iter().chain(["--pin-file", &pin]);
        std::iter::once(program).chain(words.map(str::to_owned)).collect()
    }
}
