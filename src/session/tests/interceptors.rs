//! What the broker adds to messages as they come in.

use super::*;
use crate::{
    amqp::{PropertiesBuilder, Table, Value},
    broker::{Interceptors, Stamp},
};

/// What a consumer reads of a message with these properties, and when it was published, in milliseconds since 1970.
fn through(interceptors: Interceptors, properties: &PropertiesBuilder) -> (Vec<u8>, u64) {
    let mut broker = broker(limits());
    Arc::get_mut(&mut broker).expect("nobody else has it yet").interceptors = interceptors;
    let mut script = Script::with_channel(&broker);
    script.declare("q", 0);
    script.publish(1, "", "q", 0, &properties.encode(), b"body");
    let now_ms = script.now().unix_ms;
    script.send(1, wire::get("q", true));
    match script.next() {
        Some(Event::GetOk { properties, .. }) => (properties, now_ms),
        other => panic!("{other:?}"),
    }
}

fn published(headers: &[(&str, Value)], timestamp: Option<u64>) -> PropertiesBuilder {
    let headers: Table = headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    PropertiesBuilder {
        headers: (!headers.0.is_empty()).then_some(headers),
        timestamp,
        content_type: Some("text/plain".into()),
        ..PropertiesBuilder::default()
    }
}

#[test]
fn a8_the_time_is_set_where_the_publisher_has_not() {
    let interceptors = Interceptors { timestamp: Stamp::Keep, ..Interceptors::default() };
    let (read, now_ms) = through(interceptors, &published(&[("a", "b".into())], None));
    let stamp = ("timestamp_in_ms", Value::I64(now_ms as i64));
    assert_eq!(read, published(&[("a", "b".into()), stamp], Some(now_ms / 1000)).encode());
    let set = published(&[("timestamp_in_ms", Value::I64(7))], Some(7));
    assert_eq!(through(interceptors, &set).0, set.encode());
}

#[test]
fn a8_what_a_publisher_has_set_is_overwritten_if_that_is_wanted() {
    let interceptors = Interceptors { timestamp: Stamp::Overwrite, routed_by: Stamp::Overwrite };
    let set = [("timestamp_in_ms", Value::I64(7)), ("x-routed-by", "me".into())];
    let (read, now_ms) = through(interceptors, &published(&set, Some(7)));
    let stamps = [("timestamp_in_ms", Value::I64(now_ms as i64)), ("x-routed-by", "leveret@test".into())];
    assert_eq!(read, published(&stamps, Some(now_ms / 1000)).encode());
}

#[test]
fn nothing_is_added_unless_it_is_wanted_and_fits() {
    let plain = published(&[], None);
    assert_eq!(through(Interceptors::default(), &plain).0, plain.encode());
    let interceptors = Interceptors { routed_by: Stamp::Keep, ..Interceptors::default() };
    let large = published(&[("a", "b".repeat(131_020).into())], None);
    assert_eq!(through(interceptors, &large).0, large.encode(), "one frame has to hold it");
}
