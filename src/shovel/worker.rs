//! The task of a shovel: connects both ends, and moves messages until something fails or all are moved.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tracing::{info, warn};

use super::{
    State, Status,
    content::{Stamp, ends},
    definition::{AckMode, Definition, DeleteAfter, Destination, Source},
    flow::{Flow, Settlement},
    link::Connector,
    uri::Uri,
};
use crate::{
    broker::{event::Event as BrokerEvent, parameter::SHOVEL},
    client::{Channel, ClientError, Connection, Consume, Delivery, Event, ExchangeDeclare, QueueDeclare},
    server::Clock,
};

/// How long to wait, at least, before a message is sent again that could not be kept.
const RETRY: Duration = Duration::from_secs(1);
/// How long to wait, unless the URI says otherwise, for messages that were in the queue and are not any more: a connection
/// that broke holds those that it had until its end is noticed.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module's text.
pub(super) struct Worker {
    connector: Connector,
    status: Arc<Status>,
    clock: Clock,
    /// Whether the broker stops: then what fails is no news.
    stopping: watch::Receiver<bool>,
    progress: Progress,
    /// Why the last attempt failed.
    failure: Option<String>,
}

/// How far the shovel has come, over all connections.
#[derive(Debug, Default)]
struct Progress {
    /// How many messages are to be moved in all, if that is limited; `None` until that is known.
    limit: Option<u64>,
    /// How many have been.
    moved: u64,
}

impl Progress {
    /// How many messages are still to be taken, now that so many are ready. Those that were ready at first count, not
    /// those of now: others may still be held by a connection that broke.
    fn remaining(&mut self, delete_after: DeleteAfter, ready: u64) -> Option<u64> {
        let limit = match delete_after {
            DeleteAfter::Never => return None,
            DeleteAfter::Number(number) => number,
            DeleteAfter::QueueLength => ready,
        };
        Some(self.limit.get_or_insert(limit).saturating_sub(self.moved))
    }
}

/// Why an attempt ended.
enum End {
    /// All that was to be moved has been.
    Finished,
    /// Something failed; the text is for people.
    Failed(String),
}

impl From<ClientError> for End {
    fn from(error: ClientError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Worker {
    pub(super) fn new(
        connector: Connector,
        status: Arc<Status>,
        clock: Clock,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self { connector, status, clock, stopping, progress: Progress::default(), failure: None }
    }

    /// Runs until all messages are moved, if they are counted, and deletes the shovel then.
    pub(super) async fn run(mut self) {
        let parameter = Arc::clone(&self.connector.parameter);
        let status = Arc::clone(&self.status);
        let definition = match Definition::parse(&parameter.name, &parameter.value) {
            Ok(definition) => definition,
            Err(errors) => return self.fail(errors.join("; ")),
        };
        loop {
            self.set(State::Starting);
            let end = tokio::select! {
                end = self.attempt(&definition) => end,
                () = status.restart.notified() => continue,
            };
            match end {
                End::Finished => return self.finish(),
                End::Failed(_) if *self.stopping.borrow() => return,
                End::Failed(reason) => self.fail(reason),
            }
            match definition.reconnect_delay {
                Some(delay) => tokio::select! {
                    () = sleep(delay) => {}
                    () = status.restart.notified() => {}
                },
                None => status.restart.notified().await,
            }
        }
    }

    async fn attempt(&mut self, definition: &Definition) -> End {
        match self.shovel(definition).await {
            Ok(()) => End::Finished,
            Err(end) => end,
        }
    }

    /// Connects, and moves messages until all are moved, or something fails.
    async fn shovel(&mut self, definition: &Definition) -> Result<(), End> {
        let connector = self.connector.clone();
        let named = |end: &'static str| move |reason: String| End::Failed(format!("{end}: {reason}"));
        let (source, source_uri) =
            connector.connect(&definition.source_uris).await.map_err(named("source"))?;
        let (destination, destination_uri) =
            connector.connect(&definition.destination_uris).await.map_err(named("destination"))?;
        let (mut from, queue, ready) = prepare_source(&source, &definition.source).await?;
        let mut to = prepare_destination(&destination, &definition.destination).await?;
        if definition.ack_mode == AckMode::OnConfirm {
            to.confirm_select().await?;
        }
        let remaining = self.progress.remaining(definition.delete_after, ready);
        let ack_mode = match definition.ack_mode {
            // Where they are counted, a queue must not give away more than that.
            AckMode::NoAck if remaining.is_some() => AckMode::OnPublish,
            mode => mode,
        };
        let mut flow = Flow::new(ack_mode, remaining);
        self.status.count(&flow);
        if flow.is_finished() {
            return Ok(());
        }
        let most = flow.remaining().unwrap_or(u64::MAX);
        let prefetch = if definition.prefetch == 0 { u16::MAX } else { definition.prefetch };
        let consume = Consume {
            queue: &queue,
            no_ack: ack_mode == AckMode::NoAck,
            arguments: definition.consumer_arguments.clone(),
            prefetch: u16::try_from(most).unwrap_or(u16::MAX).min(prefetch),
            ..Consume::default()
        };
        from.consume(&consume).await?;
        let node = &connector.broker.identity.cluster_name;
        let stamp = Stamp::new(definition, &connector.parameter, node, source_uri, destination_uri);
        let mut shown = vec![
            ("src-uri", source_uri.to_string()),
            ("src-protocol", "amqp091".to_owned()),
            ("dest-protocol", "amqp091".to_owned()),
            ("dest-uri", destination_uri.to_string()),
        ];
        shown.extend(ends(definition).into_iter().map(|(name, end)| (name, end.to_owned())));
        self.set(State::Running { ends: shown });
        let mut paused_until = None;
        while !flow.is_finished() {
            let resume = paused_until.unwrap_or_else(Instant::now);
            let may_give_up = definition.delete_after == DeleteAfter::QueueLength
                && flow.pending() == 0
                && paused_until.is_none();
            tokio::select! {
                event = from.next(), if flow.takes() && paused_until.is_none() => match event? {
                    Event::Delivery(delivery) => {
                        self.forward(&mut from, &mut to, &mut flow, definition, &stamp, &delivery).await?;
                    }
                    Event::Cancelled { .. } => return Err(End::Failed(format!("queue '{queue}' was deleted"))),
                    _ => return Err(End::Failed("the source sent what it may not".to_owned())),
                },
                event = to.next() => match event? {
                    Event::Confirm { tag, multiple, is_ack } => {
                        if !is_ack {
                            let pause = definition.reconnect_delay.unwrap_or(RETRY).max(RETRY);
                            paused_until = Some(Instant::now() + pause);
                        }
                        let before = flow.pending();
                        let settlements = flow.confirmed(tag, multiple, is_ack);
                        if is_ack {
                            self.progress.moved += before - flow.pending();
                        }
                        settle(&mut from, settlements).await?;
                    }
                    Event::Return(returned) => {
                        // Which publish it was can't be told. All that is not confirmed goes back, so it does too.
                        return Err(End::Failed(format!("the destination returned a message: {}", returned.text)));
                    }
                    _ => return Err(End::Failed("the destination sent what it may not".to_owned())),
                },
                () = sleep_until(resume), if paused_until.is_some() => paused_until = None,
                // Nothing has happened for so long.
                () = sleep(patience(source_uri)), if may_give_up => {
                    if is_empty(&mut from, &queue).await? {
                        break;
                    }
                }
            }
            self.status.count(&flow);
        }
        // Once the other end has answered, it has taken what it was sent before.
        to.close().await?;
        from.close().await?;
        Ok(())
    }

    async fn forward(
        &mut self,
        from: &mut Channel,
        to: &mut Channel,
        flow: &mut Flow,
        definition: &Definition,
        stamp: &Stamp,
        delivery: &Delivery,
    ) -> Result<(), End> {
        let (exchange, key) = match &definition.destination {
            Destination::Queue { name, .. } => (&b""[..], name.as_bytes()),
            Destination::Exchange { name, key } => {
                (name.as_bytes(), key.as_ref().map_or(&delivery.routing_key[..], |key| key.as_bytes()))
            }
            Destination::AsPublished => (&delivery.exchange[..], &delivery.routing_key[..]),
        };
        let properties = stamp.properties(&delivery.properties, self.clock.now().unix_ms / 1000);
        // A queue that is gone must not swallow messages. An exchange may: whoever binds nothing to it wants that.
        let mandatory = matches!(definition.destination, Destination::Queue { .. });
        let number = to.publish(exchange, key, mandatory, &properties, &delivery.body).await?;
        self.status.forwarded.fetch_add(1, Ordering::Relaxed);
        let settlement = flow.published(number, delivery.delivery_tag);
        if definition.ack_mode != AckMode::OnConfirm {
            self.progress.moved += 1;
        }
        settle(from, settlement).await
    }

    fn set(&self, state: State) {
        let parameter = &self.connector.parameter;
        let reason = match &state {
            State::Terminated { reason } => Some(reason.as_str()),
            _ => None,
        };
        let (host, name) = (&parameter.virtual_host, &parameter.name);
        self.connector.broker.tell(|_| BrokerEvent::shovel_status(host, name, state.name(), reason));
        self.status.set(state, self.clock.now().unix_ms);
    }

    /// Notes why it does not work, and logs it unless that is the same as before.
    fn fail(&mut self, reason: String) {
        let parameter = &self.connector.parameter;
        if self.failure.as_ref() != Some(&reason) {
            let shown: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            warn!("shovel {:?} in vhost {:?} has failed: {shown}", parameter.name, parameter.virtual_host);
        }
        self.failure = Some(reason.clone());
        self.set(State::Terminated { reason });
    }

    /// Deletes the shovel, which has done its work. Messages that it has not found somebody else has taken.
    fn finish(&self) {
        let parameter = &self.connector.parameter;
        let (host, name) = (&parameter.virtual_host, &parameter.name);
        let Progress { limit, moved } = self.progress;
        let limit = limit.unwrap_or(moved);
        info!("shovel {name:?} in vhost {host:?} has moved {moved} of {limit} messages, and is deleted");
        let current = self.connector.broker.parameters.get(host, SHOVEL, name);
        // Another one of that name is not this one.
        if current.is_some_and(|current| Arc::ptr_eq(&current, parameter)) {
            self.connector.broker.delete_parameter(host, SHOVEL, name);
        }
    }
}

async fn settle(from: &mut Channel, settlements: impl IntoIterator<Item = Settlement>) -> Result<(), End> {
    for settlement in settlements {
        match settlement {
            Settlement::Ack { tag, multiple } => from.ack(tag, multiple).await?,
            Settlement::Requeue { tag } => from.nack(tag, false, true).await?,
        }
    }
    Ok(())
}

/// How long the queue may have nothing more before that is believed.
fn patience(source: &Uri) -> Duration {
    match source.options.heartbeat_secs {
        None | Some(0) => PATIENCE,
        // A connection is given up after two heartbeats.
        Some(secs) => Duration::from_secs(2 * u64::from(secs) + 1),
    }
}

/// Whether no messages are ready in the queue.
async fn is_empty(channel: &mut Channel, queue: &str) -> Result<bool, End> {
    let ask = QueueDeclare { queue, passive: true, ..QueueDeclare::default() };
    Ok(channel.declare_queue(&ask).await?.message_count == 0)
}

/// The channel to consume on, the queue, and how many messages are ready there.
async fn prepare_source(connection: &Connection, source: &Source) -> Result<(Channel, String, u64), End> {
    match source {
        Source::Queue { name, arguments } => {
            let declare =
                QueueDeclare { queue: name, arguments: arguments.clone(), ..QueueDeclare::default() };
            let (channel, ready) = ensure_queue(connection, declare).await?;
            Ok((channel, name.clone(), ready))
        }
        Source::Exchange { name, key } => {
            let mut channel = connection.open_channel().await?;
            let declare = QueueDeclare { exclusive: true, ..QueueDeclare::default() };
            let queue = channel.declare_queue(&declare).await?.queue;
            let key = key.as_deref().unwrap_or_default();
            channel.bind_queue(&queue, name, key, &crate::amqp::Table::default()).await?;
            Ok((channel, queue, 0))
        }
    }
}

/// The channel to publish on. A queue is declared if it is not there, an exchange has to be.
async fn prepare_destination(connection: &Connection, destination: &Destination) -> Result<Channel, End> {
    match destination {
        Destination::Queue { name, arguments } => {
            let declare =
                QueueDeclare { queue: name, arguments: arguments.clone(), ..QueueDeclare::default() };
            Ok(ensure_queue(connection, declare).await?.0)
        }
        Destination::Exchange { name, .. } if !name.is_empty() => {
            let mut channel = connection.open_channel().await?;
            let ask = ExchangeDeclare { exchange: name, passive: true, ..ExchangeDeclare::default() };
            channel.declare_exchange(&ask).await?;
            Ok(channel)
        }
        Destination::Exchange { .. } | Destination::AsPublished => Ok(connection.open_channel().await?),
    }
}

/// A channel, and how many messages are ready in the queue, which is declared, durable, if it is not there.
async fn ensure_queue(connection: &Connection, declare: QueueDeclare<'_>) -> Result<(Channel, u64), End> {
    let mut channel = connection.open_channel().await?;
    let ask = QueueDeclare { queue: declare.queue, passive: true, ..QueueDeclare::default() };
    let status = match channel.declare_queue(&ask).await {
        Err(error) if error.reply().is_some_and(|(code, _)| code == 404) => {
            channel = connection.open_channel().await?;
            channel.declare_queue(&QueueDeclare { durable: true, ..declare }).await?
        }
        status => status?,
    };
    Ok((channel, status.message_count.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_a_broken_connection_still_holds_are_not_taken_for_moved() {
        let mut progress = Progress::default();
        assert_eq!(progress.remaining(DeleteAfter::QueueLength, 10), Some(10));
        progress.moved = 3;
        assert_eq!(progress.remaining(DeleteAfter::QueueLength, 0), Some(7));
        assert_eq!(progress.remaining(DeleteAfter::QueueLength, 20), Some(7), "others have come since");
        progress.moved = 10;
        assert_eq!(progress.remaining(DeleteAfter::QueueLength, 20), Some(0));
        assert_eq!(Progress::default().remaining(DeleteAfter::QueueLength, 0), Some(0));
        assert_eq!(Progress { limit: None, moved: 3 }.remaining(DeleteAfter::Number(5), 1), Some(2));
        assert_eq!(progress.remaining(DeleteAfter::Never, 1), None);
    }

    #[test]
    fn patience_lasts_longer_than_it_takes_to_notice_a_broken_connection() {
        for (uri, secs) in [("amqp://", 60), ("amqp://h?heartbeat=0", 60), ("amqp://h?heartbeat=100", 201)] {
            assert_eq!(patience(&Uri::parse(uri).unwrap()), Duration::from_secs(secs), "{uri}");
        }
    }
}
