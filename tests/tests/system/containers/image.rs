//! An image as its publisher would have it: an OCI layout, of a root file system with one static program and
//! what it serves.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use refit_proto::names::Digest;
use refit_tests::process::Ran;
use serde_json::{Value, json};

/// How an image behaves once it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runs {
    /// It answers well.
    Well,
    /// It answers, and not that it is healthy.
    Unhealthy,
    /// It ends at once.
    NotAtAll,
}

/// What an image is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) manifest: String,
    pub(super) id: String,
    /// The file with its only layer.
    pub(super) layer: PathBuf,
}

fn blob(layout: &Path, bytes: &[u8], kind: &str) -> Value {
    let digest = Digest::of(bytes);
    fs::write(layout.join("blobs/sha256").join(digest.to_string()), bytes).unwrap();
    json!({
        "mediaType": format!("application/vnd.oci.image.{kind}"),
        "digest": format!("sha256:{digest}"),
        "size": bytes.len(),
    })
}

fn hex(descriptor: &Value) -> String {
    descriptor["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned()
}

/// Writes the layout of an image of this version.
pub(super) fn write(layout: &Path, busybox: &Path, version: &str, runs: Runs) -> Known {
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let root = layout.with_file_name(format!("root-{version}"));
    for folder in ["bin", "www", "tmp"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    fs::write(root.join("www/index.html"), format!("payments {version}\n")).unwrap();
    if runs != Runs::Unhealthy {
        fs::write(root.join("www/health"), "ok\n").unwrap();
    }
    let tar = root.with_extension("tar");
    let mut pack = Command::new("tar");
    pack.args(["--owner=0", "--group=0", "--numeric-owner", "--sort=name", "-C"]);
    Ran::of(pack.arg(&root).arg("-cf").arg(&tar).arg(".")).unwrap().good().unwrap();
    let layer = blob(layout, &fs::read(&tar).unwrap(), "layer.v1.tar");
    fs::remove_dir_all(&root).unwrap();
    fs::remove_file(&tar).unwrap();
    let serve = ["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"];
    let command = if runs == Runs::NotAtAll { &["/bin/busybox", "false"][..] } else { &serve };
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": { "Cmd": command },
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
    });
    let config = blob(layout, config.to_string().as_bytes(), "config.v1+json");
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
    let manifest = blob(layout, manifest.to_string().as_bytes(), "manifest.v1+json");
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
    let layer = layout.join("blobs/sha256").join(hex(&layer));
    Known { manifest: hex(&manifest), id: hex(&config), layer }
}
