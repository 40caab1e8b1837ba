//! Signed messages: bytes with a type and signatures, as DSSE 1.0 writes them. Verified first, decoded
//! then, relayed as received, never re-encoded. Which key must have signed is the caller's to know.

use prost::Message;

use crate::{
    trust::{PublicKey, SignError, Signer},
    wire::{AuditCheckpoint, Envelope, Orders, Report, Signature},
};

/// Signatures that one envelope may carry. Ours carry one.
const MAX_SIGNATURES: usize = 8;

/// A message that travels in an envelope. The list is short on purpose: nothing else can be signed.
pub trait Payload: Message + Default {
    /// Its full name, which the signature covers.
    const TYPE: &'static str;
}

impl Payload for Report {
    const TYPE: &'static str = "refit.v1.Report";
}

impl Payload for Orders {
    const TYPE: &'static str = "refit.v1.Orders";
}

impl Payload for AuditCheckpoint {
    const TYPE: &'static str = "refit.v1.AuditCheckpoint";
}

/// Why an envelope is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Signed for another purpose.
    #[error(
        "the envelope holds {found:?}, expected is {expected:?}\n\
         help: a signature for one purpose is never valid for another; send the right message"
    )]
    OtherType {
        /// What it has to hold.
        expected: String,
        /// What it says it holds, shortened.
        found: String,
    },
    /// No signature of the key that must have signed.
    #[error(
        "the {payload_type} is not signed by key {}\n\
         help: if the sender's key has changed, it must enroll again", key.short()
    )]
    Unsigned {
        /// What was to be opened.
        payload_type: String,
        /// Who must have signed.
        key: crate::trust::KeyId,
    },
    /// More signatures than anyone sends.
    #[error("the envelope has more than {MAX_SIGNATURES} signatures\nhelp: send one signature")]
    TooManySignatures,
    /// Verified, but not decodable: the sender itself made it so.
    #[error("the signed {payload_type} cannot be decoded: {cause}\nhelp: update the older side")]
    Undecodable {
        /// What was to be opened.
        payload_type: String,
        /// The decoder's words.
        cause: String,
    },
}

/// The bytes that a signature covers: DSSE's pre-authentication encoding.
pub fn pre_authentication(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// Signs bytes of a type.
///
/// # Errors
/// If the signer does not sign.
pub fn sign(
    payload_type: &str,
    payload: Vec<u8>,
    signer: &dyn Signer,
) -> Result<Envelope, SignError> {
    let signature = signer.sign(&pre_authentication(payload_type, &payload))?;
    Ok(Envelope {
        payload_type: payload_type.to_owned(),
        payload,
        signatures: vec![Signature {
            key_id: signer.public().id().to_string(),
            signature: signature.to_vec(),
        }],
    })
}

/// The payload, if it is of the expected type and this key signed it.
///
/// # Errors
/// If not.
pub fn verify<'a>(
    envelope: &'a Envelope,
    payload_type: &str,
    key: &PublicKey,
) -> Result<&'a [u8], EnvelopeError> {
    require_type(envelope, payload_type)?;
    if envelope.signatures.len() > MAX_SIGNATURES {
        return Err(EnvelopeError::TooManySignatures);
    }
    let message = pre_authentication(payload_type, &envelope.payload);
    let id = key.id().to_string();
    let signed = envelope
        .signatures
        .iter()
        .any(|signature| signature.key_id == id && key.verify(&message, &signature.signature));
    if !signed {
        let payload_type = payload_type.to_owned();
        return Err(EnvelopeError::Unsigned { payload_type, key: key.id() });
    }
    Ok(&envelope.payload)
}

/// Signs a message, under its full name.
///
/// # Errors
/// If the signer does not sign.
pub fn seal<M: Payload>(message: &M, signer: &dyn Signer) -> Result<Envelope, SignError> {
    sign(M::TYPE, message.encode_to_vec(), signer)
}

/// The message, if this key signed it.
///
/// # Errors
/// If not.
pub fn open<M: Payload>(envelope: &Envelope, key: &PublicKey) -> Result<M, EnvelopeError> {
    decode(verify(envelope, M::TYPE, key)?)
}

/// Puts a message into an envelope that nobody signs, for where the connection alone vouches for it.
pub fn wrap<M: Payload>(message: &M) -> Envelope {
    Envelope {
        payload_type: M::TYPE.to_owned(),
        payload: message.encode_to_vec(),
        signatures: Vec::new(),
    }
}

/// The message of an envelope for which the connection alone vouches. Whatever must be signed is opened
/// by [`open`] instead.
///
/// # Errors
/// If it is of another type or can't be decoded.
pub fn unwrap_unsigned<M: Payload>(envelope: &Envelope) -> Result<M, EnvelopeError> {
    require_type(envelope, M::TYPE)?;
    decode(&envelope.payload)
}

fn require_type(envelope: &Envelope, expected: &str) -> Result<(), EnvelopeError> {
    if envelope.payload_type != expected {
        let found = envelope.payload_type.chars().take(80).collect();
        return Err(EnvelopeError::OtherType { expected: expected.to_owned(), found });
    }
    Ok(())
}

fn decode<M: Payload>(payload: &[u8]) -> Result<M, EnvelopeError> {
    M::decode(payload).map_err(|error| EnvelopeError::Undecodable {
        payload_type: M::TYPE.to_owned(),
        cause: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::LocalKey;

    fn key(seed: u8) -> LocalKey {
        LocalKey::from_seed(&[seed; 32])
    }

    fn report() -> Report {
        Report { host_id: "web-1".into(), counter: 7, ..Report::default() }
    }

    #[test]
    fn the_encoding_is_the_one_of_the_dsse_specification() {
        assert_eq!(
            pre_authentication("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn what_one_key_sealed_opens_under_that_key_alone() {
        let sealed = seal(&report(), &key(1)).unwrap();
        assert_eq!(sealed.payload_type, "refit.v1.Report");
        assert_eq!(open::<Report>(&sealed, key(1).public()).unwrap(), report());
        assert!(matches!(
            open::<Report>(&sealed, key(2).public()),
            Err(EnvelopeError::Unsigned { .. })
        ));
    }

    #[test]
    fn a_changed_payload_type_or_signature_does_not_open() {
        let sealed = seal(&report(), &key(1)).unwrap();
        for at in 0..sealed.payload.len() {
            let mut changed = sealed.clone();
            changed.payload[at] ^= 1;
            assert!(open::<Report>(&changed, key(1).public()).is_err(), "byte {at}");
        }
        for at in 0..64 {
            let mut changed = sealed.clone();
            changed.signatures[0].signature[at] ^= 1;
            assert!(open::<Report>(&changed, key(1).public()).is_err(), "byte {at}");
        }
        let unsigned = Envelope { signatures: Vec::new(), ..sealed };
        assert!(open::<Report>(&unsigned, key(1).public()).is_err());
    }

    #[test]
    fn a_signature_for_one_purpose_is_not_valid_for_another() {
        let sealed = seal(&report(), &key(1)).unwrap();
        let relabelled = Envelope { payload_type: "refit.v1.AuditCheckpoint".into(), ..sealed };
        assert!(open::<AuditCheckpoint>(&relabelled, key(1).public()).is_err());
        assert!(matches!(
            open::<Report>(&relabelled, key(1).public()),
            Err(EnvelopeError::OtherType { .. })
        ));
    }

    /// CVE-2023-33957, CVE-2023-33958, CVE-2023-46737, CVE-2024-45395.
    #[test]
    fn an_endless_list_of_signatures_is_refused() {
        let mut sealed = seal(&report(), &key(1)).unwrap();
        sealed.signatures = vec![sealed.signatures[0].clone(); 10_000];
        assert_eq!(open::<Report>(&sealed, key(1).public()), Err(EnvelopeError::TooManySignatures));
    }

    #[test]
    fn what_the_connection_vouches_for_is_still_typed() {
        assert_eq!(unwrap_unsigned::<Report>(&wrap(&report())).unwrap(), report());
        assert!(unwrap_unsigned::<AuditCheckpoint>(&wrap(&report())).is_err());
    }
}
