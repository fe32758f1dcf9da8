//! The token of a ServiceAccount, in a file that the node agent renews.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::kube::client::Body;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request};
use parking_lot::Mutex;
use tower::BoxError;
use tower::filter::AsyncPredicate;

/// So long a token is used without looking at its file.
const FRESH: Duration = Duration::from_secs(30);

/// Cheap to clone; all clones know the same.
#[derive(Debug, Clone)]
pub struct TokenFile(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    known: Mutex<Option<Known>>,
}

#[derive(Debug, Clone)]
struct Known {
    /// Marked as sensitive: it is in no log.
    header: HeaderValue,
    /// `None`: the API did not take it.
    read_at: Option<Instant>,
}

impl TokenFile {
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self(Arc::new(Shared { path, known: Mutex::new(None) }))
    }

    /// The API did not take it: the file is looked at before the next call.
    pub fn doubt(&self) {
        if let Some(known) = &mut *self.0.known.lock() {
            known.read_at = None;
        }
    }

    fn fresh(&self) -> Option<HeaderValue> {
        let known = self.0.known.lock();
        known
            .as_ref()
            .filter(|it| it.read_at.is_some_and(|at| at.elapsed() < FRESH))
            .map(|it| it.header.clone())
    }

    /// What to say. A file that cannot be read now leaves the last token in use.
    async fn header(&self) -> Result<HeaderValue, BoxError> {
        if let Some(header) = self.fresh() {
            return Ok(header);
        }
        let path = self.0.path.clone();
        let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await?;
        let found = read.map_err(|err| err.to_string()).and_then(|text| header_of(&text));
        let mut known = self.0.known.lock();
        match found {
            Ok(header) => {
                *known = Some(Known { header: header.clone(), read_at: Some(Instant::now()) });
                Ok(header)
            }
            Err(why) => {
                let why = format!("token file {}: {why}", self.0.path.display());
                match &mut *known {
                    Some(known) => {
                        tracing::warn!(why, "the last token stays in use");
                        known.read_at = Some(Instant::now());
                        Ok(known.header.clone())
                    }
                    None => Err(why.into()),
                }
            }
        }
    }
}

/// # Errors
/// Why it is no token.
fn header_of(text: &str) -> Result<HeaderValue, String> {
    let token = text.trim();
    if token.is_empty() {
        return Err("it is empty".to_owned());
    }
    let mut header =
        HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| "it holds no token".to_owned())?;
    header.set_sensitive(true);
    Ok(header)
}

impl AsyncPredicate<Request<Body>> for TokenFile {
    type Future = Pin<Box<dyn Future<Output = Result<Request<Body>, BoxError>> + Send>>;
    type Request = Request<Body>;

    fn check(&mut self, mut request: Request<Body>) -> Self::Future {
        let token = self.clone();
        Box::pin(async move {
            request.headers_mut().insert(AUTHORIZATION, token.header().await?);
            Ok(request)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(token: &TokenFile) -> Result<String, String> {
        let header = token.header().await.map_err(|err| err.to_string())?;
        assert!(header.is_sensitive());
        Ok(header.to_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn a_renewed_token_is_read_when_the_old_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let token = TokenFile::new(path.clone());
        assert!(said(&token).await.unwrap_err().contains("token file"), "there is none yet");
        std::fs::write(&path, "one\n").unwrap();
        assert_eq!(said(&token).await.unwrap(), "Bearer one");
        std::fs::write(&path, "two").unwrap();
        assert_eq!(said(&token).await.unwrap(), "Bearer one", "not looked at each time");
        token.clone().doubt();
        assert_eq!(said(&token).await.unwrap(), "Bearer two");
        for bad in ["", " \n", "a\nb"] {
            std::fs::write(&path, bad).unwrap();
            token.doubt();
            assert_eq!(said(&token).await.unwrap(), "Bearer two", "half written: {bad:?}");
        }
        std::fs::remove_file(&path).unwrap();
        token.doubt();
        assert_eq!(said(&token).await.unwrap(), "Bearer two", "gone");
    }
}
