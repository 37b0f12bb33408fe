//! Every queue, connection, channel and exchange: which of them and what of them is asked for, and the text of it, which is
//! made while it is read.

use std::{
    collections::HashSet,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Bytes;
use futures_core::Stream;
use percent_encoding::percent_decode_str;

use super::{
    rows::{self, Column},
    text::Exposition,
};
use crate::management::Shared;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    pub(super) families: Families,
    /// What comes and goes, of the broker as a whole.
    pub(super) churn: bool,
    /// The process and its machine.
    pub(super) node: bool,
    /// Those virtual hosts only, if any are named.
    virtual_hosts: HashSet<String>,
    /// Queues of those names only, if any are named.
    queues: HashSet<String>,
}

/// Families of objects.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Families {
    queue_coarse: bool,
    queue_consumers: bool,
    queue: bool,
    queue_delivery: bool,
    channel: bool,
    connection_coarse: bool,
    connection: bool,
    exchange: bool,
    exchange_bindings: bool,
}

impl Families {
    /// All of them.
    const ALL: Self = Self {
        queue_coarse: true,
        queue_consumers: true,
        queue: true,
        queue_delivery: true,
        channel: true,
        connection_coarse: true,
        connection: true,
        exchange: true,
        exchange_bindings: true,
    };
}

/// How many names a request may give.
const NAMES_MAX: usize = 1000;

impl Asked {
    /// Every family of every object.
    pub(super) fn everything() -> Self {
        Self { families: Families::ALL, ..Self::default() }
    }

    /// Reads a query string.
    pub(super) fn parse(query: &str) -> Self {
        let mut asked = Self::default();
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value).decode_utf8_lossy();
            match key {
                "family" => asked.add_family(&value),
                "vhost" if asked.virtual_hosts.len() < NAMES_MAX => {
                    _ = asked.virtual_hosts.insert(value.into_owned())
                }
                "queue" if asked.queues.len() < NAMES_MAX => _ = asked.queues.insert(value.into_owned()),
                _ => {}
            }
        }
        asked
    }

    fn add_family(&mut self, name: &str) {
        let families = &mut self.families;
        let wanted = match name {
            "queue_coarse_metrics" => &mut families.queue_coarse,
            "queue_consumer_count" => &mut families.queue_consumers,
            "queue_metrics" => &mut families.queue,
            "queue_delivery_metrics" => &mut families.queue_delivery,
            "channel_metrics" => &mut families.channel,
            "connection_coarse_metrics" => &mut families.connection_coarse,
            "connection_metrics" => &mut families.connection,
            "exchange_metrics" => &mut families.exchange,
            "exchange_bindings" => &mut families.exchange_bindings,
            "connection_churn_metrics" | "auth_attempt_metrics" => &mut self.churn,
            "node_coarse_metrics" | "node_metrics" | "node_persister_metrics" => &mut self.node,
            _ => return,
        };
        *wanted = true;
    }

    /// Whether that virtual host is asked for.
    pub(super) fn has_virtual_host(&self, name: &str) -> bool {
        self.virtual_hosts.is_empty() || self.virtual_hosts.contains(name)
    }

    /// Whether a queue of that name is asked for.
    pub(super) fn has_queue(&self, name: &str) -> bool {
        self.queues.is_empty() || self.queues.contains(name)
    }
}

/// Octets of text that are made at once.
const PIECE_BYTES: usize = 64 << 10;

/// The text of all objects, as a stream of pieces.
pub(super) struct Objects {
    text: Exposition,
    parts: Vec<Box<dyn Part + Send>>,
}

/// Columns of rows of one kind, and how far they have been written.
struct Table<R: 'static> {
    rows: Vec<(String, R)>,
    columns: Vec<&'static Column<R>>,
    column: usize,
    row: usize,
}

/// A part of the text.
trait Part {
    /// Writes some more; false once there is no more.
    fn write(&mut self, text: &mut Exposition) -> bool;
}

impl<R> Part for Table<R> {
    fn write(&mut self, text: &mut Exposition) -> bool {
        while let Some(column) = self.columns.get(self.column) {
            if self.row == 0 && !self.rows.is_empty() {
                text.family(column.name, column.kind, column.help);
            }
            while let Some((labels, row)) = self.rows.get(self.row) {
                self.row += 1;
                if let Some(value) = (column.value)(row) {
                    text.sample(column.name, labels, value);
                }
                if text.len() >= PIECE_BYTES {
                    return true;
                }
            }
            (self.column, self.row) = (self.column + 1, 0);
        }
        false
    }
}

impl Objects {
    /// Looks at everything that is asked for, once, and gives the text of it behind what is in `text`.
    pub(super) async fn gather(api: &Shared, asked: Asked, prefix: &'static str, text: Exposition) -> Self {
        let mut parts: Vec<Box<dyn Part + Send>> = Vec::new();
        let families = asked.families;
        let queues = [
            (families.queue_coarse, rows::QUEUE_COARSE),
            (families.queue_consumers, rows::QUEUE_CONSUMERS),
            (families.queue, rows::QUEUE),
            (families.queue_delivery, rows::QUEUE_DELIVERY),
        ];
        if let Some(columns) = wanted(queues) {
            parts.push(table(rows::queues(api, &asked).await, columns));
        }
        let connections =
            [(families.connection_coarse, rows::CONNECTION_COARSE), (families.connection, rows::CONNECTION)];
        if let Some(columns) = wanted(connections) {
            parts.push(table(rows::connections(api, &asked), columns));
        }
        if let Some(columns) = wanted([(families.channel, rows::CHANNEL)]) {
            parts.push(table(rows::channels(api, &asked), columns));
        }
        let exchanges =
            [(families.exchange, rows::EXCHANGE), (families.exchange_bindings, rows::EXCHANGE_BINDINGS)];
        if let Some(columns) = wanted(exchanges) {
            parts.push(table(rows::exchanges(api, &asked), columns));
        }
        parts.reverse();
        Self { text: text.with_prefix(prefix), parts }
    }
}

/// The columns of those families that are wanted, if any are.
fn wanted<R, const N: usize>(families: [(bool, &'static [Column<R>]); N]) -> Option<Vec<&'static Column<R>>> {
    let columns: Vec<_> =
        families.into_iter().filter(|(wanted, _)| *wanted).flat_map(|(_, columns)| columns).collect();
    (!columns.is_empty()).then_some(columns)
}

fn table<R: Send>(rows: Vec<(String, R)>, columns: Vec<&'static Column<R>>) -> Box<dyn Part + Send> {
    Box::new(Table { rows, columns, column: 0, row: 0 })
}

impl Stream for Objects {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { text, parts } = &mut *self;
        while let Some(part) = parts.last_mut().filter(|_| text.len() < PIECE_BYTES) {
            if !part.write(text) {
                parts.pop();
            }
        }
        let piece = text.take();
        Poll::Ready((!piece.is_empty()).then(|| Ok(piece.into())))
    }
}
