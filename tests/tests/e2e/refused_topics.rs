//! A topic that is there already and is not as it must be ends the stage that would write to it, with the cure.

use crate::refused_settings::assert_refused;
use crate::stack::{CDC_INGEST, DIM_JOINER, DWD_CLEANER, Stack};
use crate::topics::make;

#[tokio::test]
async fn a_topic_with_another_partition_count_is_refused() {
    let mut stack = Stack::new().await;
    let (kafka, ods) = (stack.places.kafka.clone(), stack.places.names.ods_topic.clone());
    make(&kafka, &ods, 3, "compact").await;
    for arguments in [&[][..], &["check"]] {
        let ended = stack.command(CDC_INGEST, arguments, &[]).await;
        assert_refused(&ended, &[&ods, "has 3 partitions, but 4 are needed", "make the topic anew"]);
    }
}

#[tokio::test]
async fn a_later_topic_with_another_partition_count_than_its_input_is_refused() {
    let mut stack = Stack::new().await;
    let (kafka, names) = (stack.places.kafka.clone(), stack.places.names.clone());
    make(&kafka, &names.ods_topic, 4, "compact").await;
    make(&kafka, &names.dwd_topic, 2, "compact").await;
    for arguments in [&[][..], &["check"]] {
        let ended = stack.command(DWD_CLEANER, arguments, &[]).await;
        assert_refused(&ended, &[&names.dwd_topic, "has 2 partitions, but 4 are needed", "make the topic anew"]);
    }
}

#[tokio::test]
async fn a_topic_that_forgets_rows_by_their_age_is_refused() {
    let mut stack = Stack::new().await;
    let (kafka, names, users) = (stack.places.kafka.clone(), stack.places.names.clone(), stack.users_topic());
    make(&kafka, &users, 4, "compact").await;
    make(&kafka, &names.ods_topic, 4, "delete").await;
    make(&kafka, &names.dwd_topic, 4, "delete").await;
    make(&kafka, &names.result_topic, 4, "compact,delete").await;
    let writers = [(CDC_INGEST, &names.ods_topic), (DWD_CLEANER, &names.dwd_topic), (DIM_JOINER, &names.result_topic)];
    for (service, topic) in writers {
        for arguments in [&[][..], &["check"]] {
            let ended = stack.command(service, arguments, &[]).await;
            let cure = format!("kafka-configs.sh --alter --topic {topic} --add-config cleanup.policy=compact");
            assert_refused(&ended, &["would be deleted from it by age or size", &cure]);
        }
    }
}
