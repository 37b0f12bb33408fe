//! The properties of a message that goes through a shovel. They stay as they are, octet by octet, unless the shovel is told to
//! change them.

use std::borrow::Cow;

use super::{
    definition::{Definition, Destination, PublishProperties, Source},
    uri::Uri,
};
use crate::{
    amqp::{Properties, Table, Value},
    broker::parameter::Parameter,
};

/// The header that tells which shovels a message went through, the last one first.
const SHOVELLED: &str = "x-shovelled";
/// The header that tells when, in seconds since 1970.
const SHOVELLED_AT: &str = "x-shovelled-timestamp";

/// What a shovel changes about each message.
#[derive(Debug)]
pub(super) struct Stamp {
    properties: PublishProperties,
    /// What is put in front of `x-shovelled`.
    forward: Option<Table>,
    adds_timestamp: bool,
}

impl Stamp {
    /// That of a shovel of the node of that name, between these ends.
    pub(super) fn new(
        definition: &Definition,
        parameter: &Parameter,
        node: &str,
        source: &Uri,
        destination: &Uri,
    ) -> Self {
        let forward = definition.adds_forward_headers.then(|| {
            let mut fields = vec![
                ("shovelled-by", node.to_owned()),
                ("shovel-type", "dynamic".to_owned()),
                ("shovel-name", parameter.name.to_string()),
                ("shovel-vhost", parameter.virtual_host.to_string()),
                ("src-uri", source.to_string()),
                ("dest-uri", destination.to_string()),
            ];
            fields.extend(ends(definition).into_iter().map(|(name, value)| (name, value.to_owned())));
            fields.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
        });
        Self { properties: definition.properties.clone(), forward, adds_timestamp: definition.adds_timestamp }
    }

    /// The list of properties as it is to be sent. `raw` is how it came: one that can't be read is sent like that.
    pub(super) fn properties<'a>(&self, raw: &'a [u8], unix_secs: u64) -> Cow<'a, [u8]> {
        if self.forward.is_none() && !self.adds_timestamp && self.properties == PublishProperties::default() {
            return Cow::Borrowed(raw);
        }
        let Ok(properties) = Properties::parse(raw) else { return Cow::Borrowed(raw) };
        let mut encoded = Vec::new();
        let headers = match self.headers(properties.headers, unix_secs) {
            Some(table) => {
                table.encode(&mut encoded);
                encoded.get(4..)
            }
            None => properties.headers,
        };
        Cow::Owned(self.replaced(Properties { headers, ..properties }))
    }

    /// The headers, if they change.
    fn headers(&self, raw: Option<&[u8]>, unix_secs: u64) -> Option<Table> {
        if self.forward.is_none() && !self.adds_timestamp {
            return None;
        }
        let mut headers = Table::decode(raw.unwrap_or_default()).ok()?;
        if let Some(forward) = &self.forward {
            let before = headers.get(SHOVELLED).cloned();
            headers.0.retain(|(name, _)| name != SHOVELLED);
            let mut list = vec![Value::Table(forward.clone())];
            if let Some(Value::Array(before)) = before {
                list.extend(before);
            }
            headers.0.push((SHOVELLED.to_owned(), Value::Array(list)));
        }
        if self.adds_timestamp {
            headers.0.retain(|(name, _)| name != SHOVELLED_AT);
            let seconds = i64::try_from(unix_secs).unwrap_or(i64::MAX);
            headers.0.push((SHOVELLED_AT.to_owned(), Value::I64(seconds)));
        }
        Some(headers)
    }

    fn replaced(&self, properties: Properties<'_>) -> Vec<u8> {
        let new = &self.properties;
        Properties {
            raw: &[],
            content_type: octets(&new.content_type).or(properties.content_type),
            content_encoding: octets(&new.content_encoding).or(properties.content_encoding),
            headers: properties.headers,
            delivery_mode: new.delivery_mode.or(properties.delivery_mode),
            priority: new.priority.or(properties.priority),
            correlation_id: octets(&new.correlation_id).or(properties.correlation_id),
            reply_to: octets(&new.reply_to).or(properties.reply_to),
            expiration: octets(&new.expiration).or(properties.expiration),
            message_id: octets(&new.message_id).or(properties.message_id),
            timestamp: new.timestamp.or(properties.timestamp),
            type_: octets(&new.type_).or(properties.type_),
            user_id: octets(&new.user_id).or(properties.user_id),
            app_id: octets(&new.app_id).or(properties.app_id),
            cluster_id: octets(&new.cluster_id).or(properties.cluster_id),
        }
        .encode()
    }
}

fn octets(text: &Option<String>) -> Option<&[u8]> {
    text.as_ref().map(String::as_bytes)
}

/// The queues, exchanges and keys of a shovel, by the names that they have in its definition.
pub(super) fn ends(definition: &Definition) -> Vec<(&'static str, &str)> {
    let mut ends = match &definition.source {
        Source::Queue { name, .. } => vec![("src-queue", name.as_str())],
        Source::Exchange { name, key } => with_key(("src-exchange", name), ("src-exchange-key", key)),
    };
    ends.extend(match &definition.destination {
        Destination::Queue { name, .. } => vec![("dest-queue", name.as_str())],
        Destination::Exchange { name, key } => with_key(("dest-exchange", name), ("dest-exchange-key", key)),
        Destination::AsPublished => Vec::new(),
    });
    ends
}

fn with_key<'a>(
    (exchange, name): (&'static str, &'a str),
    (key_name, key): (&'static str, &'a Option<String>),
) -> Vec<(&'static str, &'a str)> {
    std::iter::once((exchange, name)).chain(key.as_deref().map(|key| (key_name, key))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::amqp::PropertiesBuilder;

    fn stamp(more: &[(&str, serde_json::Value)]) -> Stamp {
        let mut value = json!({"src-uri": "amqp://ann:secret@h", "dest-uri": "amqp://", "src-queue": "a", "dest-exchange": "x"});
        for (name, more) in more {
            value[*name] = more.clone();
        }
        let definition = Definition::parse("s", &value).unwrap();
        let (virtual_host, component, name) = ("v".into(), "shovel".into(), "s".into());
        let parameter = Parameter { virtual_host, component, name, value, set_by: None };
        let (source, destination) = (&definition.source_uris[0], &definition.destination_uris[0]);
        Stamp::new(&definition, &parameter, "node", source, destination)
    }

    fn headers(raw: &[u8]) -> Table {
        Table::decode(Properties::parse(raw).unwrap().headers.unwrap()).unwrap()
    }

    #[test]
    fn properties_stay_as_they_are() {
        assert!(matches!(stamp(&[]).properties(b"anything", 7), Cow::Borrowed(b"anything")));
    }

    #[test]
    fn what_it_went_through_is_put_in_front() {
        let before = Value::Table(Table(vec![("a".into(), "b".into())]));
        let old =
            Table(vec![("h".into(), Value::U8(1)), (SHOVELLED.into(), Value::Array(vec![before.clone()]))]);
        let raw = PropertiesBuilder { headers: Some(old), priority: Some(3), ..PropertiesBuilder::default() }
            .encode();
        let stamp =
            stamp(&[("dest-add-forward-headers", json!(true)), ("dest-add-timestamp-header", json!(true))]);
        let stamped = stamp.properties(&raw, 1234);
        assert_eq!(Properties::parse(&stamped).unwrap().priority, Some(3));
        let headers = headers(&stamped);
        let fields = [
            ("shovelled-by", "node"),
            ("shovel-type", "dynamic"),
            ("shovel-name", "s"),
            ("shovel-vhost", "v"),
            ("src-uri", "amqp://h"),
            ("dest-uri", "amqp://"),
            ("src-queue", "a"),
            ("dest-exchange", "x"),
        ];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.into()));
        let forward = Value::Table(fields.into_iter().collect());
        assert_eq!(headers.get(SHOVELLED), Some(&Value::Array(vec![forward, before])));
        assert_eq!(headers.get(SHOVELLED_AT), Some(&Value::I64(1234)));
        assert_eq!(headers.get("h"), Some(&Value::U8(1)));
        // A message without any.
        assert_eq!(self::headers(&stamp.properties(&[0, 0], 1)).0.len(), 2);
    }

    #[test]
    fn told_properties_take_the_place_of_those_of_the_message() {
        let headers = Some(Table(vec![("h".into(), Value::U8(1))]));
        let old = PropertiesBuilder {
            headers,
            app_id: Some("old".into()),
            priority: Some(3),
            ..PropertiesBuilder::default()
        };
        let stamp = stamp(&[("dest-publish-properties", json!({"app_id": "new", "delivery_mode": 1}))]);
        let new = PropertiesBuilder { app_id: Some("new".into()), delivery_mode: Some(1), ..old.clone() };
        assert_eq!(*stamp.properties(&old.encode(), 1), new.encode());
    }
}
