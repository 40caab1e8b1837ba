//! Releases from folder to ring, against a server that takes pushes by the real rules: two publishers at
//! once, and a server that is not what it should be.

use std::{fs, path::Path};

use clap::Parser as _;
use refit_proto::trust::{Role, Signer as _};

use crate::{
    Context,
    connect::Connection,
    key,
    testing::{TestServer, person},
    trust,
};

/// Alice has founded the trust; Bob took her root and has a release key of his own.
struct Fleet {
    folder: tempfile::TempDir,
    server: TestServer,
    connection: Connection,
    alice: Context,
    bob: Context,
}

impl Fleet {
    async fn founded() -> Fleet {
        let folder = tempfile::tempdir().unwrap();
        let (server, connection) = TestServer::start().await;
        let [alice, bob] = ["alice", "bob"].map(|name| person(folder.path(), name));
        let fleet = Fleet { folder, server, connection, alice, bob };
        for role in ["root", "targets", "policy"] {
            fleet.key(&fleet.alice, &["--role", role, "--name", "alice"]);
        }
        let release = ["--role", "release", "--product", "payments", "--name"];
        fleet.key(&fleet.alice, &[&release[..], &["alice"]].concat());
        fleet.key(&fleet.bob, &[&release[..], &["bob"]].concat());
        let ring =
            ["--role", "ring", "--product", "payments", "--ring", "pilot", "--name", "alice"];
        fleet.key(&fleet.alice, &ring);
        let server_keys = fleet.server.keys_file(fleet.folder.path());
        let bobs = fleet.bob.home.keys().join("release.payments.bob.pub.json");
        fleet
            .trust(&format!(
                "init --root-key alice --targets-key alice --server-keys {}",
                server_keys.display()
            ))
            .await;
        fleet.trust(&format!(
            "delegate --product payments --release-key alice --release-key {} --ring pilot=alice \
             --policy-key alice",
            bobs.display()
        )).await;
        trust::push_all(&fleet.alice, &fleet.connection).await.unwrap();
        let root = trust::OwnCopy::of(&fleet.alice).first_root().unwrap();
        trust::OwnCopy::of(&fleet.bob).take_first_root(&root).unwrap();
        fleet
    }

    fn key(&self, who: &Context, words: &[&str]) {
        let words = ["refit", "key", "generate", "--unencrypted"].iter().chain(words);
        match crate::Arguments::try_parse_from(words).unwrap().noun {
            crate::Noun::Key(args) => key::run(who, args).unwrap(),
            _ => unreachable!(),
        }
    }

    async fn trust(&self, words: &str) {
        let words = ["refit", "trust"].into_iter().chain(words.split_whitespace());
        match crate::Arguments::try_parse_from(words).unwrap().noun {
            crate::Noun::Trust(args) => trust::run(&self.alice, args).await.unwrap(),
            _ => unreachable!(),
        }
    }

    /// `refit release ...`, as typed.
    async fn release(&self, who: &Context, words: &str) -> anyhow::Result<()> {
        let words = ["refit", "release"].into_iter().chain(words.split_whitespace());
        match crate::Arguments::try_parse_from(words)?.noun {
            crate::Noun::Release(args) => super::on(who, &self.connection, args.verb).await,
            _ => unreachable!(),
        }
    }

    /// Builds a release whose one file holds `text`; its folder.
    async fn built(&self, who: &Context, version: &str, text: &str) -> String {
        let source = self.folder.path().join(format!("source-{version}-{text}"));
        fs::create_dir_all(source.join("tree")).unwrap();
        fs::write(source.join("tree/file"), text).unwrap();
        fs::write(source.join("refit.toml"), "health = \"none\"\n").unwrap();
        let out = self.folder.path().join(format!("built-{version}-{text}"));
        let (source, out) = (source.display(), out.display().to_string());
        let build = format!(
            "build {source} --product payments --version {version} --counter 7 --out {out}"
        );
        self.release(who, &build).await.unwrap();
        out
    }

    async fn signed(&self, who: &Context, version: &str, text: &str) -> String {
        let out = self.built(who, version, text).await;
        self.release(who, &format!("sign {out}")).await.unwrap();
        out
    }

    fn version_of(&self, role: &str) -> u64 {
        let bytes = self.server.held().newest[&Role::parse(role).unwrap()].clone();
        let file: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        file["signed"]["version"].as_u64().unwrap()
    }

    async fn releases(&self) -> Vec<String> {
        let role = [Role::parse("release.payments").unwrap()];
        let set = trust::newest(&self.alice, &self.connection, &role).await.unwrap();
        set.releases(&"payments".parse().unwrap()).map(|(version, _)| version.to_string()).collect()
    }
}

#[tokio::test]
async fn a_release_goes_from_a_folder_to_a_ring_and_back() {
    let fleet = Fleet::founded().await;
    for (version, text) in [("1.0", "old"), ("1.1", "new")] {
        let out = fleet.signed(&fleet.alice, version, text).await;
        fleet.release(&fleet.alice, &format!("publish {out}")).await.unwrap();
        let promote = format!("promote payments {version} --to pilot");
        fleet.release(&fleet.alice, &promote).await.unwrap();
        // The same again changes nothing.
        let before = fleet.version_of("ring.payments.pilot");
        fleet.release(&fleet.alice, &promote).await.unwrap();
        fleet.release(&fleet.alice, &format!("publish {out}")).await.unwrap();
        assert_eq!(fleet.version_of("ring.payments.pilot"), before);
    }
    let roles = ["release.payments", "ring.payments.pilot"].map(|role| Role::parse(role).unwrap());
    let set = trust::newest(&fleet.bob, &fleet.connection, &roles).await.unwrap();
    let ring = set.ring(&"payments".parse().unwrap(), &"pilot".parse().unwrap()).unwrap();
    assert_eq!(ring.current.as_ref().unwrap().version.as_str(), "1.1");
    assert_eq!(ring.back.as_ref().unwrap().version.as_str(), "1.0");
}

#[tokio::test]
async fn a_release_that_did_not_prove_itself_is_promoted_over_and_becomes_no_way_back() {
    let fleet = Fleet::founded().await;
    for (version, state) in [("1.0", "done"), ("1.1", "halted"), ("1.2", "done")] {
        let out = fleet.signed(&fleet.alice, version, version).await;
        fleet.release(&fleet.alice, &format!("publish {out}")).await.unwrap();
        let promote = format!("promote payments {version} --to pilot");
        fleet.release(&fleet.alice, &promote).await.unwrap();
        fleet.server.held().rollout_state = state.to_owned();
    }
    let roles = ["release.payments", "ring.payments.pilot"].map(|role| Role::parse(role).unwrap());
    let set = trust::newest(&fleet.bob, &fleet.connection, &roles).await.unwrap();
    let ring = set.ring(&"payments".parse().unwrap(), &"pilot".parse().unwrap()).unwrap();
    assert_eq!(ring.current.as_ref().unwrap().version.as_str(), "1.2");
    assert_eq!(ring.back.as_ref().unwrap().version.as_str(), "1.0");
}

#[tokio::test]
async fn the_second_of_two_publishers_signs_again_on_what_the_first_published() {
    let fleet = Fleet::founded().await;
    let alices = fleet.signed(&fleet.alice, "1.0", "alices").await;
    let bobs = fleet.signed(&fleet.bob, "2.0", "bobs").await;
    fleet.release(&fleet.alice, &format!("publish {alices}")).await.unwrap();
    fleet.release(&fleet.bob, &format!("publish {bobs}")).await.unwrap();
    assert_eq!(fleet.releases().await, ["1.0", "2.0"]);
}

#[tokio::test]
async fn a_version_that_another_publisher_took_meanwhile_is_never_signed_over() {
    let fleet = Fleet::founded().await;
    let alices = fleet.signed(&fleet.alice, "1.0", "alices").await;
    let bobs = fleet.signed(&fleet.bob, "1.0", "bobs").await;
    let signed_before = fs::read(Path::new(&bobs).join("release.payments.json")).unwrap();
    fleet.release(&fleet.alice, &format!("publish {alices}")).await.unwrap();
    let version = fleet.version_of("release.payments");
    let error = fleet.release(&fleet.bob, &format!("publish {bobs}")).await.unwrap_err();
    assert!(error.to_string().contains("person bob published"), "{error}");
    assert_eq!(fleet.version_of("release.payments"), version);
    assert_eq!(fs::read(Path::new(&bobs).join("release.payments.json")).unwrap(), signed_before);
}

#[tokio::test]
async fn a_withdrawn_release_is_gone_and_the_others_stay() {
    let fleet = Fleet::founded().await;
    for (version, text) in [("1.0", "old"), ("1.1", "new")] {
        let out = fleet.signed(&fleet.alice, version, text).await;
        fleet.release(&fleet.alice, &format!("publish {out}")).await.unwrap();
    }
    fleet.release(&fleet.bob, "withdraw payments 1.0 --yes").await.unwrap();
    assert_eq!(fleet.releases().await, ["1.1"]);
    assert!(fleet.release(&fleet.bob, "withdraw payments 1.0 --yes").await.is_err());
}

#[tokio::test]
async fn who_has_no_key_of_the_role_signs_nothing() {
    let fleet = Fleet::founded().await;
    let out = fleet.signed(&fleet.alice, "1.0", "x").await;
    fleet.release(&fleet.alice, &format!("publish {out}")).await.unwrap();
    let version = fleet.version_of("ring.payments.pilot");
    let promote = "promote payments 1.0 --to pilot";
    assert!(fleet.release(&fleet.bob, promote).await.is_err());
    let other = format!("{promote} --key release.payments.bob");
    let error = fleet.release(&fleet.bob, &other).await.unwrap_err();
    assert!(error.to_string().contains("does not sign for ring.payments.pilot"), "{error}");
    assert!(fleet.release(&fleet.alice, "promote payments 9.9 --to pilot").await.is_err());
    assert!(fleet.release(&fleet.alice, "promote payments 1.0 --to early").await.is_err());
    assert_eq!(fleet.version_of("ring.payments.pilot"), version);
}

#[tokio::test]
async fn every_file_that_a_server_changed_is_refused_and_not_kept() {
    let fleet = Fleet::founded().await;
    let out = fleet.signed(&fleet.alice, "1.0", "x").await;
    fleet.release(&fleet.alice, &format!("publish {out}")).await.unwrap();
    let roles = ["timestamp", "snapshot", "targets", "release.payments"];
    for role in roles {
        let good = fleet.server.clone_files();
        fleet.server.spoil(&Role::parse(role).unwrap());
        // Bob has seen nothing yet: all he knows is the root.
        let show = fleet.release(&fleet.bob, "show payments 1.0").await;
        assert!(show.is_err(), "{role} was changed");
        let kept = trust::OwnCopy::of(&fleet.bob).stored().unwrap();
        assert!(!kept.contains_key(&Role::parse(role).unwrap()), "{role} was kept");
        fleet.server.restore(good);
    }
    fleet.release(&fleet.bob, "show payments 1.0").await.unwrap();
}

#[tokio::test]
async fn content_that_is_not_what_was_signed_is_refused() {
    let fleet = Fleet::founded().await;
    let out = fleet.signed(&fleet.alice, "1.0", "x").await;
    fleet.release(&fleet.alice, &format!("publish {out}")).await.unwrap();
    let document = fs::read(Path::new(&out).join("release.json")).unwrap();
    let digest = refit_proto::names::Digest::of(&document);
    let mut other = document.clone();
    other[20] ^= 1;
    let mut frame = Vec::new();
    refit_proto::package::compress(&mut other.as_slice(), &mut frame).unwrap();
    fleet.server.held().content.insert(digest, frame);
    assert!(fleet.release(&fleet.alice, "promote payments 1.0 --to pilot").await.is_err());
    assert!(fleet.release(&fleet.alice, "show payments 1.0").await.is_err());
    assert_eq!(fleet.version_of("ring.payments.pilot"), 1);
}

#[tokio::test]
async fn what_was_made_before_the_first_push_is_sent_once_and_in_order() {
    let fleet = Fleet::founded().await;
    assert_eq!(trust::OwnCopy::of(&fleet.alice).unsent().unwrap(), []);
    assert_eq!((fleet.version_of("root"), fleet.version_of("targets")), (1, 2));
    let version = fleet.version_of("timestamp");
    trust::push_all(&fleet.alice, &fleet.connection).await.unwrap();
    assert_eq!(fleet.version_of("timestamp"), version);
    let key = key::public(&fleet.bob, None, "release.payments.bob").unwrap();
    assert_eq!(
        key,
        *key::private(&fleet.bob, &Role::parse("release.payments").unwrap(), "bob")
            .unwrap()
            .public()
    );
}
