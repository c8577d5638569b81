//! A TLS configuration that is reloaded when its files change.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::TlsError;
use super::pem::Pem;
use crate::workers;

/// A TLS configuration that is re-created when its files have changed.
pub(super) struct Reloading<T> {
    sources: Vec<Pem>,
    load: Box<dyn Fn() -> Result<T, TlsError> + Send + Sync>,
    current: Mutex<Loaded<T>>,
}

struct Loaded<T> {
    /// Contents of the sources when they were read last.
    bytes: Vec<Vec<u8>>,
    config: Arc<T>,
    /// The error that was logged last. `None` once it is resolved.
    logged_error: Option<String>,
}

impl<T: Send + Sync + 'static> Reloading<T> {
    pub(super) fn new(
        sources: Vec<Pem>,
        load: impl Fn() -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        let bytes = sources.iter().map(Pem::read).collect::<Result<_, _>>()?;
        let config = Arc::new(load()?);
        let current = Mutex::new(Loaded { bytes, config, logged_error: None });
        Ok(Self { sources, load: Box::new(load), current })
    }

    /// Returns the configuration of the files as they are now. If they are invalid, returns the previous configuration.
    ///
    /// The files are small and read once for each connection, but may be on any file system. So they are read on a
    /// worker thread, which may block.
    pub(super) async fn current(this: &Arc<Self>) -> Result<Arc<T>, String> {
        let this = Arc::clone(this);
        workers::run(move || this.load()).await.map_err(|lost| lost.to_string())
    }

    fn load(&self) -> Arc<T> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let read = self.sources.iter().map(Pem::read).collect::<Result<Vec<_>, _>>();
        let loaded = read.and_then(|bytes| {
            if bytes != current.bytes {
                current.config = Arc::new((self.load)()?);
                current.bytes = bytes;
                tracing::info!(from = ?self.sources, "TLS certificates changed");
            }
            Ok(())
        });
        let logged_error = loaded.err().map(|error| error.to_string());
        if logged_error != current.logged_error {
            if let Some(error) = &logged_error {
                tracing::warn!(error, "TLS certificates cannot be reloaded: the previous ones stay in use");
            }
            current.logged_error = logged_error;
        }
        Arc::clone(&current.config)
    }
}

impl<T> fmt::Debug for Reloading<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reloading").field(&self.sources).finish()
    }
}
