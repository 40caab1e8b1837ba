//! Messages of the wire, and the envelopes whose signatures are checked before anything is decoded.

use prost::Message;

use crate::{
    envelope::{self, EnvelopeError, Payload},
    trust::{Signer as _, testing::key},
    wire,
};

/// The first byte says which message the rest is taken for. What decodes is written again with the same
/// meaning; an envelope that nobody signed opens for nobody.
pub fn wire(data: &[u8]) {
    let Some((which, message)) = data.split_first() else { return };
    let which = usize::from(*which) % MESSAGES.len();
    MESSAGES[which](message);
}

type Check = fn(&[u8]);

const MESSAGES: [Check; 19] = [
    enveloped,
    sealed::<wire::Report>,
    sealed::<wire::Orders>,
    sealed::<wire::AuditCheckpoint>,
    same::<wire::SyncRequest>,
    same::<wire::SyncReply>,
    same::<wire::LeaseRequest>,
    same::<wire::RebootRequest>,
    same::<wire::RebootReply>,
    same::<wire::LeaseReply>,
    same::<wire::EnrollRequest>,
    same::<wire::EnrollReply>,
    same::<wire::RenewRequest>,
    same::<wire::LoginRequest>,
    same::<wire::PushMetadataRequest>,
    same::<wire::PutContentRequest>,
    same::<wire::ContentChunk>,
    same::<wire::SetRolloutPolicyRequest>,
    same::<wire::FleetStatus>,
];

fn same<M: Message + Default>(bytes: &[u8]) {
    let Ok(message) = M::decode(bytes) else { return };
    let written = message.encode_to_vec();
    let again = M::decode(written.as_slice()).expect("what we wrote");
    assert_eq!(again.encode_to_vec(), written, "one message, one form");
}

fn enveloped(bytes: &[u8]) {
    same::<wire::Envelope>(bytes);
    let Ok(envelope) = wire::Envelope::decode(bytes) else { return };
    let public = key("host").public().clone();
    refused::<wire::Report>(&envelope, &public);
    refused::<wire::Orders>(&envelope, &public);
    refused::<wire::AuditCheckpoint>(&envelope, &public);
}

/// Nobody here has signed it.
fn refused<M: Payload>(envelope: &wire::Envelope, public: &crate::trust::PublicKey) {
    match envelope::open::<M>(envelope, public) {
        Ok(_) => panic!("an envelope opened that nobody signed"),
        Err(EnvelopeError::Undecodable { .. }) => panic!("it was decoded before it was verified"),
        Err(error) => assert!(!error.to_string().contains('\u{1b}'), "{error:?}"),
    }
}

/// A payload, as its sender signs it.
fn sealed<M: Payload>(bytes: &[u8]) {
    same::<M>(bytes);
    let signer = key("host");
    let envelope = envelope::sign(M::TYPE, bytes.to_owned(), &signer).expect("a local key signs");
    match (M::decode(bytes), envelope::open::<M>(&envelope, signer.public())) {
        (Ok(message), Ok(opened)) => assert_eq!(opened.encode_to_vec(), message.encode_to_vec()),
        (Err(_), Err(EnvelopeError::Undecodable { .. })) => {}
        (decoded, opened) => panic!("{:?} but {:?}", decoded.is_ok(), opened.is_ok()),
    }
    for at in [0, bytes.len() / 2, bytes.len().saturating_sub(1)] {
        let mut changed = envelope.clone();
        if let Some(byte) = changed.payload.get_mut(at) {
            *byte ^= 1;
            assert!(matches!(
                envelope::open::<M>(&changed, signer.public()),
                Err(EnvelopeError::Unsigned { .. })
            ));
        }
    }
}
