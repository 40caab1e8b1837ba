//! A package that podman runs: an image as an OCI layout in the package's tree, and what is said of it in the
//! manifest. Blobs have their SHA-256 for a name, and a manifest pins every file by its SHA-256, so that one is
//! held against the other without reading a byte.

use serde::{Deserialize, Serialize};

use super::{Entry, manifest::Service};
use crate::names::Digest;

/// The folder of the tree with the OCI layout.
pub const IMAGE: &str = "image";
/// What lists the images of a layout.
const INDEX: &str = "image/index.json";
/// Where its blobs lie, each under its digest.
const BLOBS: &str = "image/blobs/sha256";

/// The image of a package. `refit release build` reads it from the layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodmanImage {
    /// Digest of the image's manifest, by which an image is named.
    pub manifest: Digest,
    /// Digest of its configuration, which is podman's id of the image and pins what is in its layers.
    pub config: Digest,
    /// How much it takes in podman's storage, bytes: a plain layer's length, and four times that of a
    /// compressed one, which is more than programs compress to.
    pub bytes: u64,
}

/// How much longer than itself a compressed layer is taken to be: executables come to two or three times.
const COMPRESSED: u64 = 4;

/// Largest `index.json` and manifest of an image that anyone reads, bytes: registries allow 4 MiB.
pub(super) const LARGEST: u64 = 4 << 20;

/// Why a folder is not the layout of one image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// One of its documents can't be followed.
    #[error("{path} is not what an OCI layout has there: {why}")]
    Unreadable {
        /// In the package's tree.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// None, or several.
    #[error(
        "{INDEX} lists {0} images and has to list one\n\
         help: `podman push IMAGE oci:tree/{IMAGE}` into an empty folder writes one image for one platform"
    )]
    NotOne(usize),
    /// An image that is a list of images, or no image.
    #[error(
        "{INDEX} lists a {0:?}, which is no image\n\
         help: `podman push IMAGE oci:tree/{IMAGE}` writes an image for one platform; several platforms are several packages"
    )]
    NoImage(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct ImageManifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

const IMAGE_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

impl Descriptor {
    fn digest(&self, in_file: &str) -> Result<Digest, ImageError> {
        let hex = self.digest.strip_prefix("sha256:").unwrap_or_default();
        Digest::parse(hex).map_err(|_| ImageError::Unreadable {
            path: in_file.to_owned(),
            why: format!("{:?} is no SHA-256 as images are named by", self.digest),
        })
    }

    fn unpacked(&self) -> u64 {
        let plain = self.media_type.ends_with(".tar");
        if plain { self.size } else { self.size.saturating_mul(COMPRESSED) }
    }
}

fn parse<'a, T: Deserialize<'a>>(path: &str, bytes: &'a [u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ImageError::Unreadable { path: path.to_owned(), why: error.to_string() })
}

/// Where a blob lies in a package's tree.
pub(super) fn blob(digest: &Digest) -> String {
    format!("{BLOBS}/{digest}")
}

impl PodmanImage {
    /// The image of a layout, whose files `read` gives by their paths in the tree.
    ///
    /// # Errors
    /// If it is not the layout of one image, or can't be read.
    pub(super) fn of_layout<E: From<ImageError>>(
        read: impl Fn(&str) -> Result<Vec<u8>, E>,
    ) -> Result<PodmanImage, E> {
        let index: Index = parse(INDEX, &read(INDEX)?)?;
        let [listed] = &index.manifests[..] else {
            return Err(ImageError::NotOne(index.manifests.len()).into());
        };
        if listed.media_type != IMAGE_MANIFEST {
            return Err(ImageError::NoImage(listed.media_type.clone()).into());
        }
        let manifest = listed.digest(INDEX)?;
        let path = blob(&manifest);
        let image: ImageManifest = parse(&path, &read(&path)?)?;
        let config = image.config.digest(&path)?;
        let layers = image.layers.iter().map(Descriptor::unpacked);
        let bytes = layers.fold(image.config.size, u64::saturating_add);
        Ok(PodmanImage { manifest, config, bytes })
    }

    /// Whether the tree holds this image, and podman can be told to run these services.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(super) fn check(&self, entries: &[Entry], services: &[Service]) -> Result<(), String> {
        let inside = |entry: &&Entry| {
            let path = entry.path().as_str();
            path == IMAGE || path.starts_with(&format!("{IMAGE}/"))
        };
        for entry in entries.iter().filter(inside) {
            check_entry(entry)?;
        }
        let files: Vec<&str> = entries
            .iter()
            .filter(|entry| matches!(entry, Entry::File { .. }))
            .map(|entry| entry.path().as_str())
            .collect();
        let needed = [INDEX.to_owned(), blob(&self.manifest), blob(&self.config)];
        if let Some(missing) = needed.iter().find(|path| !files.contains(&path.as_str())) {
            return Err(format!("its image lacks {missing}"));
        }
        services.iter().try_for_each(check_service)
    }
}

/// Of a layout, nothing but what belongs to it; a blob is what its name says.
fn check_entry(entry: &Entry) -> Result<(), String> {
    let path = entry.path().as_str();
    let known = match entry {
        Entry::Directory { .. } => matches!(path, IMAGE | "image/blobs" | BLOBS),
        Entry::File { content, .. } => match path.strip_prefix(BLOBS) {
            Some(name) if *name == format!("/{}", content.sha256) => true,
            Some(_) => {
                return Err(format!(
                    "{path} is not what its name says: its SHA-256 is {}",
                    content.sha256
                ));
            }
            None => matches!(path, INDEX | "image/oci-layout"),
        },
        Entry::Link { .. } => false,
    };
    if known { Ok(()) } else { Err(format!("{path} is no part of an OCI layout")) }
}

/// What Refit says itself when it has podman run a service; a package may not say otherwise.
const OURS: [&str; 12] = [
    "--name",
    "--pull",
    "--rm",
    "--replace",
    "--detach",
    "--sdnotify",
    "--cidfile",
    "--env",
    "--restart",
    "--log-driver",
    "--interactive",
    "--tty",
];

fn check_service(service: &Service) -> Result<(), String> {
    let name = &service.name;
    if service.unit_file.is_some() || service.user.is_some() {
        return Err(format!(
            "{name} has a unit file or user: podman runs it, as its image or `--user=` under `options` says"
        ));
    }
    for option in &service.options {
        let word = option.split('=').next().unwrap_or_default();
        let is_long = word.strip_prefix("--").is_some_and(|rest| !rest.is_empty());
        if !is_long {
            return Err(format!("{name} has {option:?} under `options`: write `--name=value`"));
        }
        if OURS.contains(&word) {
            return Err(format!("{name} has {word} under `options`, which is Refit's to say"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::PackagePath, *};
    use crate::{names::PackageName, package::FileRef};

    fn file(path: &str, bytes: &[u8]) -> Entry {
        let path = PackagePath::parse(path).unwrap();
        Entry::File { path, mode: 0o644, content: FileRef::to(bytes) }
    }

    fn folder(path: &str) -> Entry {
        Entry::Directory { path: PackagePath::parse(path).unwrap(), mode: 0o755 }
    }

    fn image() -> PodmanImage {
        PodmanImage { manifest: Digest::of(b"m"), config: Digest::of(b"c"), bytes: 1 }
    }

    fn layout() -> Vec<Entry> {
        let blobs = [&b"m"[..], b"c", b"layer"];
        let blobs = blobs.map(|bytes| file(&blob(&Digest::of(bytes)), bytes));
        let folders = ["image", "image/blobs", BLOBS].map(folder);
        let others = [file(INDEX, b"{}"), file("image/oci-layout", b"{}")];
        folders.into_iter().chain(blobs).chain(others).collect()
    }

    fn service(options: &[&str]) -> Service {
        let mut service: Service = serde_json::from_str(r#"{"name":"payments"}"#).unwrap();
        service.options = options.iter().map(|option| (*option).to_owned()).collect();
        assert_eq!(service.name, PackageName::parse("payments").unwrap());
        service
    }

    #[test]
    fn a_blob_that_is_not_what_its_name_says_is_refused_and_so_is_what_is_no_part_of_a_layout() {
        assert_eq!(image().check(&layout(), &[]), Ok(()));
        let with = |entry: Entry| [layout(), vec![entry]].concat();
        let tampered = file(&blob(&Digest::of(b"other layer")), b"another");
        let said = image().check(&with(tampered), &[]).unwrap_err();
        assert!(said.contains("is not what its name says"), "{said}");
        for stray in [
            file("image/extra", b""),
            file(&format!("{BLOBS}/short"), b""),
            file(&format!("{BLOBS}x"), b""),
            file(BLOBS, b""),
            folder("image/blobs/sha512"),
            Entry::Link {
                path: PackagePath::parse("image/link").unwrap(),
                target: "index.json".into(),
            },
        ] {
            assert!(image().check(&with(stray.clone()), &[]).is_err(), "{stray:?}");
        }
        // What lies beside it is the package's.
        assert_eq!(image().check(&with(file("bin/migrate", b"")), &[]), Ok(()));
        for missing in 3..6 {
            let mut entries = layout();
            let is_layer = entries[missing].path().as_str() == blob(&Digest::of(b"layer"));
            entries.remove(missing);
            assert_eq!(image().check(&entries, &[]).is_ok(), is_layer, "{missing}");
        }
    }

    #[test]
    fn what_refit_says_to_podman_is_not_said_otherwise() {
        let check = |options: &[&str]| image().check(&layout(), &[service(options)]);
        assert_eq!(check(&["--network=host", "--read-only", "--cgroups=${CGROUPS}"]), Ok(()));
        for bad in ["--pull=always", "--name=x", "--rm=false", "-d", "--", "host", ""] {
            assert!(check(&[bad]).is_err(), "{bad}");
        }
        let mut other = service(&[]);
        other.user = Some("payments".into());
        assert!(image().check(&layout(), &[other]).is_err());
    }

    const MANIFEST: &str = r#"{"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:CONFIG","size":10},
        "layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:L","size":100},
                  {"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:M","size":100}]}"#;

    fn read_layout(index: &str) -> Result<PodmanImage, ImageError> {
        let manifest = MANIFEST.replace("CONFIG", &Digest::of(b"c").to_string());
        PodmanImage::of_layout(|path| {
            Ok(if path == INDEX { index.as_bytes().to_vec() } else { manifest.as_bytes().to_vec() })
        })
    }

    #[test]
    fn a_layout_of_one_image_says_which_and_every_other_is_refused() {
        let one = |kind: &str, digest: &str| {
            format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":1}}"#)
        };
        let index = |listed: &[String]| format!(r#"{{"manifests":[{}]}}"#, listed.join(","));
        let digest = format!("sha256:{}", Digest::of(b"m"));
        let good = one(IMAGE_MANIFEST, &digest);
        let read = read_layout(&index(std::slice::from_ref(&good))).unwrap();
        assert_eq!(read, PodmanImage { bytes: 510, ..image() });
        let list = one("application/vnd.oci.image.index.v1+json", &digest);
        for bad in [
            index(&[]),
            index(&[good.clone(), good]),
            index(&[list]),
            index(&[one(IMAGE_MANIFEST, "sha512:00")]),
            index(&[one(IMAGE_MANIFEST, "sha256:../../x")]),
            "[]".to_owned(),
        ] {
            assert!(read_layout(&bad).is_err(), "{bad}");
        }
    }
}
