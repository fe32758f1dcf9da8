//! Bytes written by hand from the table of protocol section 18, so that a wrong tag shows.

use std::collections::BTreeMap;

use proptest::prelude::*;
use prost::Message;

use super::*;

/// A length-delimited field: tag number below 16, then the bytes.
fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![tag << 3 | 2, u8::try_from(bytes.len()).unwrap()];
    out.extend(bytes);
    out
}

#[test]
fn messages_have_the_tags_of_the_standard() {
    let map = |tag| field(tag, &[field(1, b"spiffe://a"), field(2, b"r")].concat());
    let bundles = BTreeMap::from([("spiffe://a".to_owned(), b"r".to_vec())]);

    let svid = [field(1, b"i"), field(2, b"c"), field(3, b"k"), field(4, b"b"), field(5, b"h")].concat();
    let response = X509SvidResponse {
        svids: vec![X509Svid {
            spiffe_id: "i".into(),
            x509_svid: b"c".to_vec(),
            x509_svid_key: b"k".to_vec(),
            bundle: b"b".to_vec(),
            hint: "h".into(),
        }],
        crl: vec![b"l".to_vec()],
        federated_bundles: bundles.clone(),
    };
    assert_eq!(response.encode_to_vec(), [field(1, &svid), field(2, b"l"), map(3)].concat());

    let response = X509BundlesResponse { crl: vec![b"l".to_vec()], bundles: bundles.clone() };
    assert_eq!(response.encode_to_vec(), [field(1, b"l"), map(2)].concat());
    assert_eq!(JwtBundlesResponse { bundles }.encode_to_vec(), map(1));

    let request = JwtSvidRequest { audience: vec!["a".into(), "b".into()], spiffe_id: "i".into() };
    assert_eq!(request.encode_to_vec(), [field(1, b"a"), field(1, b"b"), field(2, b"i")].concat());
    let svid = JwtSvid { spiffe_id: "i".into(), svid: "j".into(), hint: "h".into() };
    let inner = [field(1, b"i"), field(2, b"j"), field(3, b"h")].concat();
    assert_eq!(JwtSvidResponse { svids: vec![svid] }.encode_to_vec(), field(1, &inner));

    let request = ValidateJwtSvidRequest { audience: "a".into(), svid: "j".into() };
    assert_eq!(request.encode_to_vec(), [field(1, b"a"), field(2, b"j")].concat());
    let claims = serde_json::json!({"n": true});
    let response = ValidateJwtSvidResponse {
        spiffe_id: "i".into(),
        claims: Some(claims_struct(claims.as_object().unwrap())),
    };
    // Struct {fields=1: map<string, Value>}, Value {bool_value=4}.
    let entry = [field(1, b"n"), field(2, &[4 << 3, 1])].concat();
    let claims = field(1, &entry);
    assert_eq!(response.encode_to_vec(), [field(1, b"i"), field(2, &claims)].concat());
}

proptest! {
    #[test]
    fn any_bytes_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..96)) {
        drop(JwtSvidRequest::decode(raw.as_slice()));
        drop(ValidateJwtSvidRequest::decode(raw.as_slice()));
        drop(X509SvidResponse::decode(raw.as_slice()));
    }
}
