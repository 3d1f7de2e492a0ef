//! One way to hash for all indexes of the join: what was worked out once of a key or a name is good for each of them.

use std::hash::BuildHasher as _;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::names::Name;

/// Hashes keys and names. Its clones give the same hashes.
#[derive(Debug, Clone, Default)]
pub struct Hashes(RandomState);

/// The hash of a key or a name. It is short, and stands in the indexes: one that grows need not look into what it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hash(pub u32);

/// What the indexes are asked with, of a fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub key: Hash,
    /// By dimension the hash of the name of its row; of no meaning where the fact names none.
    pub names: SmallVec<[Hash; 4]>,
}

/// 2^64 divided by the golden ratio: a factor that carries each bit of a number to the upper ones.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

impl Hashes {
    pub fn of(&self, text: &[u8]) -> Hash {
        Hash((self.0.hash_one(text).wrapping_mul(SPREAD) >> u32::BITS) as u32)
    }

    /// Of a fact with this key, which names these rows.
    pub fn address<'n>(&self, key: &[u8], names: impl Iterator<Item = Option<&'n Name>>) -> Address {
        let mut address = Address { key: self.of(key), names: SmallVec::new() };
        for name in names {
            address.names.push(name.map(|name| self.of(name.as_bytes())).unwrap_or_default());
        }
        address
    }
}
