//! A bucket of an S3-compatible store.

use std::{path::Path, time::Duration};

use object_store::{
    Certificate, ClientOptions, Error, GetOptions, ObjectStore as _, ObjectStoreExt as _,
    RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path as Key,
};
use refit_copy::Why;
use tokio::runtime::Runtime;

use super::{Failed, Place, too_large};

/// What names a bucket.
pub struct Settings<'a> {
    pub bucket: &'a str,
    pub prefix: &'a str,
    pub endpoint: Option<&'a str>,
    pub region: &'a str,
    pub credentials: Option<&'a Path>,
    pub authority: Option<&'a Path>,
}

pub struct S3 {
    store: AmazonS3,
    runtime: Runtime,
    prefix: String,
    /// For messages.
    what: String,
}

const CONNECT: Duration = Duration::from_secs(15);
/// How long nothing may come before a call is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// For how long one call is tried again.
const RETRY: Duration = Duration::from_secs(60);

impl S3 {
    pub fn open(settings: &Settings<'_>) -> Result<S3, Failed> {
        let wrong = |text: String| Failed::new(Why::Host, text);
        let mut options = ClientOptions::new()
            .with_connect_timeout(CONNECT)
            .with_read_timeout(SILENCE)
            .with_timeout_disabled()
            // What the settings may say of it was checked before.
            .with_allow_http(settings.endpoint.is_some_and(|it| it.starts_with("http://")));
        if let Some(path) = settings.authority {
            let bytes = std::fs::read(path)
                .map_err(|error| wrong(format!("{} can't be read: {error}", path.display())))?;
            let certificates = Certificate::from_pem_bundle(&bytes).map_err(|error| {
                wrong(format!("{} holds no certificates: {error}", path.display()))
            })?;
            for certificate in certificates {
                options = options.with_root_certificate(certificate);
            }
        }
        let retry = RetryConfig { max_retries: 5, retry_timeout: RETRY, ..RetryConfig::default() };
        let mut builder = match settings.credentials {
            Some(path) => {
                let (id, secret) = credentials(path)?;
                AmazonS3Builder::new().with_access_key_id(id).with_secret_access_key(secret)
            }
            None => AmazonS3Builder::from_env(),
        };
        builder = builder
            .with_bucket_name(settings.bucket)
            .with_region(settings.region)
            .with_retry(retry)
            .with_client_options(options);
        if let Some(endpoint) = settings.endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
        }
        let store =
            builder.build().map_err(|error| wrong(format!("the bucket can't be used: {error}")))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| wrong(format!("no runtime: {error}")))?;
        let what = match settings.endpoint {
            Some(endpoint) => format!("bucket {} at {endpoint}", settings.bucket),
            None => format!("bucket {}", settings.bucket),
        };
        Ok(S3 { store, runtime, prefix: settings.prefix.trim_matches('/').to_owned(), what })
    }

    fn key(&self, name: &str) -> Key {
        Key::from(format!("{}/{name}", self.prefix).trim_matches('/'))
    }

    fn failed(&self, error: Error) -> Failed {
        let why = match &error {
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Why::Refused,
            // Of the bucket itself: objects that are not there are told apart before.
            Error::NotFound { .. } => Why::Refused,
            _ => Why::Away,
        };
        // Its words may go over several lines and repeat themselves.
        let text: String = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        let text: String = text.chars().take(400).collect();
        Failed::new(why, format!("{}: {text}", self.what))
    }
}

/// The key's id and the key, from a file that nobody else may read.
fn credentials(path: &Path) -> Result<(String, String), Failed> {
    use std::os::unix::fs::PermissionsExt as _;
    let at = path.display();
    let wrong = |why: String| Failed::new(Why::Host, format!("{at}: {why}"));
    let found = path.metadata().map_err(|error| wrong(format!("it can't be read: {error}")))?;
    if found.permissions().mode() & 0o077 != 0 {
        return Err(wrong("others may read it; take their rights away: chmod 600".into()));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| wrong(format!("it can't be read: {error}")))?;
    let value = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.trim().split_once('='));
        let found = lines.find(|(key, _)| key.trim().trim_start_matches("export ") == name);
        let value = found.map(|(_, value)| value.trim().trim_matches('"').to_owned());
        value
            .filter(|value| !value.is_empty())
            .ok_or_else(|| wrong(format!("it has no line {name}=")))
    };
    Ok((value("AWS_ACCESS_KEY_ID")?, value("AWS_SECRET_ACCESS_KEY")?))
}

impl Place for S3 {
    fn put(&mut self, name: &str, bytes: &[u8]) -> Result<(), Failed> {
        let (key, bytes) = (self.key(name), bytes.to_vec());
        let put = self.runtime.block_on(self.store.put(&key, bytes.into()));
        put.map(drop).map_err(|error| self.failed(error))
    }

    fn get(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, Failed> {
        let key = self.key(name);
        let got = self.runtime.block_on(async {
            let found = self.store.get_opts(&key, GetOptions::default()).await?;
            if found.meta.size > limit {
                return Ok(None);
            }
            found.bytes().await.map(Some)
        });
        match got {
            Ok(Some(bytes)) => Ok(Some(bytes.to_vec())),
            Ok(None) => Err(too_large(name, limit)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn list(&mut self, folder: &str) -> Result<Vec<String>, Failed> {
        let key = self.key(folder);
        let prefix = (!key.as_ref().is_empty()).then_some(&key);
        let listed = self.runtime.block_on(self.store.list_with_delimiter(prefix));
        let listed = listed.map_err(|error| self.failed(error))?;
        let objects = listed.objects.iter().map(|object| &object.location);
        let names = objects.chain(&listed.common_prefixes);
        let names = names.filter_map(|key| key.filename().map(str::to_owned));
        let mut names: Vec<String> = names.collect();
        names.sort();
        Ok(names)
    }

    fn remove(&mut self, name: &str) -> Result<(), Failed> {
        let key = self.key(name);
        match self.runtime.block_on(self.store.delete(&key)) {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }
}
