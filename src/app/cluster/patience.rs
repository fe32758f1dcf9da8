//! What an API server asks to repeat is repeated: after the pause it names when it is busy, at once with the token as
//! its file has it now when it does not know us.

use std::time::Duration;

use ::kube::client::Body;
use http::header::RETRY_AFTER;
use http::{HeaderMap, Request, Response, StatusCode};
use tower::BoxError;
use tower::retry::Policy;

use super::token::TokenFile;
use crate::supervise::spread;

/// So often a busy server is asked again for one call.
const TRIES: u32 = 6;
/// The longest pause it may ask for. Callers' own deadlines end a call before that, or their own backoff goes on.
const LONGEST: Duration = Duration::from_secs(30);
/// Where it names none.
const UNNAMED: Duration = Duration::from_secs(1);

/// For one call; each call begins with a clone.
#[derive(Debug, Clone)]
pub struct Patience {
    token: Option<TokenFile>,
    tries: u32,
    doubted: bool,
}

impl Patience {
    /// `token`: whose file is looked at again when the API does not know us.
    #[must_use]
    pub fn new(token: Option<TokenFile>) -> Self {
        Self { token, tries: 0, doubted: false }
    }

    /// The pause before the same call is made again; `None`: the answer stands.
    ///
    /// 429, and 503 with a pause, say that nothing was done. Everything else may have been, or will not change: that
    /// is for the caller.
    fn pause(&mut self, status: StatusCode, headers: &HeaderMap, chance: f64) -> Option<Duration> {
        let named = headers.get(RETRY_AFTER).and_then(|text| text.to_str().ok()?.trim().parse().ok());
        let named = named.map(Duration::from_secs);
        match status {
            StatusCode::UNAUTHORIZED if !self.doubted => {
                self.doubted = true;
                self.token.as_ref()?.doubt();
                Some(Duration::ZERO)
            }
            StatusCode::TOO_MANY_REQUESTS => self.again(named.unwrap_or(UNNAMED), chance),
            StatusCode::SERVICE_UNAVAILABLE => self.again(named?, chance),
            _ => None,
        }
    }

    fn again(&mut self, pause: Duration, chance: f64) -> Option<Duration> {
        self.tries += 1;
        (self.tries <= TRIES).then(|| spread(pause.min(LONGEST), chance))
    }
}

impl<B> Policy<Request<Body>, Response<B>, BoxError> for Patience {
    type Future = tokio::time::Sleep;

    fn retry(
        &mut self,
        request: &mut Request<Body>,
        result: &mut Result<Response<B>, BoxError>,
    ) -> Option<Self::Future> {
        let answer = result.as_ref().ok()?;
        let pause = self.pause(answer.status(), answer.headers(), fastrand::f64())?;
        let (method, path, status) = (request.method(), request.uri().path(), answer.status().as_u16());
        tracing::debug!(%method, path, status, ?pause, "asked again");
        Some(tokio::time::sleep(pause))
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        let mut copy = Request::new(request.body().try_clone()?);
        request.method().clone_into(copy.method_mut());
        request.uri().clone_into(copy.uri_mut());
        request.headers().clone_into(copy.headers_mut());
        request.extensions().clone_into(copy.extensions_mut());
        Some(copy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_repeated_and_when() {
        let secs = Duration::from_secs;
        for (case, status, named, want) in [
            ("busy", 429, Some("3"), Some(secs(3))),
            ("busy, no pause named", 429, None, Some(UNNAMED)),
            ("busy for very long", 429, Some("86400"), Some(LONGEST)),
            ("busy until a date", 429, Some("Fri, 31 Dec 2027 23:59:59 GMT"), Some(UNNAMED)),
            ("restarting", 503, Some("1"), Some(secs(1))),
            ("a balancer without servers", 503, None, None),
            ("perhaps done", 500, Some("1"), None),
            ("perhaps done", 504, Some("1"), None),
            ("changed meanwhile", 409, Some("1"), None),
            ("not allowed", 403, None, None),
            ("nobody, and no file to look at", 401, None, None),
            ("fine", 200, None, None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(named) = named {
                headers.insert(RETRY_AFTER, named.parse().unwrap());
            }
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(Patience::new(None).pause(status, &headers, 0.0), want, "{case}");
        }
    }

    #[test]
    fn patience_ends() {
        let mut one = Patience::new(Some(TokenFile::new("/nowhere".into())));
        let none = HeaderMap::new();
        assert_eq!(one.pause(StatusCode::UNAUTHORIZED, &none, 0.5), Some(Duration::ZERO));
        assert_eq!(one.pause(StatusCode::UNAUTHORIZED, &none, 0.5), None, "it is not the token's age");
        let pauses = std::iter::from_fn(|| one.pause(StatusCode::TOO_MANY_REQUESTS, &none, 1.0));
        assert_eq!(pauses.take(100).count(), TRIES as usize);
    }
}
