//! Certificates that have not begun: the one who signed them had the time, so it is this machine's clock
//! that is behind. A machine without a battery begins in 1970, or where it was switched off; a cloud
//! whose clock was set back has signed in its own future. Neither is a reason to part with anybody:
//! that a certificate begins later than now protects nobody. Its end is judged as ever.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::peer::validity;
use super::tls::verify_signatures;

/// `now`, or the moment from which `cert` is good if that is later. What is no certificate is judged
/// elsewhere.
#[must_use]
pub(super) fn once_begun(now: UnixTime, cert: &CertificateDer<'_>) -> UnixTime {
    let begins = validity(cert).ok().and_then(|valid| valid.not_before.duration_since(UNIX_EPOCH).ok());
    let now = Duration::from_secs(now.as_secs());
    UnixTime::since_unix_epoch(begins.map_or(now, |begins| begins.max(now)))
}

/// What WebPKI says of a server, once its certificate has begun.
#[derive(Debug)]
pub(super) struct PatientServerVerifier {
    pub inner: Arc<WebPkiServerVerifier>,
    pub algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PatientServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let then = once_begun(now, end_entity);
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, then)
    }

    verify_signatures!();
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn a_clock_that_is_behind_waits_for_nobody_and_revives_nobody() {
        let mut params = CertificateParams::default();
        let at = |secs: u64| UNIX_EPOCH + Duration::from_secs(secs);
        params.not_before = at(1_800_000_000).into();
        params.not_after = at(1_800_003_600).into();
        let cert = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let unix = |secs: u64| UnixTime::since_unix_epoch(Duration::from_secs(secs));
        for (now, want) in [
            (0, 1_800_000_000),
            (1_799_999_999, 1_800_000_000),
            (1_800_000_001, 1_800_000_001),
            (1_900_000_000, 1_900_000_000),
        ] {
            assert_eq!(once_begun(unix(now), cert.der()).as_secs(), want, "{now}");
        }
        assert_eq!(once_begun(unix(7), &CertificateDer::from(vec![1, 2, 3])).as_secs(), 7);
    }
}
