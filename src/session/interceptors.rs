//! What the broker adds to messages as they come in, if it is told to (RabbitMQ: message interceptors).

use std::borrow::Cow;

use crate::{
    amqp::{Properties, Value, table::find_raw},
    broker::{Broker, Interceptors, Now, Stamp},
};

/// The header that has the time in milliseconds; the property `timestamp` has it in seconds.
const TIMESTAMP_HEADER: &str = "timestamp_in_ms";
/// The header that has the name of the node.
const ROUTED_BY_HEADER: &str = "x-routed-by";

/// The properties of a message that has come in, with what is to be added; `None` where nothing is. What would not fit into
/// the frame of a header any more is not added.
pub(super) fn intercepted(properties: &Properties<'_>, broker: &Broker, now: Now) -> Option<Vec<u8>> {
    let Interceptors { timestamp, routed_by } = broker.interceptors;
    let has = |name| properties.headers.is_some_and(|headers| find_raw(headers, name).is_some());
    let mut raw = Cow::Borrowed(properties.raw);
    if timestamp.applies(has(TIMESTAMP_HEADER)) {
        let ms = i64::try_from(now.unix_ms).unwrap_or(i64::MAX);
        raw = Cow::Owned(Properties::parse(&raw).ok()?.with_header(TIMESTAMP_HEADER, &Value::I64(ms)));
    }
    if timestamp.applies(properties.timestamp.is_some()) {
        let timestamp = Some(now.unix_ms / 1000);
        raw = Cow::Owned(Properties { timestamp, ..Properties::parse(&raw).ok()? }.encode());
    }
    if routed_by.applies(has(ROUTED_BY_HEADER)) {
        let node = Value::from(broker.identity.cluster_name.as_str());
        raw = Cow::Owned(Properties::parse(&raw).ok()?.with_header(ROUTED_BY_HEADER, &node));
    }
    match raw {
        Cow::Owned(raw) if broker.limits.fits_header(&raw) => Some(raw),
        _ => None,
    }
}

impl Stamp {
    /// Whether it is set on a message that has one already, or has none.
    fn applies(self, is_there: bool) -> bool {
        match self {
            Self::Off => false,
            Self::Keep => !is_there,
            Self::Overwrite => true,
        }
    }
}
