//! A channel: methods sent, and their answers, deliveries and confirms taken in the order in which they come.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use tokio::{sync::mpsc, time::timeout};

use super::{
    ClientError, Shared,
    wire::{Content, ContentMethod, Incoming, Method, ServerMethod},
};
use crate::amqp::{Table, frame::FRAME_OVERHEAD};

/// An open channel. One thing is asked at a time; what else comes meanwhile waits for [`Channel::next`].
#[derive(Debug)]
pub struct Channel {
    number: u16,
    incoming: mpsc::Receiver<Incoming>,
    out: mpsc::Sender<Bytes>,
    shared: Arc<Shared>,
    /// What came while an answer was waited for: bounded by [`EVENTS_MAX`].
    events: VecDeque<Event>,
    /// Octets of the contents of `events`.
    event_bytes: usize,
    /// Publishes since confirms were asked for; `None` before that.
    published: Option<u64>,
    /// Why it is closed.
    end: Option<ClientError>,
    /// Whether it is being closed: nobody wants events any more.
    is_closing: bool,
}

/// Deliveries and confirms that may come while an answer is waited for: the largest prefetch, and more. A server that
/// sends more than what it was asked for gets disconnected.
const EVENTS_MAX: usize = 2 * u16::MAX as usize;
/// Octets of contents that are taken from a server while it does not take what it is sent.
const SLACK_BYTES: usize = 16 << 20;

/// What a server sends without being asked at that moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message for a consumer.
    Delivery(Delivery),
    /// A message that was published and that no queue takes. Its confirm follows.
    Return(Return),
    /// Publishes are settled: the one of that number, or all up to it.
    Confirm {
        /// The number of the publish, from 1.
        tag: u64,
        /// Whether all before it are, too.
        multiple: bool,
        /// Whether the server has taken them; otherwise they are lost.
        is_ack: bool,
    },
    /// The consumer of that tag has ended, because its queue has.
    Cancelled {
        /// The consumer's tag.
        consumer_tag: String,
    },
}

/// A message for a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The consumer's tag.
    pub consumer_tag: String,
    /// The number by which it is settled.
    pub delivery_tag: u64,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// Where it was published to.
    pub exchange: Bytes,
    /// With which key.
    pub routing_key: Bytes,
    /// Flags and list, verbatim: see [`Properties`](crate::amqp::Properties).
    pub properties: Bytes,
    /// The body.
    pub body: Bytes,
}

/// A message got from a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// The number by which it is settled.
    pub delivery_tag: u64,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// Where it was published to.
    pub exchange: Bytes,
    /// With which key.
    pub routing_key: Bytes,
    /// How many stay in the queue.
    pub message_count: u32,
    /// Flags and list, verbatim: see [`Properties`](crate::amqp::Properties).
    pub properties: Bytes,
    /// The body.
    pub body: Bytes,
}

/// A message that no queue takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Return {
    /// The reply code: 312.
    pub code: u16,
    /// Such as `NO_ROUTE`.
    pub text: String,
    /// Where it was published to.
    pub exchange: Bytes,
    /// With which key.
    pub routing_key: Bytes,
    /// Flags and list, verbatim.
    pub properties: Bytes,
    /// The body.
    pub body: Bytes,
}

/// What has become of a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// At least one queue has taken it, or nobody asked.
    Routed,
    /// No queue takes it.
    Returned(Return),
    /// The server could not keep it (`basic.nack`).
    Refused,
}

/// What `queue.declare` asks for.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub struct QueueDeclare<'a> {
    pub queue: &'a str,
    pub passive: bool,
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    pub arguments: Table,
}

/// What `queue.declare` is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub struct QueueStatus {
    pub queue: String,
    pub message_count: u32,
    pub consumer_count: u32,
}

/// What `exchange.declare` asks for.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub struct ExchangeDeclare<'a> {
    pub exchange: &'a str,
    pub kind: &'a str,
    pub passive: bool,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub arguments: Table,
}

/// What `basic.consume` asks for.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub struct Consume<'a> {
    pub queue: &'a str,
    /// Empty for one that the server makes.
    pub consumer_tag: &'a str,
    pub no_ack: bool,
    pub exclusive: bool,
    pub arguments: Table,
    /// How many deliveries may be unsettled; 0 for [`u16::MAX`], so that it is bounded.
    pub prefetch: u16,
}

impl Channel {
    pub(super) fn new(
        number: u16,
        incoming: mpsc::Receiver<Incoming>,
        out: mpsc::Sender<Bytes>,
        shared: Arc<Shared>,
    ) -> Self {
        let (events, event_bytes) = (VecDeque::new(), 0);
        Self {
            number,
            incoming,
            out,
            shared,
            events,
            event_bytes,
            published: None,
            end: None,
            is_closing: false,
        }
    }

    /// Declares a queue, or asks for one.
    ///
    /// # Errors
    /// [`ClientError::ChannelClosed`] with the server's words if it refuses; as for all that follow.
    pub async fn declare_queue(&mut self, declare: &QueueDeclare<'_>) -> Result<QueueStatus, ClientError> {
        let QueueDeclare { passive, durable, exclusive, auto_delete, .. } = *declare;
        let bits = [passive, durable, exclusive, auto_delete, false];
        let method = Method::new(50, 10).u16(0).short(declare.queue).bits(bits).table(&declare.arguments);
        match self.call("queue.declare", method, (50, 11)).await? {
            ServerMethod::QueueDeclareOk { queue, message_count, consumer_count } => {
                Ok(QueueStatus { queue, message_count, consumer_count })
            }
            _ => Err(self.fail(unexpected())),
        }
    }

    /// Deletes a queue; how many messages it had.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn delete_queue(
        &mut self,
        queue: &str,
        if_unused: bool,
        if_empty: bool,
    ) -> Result<u32, ClientError> {
        let method = Method::new(50, 40).u16(0).short(queue).bits([if_unused, if_empty, false]);
        let answer = self.call("queue.delete", method, (50, 41)).await?;
        self.message_count(answer)
    }

    /// Purges a queue; how many messages it had.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn purge_queue(&mut self, queue: &str) -> Result<u32, ClientError> {
        let method = Method::new(50, 30).u16(0).short(queue).u8(0);
        let answer = self.call("queue.purge", method, (50, 31)).await?;
        self.message_count(answer)
    }

    /// Binds a queue to an exchange.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn bind_queue(
        &mut self,
        queue: &str,
        exchange: &str,
        routing_key: &str,
        arguments: &Table,
    ) -> Result<(), ClientError> {
        let method = Method::new(50, 20).u16(0).short(queue).short(exchange).short(routing_key);
        self.call("queue.bind", method.u8(0).table(arguments), (50, 21)).await.map(drop)
    }

    /// Removes the binding of a queue.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn unbind_queue(
        &mut self,
        queue: &str,
        exchange: &str,
        routing_key: &str,
        arguments: &Table,
    ) -> Result<(), ClientError> {
        let method = Method::new(50, 50).u16(0).short(queue).short(exchange).short(routing_key);
        self.call("queue.unbind", method.table(arguments), (50, 51)).await.map(drop)
    }

    /// Declares an exchange, or asks for one.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn declare_exchange(&mut self, declare: &ExchangeDeclare<'_>) -> Result<(), ClientError> {
        let ExchangeDeclare { passive, durable, auto_delete, internal, .. } = *declare;
        let method = Method::new(40, 10).u16(0).short(declare.exchange).short(declare.kind);
        let method = method.bits([passive, durable, auto_delete, internal, false]).table(&declare.arguments);
        self.call("exchange.declare", method, (40, 11)).await.map(drop)
    }

    /// Deletes an exchange.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn delete_exchange(&mut self, exchange: &str, if_unused: bool) -> Result<(), ClientError> {
        let method = Method::new(40, 20).u16(0).short(exchange).bits([if_unused, false]);
        self.call("exchange.delete", method, (40, 21)).await.map(drop)
    }

    /// Binds an exchange to another, where messages come from.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn bind_exchange(
        &mut self,
        destination: &str,
        source: &str,
        routing_key: &str,
        arguments: &Table,
    ) -> Result<(), ClientError> {
        let method = Method::new(40, 30).u16(0).short(destination).short(source).short(routing_key);
        self.call("exchange.bind", method.u8(0).table(arguments), (40, 31)).await.map(drop)
    }

    /// Removes the binding of an exchange.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn unbind_exchange(
        &mut self,
        destination: &str,
        source: &str,
        routing_key: &str,
        arguments: &Table,
    ) -> Result<(), ClientError> {
        let method = Method::new(40, 40).u16(0).short(destination).short(source).short(routing_key);
        self.call("exchange.unbind", method.u8(0).table(arguments), (40, 51)).await.map(drop)
    }

    /// Has every publish from now on confirmed.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn confirm_select(&mut self) -> Result<(), ClientError> {
        self.call("confirm.select", Method::new(85, 10).u8(0), (85, 11)).await?;
        self.published.get_or_insert(0);
        Ok(())
    }

    /// Publishes without waiting for anything but room. Returns the number by which [`Event::Confirm`] will tell of it, 0
    /// if the channel does not confirm. `properties` are flags and list; they are sent as they are.
    ///
    /// # Errors
    /// If the channel or the connection has ended, or something is too long.
    pub async fn publish(
        &mut self,
        exchange: &[u8],
        routing_key: &[u8],
        mandatory: bool,
        properties: &[u8],
        body: &[u8],
    ) -> Result<u64, ClientError> {
        let method = Method::new(60, 40).u16(0).short(exchange).short(routing_key).bits([mandatory, false]);
        let frame_max = self.shared.frame_max;
        if !method.fits(frame_max) {
            return Err(ClientError::TooLong("the exchange or the routing key"));
        }
        if 12 + properties.len() + FRAME_OVERHEAD > frame_max as usize {
            return Err(ClientError::TooLong("the list of properties"));
        }
        self.send(method.with_content(self.number, properties, body, frame_max)).await?;
        Ok(self.published.as_mut().map_or(0, |published| {
            *published += 1;
            *published
        }))
    }

    /// Publishes, and waits until the server has confirmed it. With `mandatory` it says whether a queue takes it. Asks
    /// for confirms first if that has not been done.
    ///
    /// # Errors
    /// If the server refuses, or does not answer in time.
    pub async fn publish_confirmed(
        &mut self,
        exchange: &[u8],
        routing_key: &[u8],
        mandatory: bool,
        properties: &[u8],
        body: &[u8],
    ) -> Result<Published, ClientError> {
        if self.published.is_none() {
            self.confirm_select().await?;
        }
        let number = self.publish(exchange, routing_key, mandatory, properties, body).await?;
        let after = self.shared.timeout;
        match timeout(after, self.outcome(number)).await {
            Ok(published) => published,
            Err(_) => Err(self.fail(ClientError::Timeout { what: "basic.publish", after })),
        }
    }

    /// Waits for the confirm of that publish. Other events are kept.
    async fn outcome(&mut self, number: u64) -> Result<Published, ClientError> {
        let mut returned = None;
        loop {
            let event = self.receive_event().await?;
            match event {
                // A server returns a publish right before it confirms it, and one publish waits here at a time.
                Event::Return(one) => returned = Some(one),
                Event::Confirm { tag, multiple, is_ack } if tag == number || multiple && tag >= number => {
                    if multiple && number > 1 {
                        self.keep(Event::Confirm { tag: number - 1, multiple, is_ack })?;
                    }
                    return Ok(match returned {
                        Some(returned) => Published::Returned(returned),
                        None if is_ack => Published::Routed,
                        None => Published::Refused,
                    });
                }
                other => self.keep(other)?,
            }
        }
    }

    /// Takes a message from a queue, if it has one.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn get(&mut self, queue: &str, no_ack: bool) -> Result<Option<Got>, ClientError> {
        let method = Method::new(60, 70).u16(0).short(queue).bits([no_ack]);
        let is_answer = |incoming: &Incoming| {
            matches!(
                incoming,
                Incoming::Content(ContentMethod::GetOk { .. }, _)
                    | Incoming::Method(ServerMethod::BasicGetEmpty)
            )
        };
        match self.ask("basic.get", &method, is_answer).await? {
            Incoming::Content(
                ContentMethod::GetOk { delivery_tag, redelivered, exchange, routing_key, message_count },
                Content { properties, body },
            ) => Ok(Some(Got {
                delivery_tag,
                redelivered,
                exchange,
                routing_key,
                message_count,
                properties,
                body,
            })),
            _ => Ok(None),
        }
    }

    /// Starts a consumer, whose deliveries then come by [`Channel::next`]. Returns its tag.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn consume(&mut self, consume: &Consume<'_>) -> Result<String, ClientError> {
        let prefetch = if consume.prefetch == 0 { u16::MAX } else { consume.prefetch };
        let qos = Method::new(60, 10).u32(0).u16(prefetch).u8(0);
        self.call("basic.qos", qos, (60, 11)).await?;
        let bits = [false, consume.no_ack, consume.exclusive, false];
        let method = Method::new(60, 20).u16(0).short(consume.queue).short(consume.consumer_tag);
        let method = method.bits(bits).table(&consume.arguments);
        match self.call("basic.consume", method, (60, 21)).await? {
            ServerMethod::BasicConsumeOk { consumer_tag } => Ok(consumer_tag),
            _ => Err(self.fail(unexpected())),
        }
    }

    /// Ends a consumer. What was delivered to it before can still be settled.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn cancel(&mut self, consumer_tag: &str) -> Result<(), ClientError> {
        let method = Method::new(60, 30).short(consumer_tag).u8(0);
        self.call("basic.cancel", method, (60, 31)).await.map(drop)
    }

    /// Settles a delivery, or all up to it.
    ///
    /// # Errors
    /// If the channel or the connection has ended.
    pub async fn ack(&mut self, delivery_tag: u64, multiple: bool) -> Result<(), ClientError> {
        self.send(Method::new(60, 80).u64(delivery_tag).bits([multiple]).frame(self.number)).await
    }

    /// Refuses a delivery, or all up to it: it goes back to its queue, or is dropped or dead-lettered.
    ///
    /// # Errors
    /// If the channel or the connection has ended.
    pub async fn nack(
        &mut self,
        delivery_tag: u64,
        multiple: bool,
        requeue: bool,
    ) -> Result<(), ClientError> {
        self.send(Method::new(60, 120).u64(delivery_tag).bits([multiple, requeue]).frame(self.number)).await
    }

    /// Refuses one delivery.
    ///
    /// # Errors
    /// If the channel or the connection has ended.
    pub async fn reject(&mut self, delivery_tag: u64, requeue: bool) -> Result<(), ClientError> {
        self.send(Method::new(60, 90).u64(delivery_tag).bits([requeue]).frame(self.number)).await
    }

    /// What comes next without being asked for. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// Why the channel or the connection has ended.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        match self.events.pop_front() {
            Some(event) => {
                self.event_bytes -= event.bytes();
                Ok(event)
            }
            None => self.receive_event().await,
        }
    }

    /// Closes it, and waits until the server has. It has done by then what it was told before, unless it says otherwise.
    ///
    /// # Errors
    /// If the server has closed it before, or does not answer in time.
    pub async fn close(mut self) -> Result<(), ClientError> {
        let close = Method::new(20, 40).u16(200).short("Goodbye").u16(0).u16(0);
        self.is_closing = true;
        self.events.clear();
        self.call("channel.close", close, (20, 41)).await.map(drop)
    }

    /// Sends a method and waits for its answer, which is of these ids.
    pub(super) async fn call(
        &mut self,
        what: &'static str,
        method: Method,
        answer: (u16, u16),
    ) -> Result<ServerMethod, ClientError> {
        let is_answer =
            |incoming: &Incoming| matches!(incoming, Incoming::Method(method) if method.ids() == answer);
        match self.ask(what, &method, is_answer).await? {
            Incoming::Method(method) => Ok(method),
            Incoming::Content(..) => Err(self.fail(unexpected())),
        }
    }

    async fn ask(
        &mut self,
        what: &'static str,
        method: &Method,
        is_answer: impl Fn(&Incoming) -> bool,
    ) -> Result<Incoming, ClientError> {
        if !method.fits(self.shared.frame_max) {
            return Err(ClientError::TooLong(what));
        }
        let after = self.shared.timeout;
        let answered = async {
            self.send(method.frame(self.number)).await?;
            loop {
                let incoming = self.receive().await?;
                if is_answer(&incoming) {
                    return Ok(incoming);
                }
                let event = self.event(incoming)?;
                if let Some(event) = event {
                    self.keep(event)?;
                }
            }
        };
        match timeout(after, answered).await {
            Ok(answer) => answer,
            Err(_) => Err(self.fail(ClientError::Timeout { what, after })),
        }
    }

    /// Sends octets, and takes what comes meanwhile: a server that waits for that may not take them otherwise.
    async fn send(&mut self, octets: Bytes) -> Result<(), ClientError> {
        if let Some(end) = &self.end {
            return Err(end.clone());
        }
        let out = self.out.clone();
        let after = self.shared.timeout;
        let reserved = timeout(after, out.reserve());
        tokio::pin!(reserved);
        loop {
            let has_slack = self.event_bytes < SLACK_BYTES && self.events.len() < EVENTS_MAX;
            tokio::select! {
                biased;
                permit = &mut reserved => match permit {
                    Ok(Ok(permit)) => {
                        permit.send(octets);
                        return Ok(());
                    }
                    Ok(Err(_)) => return Err(self.shared.ended()),
                    Err(_) => return Err(self.fail(ClientError::Timeout { what: "anything", after })),
                },
                incoming = self.incoming.recv(), if has_slack => {
                    let incoming = self.received(incoming)?;
                    if let Some(event) = self.event(incoming)? {
                        self.keep(event)?;
                    }
                }
            }
        }
    }

    async fn receive_event(&mut self) -> Result<Event, ClientError> {
        loop {
            let incoming = self.receive().await?;
            if let Some(event) = self.event(incoming)? {
                return Ok(event);
            }
        }
    }

    async fn receive(&mut self) -> Result<Incoming, ClientError> {
        if let Some(end) = &self.end {
            return Err(end.clone());
        }
        let incoming = self.incoming.recv().await;
        self.received(incoming)
    }

    fn received(&mut self, incoming: Option<Incoming>) -> Result<Incoming, ClientError> {
        match incoming {
            Some(Incoming::Method(ServerMethod::ChannelClose(closed))) => {
                Err(self.fail(ClientError::ChannelClosed(closed)))
            }
            Some(incoming) => Ok(incoming),
            None => {
                let end = self.shared.ended();
                Err(self.fail(end))
            }
        }
    }

    /// What it means, if it is not an answer.
    fn event(&mut self, incoming: Incoming) -> Result<Option<Event>, ClientError> {
        Ok(Some(match incoming {
            Incoming::Method(ServerMethod::Confirm { delivery_tag, multiple, is_ack }) => {
                if delivery_tag == 0 || self.published.is_none_or(|published| delivery_tag > published) {
                    return Err(self.fail(unexpected()));
                }
                Event::Confirm { tag: delivery_tag, multiple, is_ack }
            }
            Incoming::Method(ServerMethod::BasicCancel { consumer_tag }) => Event::Cancelled { consumer_tag },
            // Answered already.
            Incoming::Method(ServerMethod::ChannelFlow { .. }) => return Ok(None),
            Incoming::Content(
                ContentMethod::Deliver { consumer_tag, delivery_tag, redelivered, exchange, routing_key },
                Content { properties, body },
            ) => Event::Delivery(Delivery {
                consumer_tag,
                delivery_tag,
                redelivered,
                exchange,
                routing_key,
                properties,
                body,
            }),
            Incoming::Content(
                ContentMethod::Return { code, text, exchange, routing_key },
                Content { properties, body },
            ) => Event::Return(Return { code, text, exchange, routing_key, properties, body }),
            Incoming::Method(_) | Incoming::Content(ContentMethod::GetOk { .. }, _) => {
                return Err(self.fail(unexpected()));
            }
        }))
    }

    /// Keeps an event for [`Channel::next`].
    fn keep(&mut self, event: Event) -> Result<(), ClientError> {
        let bytes_max = usize::try_from(self.shared.message_bytes_max).unwrap_or(usize::MAX);
        if self.is_closing {
            return Ok(());
        }
        self.event_bytes += event.bytes();
        self.events.push_back(event);
        if self.events.len() > EVENTS_MAX || self.event_bytes > bytes_max.saturating_add(SLACK_BYTES) {
            return Err(self.fail(ClientError::Protocol("more than it was asked for".to_owned())));
        }
        Ok(())
    }

    /// Notes why it can't be used any more.
    fn fail(&mut self, error: ClientError) -> ClientError {
        self.end.get_or_insert(error).clone()
    }

    fn message_count(&mut self, answer: ServerMethod) -> Result<u32, ClientError> {
        match answer {
            ServerMethod::MessageCount { message_count, .. } => Ok(message_count),
            _ => Err(self.fail(unexpected())),
        }
    }
}

impl Event {
    /// Octets of its content.
    fn bytes(&self) -> usize {
        match self {
            Self::Delivery(Delivery { properties, body, .. })
            | Self::Return(Return { properties, body, .. }) => properties.len() + body.len(),
            Self::Confirm { .. } | Self::Cancelled { .. } => 0,
        }
    }
}

fn unexpected() -> ClientError {
    ClientError::Protocol("an answer that nobody waits for".to_owned())
}
