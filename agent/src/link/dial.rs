//! How connections are made: directly, or through a proxy where one leads there.

use std::{future::Future, io, pin::Pin, sync::Arc};

use refit_proto::transport;

use super::proxy::{Proxies, Stream, tunnel};

type Dialling = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>>;

/// Makes connections by name and port.
#[derive(Clone)]
pub(super) struct Dial(Arc<dyn Fn(String, u16) -> Dialling + Send + Sync>);

impl Dial {
    /// Through these proxies.
    pub(super) fn by(proxies: Proxies) -> Dial {
        let proxies = Arc::new(proxies);
        Dial(Arc::new(move |name, port| {
            let proxies = proxies.clone();
            Box::pin(async move {
                match proxies.to_server(&name, port) {
                    Some(proxy) => tunnel(proxy, &name, port).await,
                    None => {
                        let stream = transport::connect(name, port).await?;
                        Ok::<Box<dyn Stream>, _>(Box::new(stream))
                    }
                }
            })
        }))
    }

    /// Some other way, for tests.
    #[cfg(test)]
    pub(super) fn with<F>(dial: impl Fn() -> F + Send + Sync + 'static) -> Dial
    where
        F: Future<Output = io::Result<Box<dyn Stream>>> + Send + 'static,
    {
        Dial(Arc::new(move |_, _| Box::pin(dial())))
    }

    /// A connection to this name and port.
    pub(super) fn to(&self, name: String, port: u16) -> Dialling {
        (self.0)(name, port)
    }
}
