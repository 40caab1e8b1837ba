//! Hash bins: delegations to many roles of one authority, told by the first bits of the path's SHA-256
//! (`succinct_roles`, TUF 1.0.34 section 4.5, TAP 15). Refit's own repositories have none.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::{Authority, Object};
use crate::trust::{
    error::TrustError,
    key::{KeyId, PublicKey},
    role::{MAX_NAME, Role},
};

/// Most bits of the hash: TAP 15's own limit.
const MAX_BITS: u64 = 32;

/// 2 to the power of `bits` roles, named by prefix and number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bins {
    /// Who may sign for every bin.
    pub authority: Authority,
    /// 1 to 32.
    bits: u32,
    prefix: String,
}

impl Bins {
    /// Reads `succinct_roles` of `delegations`.
    pub(super) fn read(
        delegations: Object<'_>,
        keys: &BTreeMap<KeyId, PublicKey>,
    ) -> Result<Bins, TrustError> {
        let object = delegations.object("succinct_roles")?;
        let bits = object.positive("bit_length")?;
        let bits = u32::try_from(bits)
            .ok()
            .filter(|_| bits <= MAX_BITS)
            .ok_or_else(|| object.flaw(format_args!("`bit_length` is over {MAX_BITS}")))?;
        let prefix = object.text("name_prefix")?;
        let digits = usize::try_from(bits.div_ceil(4)).unwrap_or(MAX_NAME);
        if prefix.is_empty() || prefix.len() + 1 + digits > MAX_NAME {
            return Err(object.flaw("`name_prefix` is empty or too long"));
        }
        let authority = Authority::read(object, keys)?;
        Ok(Bins { authority, bits, prefix: prefix.to_owned() })
    }

    /// The bin that a path falls into. `None` where the name would be that of a top-level role.
    pub fn bin_of(&self, path: &str) -> Option<Role> {
        let hash = Sha256::digest(path);
        let first = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
        let bin = first >> (u32::BITS - self.bits);
        Role::named(&self.name(bin)).ok().filter(|role| !role.is_top_level())
    }

    /// Whether a role is one of the bins.
    pub fn hold(&self, role: &Role) -> bool {
        let name = role.to_string();
        let number = name
            .strip_prefix(&self.prefix)
            .and_then(|rest| rest.strip_prefix('-'))
            .and_then(|digits| u32::from_str_radix(digits, 16).ok());
        number.is_some_and(|bin| {
            u64::from(bin) < 1_u64 << self.bits && self.name(bin) == name && !role.is_top_level()
        })
    }

    fn name(&self, bin: u32) -> String {
        let digits = self.bits.div_ceil(4) as usize;
        format!("{}-{bin:0digits$x}", self.prefix)
    }
}
