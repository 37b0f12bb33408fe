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
    /// To a queue, or to the fanout exchange.
    Publish {
        queue: Option<String>,
        id: u64,
        persistent: bool,
        mandatory: bool,
        priority: u8,
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

const FANOUT: &str = "amq.fanout";

/// The highest priority of a queue that has priorities.
pub const PRIORITY_MAX: u8 = 2;
/// How many messages a bounded queue holds.
pub const LENGTH_MAX: usize = 6;

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
}

impl Kind {
    pub fn of(queue: &str) -> Self {
        match queue.split('-').next() {
            Some("quorum") => Self::Quorum,
            Some("priority") => Self::Prioritized,
            Some("bounded") => Self::Bounded,
            _ => Self::Plain,
        }
    }

    fn arguments(self) -> Vec<u8> {
        let number = |name, number: u32| wire::field(name, b'I', &number.to_be_bytes());
        match self {
            Self::Plain => Vec::new(),
            Self::Quorum => wire::text_field("x-queue-type", "quorum"),
            Self::Prioritized => number("x-max-priority", PRIORITY_MAX.into()),
            Self::Bounded => number("x-max-length", LENGTH_MAX as u32),
        }
    }
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
            Self::Passive { queue } => wire::declare_queue(queue, wire::PASSIVE),
            Self::Delete { queue } => wire::delete_queue(queue),
            Self::Purge { queue } => wire::purge(queue),
            Self::Bind { queue } => wire::bind_queue(queue, FANOUT, ""),
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
            Self::Publish { queue, id, persistent, mandatory, priority } => {
                let (exchange, key) = queue.as_ref().map_or((FANOUT, ""), |queue| ("", queue));
                let bits = if *mandatory { wire::MANDATORY } else { 0 };
                let properties = wire::mode_and_priority(if *persistent { 2 } else { 1 }, *priority);
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
