//! Walks a chain of certificates to a root, for chains that no TLS handshake brought: those of
//! seals, of proofs and of a node's own CA.
//!
//! Stricter than RFC 5280 asks: a chain stands in order, without extra certificates, and what is
//! critical must be known here.

use std::time::{SystemTime, UNIX_EPOCH};

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;

use super::peer::parse;

/// Leaf, node CA, issuing CA and a cross certificate are four.
const MAX_CHAIN: usize = 6;
/// Our certificates have about 600 bytes.
const MAX_CERT_BYTES: usize = 16 * 1024;

/// Every certificate is signed by the next one's key, the last by a root, all are valid at `at`, and
/// all but the first are CAs that may stand where they stand. Roots are trusted as they are: their
/// own times are not looked at, as in TLS (RFC 5280, section 6.1.1 d).
///
/// What the first one is and says is the caller's question.
///
/// # Errors
/// A constant clause that names what is wrong.
pub(super) fn verify_chain(chain: &[Vec<u8>], roots: &[Vec<u8>], at: SystemTime) -> Result<(), &'static str> {
    if chain.is_empty() {
        return Err("there is no certificate");
    }
    if chain.len() > MAX_CHAIN {
        return Err("the chain is longer than 6 certificates");
    }
    if chain.iter().any(|der| der.len() > MAX_CERT_BYTES) {
        return Err("a certificate is larger than 16 KiB");
    }
    let parsed = |der: &'_ Vec<u8>| parse(der).map(drop).map_err(|_| "the chain holds no X.509 certificate");
    chain.iter().try_for_each(parsed)?;
    let certs: Vec<X509Certificate<'_>> = chain.iter().filter_map(|der| parse(der).ok()).collect();
    let roots: Vec<X509Certificate<'_>> = roots.iter().filter_map(|der| parse(der).ok()).collect();

    for (below, cert) in certs.iter().enumerate() {
        check_times(cert, at)?;
        check_critical(cert)?;
        if below > 0 {
            // CAs between this one and the leaf; the first certificate is not counted, whatever it is.
            check_ca(cert, below - 1)?;
        }
        if roots.iter().any(|root| signed_by(cert, root)) {
            return Ok(());
        }
        match certs.get(below + 1) {
            Some(next) if signed_by(cert, next) => {}
            Some(_) => return Err("a certificate of the chain is not signed by the next one"),
            None => return Err("the chain leads to no root of this trust domain"),
        }
    }
    Err("the chain leads to no root of this trust domain")
}

fn signed_by(cert: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    cert.issuer().as_raw() == issuer.subject().as_raw()
        && cert.verify_signature(Some(issuer.public_key())).is_ok()
}

fn check_times(cert: &X509Certificate<'_>, at: SystemTime) -> Result<(), &'static str> {
    let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let at = i64::try_from(at).unwrap_or(i64::MAX);
    let validity = cert.validity();
    if at < validity.not_before.timestamp() {
        return Err("a certificate of the chain was not valid yet");
    }
    if at > validity.not_after.timestamp() {
        return Err("a certificate of the chain had expired");
    }
    Ok(())
}

fn check_ca(cert: &X509Certificate<'_>, cas_below: usize) -> Result<(), &'static str> {
    let constraints = match cert.basic_constraints() {
        Ok(Some(constraints)) if constraints.value.ca => constraints.value,
        _ => return Err("a certificate that signed another is not a CA"),
    };
    let may_sign = matches!(cert.key_usage(), Ok(Some(usage)) if usage.value.key_cert_sign());
    if !may_sign {
        return Err("a certificate that signed another may not sign certificates");
    }
    let most = constraints.path_len_constraint;
    if most.is_some_and(|most| cas_below > usize::try_from(most).unwrap_or(usize::MAX)) {
        return Err("a CA of the chain stands higher than it may");
    }
    Ok(())
}

fn check_critical(cert: &X509Certificate<'_>) -> Result<(), &'static str> {
    for extension in cert.iter_extensions().filter(|extension| extension.critical) {
        let known = matches!(
            extension.parsed_extension(),
            ParsedExtension::BasicConstraints(_)
                | ParsedExtension::KeyUsage(_)
                | ParsedExtension::ExtendedKeyUsage(_)
                | ParsedExtension::SubjectAlternativeName(_)
                | ParsedExtension::NameConstraints(_)
        );
        if !known {
            return Err("a certificate of the chain has a critical extension that is not known here");
        }
    }
    Ok(())
}
