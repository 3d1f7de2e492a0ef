//! The whole sink held against the whole source.

use lab::compare::{EVERYTHING, Part, until_equal};

use crate::stack::Stack;
use crate::until::PATIENCE;

/// Waits until `orders_latest`, and the trail's rows of today's statuses, are what the source says, value by value.
pub async fn until_sink_is_the_source(stack: &Stack) {
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    for part in [Part::Latest, Part::TrailNow] {
        let compared = until_equal(&mut source, &mut sink, &stack.places.names, part, EVERYTHING, PATIENCE).await;
        let compared = compared.unwrap_or_else(|failure| panic!("{}", failure.chain()));
        assert!(compared.is_equal(), "{part:?}: {compared:#?}");
    }
}
