//! How a record becomes bytes: one leading byte names the format, then JSON. Leaves out where the
//! bytes are kept.

use serde::{Serialize, de::DeserializeOwned};

/// A thing that the store keeps.
pub trait Record: Serialize + DeserializeOwned {
    /// What people call it, for errors.
    const NAME: &'static str;
    /// Grows with each change that an older server could not read. Fields that may be missing do not
    /// count as such a change.
    const FORMAT: u8 = 1;

    /// The bytes to keep.
    ///
    /// # Errors
    /// Only if the record cannot be written as JSON.
    fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let mut bytes = vec![Self::FORMAT];
        serde_json::to_writer(&mut bytes, self)
            .map_err(|cause| RecordError::Unwritable { name: Self::NAME, cause })?;
        Ok(bytes)
    }

    /// The record that these bytes hold.
    ///
    /// # Errors
    /// Bytes of a newer format, and bytes that are not this record. Never a default in their place.
    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let (format, json) = bytes.split_first().ok_or(RecordError::Empty { name: Self::NAME })?;
        if *format != Self::FORMAT {
            let (held, known) = (*format, Self::FORMAT);
            return Err(RecordError::OtherFormat { name: Self::NAME, held, known });
        }
        serde_json::from_slice(json)
            .map_err(|cause| RecordError::Damaged { name: Self::NAME, cause })
    }
}

/// Why bytes are not a record, or a record not bytes.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// There is nothing, not even the byte that names the format.
    #[error("a stored {name} is empty\nhelp: restore the store from a backup")]
    Empty {
        /// What the record is.
        name: &'static str,
    },
    /// Written by another version of the server.
    #[error(
        "a stored {name} has format {held}, this server knows format {known}\n\
         help: start the newest version of the server that has used this store"
    )]
    OtherFormat {
        /// What the record is.
        name: &'static str,
        /// The format of the bytes.
        held: u8,
        /// The format of this server.
        known: u8,
    },
    /// Not JSON, or not this record.
    #[error("a stored {name} cannot be read\nhelp: restore the store from a backup")]
    Damaged {
        /// What the record is.
        name: &'static str,
        /// Where reading stopped.
        #[source]
        cause: serde_json::Error,
    },
    /// The record holds something that JSON cannot say.
    #[error("a {name} cannot be written")]
    Unwritable {
        /// What the record is.
        name: &'static str,
        /// What JSON cannot say.
        #[source]
        cause: serde_json::Error,
    },
}
