//! Which partition a key belongs to: murmur2, as Kafka's Java clients, upsert-kafka and ksqlDB do it.
//!
//! The stages compute it themselves, since they must know a record's partition before they send it.

/// The partition of `key` among `partitions`.
pub fn partition(key: &[u8], partitions: i32) -> i32 {
    let positive = murmur2::murmur2(key, murmur2::KAFKA_SEED) & 0x7FFF_FFFF;
    i32::try_from(i64::from(positive) % i64::from(partitions.max(1))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of org.apache.kafka.common.utils.UtilsTest.testMurmur2.
    #[test]
    fn hashes_are_those_of_the_java_client() {
        let known = [("21", -973_932_308), ("foobar", -790_332_482), ("a-little-bit-long-string", -985_981_536)];
        for (key, hash) in known {
            assert_eq!(murmur2::murmur2(key.as_bytes(), murmur2::KAFKA_SEED).cast_signed(), hash, "{key}");
        }
        assert_eq!(partition(b"foobar", 4), (-790_332_482_i32 & 0x7FFF_FFFF) % 4);
    }
}
