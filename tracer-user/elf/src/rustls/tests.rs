use super::*;

/// Both manglings, as a compiler made them.
#[test]
fn what_encrypts_and_decrypts_is_known_by_its_name() {
    let name = |symbol: &str| wanted(symbol.as_bytes());
    let ring = "_ZN111_$LT$rustls..crypto..ring..tls13..Tls13MessageEncrypter$u20$as$u20$rustls..crypto..cipher..MessageEncrypter$GT$7encrypt17h81306b6be2992fb3E";
    assert_eq!(name(ring), Some(ENCRYPT));
    let v0 = "_RNvXs4_NtNtNtCs9e4MUCmEqKo_6rustls6crypto4ring5tls13NtB5_21Tls13MessageDecrypterNtNtB9_6cipher16MessageDecrypter7decrypt";
    assert_eq!(name(v0), Some(DECRYPT));
    // Of another function, trait, or crate; what has no keys; and what is no name at all.
    assert_eq!(name(&ring.replace("7encrypt17", "21encrypted_payload_len17")), None);
    assert_eq!(name(&ring.replace("6rustls", "6rustle")), Some(ENCRYPT), "that is no part of this one");
    assert_eq!(implements("<a::B as rustls::crypto::cipher::MessageEncrypter>::decrypt"), None);
    assert_eq!(implements("<a::B as other::crypto::cipher::MessageEncrypter>::encrypt"), None);
    assert_eq!(implements("<a::B as rustls::crypto::cipher::MessageEncrypter>::encrypt"), Some(ENCRYPT));
    assert_eq!(
        implements(
            "<rustls::crypto::cipher::InvalidMessageDecrypter as rustls::crypto::cipher::MessageDecrypter>::decrypt"
        ),
        None
    );
    for symbol in ["", "crypter", "_ZN", "_R", "<a as b>::crypter", &ring[..60], &"crypter".repeat(400)] {
        assert_eq!(name(symbol), None);
    }
    assert_eq!(wanted(b"_ZN3\xff\xffcrypter"), None);
}

#[test]
fn a_version_is_that_of_the_crate_itself() {
    let versions = |text: &str| versions_in(text.as_bytes()).into_iter().collect::<Vec<_>>();
    assert_eq!(versions("/registry/src/index-1/rustls-0.23.46/src/conn.rs"), ["0.23.46"]);
    assert_eq!(
        versions("a/rustls-0.24.0-dev.0/src/lib.rs b/rustls-0.21.1/src/x"),
        ["0.21.1", "0.24.0-dev.0"]
    );
    // Those of others, and names that end too soon.
    for text in [
        "/tokio-rustls-0.26.6/src/lib.rs",
        "/rustls-webpki-0.103.1/src/lib.rs",
        "/rustls-0.23.46/build.rs",
        "/rustls-0.23.46",
        "/rustls-",
        "/rustls-/src/",
        "/rustls-0.23.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/src/",
    ] {
        assert_eq!(versions(text), [""; 0], "{text}");
    }
}
