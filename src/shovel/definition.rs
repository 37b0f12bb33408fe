//! What a shovel is to do: the value of its parameter, checked in RabbitMQ's order and words.

use std::time::Duration;

use serde_json::{Map, Value as Json};

use super::uri::Uri;
use crate::{
    amqp::Table,
    json::{erlang, to_table},
};

/// URIs that may be given for each end.
const URIS_MAX: usize = 100;
/// Messages on their way at a time unless said otherwise (RabbitMQ).
const PREFETCH: u16 = 1000;
/// How long to wait before a new attempt unless said otherwise (RabbitMQ).
const RECONNECT_DELAY: Duration = Duration::from_secs(5);
/// The longest name or text in octets: a short string on the wire.
const SHORT_BYTES_MAX: usize = 255;

/// See the module's text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Definition {
    pub(crate) source_uris: Vec<Uri>,
    pub(crate) source: Source,
    /// Arguments of the consumer.
    pub(crate) consumer_arguments: Table,
    /// Messages that are delivered and not settled, at most.
    pub(crate) prefetch: u16,
    pub(crate) delete_after: DeleteAfter,
    pub(crate) destination_uris: Vec<Uri>,
    pub(crate) destination: Destination,
    pub(crate) properties: PublishProperties,
    /// Whether to add `x-shovelled`.
    pub(crate) adds_forward_headers: bool,
    /// Whether to add `x-shovelled-timestamp`.
    pub(crate) adds_timestamp: bool,
    pub(crate) ack_mode: AckMode,
    /// How long to wait before a new attempt; `None` for not to try again.
    pub(crate) reconnect_delay: Option<Duration>,
}

/// Where messages come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Source {
    /// A queue, which is declared with these arguments if it is not there.
    Queue { name: String, arguments: Table },
    /// An exchange, to which a queue of the shovel's own is bound.
    Exchange { name: String, key: Option<String> },
}

/// Where messages go to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Destination {
    /// A queue, which is declared with these arguments if it is not there.
    Queue { name: String, arguments: Table },
    /// An exchange, with that key or the message's own.
    Exchange { name: String, key: Option<String> },
    /// Where each message was published to, under the same key.
    AsPublished,
}

/// When a message is acknowledged where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AckMode {
    /// When the other end has confirmed it: none is lost, whatever happens.
    OnConfirm,
    /// When it is sent to the other end.
    OnPublish,
    /// Before that, by its queue.
    NoAck,
}

/// When a shovel has done its work, and deletes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeleteAfter {
    Never,
    /// After as many messages as the queue holds when it starts.
    QueueLength,
    /// After that many.
    Number(u64),
}

/// Properties that replace those of each message.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PublishProperties {
    pub(crate) content_type: Option<String>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) delivery_mode: Option<u8>,
    pub(crate) priority: Option<u8>,
    pub(crate) correlation_id: Option<String>,
    pub(crate) reply_to: Option<String>,
    pub(crate) expiration: Option<String>,
    pub(crate) message_id: Option<String>,
    pub(crate) timestamp: Option<u64>,
    pub(crate) type_: Option<String>,
    pub(crate) user_id: Option<String>,
    pub(crate) app_id: Option<String>,
    pub(crate) cluster_id: Option<String>,
}

impl Definition {
    /// Reads the value of the parameter of that name.
    ///
    /// # Errors
    /// All that is wrong with it, a sentence each.
    pub(crate) fn parse(name: &str, value: &Json) -> Result<Self, Vec<String>> {
        let none = Map::new();
        let (fields, is_object) = match value {
            Json::Object(fields) => (fields, true),
            _ => (&none, false),
        };
        let mut errors = Vec::new();
        if !is_object && *value != Json::Array(Vec::new()) {
            errors.push(format!("{name} should be a map, actually was {}", erlang(value)));
        }
        check_ends(fields, &mut errors);
        let mut reader = Reader { name, fields, known: Vec::new(), errors: Vec::new() };
        let definition = reader.definition();
        errors.extend(reader.unknown());
        // RabbitMQ tells the last one first.
        errors.extend(reader.errors.into_iter().rev());
        if errors.is_empty() { Ok(definition) } else { Err(errors) }
    }

    /// The virtual hosts of this broker that it goes to by itself, without a login.
    pub(crate) fn virtual_hosts_within(&self) -> impl Iterator<Item = &str> {
        let uris = self.source_uris.iter().chain(&self.destination_uris);
        uris.filter(|uri| uri.host.is_none()).map(|uri| uri.virtual_host.as_str())
    }
}

/// Checks what one field alone can't tell.
fn check_ends(fields: &Map<String, Json>, errors: &mut Vec<String>) {
    let has = |name: &str| fields.contains_key(name);
    match (has("src-exchange"), has("src-queue")) {
        (false, false) => errors.push("Must specify 'src-exchange' or 'src-queue'".to_owned()),
        (true, true) => errors.push("Cannot specify 'src-exchange' and 'src-queue'".to_owned()),
        _ => {}
    }
    let delete_after = fields.get("src-delete-after").or(fields.get("delete-after"));
    if delete_after.is_some_and(Json::is_u64) && fields.get("ack-mode").is_some_and(|mode| mode == "no-ack") {
        errors.push("Cannot specify 'no-ack' and numerical 'delete-after'".to_owned());
    }
    if has("dest-exchange") && has("dest-queue") {
        errors.push("Cannot specify 'dest-exchange' and 'dest-queue'".to_owned());
    }
}

/// Reads fields, and notes which there may be and what is wrong with them.
struct Reader<'a> {
    name: &'a str,
    fields: &'a Map<String, Json>,
    known: Vec<&'static str>,
    errors: Vec<String>,
}

impl Reader<'_> {
    fn definition(&mut self) -> Definition {
        // In RabbitMQ's order, in which it tells what is wrong.
        let reconnect_delay = self.number("reconnect-delay");
        let ack_mode = self.ack_mode();
        self.protocol("src-protocol");
        self.protocol("dest-protocol");
        let source_uris = self.uris("src-uri");
        let source_exchange = self.short("src-exchange");
        let source_key = self.short("src-exchange-key");
        let source_queue = self.short("src-queue");
        let source_arguments = self.table("src-queue-args");
        let consumer_arguments = self.table("src-consumer-args");
        let old_prefetch = self.prefetch("prefetch-count");
        let prefetch = self.prefetch("src-prefetch-count").or(old_prefetch).unwrap_or(PREFETCH);
        let old_delete_after = self.delete_after("delete-after");
        let delete_after = self.delete_after("src-delete-after").or(old_delete_after);
        let destination_uris = self.uris("dest-uri");
        let destination_exchange = self.short("dest-exchange");
        let destination_key = self.short("dest-exchange-key");
        let destination_queue = self.short("dest-queue");
        let destination_arguments = self.table("dest-queue-args");
        let old_forward_headers = self.flag("add-forward-headers");
        let old_timestamp = self.flag("add-timestamp-header");
        let forward_headers = self.flag("dest-add-forward-headers").or(old_forward_headers);
        let timestamp = self.flag("dest-add-timestamp-header").or(old_timestamp);
        let old_properties = self.properties("publish-properties");
        let properties = self.properties("dest-publish-properties").or(old_properties);
        let reconnect_delay = match reconnect_delay {
            Some(seconds) if seconds <= 0.0 => None,
            // Less would keep both ends busy with nothing else. A day is as good as never, and can be counted.
            Some(seconds) => Some(Duration::from_secs_f64(seconds.clamp(1.0, 86_400.0))),
            None => Some(RECONNECT_DELAY),
        };
        Definition {
            source_uris,
            source: match source_queue {
                Some(name) => Source::Queue { name, arguments: source_arguments },
                None => Source::Exchange { name: source_exchange.unwrap_or_default(), key: source_key },
            },
            consumer_arguments,
            prefetch,
            delete_after: delete_after.unwrap_or(DeleteAfter::Never),
            destination_uris,
            destination: match (destination_queue, destination_exchange) {
                (Some(name), _) => Destination::Queue { name, arguments: destination_arguments },
                (None, Some(name)) => Destination::Exchange { name, key: destination_key },
                (None, None) => Destination::AsPublished,
            },
            properties: properties.unwrap_or_default(),
            adds_forward_headers: forward_headers.unwrap_or(false),
            adds_timestamp: timestamp.unwrap_or(false),
            ack_mode,
            reconnect_delay,
        }
    }

    /// What there is and nobody knows.
    fn unknown(&self) -> Option<String> {
        let unknown = self.fields.iter().filter(|(name, _)| !self.known.contains(&name.as_str()));
        let unknown: Vec<_> =
            unknown.map(|(name, value)| format!("{{<<\"{name}\">>,{}}}", erlang(value))).collect();
        let name = self.name;
        (!unknown.is_empty()).then(|| format!("Unrecognised terms [{}] in {name}", unknown.join(",")))
    }

    fn get(&mut self, name: &'static str) -> Option<Json> {
        self.known.push(name);
        self.fields.get(name).cloned()
    }

    fn wrong(&mut self, name: &str, expected: &str, value: &Json) {
        self.errors.push(format!("{name} should be {expected}, actually was {}", erlang(value)));
    }

    fn number(&mut self, name: &'static str) -> Option<f64> {
        let value = self.get(name)?;
        let number = value.as_f64();
        if number.is_none() {
            self.wrong(name, "a number", &value);
        }
        number
    }

    fn prefetch(&mut self, name: &'static str) -> Option<u16> {
        let value = self.get(name)?;
        let prefetch = value.as_u64().and_then(|number| u16::try_from(number).ok());
        if !value.is_number() {
            self.wrong(name, "a number", &value);
        } else if prefetch.is_none() {
            self.wrong(name, "between 0 and 65535", &value);
        }
        prefetch
    }

    fn flag(&mut self, name: &'static str) -> Option<bool> {
        let value = self.get(name)?;
        if !value.is_boolean() {
            self.wrong(name, "boolean", &value);
        }
        value.as_bool()
    }

    fn short(&mut self, name: &'static str) -> Option<String> {
        let value = self.get(name)?;
        match value.as_str() {
            Some(text) if text.len() <= SHORT_BYTES_MAX => Some(text.to_owned()),
            Some(_) => {
                self.errors.push(format!("{name} may have {SHORT_BYTES_MAX} bytes at most"));
                None
            }
            None => {
                self.wrong(name, "binary", &value);
                None
            }
        }
    }

    fn table(&mut self, name: &'static str) -> Table {
        let table = match self.get(name) {
            None => Ok(Table::default()),
            Some(Json::Object(fields)) => to_table(&fields).map_err(|reason| format!("{name}: {reason}")),
            // How RabbitMQ's own tools write a map without fields.
            Some(Json::Array(values)) if values.is_empty() => Ok(Table::default()),
            Some(value) => Err(format!("{name} should be a map, actually was {}", erlang(&value))),
        };
        table.unwrap_or_else(|error| {
            self.errors.push(error);
            Table::default()
        })
    }

    fn ack_mode(&mut self) -> AckMode {
        match self.get("ack-mode") {
            None => AckMode::OnConfirm,
            Some(Json::String(mode)) if mode == "on-confirm" => AckMode::OnConfirm,
            Some(Json::String(mode)) if mode == "on-publish" => AckMode::OnPublish,
            Some(Json::String(mode)) if mode == "no-ack" => AckMode::NoAck,
            Some(value) => {
                let modes = "one of [<<\"no-ack\">>,<<\"on-publish\">>,<<\"on-confirm\">>]";
                self.wrong("ack-mode", modes, &value);
                AckMode::OnConfirm
            }
        }
    }

    fn protocol(&mut self, name: &'static str) {
        match self.get(name) {
            Some(value) if value != "amqp091" => self.wrong(name, "one of [<<\"amqp091\">>]", &value),
            _ => {}
        }
    }

    fn delete_after(&mut self, name: &'static str) -> Option<DeleteAfter> {
        let value = self.get(name)?;
        let parsed = match value.as_str() {
            Some("never") => Some(DeleteAfter::Never),
            Some("queue-length") => Some(DeleteAfter::QueueLength),
            _ => value.as_u64().map(DeleteAfter::Number),
        };
        if parsed.is_none() {
            let expected = "a number greater than or equal to 0, \"never\" or \"queue-length\"";
            self.wrong(name, expected, &value);
        }
        parsed
    }

    fn uris(&mut self, name: &'static str) -> Vec<Uri> {
        let texts = match self.get(name) {
            None => {
                self.errors.push(format!("Key \"{name}\" not found in {}", self.name));
                return Vec::new();
            }
            Some(Json::Array(values)) if values.is_empty() || values.len() > URIS_MAX => {
                self.errors.push(format!("{name} should have 1 to {URIS_MAX} URIs"));
                return Vec::new();
            }
            Some(Json::Array(values)) => values,
            Some(value) => vec![value],
        };
        let mut uris = Vec::new();
        for value in texts {
            let Json::String(text) = &value else {
                self.wrong(name, "list", &value);
                return uris;
            };
            match Uri::parse(text) {
                Ok(uri) => uris.push(uri),
                Err(reason) => {
                    self.errors.push(format!("\"{text}\" not a valid URI: {{{reason},\"{text}\"}}"));
                    return uris;
                }
            }
        }
        uris
    }

    fn properties(&mut self, name: &'static str) -> Option<PublishProperties> {
        let value = self.get(name)?;
        let Json::Object(fields) = &value else {
            if value != Json::Array(Vec::new()) {
                self.errors.push(format!("{name} not a list {}", erlang(&value)));
            }
            return None;
        };
        let mut reader = Reader { name, fields, known: Vec::new(), errors: Vec::new() };
        let properties = PublishProperties {
            content_type: reader.short("content_type"),
            content_encoding: reader.short("content_encoding"),
            delivery_mode: reader.octet("delivery_mode"),
            priority: reader.octet("priority"),
            correlation_id: reader.short("correlation_id"),
            reply_to: reader.short("reply_to"),
            expiration: reader.short("expiration"),
            message_id: reader.short("message_id"),
            timestamp: reader.whole("timestamp", u64::MAX),
            type_: reader.short("type"),
            user_id: reader.short("user_id"),
            app_id: reader.short("app_id"),
            cluster_id: reader.short("cluster_id"),
        };
        let unknown = reader.unknown();
        // The last one comes first, and all of this is turned round once more.
        self.errors.extend(reader.errors);
        self.errors.extend(unknown);
        Some(properties)
    }

    fn octet(&mut self, name: &'static str) -> Option<u8> {
        self.whole(name, u8::MAX.into()).and_then(|number| u8::try_from(number).ok())
    }

    fn whole(&mut self, name: &'static str, max: u64) -> Option<u64> {
        let value = self.get(name)?;
        let number = value.as_u64().filter(|number| *number <= max);
        if !value.is_number() {
            self.wrong(name, "a number", &value);
        } else if number.is_none() {
            self.wrong(name, &format!("between 0 and {max}"), &value);
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(more: &Json) -> Json {
        let mut value =
            json!({"src-uri": "amqp://", "dest-uri": "amqp:///v", "src-queue": "a", "dest-queue": "b"});
        let (fields, more) = (value.as_object_mut().unwrap(), more.as_object().unwrap());
        fields.extend(more.iter().map(|(name, value)| (name.clone(), value.clone())));
        fields.retain(|_, value| !value.is_null());
        value
    }

    fn errors(more: &Json) -> Vec<String> {
        Definition::parse("s", &with(more)).unwrap_err()
    }

    #[test]
    fn what_is_left_out_has_rabbitmqs_value() {
        let definition = Definition::parse("s", &with(&json!({}))).unwrap();
        assert_eq!(definition.ack_mode, AckMode::OnConfirm);
        assert_eq!((definition.prefetch, definition.delete_after), (1000, DeleteAfter::Never));
        assert_eq!(definition.reconnect_delay, Some(Duration::from_secs(5)));
        assert_eq!(definition.virtual_hosts_within().collect::<Vec<_>>(), ["/", "v"]);
        let queue = |name: &str| (name.to_owned(), Table::default());
        let Source::Queue { name, arguments } = definition.source else { panic!("no queue") };
        assert_eq!((name, arguments), queue("a"));
        let Destination::Queue { name, arguments } = definition.destination else { panic!("no queue") };
        assert_eq!((name, arguments), queue("b"));
    }

    #[test]
    fn old_names_serve_and_new_ones_count() {
        let definition = Definition::parse(
            "s",
            &with(&json!({
                "prefetch-count": 5, "delete-after": "queue-length", "add-forward-headers": true,
                "publish-properties": {"delivery_mode": 2, "app_id": "x"}, "reconnect-delay": 0, "ack-mode": "on-publish",
            })),
        );
        let definition = definition.unwrap();
        assert_eq!((definition.prefetch, definition.delete_after), (5, DeleteAfter::QueueLength));
        assert!(definition.adds_forward_headers && definition.reconnect_delay.is_none());
        let delay = |seconds: f64| {
            let value = with(&json!({"reconnect-delay": seconds}));
            Definition::parse("s", &value).unwrap().reconnect_delay
        };
        assert_eq!(delay(1e-9), Some(Duration::from_secs(1)), "it never tries without a pause");
        assert_eq!(delay(2.5), Some(Duration::from_millis(2500)));
        assert_eq!(definition.properties.delivery_mode, Some(2));
        let both = with(&json!({"prefetch-count": 5, "src-prefetch-count": 6, "src-delete-after": 7}));
        let definition = Definition::parse("s", &both).unwrap();
        assert_eq!((definition.prefetch, definition.delete_after), (6, DeleteAfter::Number(7)));
    }

    /// All texts that RabbitMQ 3.10.8 has for these.
    #[test]
    fn what_is_wrong_is_told_in_rabbitmqs_words_and_order() {
        let must = "Must specify 'src-exchange' or 'src-queue'";
        let missing = ["Key \"dest-uri\" not found in s", "Key \"src-uri\" not found in s"];
        assert_eq!(Definition::parse("s", &json!({})).unwrap_err(), [&[must][..], &missing].concat());
        assert_eq!(Definition::parse("s", &json!([])).unwrap_err(), [&[must][..], &missing].concat());
        for (more, expected) in [
            (json!({"bogus": 1}), &["Unrecognised terms [{<<\"bogus\">>,1}] in s"][..]),
            (
                json!({"src-exchange": "x", "dest-exchange": "y"}),
                &[
                    "Cannot specify 'src-exchange' and 'src-queue'",
                    "Cannot specify 'dest-exchange' and 'dest-queue'",
                ],
            ),
            (
                json!({"ack-mode": "bad"}),
                &[
                    "ack-mode should be one of [<<\"no-ack\">>,<<\"on-publish\">>,<<\"on-confirm\">>], actually was \
                   <<\"bad\">>",
                ],
            ),
            (json!({"src-queue": 5}), &["src-queue should be binary, actually was 5"]),
            (
                json!({"src-uri": "http://x"}),
                &["\"http://x\" not a valid URI: {{unexpected_uri_scheme,\"http\"},\"http://x\"}"],
            ),
            (
                json!({"src-uri": ["amqp://h", "bad"]}),
                &["\"bad\" not a valid URI: {{unable_to_parse_uri,no_scheme},\"bad\"}"],
            ),
            (
                json!({"src-uri": 5, "dest-uri": [5]}),
                &["dest-uri should be list, actually was 5", "src-uri should be list, actually was 5"],
            ),
            (
                json!({"reconnect-delay": "x"}),
                &["reconnect-delay should be a number, actually was <<\"x\">>"],
            ),
            (
                json!({"prefetch-count": "1", "delete-after": "x"}),
                &[
                    "delete-after should be a number greater than or equal to 0, \"never\" or \"queue-length\", \
                     actually was <<\"x\">>",
                    "prefetch-count should be a number, actually was <<\"1\">>",
                ],
            ),
            (
                json!({"src-delete-after": 10, "ack-mode": "no-ack"}),
                &["Cannot specify 'no-ack' and numerical 'delete-after'"],
            ),
            (
                json!({"dest-add-forward-headers": 1, "dest-add-timestamp-header": "x"}),
                &[
                    "dest-add-timestamp-header should be boolean, actually was <<\"x\">>",
                    "dest-add-forward-headers should be boolean, actually was 1",
                ],
            ),
            (
                json!({"dest-publish-properties": {"bad": 1, "headers": 5, "content_type": 5, "priority": "x"}}),
                &[
                    "Unrecognised terms [{<<\"bad\">>,1},{<<\"headers\">>,5}] in dest-publish-properties",
                    "priority should be a number, actually was <<\"x\">>",
                    "content_type should be binary, actually was 5",
                ],
            ),
            (json!({"dest-publish-properties": 5}), &["dest-publish-properties not a list 5"]),
            (
                json!({"src-exchange-key": 5, "dest-exchange-key": 7}),
                &[
                    "dest-exchange-key should be binary, actually was 7",
                    "src-exchange-key should be binary, actually was 5",
                ],
            ),
        ] {
            assert_eq!(errors(&more), expected, "{more}");
        }
    }

    /// What RabbitMQ takes, and fails with later, or fails with at once.
    #[test]
    fn what_could_not_work_is_refused() {
        for more in [
            json!({"src-prefetch-count": -1}),
            json!({"src-prefetch-count": 70_000}),
            json!({"src-uri": []}),
            json!({"src-queue-args": 5}),
            json!({"src-protocol": "amqp10"}),
            json!({"dest-publish-properties": {"delivery_mode": 300}}),
            json!({"src-queue": "q".repeat(256)}),
        ] {
            assert_eq!(errors(&more).len(), 1, "{more}");
        }
        assert_eq!(
            Definition::parse("s", &json!("x")).unwrap_err()[0],
            "s should be a map, actually was <<\"x\">>"
        );
    }
}
