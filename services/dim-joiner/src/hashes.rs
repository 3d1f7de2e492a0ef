//! One way to hash for all indexes of the join: what was worked out once of a key or a name is good for each of them.

use std::hash::BuildHasher as _;

use hashbrown::DefaultHashBuilder;
use smallvec::SmallVec;

use crate::names::Name;

/// Hashes keys and names. Its clones give the same hashes.
#[derive(Debug, Clone, Default)]
pub struct Hashes(DefaultHashBuilder);

/// The hash of a fact's key. It is short, and kept beside the fact's number: an index that grows need not look into the facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyHash(u32);

/// What the indexes are asked with, of a fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub key: KeyHash,
    /// By dimension the hash of the name of its row; of no meaning where the fact names none.
    pub names: SmallVec<[u64; 1]>,
}

/// 2^64 divided by the golden ratio: a factor that carries each bit of a number to the upper ones.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

impl KeyHash {
    /// As a table wants it: the upper bits and the lower ones both tell keys apart.
    pub fn spread(self) -> u64 {
        u64::from(self.0).wrapping_mul(SPREAD)
    }
}

impl Hashes {
    pub fn of_key(&self, key: &[u8]) -> KeyHash {
        let [a, b, c, d, ..] = self.0.hash_one(key).to_le_bytes();
        KeyHash(u32::from_le_bytes([a, b, c, d]))
    }

    pub fn of_name(&self, name: &[u8]) -> u64 {
        self.0.hash_one(name)
    }

    /// Of a fact with this key, which names these rows.
    pub fn address<'n>(&self, key: &[u8], names: impl Iterator<Item = Option<&'n Name>>) -> Address {
        let of_name = |name: Option<&Name>| name.map(|name| self.of_name(name.as_bytes())).unwrap_or_default();
        Address { key: self.of_key(key), names: names.map(of_name).collect() }
    }
}
