//! What a simulated client does, and how it looks on the wire.

#![allow(missing_docs, unreachable_pub, reason = "a part of a test")]

use crate::wire;

/// One thing that a client does on a channel.
#[derive(Clone, Debug)]
pub enum Operation {
    OpenChannel,
    CloseChannel,
    /// The answer to a channel that the server has closed.
    CloseOk,
    CloseConnection,
    Confirm,
    Select,
    Commit,
    Rollback,
    Declare {
        queue: String,
        durable: bool,
    },
    /// A durable exchange that is there from the start.
    DeclareExchange {
        name: &'static str,
    },
    Passive {
        queue: String,
    },
    Delete {
        queue: String,
    },
    Purge {
        queue: String,
    },
    Bind {
        queue: String,
    },
    Unbind {
        queue: String,
    },
    Qos {
        prefetch: u16,
    },
    Limit {
        limit: u16,
    },
    Consume {
        queue: String,
        tag: String,
        no_ack: bool,
    },
    Cancel {
        tag: String,
    },
    Get {
        queue: String,
        no_ack: bool,
    },
    /// To a queue, or to the fanout exchange. To the queue of an exchange means to that exchange.
    Publish {
        queue: Option<String>,
        id: u64,
        persistent: bool,
        mandatory: bool,
        priority: u8,
        /// How long it may wait in a queue, or is to be delayed, in milliseconds.
        ttl_ms: Option<u64>,
    },
    Settle(Settle),
    Recover,
}

/// `basic.ack`, `basic.nack` or `basic.reject`.
#[derive(Clone, Debug)]
pub struct Settle {
    pub tag: u64,
    pub multiple: bool,
    pub requeue: bool,
    pub is_ack: bool,
}

pub const FANOUT: &str = "amq.fanout";
/// The exchange that delays what says so, and goes on as fanout.
pub const DELAYING: &str = "later";
/// The exchange that knows duplicates.
pub const UNIQUE: &str = "unique";
/// The queue of what is delayed. Nobody can use it.
pub const DELAYED: &str = "amq.delayed.later";

/// The highest priority of a queue that has priorities.
pub const PRIORITY_MAX: u8 = 2;
/// The highest priority of a message.
pub const PRIORITY_SAID_MAX: u8 = 3;
/// How many keys of messages are known where duplicates are.
pub const KEYS_MAX: usize = 4;
/// How many messages a queue holds then.
pub const UNIQUE_MAX: usize = 2;
/// How many messages a bounded queue holds.
pub const LENGTH_MAX: usize = 6;
/// How long messages may wait in a queue that says so, in milliseconds.
pub const TTL_MS: u64 = 60;
/// How long retries are put off, in milliseconds.
pub const DELAYS_MS: [u64; 3] = [5, 40, 200];
/// How many deliveries of a message may fail.
pub const DELIVERY_LIMIT: u32 = 1;

/// What a queue is, as its name says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    #[default]
    Plain,
    Quorum,
    /// With priorities.
    Prioritized,
    /// With a maximum length: what is at its head gives way.
    Bounded,
    /// With a time to live. This and all that follow are there from the start, and stay.
    Expiring,
    /// Retries are put off.
    Retrying,
    /// A quorum queue that does not deliver a message again and again.
    Limited,
    /// With a maximum length, and what gives way is dead-lettered.
    Dropping,
    /// With a maximum length, and what comes when it is reached is dead-lettered.
    Full,
    /// With a maximum length, and what comes when it is reached is refused.
    Refusing,
    /// A quorum queue that keeps what is dead until another one takes it.
    Strict,
    /// Has dead letters, and dead-letters what is rejected.
    Dead,
    /// Has dead letters.
    Last,
    /// Has dead letters of a strict one, but not many.
    Narrow,
    /// Has what an exchange delays.
    Delayed,
    /// Is bound to that exchange.
    Later,
    /// Of a group of messages, one is in flight.
    Grouped,
    /// Knows duplicates.
    Unique,
    /// Is bound to an exchange that knows duplicates.
    Deduped,
}

impl Kind {
    pub fn of(queue: &str) -> Self {
        match queue.split('-').next() {
            Some("quorum") => Self::Quorum,
            Some("priority") => Self::Prioritized,
            Some("bounded") => Self::Bounded,
            Some("expiring") => Self::Expiring,
            Some("retrying") => Self::Retrying,
            Some("limited") => Self::Limited,
            Some("dropping") => Self::Dropping,
            Some("full") => Self::Full,
            Some("refusing") => Self::Refusing,
            Some("strict") => Self::Strict,
            Some("dead") => Self::Dead,
            Some("last") => Self::Last,
            Some("narrow") => Self::Narrow,
            Some(DELAYED) => Self::Delayed,
            Some("later") => Self::Later,
            Some("grouped") => Self::Grouped,
            Some("unique") => Self::Unique,
            Some("deduped") => Self::Deduped,
            _ => Self::Plain,
        }
    }

    /// Whether it is there from the start, and stays: neither deleted nor purged nor bound.
    pub fn is_fixed(self) -> bool {
        !matches!(self, Self::Plain | Self::Quorum | Self::Prioritized | Self::Bounded)
    }

    pub fn is_quorum(self) -> bool {
        matches!(self, Self::Quorum | Self::Limited | Self::Strict)
    }

    /// Whether it may refuse what is published to it.
    pub fn refuses(self) -> bool {
        matches!(self, Self::Full | Self::Refusing)
    }

    /// Whether only what was in other queues comes there, or comes by an exchange.
    pub fn is_for_letters(self) -> bool {
        matches!(self, Self::Dead | Self::Last | Self::Narrow | Self::Later)
    }

    /// Whether nobody but the queue knows in which order its messages came.
    pub fn is_unordered(self) -> bool {
        self.refuses() || self.is_for_letters()
    }

    /// The queues that its dead letters go to, or what was delayed.
    pub fn targets(self) -> &'static [&'static str] {
        match self {
            Self::Expiring | Self::Retrying | Self::Limited | Self::Dropping | Self::Full => &["dead-1"],
            Self::Dead => &["last-1"],
            Self::Strict => &["narrow-1"],
            Self::Delayed => &["later-1", "later-2"],
            _ => &[],
        }
    }

    /// The exchange by which messages come there, if not the default one.
    pub fn exchange(self) -> &'static str {
        match self {
            Self::Delayed | Self::Later => DELAYING,
            Self::Deduped => UNIQUE,
            _ => "",
        }
    }

    /// Whether a message comes there only once, and is refused if the queue is full. Nobody consumes from it, so that it is
    /// known when that is.
    pub fn is_unique(self) -> bool {
        matches!(self, Self::Unique | Self::Deduped)
    }

    pub fn ttl_ms(self) -> u64 {
        if self == Self::Expiring { TTL_MS } else { u64::MAX }
    }

    /// How many deliveries of a message may fail.
    pub fn delivery_limit(self) -> u32 {
        match self {
            Self::Limited => DELIVERY_LIMIT,
            Self::Quorum | Self::Strict => 20,
            _ => u32::MAX,
        }
    }

    fn arguments(self) -> Vec<u8> {
        let number = |name, number: usize| wire::field(name, b'I', &(number as u32).to_be_bytes());
        let text = wire::text_field;
        let own = match self {
            Self::Plain | Self::Dead | Self::Last | Self::Delayed | Self::Later => Vec::new(),
            Self::Quorum => text("x-queue-type", "quorum"),
            Self::Prioritized => number("x-max-priority", PRIORITY_MAX.into()),
            Self::Bounded | Self::Dropping => number("x-max-length", LENGTH_MAX),
            Self::Expiring => number("x-message-ttl", TTL_MS as usize),
            Self::Grouped => text("x-group-by", "property:correlation-id"),
            Self::Retrying => text("x-retry-delays", &DELAYS_MS.map(|ms| format!("{ms}ms")).join(",")),
            Self::Limited => {
                [text("x-queue-type", "quorum"), number("x-delivery-limit", DELIVERY_LIMIT as usize)].concat()
            }
            Self::Full => {
                [number("x-max-length", LENGTH_MAX), text("x-overflow", "reject-publish-dlx")].concat()
            }
            Self::Deduped => {
                [number("x-max-length", UNIQUE_MAX), text("x-overflow", "reject-publish")].concat()
            }
            Self::Refusing => {
                [number("x-max-length", LENGTH_MAX), text("x-overflow", "reject-publish")].concat()
            }
            Self::Unique => [
                number("x-max-length", UNIQUE_MAX),
                text("x-overflow", "reject-publish"),
                wire::field("x-message-deduplication", b't', &[1]),
                number("x-cache-size", KEYS_MAX),
            ]
            .concat(),
            Self::Strict => [
                text("x-queue-type", "quorum"),
                text("x-overflow", "reject-publish"),
                text("x-dead-letter-strategy", "at-least-once"),
            ]
            .concat(),
            Self::Narrow => [number("x-max-length", 2), text("x-overflow", "reject-publish")].concat(),
        };
        let letters = self.targets().first().map(|queue| {
            [text("x-dead-letter-exchange", ""), text("x-dead-letter-routing-key", queue)].concat()
        });
        [own, letters.unwrap_or_default()].concat()
    }
}

/// The group of a message, where messages have groups.
pub fn group_of(id: u64) -> Option<u64> {
    Some(id % 4).filter(|group| *group > 0)
}

/// The keys of messages, where duplicates are known.
pub const KEYS: std::ops::Range<u64> = 0..9;

/// The key of a message.
pub fn key_of(id: u64) -> u64 {
    id % KEYS.end
}

impl Operation {
    /// Its octets.
    pub fn encode(&self, channel: u16, padding: usize) -> Vec<u8> {
        let method = match self {
            Self::OpenChannel => wire::channel_open(),
            Self::CloseChannel => wire::channel_close(),
            Self::CloseOk => wire::channel_close_ok(),
            Self::CloseConnection => return wire::connection_close().on(0),
            Self::Confirm => wire::confirm_select(),
            Self::Select => wire::tx_select(),
            Self::Commit => wire::tx_commit(),
            Self::Rollback => wire::tx_rollback(),
            Self::Declare { queue, durable } => {
                let bits = if *durable { wire::DURABLE } else { 0 };
                wire::declare_queue_with(queue, bits, &Kind::of(queue).arguments())
            }
            Self::DeclareExchange { name } => {
                let (kind, arguments) = if *name == DELAYING {
                    ("x-delayed-message", wire::text_field("x-delayed-type", "fanout"))
                } else {
                    let size = wire::field("x-cache-size", b'I', &(KEYS_MAX as u32).to_be_bytes());
                    ("fanout", [wire::field("x-message-deduplication", b't', &[1]), size].concat())
                };
                wire::declare_exchange_with(name, kind, wire::DURABLE, &arguments)
            }
            Self::Passive { queue } => wire::declare_queue(queue, wire::PASSIVE),
            Self::Delete { queue } => wire::delete_queue(queue),
            Self::Purge { queue } => wire::purge(queue),
            Self::Bind { queue } => {
                let exchange = Some(Kind::of(queue).exchange()).filter(|exchange| !exchange.is_empty());
                wire::bind_queue(queue, exchange.unwrap_or(FANOUT), "")
            }
            Self::Unbind { queue } => wire::unbind_queue(queue, FANOUT, ""),
            Self::Qos { prefetch } => wire::qos(*prefetch, false),
            Self::Limit { limit } => wire::qos(*limit, true),
            Self::Consume { queue, tag, no_ack } => {
                wire::consume(queue, tag, if *no_ack { wire::NO_ACK } else { 0 })
            }
            Self::Cancel { tag } => wire::cancel(tag),
            Self::Get { queue, no_ack } => wire::get(queue, *no_ack),
            Self::Recover => wire::recover(true),
            Self::Settle(Settle { tag, multiple, is_ack: true, .. }) => wire::ack(*tag, *multiple),
            Self::Settle(Settle { tag, multiple: false, requeue, .. }) => wire::reject(*tag, *requeue),
            Self::Settle(Settle { tag, multiple, requeue, .. }) => wire::nack(*tag, *multiple, *requeue),
            Self::Publish { queue, id, persistent, mandatory, priority, ttl_ms } => {
                let kind = queue.as_deref().map_or(Kind::Plain, Kind::of);
                let exchange = if queue.is_none() { FANOUT } else { kind.exchange() };
                let key = queue.as_deref().unwrap_or_default();
                let bits = if *mandatory { wire::MANDATORY } else { 0 };
                let mode = if *persistent { 2 } else { 1 };
                let group = group_of(*id).filter(|_| kind == Kind::Grouped);
                let properties = match ttl_ms {
                    _ if kind.is_unique() => {
                        let key = wire::text_field("x-deduplication-header", &key_of(*id).to_string());
                        wire::mode_and_headers(mode, &key)
                    }
                    _ if group.is_some() => {
                        let group = group.map(|group| group.to_string()).unwrap_or_default();
                        wire::mode_priority_and_correlation(mode, *priority, &group)
                    }
                    Some(delay_ms) if kind == Kind::Delayed => {
                        wire::mode_and_headers(mode, &wire::field("x-delay", b'l', &delay_ms.to_be_bytes()))
                    }
                    Some(ttl_ms) => wire::mode_priority_and_expiration(mode, *priority, &ttl_ms.to_string()),
                    None => wire::mode_and_priority(mode, *priority).to_vec(),
                };
                let body = [&id.to_be_bytes()[..], &vec![7; padding]].concat();
                return wire::publish(channel, exchange, key, bits, &properties, &body);
            }
        };
        method.on(channel)
    }

    /// The queue that it is refused without.
    pub fn needs_queue(&self) -> Option<&str> {
        match self {
            Self::Passive { queue }
            | Self::Purge { queue }
            | Self::Bind { queue }
            | Self::Consume { queue, .. }
            | Self::Get { queue, .. } => Some(queue),
            _ => None,
        }
    }

    /// Class and method of its answer, where that says no more.
    pub fn answer(&self) -> (u16, u16) {
        match self {
            Self::OpenChannel => (20, 11),
            Self::CloseChannel => (20, 41),
            Self::CloseConnection => (10, 51),
            Self::Confirm => (85, 11),
            Self::Select => (90, 11),
            Self::Commit => (90, 21),
            Self::Rollback => (90, 31),
            Self::DeclareExchange { .. } => (40, 11),
            Self::Delete { .. } => (50, 41),
            Self::Purge { .. } => (50, 31),
            Self::Bind { .. } => (50, 21),
            Self::Unbind { .. } => (50, 51),
            Self::Qos { .. } | Self::Limit { .. } => (60, 11),
            Self::Consume { .. } => (60, 21),
            Self::Cancel { .. } => (60, 31),
            Self::Recover => (60, 111),
            _ => panic!("{self:?} has no plain answer"),
        }
    }

    /// Its name in the count of what was done.
    pub fn name(&self) -> &'static str {
        match self {
            Self::OpenChannel => "open channel",
            Self::CloseChannel => "close channel",
            Self::CloseOk => "close-ok",
            Self::CloseConnection => "close connection",
            Self::Confirm => "confirm.select",
            Self::Select => "tx.select",
            Self::Commit => "commit",
            Self::Rollback => "rollback",
            Self::Declare { .. } => "declare",
            Self::DeclareExchange { .. } => "declare exchange",
            Self::Passive { .. } => "passive",
            Self::Delete { .. } => "delete",
            Self::Purge { .. } => "purge",
            Self::Bind { .. } => "bind",
            Self::Unbind { .. } => "unbind",
            Self::Qos { .. } => "qos",
            Self::Limit { .. } => "global qos",
            Self::Consume { .. } => "consume",
            Self::Cancel { .. } => "cancel",
            Self::Get { .. } => "get",
            Self::Publish { .. } => "publish",
            Self::Settle(Settle { multiple: true, .. }) => "settle multiple",
            Self::Settle(_) => "settle",
            Self::Recover => "recover",
        }
    }
}
