//! The arguments of an exchange that act.

use super::{ExchangeKind, HashOn, recent_history, term::Term};
use crate::{
    amqp::{Table, Value},
    broker::{
        dedup::{CACHE_SIZE_MAX, Deduplication, HEADER},
        queue::{comparable, inequivalent},
        refusal::{Refusal, Resource},
    },
};

/// The names of the alternate exchange: RabbitMQ's and LavinMQ's.
const ALTERNATE: [&str; 2] = ["alternate-exchange", "x-alternate-exchange"];
/// The arguments of deduplication, but for the one that asks for it.
const DEDUPLICATION: [&str; 4] =
    ["x-cache-size", "x-cache-ttl", "x-cache-persistence", "x-deduplication-header"];
/// Keys that are kept if `x-message-deduplication` is there without `x-cache-size`.
const CACHE_SIZE_DEFAULT: u32 = 1024;

/// What the arguments of an exchange say.
#[derive(Clone, Debug)]
pub struct ExchangeArguments {
    /// The type that it routes as: its own, or what `x-delayed-type` says.
    pub routes_as: ExchangeKind,
    /// What `x-consistent-hash` makes its hash of.
    pub hash_on: HashOn,
    /// `x-recent-history-length`: how many messages `x-recent-history` keeps.
    pub history_length: u64,
    /// How duplicates are told, if they are: by the type `x-message-deduplication`, or the argument of that name.
    pub deduplication: Option<Deduplication>,
}

impl ExchangeArguments {
    /// Those of an exchange of that type without any. An `x-delayed-message` has one always, so here it routes to nobody
    /// knows where: as fanout.
    pub fn none(kind: ExchangeKind) -> Self {
        let routes_as = if kind == ExchangeKind::DelayedMessage { ExchangeKind::Fanout } else { kind };
        let (hash_on, history_length) = (HashOn::default(), recent_history::LENGTH_DEFAULT);
        Self { routes_as, hash_on, history_length, deduplication: None }
    }

    /// Checks and reads the arguments.
    ///
    /// # Errors
    /// 406 for what the type does not take, in the words of RabbitMQ and of the plugins.
    pub fn parse(kind: ExchangeKind, table: &Table, resource: Resource<'_>) -> Result<Self, Refusal> {
        let routes_as = if kind == ExchangeKind::DelayedMessage { delayed_type(table)? } else { kind };
        let mut arguments = Self::none(routes_as);
        match routes_as {
            ExchangeKind::ConsistentHash => arguments.hash_on = hash_on(table, resource)?,
            ExchangeKind::RecentHistory => arguments.history_length = history_length(table)?,
            _ => {}
        }
        arguments.deduplication = deduplication(routes_as, table)?;
        Ok(arguments)
    }

    /// Refuses a redeclaration whose arguments differ in value from the exchange's own. Those that nobody compares in
    /// RabbitMQ are not looked at.
    ///
    /// # Errors
    /// 406 `inequivalent arg '~s' for exchange ...`.
    pub fn check_equivalence(
        &self,
        kind: ExchangeKind,
        current: &Table,
        received: &Table,
        resource: Resource<'_>,
    ) -> Result<(), Refusal> {
        let delayed = (kind == ExchangeKind::DelayedMessage).then_some("x-delayed-type");
        let deduplication = DEDUPLICATION.into_iter().filter(|_| self.deduplication.is_some());
        let always = ALTERNATE.into_iter().chain(["x-message-deduplication"]);
        always.chain(delayed).chain(deduplication).try_for_each(|name| {
            let (received, current) = (received.get(name), current.get(name));
            if received.map(comparable) == current.map(comparable) {
                return Ok(());
            }
            Err(inequivalent(name, resource, received, current))
        })
    }
}

/// The argument that names an alternate exchange, and its name.
pub fn alternate_argument(table: &Table) -> Option<(&'static str, &Value)> {
    ALTERNATE.into_iter().find_map(|name| table.get(name).map(|value| (name, value)))
}

fn refused<T>(text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::precondition_failed(text))
}

fn delayed_type(table: &Table) -> Result<ExchangeKind, Refusal> {
    let name = table.get("x-delayed-type").and_then(Value::as_str);
    match name.and_then(ExchangeKind::parse) {
        Some(ExchangeKind::DelayedMessage) => {
            refused("Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'")
        }
        Some(kind) => Ok(kind),
        None => refused("Invalid argument, 'x-delayed-type' must be an existing exchange type"),
    }
}

/// `hash-header` (LavinMQ: `x-hash-on`) or `hash-property`.
fn hash_on(table: &Table, resource: Resource<'_>) -> Result<HashOn, Refusal> {
    let text = |name: &'static str| match table.get(name) {
        None => Ok(None),
        Some(Value::LongStr(text)) => Ok(Some(text)),
        // Deviation: RabbitMQ 3.10.8 closes the connection with 541.
        Some(value) => {
            refused(format!("invalid type '{}' for arg '{name}' in {resource}", value.type_name()))
        }
    };
    let header = text("hash-header")?.or(text("x-hash-on")?);
    match (header, text("hash-property")?) {
        (None, None) => Ok(HashOn::RoutingKey),
        (Some(_), Some(_)) => refused("hash-header and hash-property are mutually exclusive"),
        (Some(header), None) => Ok(HashOn::Header(String::from_utf8_lossy(header).into())),
        (None, Some(property)) => HashOn::property(property).map_or_else(
            || refused(format!("Unsupported property: {}", String::from_utf8_lossy(property))),
            Ok,
        ),
    }
}

fn history_length(table: &Table) -> Result<u64, Refusal> {
    let Some(value) = table.get("x-recent-history-length") else {
        return Ok(recent_history::LENGTH_DEFAULT);
    };
    match value.as_int().and_then(|length| u64::try_from(length).ok()) {
        Some(length) if length > 0 => Ok(length),
        _ => refused(format!(
            "Invalid argument {}, 'x-recent-history-length' must be a positive integer",
            Term(value)
        )),
    }
}

fn deduplication(kind: ExchangeKind, table: &Table) -> Result<Option<Deduplication>, Refusal> {
    let is_type = kind == ExchangeKind::MessageDeduplication;
    let is_asked_for = match table.get("x-message-deduplication").map(Value::as_bool) {
        // Taken for no, it would let through every duplicate without a word.
        Some(None) => return refused("Invalid argument, 'x-message-deduplication' must be a boolean"),
        value => value.flatten() == Some(true),
    };
    if !is_type && !is_asked_for {
        return Ok(None);
    }
    let cache_size = match table.get("x-cache-size") {
        None if !is_type => CACHE_SIZE_DEFAULT,
        value => match value.and_then(positive) {
            Some(size) => u32::try_from(size).unwrap_or(u32::MAX).min(CACHE_SIZE_MAX),
            None => {
                return refused(
                    "Missing or invalid argument, 'x-cache-size' must be an integer greater than 0",
                );
            }
        },
    };
    let ttl_ms = match table.get("x-cache-ttl").map(positive) {
        Some(None) => {
            return refused("Invalid argument, 'x-cache-ttl' must be an integer greater than 0");
        }
        ttl_ms => ttl_ms.flatten(),
    };
    if let Some(value) = table.get("x-cache-persistence")
        && !matches!(value.as_str(), Some("memory" | "disk"))
    {
        return refused("Invalid argument, 'x-cache-persistence' must be either 'disk' or 'memory'");
    }
    let header = match table.get("x-deduplication-header").map(Value::as_str) {
        None => HEADER,
        Some(Some(header)) => header,
        Some(None) => return refused("Invalid argument, 'x-deduplication-header' must be a string"),
    };
    Ok(Some(Deduplication { cache_size, ttl_ms, header: header.into(), remembers: true }))
}

/// A number above 0. As text it is one too, since the plugin takes what policies and forms give it.
fn positive(value: &Value) -> Option<u64> {
    let number = value.as_int().or_else(|| value.as_str()?.parse().ok())?;
    u64::try_from(number).ok().filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESOURCE: Resource<'static> = Resource { kind: "exchange", name: "x", virtual_host: "/" };

    fn parse(kind: ExchangeKind, fields: &[(&str, Value)]) -> Result<ExchangeArguments, String> {
        ExchangeArguments::parse(kind, &table(fields), RESOURCE).map_err(|refusal| refusal.text)
    }

    fn table(fields: &[(&str, Value)]) -> Table {
        fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn refusal(kind: ExchangeKind, fields: &[(&str, Value)]) -> String {
        parse(kind, fields).map(drop).expect_err("it must be refused")
    }

    #[test]
    fn b4_a_consistent_hash_is_of_the_key_a_header_or_a_property() {
        let hash_on = |fields: &[(&str, Value)]| {
            parse(ExchangeKind::ConsistentHash, fields).map(|arguments| arguments.hash_on)
        };
        assert_eq!(hash_on(&[]), Ok(HashOn::RoutingKey));
        assert_eq!(hash_on(&[("hash-header", "h".into())]), Ok(HashOn::Header("h".into())));
        assert_eq!(hash_on(&[("x-hash-on", "h".into())]), Ok(HashOn::Header("h".into())));
        assert_eq!(hash_on(&[("hash-property", "timestamp".into())]), Ok(HashOn::Timestamp));
        let refusal = |fields: &[(&str, Value)]| refusal(ExchangeKind::ConsistentHash, fields);
        assert_eq!(
            refusal(&[("hash-header", "h".into()), ("hash-property", "timestamp".into())]),
            "hash-header and hash-property are mutually exclusive"
        );
        assert_eq!(refusal(&[("hash-property", "app_id".into())]), "Unsupported property: app_id");
        assert_eq!(
            refusal(&[("hash-header", Value::I32(1))]),
            "invalid type 'signedint' for arg 'hash-header' in exchange 'x' in vhost '/'"
        );
        assert!(parse(ExchangeKind::Direct, &[("hash-property", "app_id".into())]).is_ok());
    }

    #[test]
    fn b4_a_history_has_a_length() {
        let length = |fields: &[(&str, Value)]| {
            parse(ExchangeKind::RecentHistory, fields).map(|arguments| arguments.history_length)
        };
        assert_eq!(length(&[]), Ok(20));
        assert_eq!(length(&[("x-recent-history-length", Value::I64(7))]), Ok(7));
        for (value, printed) in [
            (Value::I32(0), "0"),
            (Value::I8(-1), "-1"),
            ("5".into(), "<<\"5\">>"),
            (Value::Bool(true), "true"),
            (Value::Void, "undefined"),
        ] {
            let text =
                format!("Invalid argument {printed}, 'x-recent-history-length' must be a positive integer");
            assert_eq!(length(&[("x-recent-history-length", value)]), Err(text));
        }
    }

    #[test]
    fn b4_a_delayed_exchange_routes_as_another_type() {
        let delayed = |value: Value| parse(ExchangeKind::DelayedMessage, &[("x-delayed-type", value)]);
        let hash = [("x-delayed-type", "x-consistent-hash".into()), ("hash-header", "h".into())];
        let arguments = parse(ExchangeKind::DelayedMessage, &hash).expect("sound");
        assert_eq!(arguments.routes_as, ExchangeKind::ConsistentHash);
        assert_eq!(arguments.hash_on, HashOn::Header("h".into()));
        assert_eq!(delayed("topic".into()).map(|arguments| arguments.routes_as), Ok(ExchangeKind::Topic));
        let missing = "Invalid argument, 'x-delayed-type' must be an existing exchange type";
        for fields in [&[][..], &[("x-delayed-type", "no".into())], &[("x-delayed-type", Value::I32(1))]] {
            assert_eq!(refusal(ExchangeKind::DelayedMessage, fields), missing);
        }
        assert_eq!(
            refusal(ExchangeKind::DelayedMessage, &[("x-delayed-type", "x-delayed-message".into())]),
            "Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'"
        );
    }

    #[test]
    fn b4_duplicates_are_told_by_a_type_or_an_argument() {
        let of =
            |kind, fields: &[(&str, Value)]| parse(kind, fields).map(|arguments| arguments.deduplication);
        let (kind, size) = (ExchangeKind::MessageDeduplication, ("x-cache-size", Value::I32(5)));
        let expected = |cache_size, ttl_ms, header: &str| {
            Ok(Some(Deduplication { cache_size, ttl_ms, header: header.into(), remembers: true }))
        };
        assert_eq!(of(kind, std::slice::from_ref(&size)), expected(5, None, "x-deduplication-header"));
        let all = [
            ("x-cache-size", Value::I64(1 << 40)),
            ("x-cache-ttl", "60".into()),
            ("x-cache-persistence", "disk".into()),
            ("x-deduplication-header", "id".into()),
        ];
        assert_eq!(of(kind, &all), expected(1_000_000, Some(60), "id"));
        let argument = ("x-message-deduplication", Value::Bool(true));
        assert_eq!(
            of(ExchangeKind::Topic, std::slice::from_ref(&argument)),
            expected(1024, None, "x-deduplication-header")
        );
        assert_eq!(
            of(ExchangeKind::Topic, &[argument, size.clone()]),
            expected(5, None, "x-deduplication-header")
        );
        assert_eq!(of(ExchangeKind::Topic, std::slice::from_ref(&size)), Ok(None));
        let no_size = "Missing or invalid argument, 'x-cache-size' must be an integer greater than 0";
        for value in [Value::I32(0), Value::I32(-1), "a".into(), Value::Bool(true)] {
            assert_eq!(refusal(kind, &[("x-cache-size", value)]), no_size);
        }
        assert_eq!(refusal(kind, &[]), no_size);
        for value in ["true".into(), Value::I32(1), Value::Void] {
            assert_eq!(
                refusal(ExchangeKind::Topic, &[("x-message-deduplication", value)]),
                "Invalid argument, 'x-message-deduplication' must be a boolean"
            );
        }
        for (name, value, text) in [
            ("x-cache-ttl", Value::I32(0), "'x-cache-ttl' must be an integer greater than 0"),
            ("x-cache-persistence", "ram".into(), "'x-cache-persistence' must be either 'disk' or 'memory'"),
            ("x-deduplication-header", Value::I32(1), "'x-deduplication-header' must be a string"),
        ] {
            assert_eq!(refusal(kind, &[size.clone(), (name, value)]), format!("Invalid argument, {text}"));
        }
    }

    #[test]
    fn b4_arguments_are_compared() {
        let check = |kind, current: &[(&str, Value)], received: &[(&str, Value)]| {
            let deduplication = (kind == ExchangeKind::MessageDeduplication).then(|| Deduplication {
                cache_size: 1,
                ttl_ms: None,
                header: "h".into(),
                remembers: true,
            });
            let arguments = ExchangeArguments { deduplication, ..ExchangeArguments::none(kind) };
            let checked = arguments.check_equivalence(kind, &table(current), &table(received), RESOURCE);
            checked.map_err(|refusal| refusal.text)
        };
        let compared = [
            ("alternate-exchange", ExchangeKind::Direct),
            ("x-alternate-exchange", ExchangeKind::Direct),
            ("x-message-deduplication", ExchangeKind::Direct),
            ("x-delayed-type", ExchangeKind::DelayedMessage),
            ("x-cache-size", ExchangeKind::MessageDeduplication),
            ("x-cache-ttl", ExchangeKind::MessageDeduplication),
            ("x-cache-persistence", ExchangeKind::MessageDeduplication),
            ("x-deduplication-header", ExchangeKind::MessageDeduplication),
        ];
        for (name, kind) in compared {
            assert_eq!(check(kind, &[(name, Value::I32(5))], &[(name, Value::I64(5))]), Ok(()));
            let text = format!(
                "inequivalent arg '{name}' for exchange 'x' in vhost '/': received '6' but current is '5'"
            );
            assert_eq!(check(kind, &[(name, Value::I32(5))], &[(name, Value::I32(6))]), Err(text));
            assert!(check(kind, &[(name, Value::I32(5))], &[]).is_err());
        }
        for name in ["hash-header", "x-recent-history-length", "x-cache-size", "x-delayed-type", "x-other"] {
            assert_eq!(check(ExchangeKind::ConsistentHash, &[(name, Value::I32(5))], &[]), Ok(()), "{name}");
        }
    }
}
