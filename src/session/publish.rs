//! A publish: its content is assembled from frames, checked, routed, and put into the batch.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    channel::{Channel, Mode, content, without_bcc},
    interceptors,
    routes::CachedRoute,
    shared::Shared,
};
use crate::{
    amqp::{ContentHeader, Properties, Publish, ReplyCode, Value, table::find_raw},
    broker::{
        NEVER,
        batch::Origin,
        connections::ChannelStatus,
        dead_letter::ttl_ms,
        dedup::Claim,
        exchange::{Exchange, Routing},
        message::{Message, PublishedBody},
        outbox::{Delivery, Item},
        permission::Access,
        queue::{QueueHandle, Slot},
        refusal::Refusal,
        route::Route,
        vhost::REPLY_TO,
    },
};

/// Where a channel is in receiving a content: method, header, body frames.
#[derive(Debug, Default)]
pub(super) enum ContentAssembly {
    /// No content is under way.
    #[default]
    Idle,
    /// `basic.publish` has come.
    AwaitHeader(Box<PendingPublish>),
    /// Its header has come too; some of the body may have.
    AwaitBody { publish: Box<PendingPublish>, body_size: usize, body: Vec<u8> },
}

/// A publish whose content is on its way. Its buffers serve the channel's next publish again.
#[derive(Debug, Default)]
pub(super) struct PendingPublish {
    /// The payload of its method frame. Most publishes are like the one before, which costs one comparison to see.
    payload: Vec<u8>,
    /// Which route of the connection's cache it took last, 0 for none.
    route: u64,
    exchange: String,
    routing_key: String,
    mandatory: bool,
    immediate: bool,
    /// The property flags and list.
    properties: Vec<u8>,
}

impl PendingPublish {
    /// Takes over what the method says; false if it is not a sound `basic.publish`.
    fn decode(&mut self, payload: &[u8]) -> bool {
        let Some(publish) = Publish::decode(payload) else { return false };
        self.payload.clear();
        self.payload.extend_from_slice(payload);
        self.route = 0;
        self.exchange.clear();
        self.exchange.push_str(publish.exchange);
        self.routing_key.clear();
        self.routing_key.push_str(publish.routing_key);
        self.mandatory = publish.mandatory;
        self.immediate = publish.immediate;
        true
    }
}

/// The largest body that any configuration allows, in octets (RabbitMQ's own bound).
const BODY_BYTES_MAX: u64 = 512 << 20;
/// Bodies up to this size are copied into exact memory; a larger one may keep the receive buffer that it came in.
const COPIED_BODY_BYTES_MAX: usize = 4096;
/// What one frame's worth of a body is trusted to bring: a larger announcement is not believed until it comes.
const BODY_RESERVE_BYTES: usize = 128 << 10;
/// What a connection keeps of each buffer between publishes.
const SPARE_BYTES_KEPT: usize = 8 << 10;
/// Milliseconds of ten years, the highest `expiration`.
const EXPIRATION_MS_MAX: u64 = 315_360_000_000;

/// A body as it was received.
enum Body<'a> {
    /// In one frame of this chunk.
    InChunk(&'a [u8], &'a Bytes),
    /// In several.
    Assembled(Vec<u8>),
}

impl Body<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            Body::InChunk(body, _) => body,
            Body::Assembled(body) => body,
        }
    }

    /// The body as a message keeps it. A slice keeps its whole chunk in memory, so it must be a good part of it.
    fn published(&self) -> PublishedBody<'_> {
        match self {
            Body::InChunk(body, chunk)
                if body.len() > COPIED_BODY_BYTES_MAX && body.len() * 4 > chunk.len() =>
            {
                PublishedBody::Large(chunk.slice_ref(body))
            }
            _ if self.as_slice().len() > COPIED_BODY_BYTES_MAX => {
                PublishedBody::Large(Bytes::copy_from_slice(self.as_slice()))
            }
            _ => PublishedBody::Small(self.as_slice()),
        }
    }
}

impl Channel {
    /// `basic.publish`, the most frequent method by far: true if the frame was one that may come now. What comes next
    /// must be its header; nothing is checked before the content is complete.
    pub(super) fn publish_frame(&mut self, payload: &[u8], shared: &mut Shared) -> bool {
        if !matches!(self.assembly, ContentAssembly::Idle) {
            return false;
        }
        let mut pending = shared.spare_publish.take().unwrap_or_default();
        if pending.payload != payload && !pending.decode(payload) {
            shared.spare_publish = Some(pending);
            return false;
        }
        self.assembly = ContentAssembly::AwaitHeader(pending);
        self.status.used(shared.now.unix_ms);
        true
    }

    /// The content header.
    ///
    /// # Errors
    /// 505 out of sequence, 501 for an impossible body, 406 for one that is larger than allowed.
    pub(super) fn content_header(&mut self, payload: &[u8], shared: &mut Shared) -> Result<(), Refusal> {
        let mut publish = match std::mem::take(&mut self.assembly) {
            ContentAssembly::AwaitHeader(publish) => publish,
            ContentAssembly::Idle => return Err(not_a_method()),
            ContentAssembly::AwaitBody { .. } => return Err(not_a_body()),
        };
        let header = ContentHeader::parse(payload)?;
        if header.class_id != 60 {
            return Err(unexpected(format!(
                "expected content header for class 60, got one for class {} instead",
                header.class_id
            )));
        }
        if header.weight != 0 {
            return Err(not_a_header());
        }
        let body_size = check_body_size(header.body_size, shared.broker.limits.message_bytes_max)?;
        shared.has_published = true;
        shared.note_publishing();
        publish.properties.clear();
        publish.properties.extend_from_slice(header.properties);
        if body_size == 0 {
            return self.publish(publish, Body::Assembled(Vec::new()), shared);
        }
        self.assembly = ContentAssembly::AwaitBody { publish, body_size, body: Vec::new() };
        Ok(())
    }

    /// A frame of the body, which lies in `chunk`.
    ///
    /// # Errors
    /// 505 out of sequence, 501 for more than was announced, and every refusal of a publish.
    pub(super) fn content_body(
        &mut self,
        payload: &[u8],
        chunk: &Bytes,
        shared: &mut Shared,
    ) -> Result<(), Refusal> {
        let (publish, body_size, mut body) = match std::mem::take(&mut self.assembly) {
            ContentAssembly::AwaitBody { publish, body_size, body } => (publish, body_size, body),
            ContentAssembly::Idle => return Err(not_a_method()),
            ContentAssembly::AwaitHeader(_) => return Err(not_a_header()),
        };
        // An alarm stops bodies that began before it, too.
        shared.note_publishing();
        let received = body.len() + payload.len();
        if received > body_size {
            // Deviation: RabbitMQ 3.10 waits for more; a body that is too long is an error of its frame.
            let text = "content body frame exceeds remaining content size";
            return Err(Refusal::new(ReplyCode::FrameError, text).for_method(60, 40));
        }
        if received == body_size && body.is_empty() {
            return self.publish(publish, Body::InChunk(payload, chunk), shared);
        }
        body.reserve(payload.len().max(BODY_RESERVE_BYTES.min(body_size - body.len())));
        body.extend_from_slice(payload);
        if received == body_size {
            return self.publish(publish, Body::Assembled(body), shared);
        }
        self.assembly = ContentAssembly::AwaitBody { publish, body_size, body };
        Ok(())
    }

    /// A method frame has come: refused while a content is under way.
    ///
    /// # Errors
    /// 505 then.
    pub(super) fn expect_no_content(&self) -> Result<(), Refusal> {
        match self.assembly {
            ContentAssembly::Idle => Ok(()),
            ContentAssembly::AwaitHeader(_) => Err(not_a_header()),
            ContentAssembly::AwaitBody { .. } => Err(not_a_body()),
        }
    }

    /// The content is complete. The checks come in RabbitMQ's order.
    fn publish(
        &mut self,
        mut publish: Box<PendingPublish>,
        body: Body<'_>,
        shared: &mut Shared,
    ) -> Result<(), Refusal> {
        let result = self.publish_checked(&mut publish, &body, shared);
        publish.properties.shrink_to(SPARE_BYTES_KEPT);
        shared.scratch.shrink_to(SPARE_BYTES_KEPT);
        shared.spare_publish = Some(publish);
        result
    }

    fn publish_checked(
        &mut self,
        publish: &mut PendingPublish,
        body: &Body<'_>,
        shared: &mut Shared,
    ) -> Result<(), Refusal> {
        if publish.immediate {
            return Err(Refusal::not_implemented("immediate=true"));
        }
        let route = find_route(publish, shared)?;
        let mut properties = Properties::parse(&publish.properties)?;
        let with_reply_to;
        if properties.reply_to == Some(REPLY_TO.as_bytes()) {
            with_reply_to = properties.with_reply_to(self.reply_name()?);
            properties = Properties::parse(&with_reply_to)?;
        }
        check_user_id(&properties, shared)?;
        check_expiration(&properties)?;
        shared.tally.sizes.record(body.as_slice().len() as u64);
        let ttl_ms = ttl_ms(&properties);
        let copies = copies(&properties)?;
        let persistent = is_persistent(&properties)?;
        let intercepted;
        if shared.broker.interceptors.are_on()
            && let Some(raw) = interceptors::intercepted(&properties, &shared.broker, shared.now)
        {
            intercepted = raw;
            properties = Properties::parse(&intercepted)?;
        }
        let (raw, priority) = (properties.raw, properties.priority);
        let names = (publish.exchange.as_str(), publish.routing_key.as_str());
        let mut message =
            Message::new(names, raw, body.published(), persistent, priority, &mut shared.scratch);
        if copies.has_bcc {
            // Consumers don't see it, but a dead letter is routed by it again.
            message = message.with_bcc();
        }
        let mut publication = Publication {
            message,
            ttl_ms,
            route,
            copies: copies.keys,
            mandatory: publish.mandatory,
            number: None,
        };
        match &mut self.mode {
            Mode::Transaction(transaction) => {
                transaction.publish(publication)?;
                self.status.uncommitted.add_alone(1);
            }
            Mode::Confirm(confirms) => {
                publication.number = Some(confirms.publish());
                shared.confirming.insert(self.number);
                shared.tally.confirm += 1;
                let route = publication.send(self.number, &self.status, shared);
                publish.route = shared.routes.give_back(route);
            }
            Mode::Plain => {
                let route = publication.send(self.number, &self.status, shared);
                publish.route = shared.routes.give_back(route);
            }
        }
        Ok(())
    }

    fn reply_name(&self) -> Result<&str, Refusal> {
        let name = self.reply_name.as_deref();
        name.ok_or_else(|| Refusal::precondition_failed("fast reply consumer does not exist"))
    }
}

/// A publish that was accepted.
#[derive(Debug)]
pub(super) struct Publication {
    message: Message,
    /// How long it may wait in a queue, in milliseconds; [`NEVER`] if it does not say.
    ttl_ms: u64,
    route: Arc<CachedRoute>,
    /// Further routing keys, from the CC and BCC headers.
    copies: Vec<String>,
    mandatory: bool,
    /// Its number among the confirmed publishes of the channel, 0 in a transaction, none if nobody asks.
    number: Option<u64>,
}

impl Publication {
    /// Octets that it holds in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.message.memory_bytes()
    }

    /// Puts the message into the batch for its queues, or returns it if it is mandatory and there are none. Gives back
    /// the route.
    #[inline]
    pub(super) fn send(self, channel: u16, status: &ChannelStatus, shared: &mut Shared) -> Arc<CachedRoute> {
        if status.messages.publish.get() == 0 {
            shared.broker.stats.publishers.add(1);
        }
        status.messages.publish.add_alone(1);
        let has_queues = self.route.queues.as_ref().is_some_and(|queues| !queues.is_empty());
        if !has_queues || !self.copies.is_empty() || shared.is_tracing {
            return self.find_and_send(channel, status, shared);
        }
        let Self { message, ttl_ms, route, number, .. } = self;
        let origin = number.map(|number| Origin { channel, number });
        let queues = route.queues.as_deref().unwrap_or_default();
        shared.tally.publish(&route.exchange, queues.len(), &shared.broker.stats);
        if shared.publishes.push(message, ttl_ms, origin, queues, route.any_durable, None) {
            shared.apply();
        }
        route
    }

    /// The same where the route by itself does not say everything.
    #[inline(never)]
    fn find_and_send(self, channel: u16, status: &ChannelStatus, shared: &mut Shared) -> Arc<CachedRoute> {
        let is_known = self.route.queues.is_some() && self.copies.is_empty();
        let mut found = if is_known { Route::default() } else { self.find(shared) };
        shared.effects.has_duplicates |= found.is_duplicate;
        let has_queue =
            !found.queues.is_empty() || self.route.queues.as_ref().is_some_and(|queues| !queues.is_empty());
        let is_reply = !has_queue && self.route.exchange.is_default() && self.send_reply(shared);
        let Self { message, ttl_ms, route, mandatory, number, .. } = self;
        let (queues, any_durable) = match &route.queues {
            Some(queues) if is_known => (&queues[..], route.any_durable),
            _ => (&found.queues[..], found.queues.iter().any(|queue| queue.properties.durable)),
        };
        if shared.is_tracing {
            let named = |queue: &Arc<QueueHandle>| (*queue.name).into();
            // RabbitMQ: the default exchange tells the keys, whether there are queues of that name or not.
            let routed = (!route.exchange.is_default()).then(|| queues.iter().map(named).collect());
            shared.trace_publish(channel, &message, routed);
        }
        let count = queues.len() + found.delayed.len();
        shared.tally.publish(&route.exchange, count, &shared.broker.stats);
        shared.tally.unrouted += u64::from(count == 0);
        // What no queue gets may come again: its keys are given back.
        let claims = std::mem::take(&mut found.claims);
        let claims = if found.is_empty() { None } else { shared.publishes.claim(claims) };
        let origin = number.map(|number| Origin { channel, number });
        let mut is_full = false;
        for (queue, delay_ms) in &found.delayed {
            let is_durable = queue.properties.durable;
            let queue = std::slice::from_ref(queue);
            is_full |= shared.publishes.push(message.clone(), *delay_ms, origin, queue, is_durable, claims);
        }
        if !queues.is_empty() {
            is_full |= shared.publishes.push(message, ttl_ms, origin, queues, any_durable, claims);
        } else if mandatory && found.delayed.is_empty() && !found.is_duplicate {
            let frame_max = shared.frame_max;
            let without_bcc = without_bcc(&message);
            let mut content = content(&message);
            content.properties = without_bcc.as_deref().unwrap_or(content.properties);
            shared.out.return_(channel, ReplyCode::NoRoute, "NO_ROUTE", &content, frame_max);
            status.messages.return_unroutable.add_alone(1);
            shared.tally.messages.return_unroutable += 1;
        } else if found.delayed.is_empty() && !found.is_duplicate && !is_reply {
            status.messages.drop_unroutable.add_alone(1);
            shared.tally.messages.drop_unroutable += 1;
        }
        if is_full {
            shared.apply();
        }
        route
    }

    /// The same, when what was found at the publish may be out of date: at `tx.commit`.
    pub(super) fn send_again(mut self, channel: u16, status: &ChannelStatus, shared: &mut Shared) {
        self.number = Some(0);
        let CachedRoute { exchange, .. } = &*self.route;
        self.route =
            Arc::new(CachedRoute { exchange: Arc::clone(exchange), queues: None, any_durable: false });
        self.send(channel, status, shared);
    }

    fn find(&self, shared: &Shared) -> Route {
        let mut keys = vec![self.message.routing_key_str()];
        keys.extend(self.copies.iter().map(String::as_str));
        // They were parsed when the message arrived.
        let properties = Properties::parse(self.message.properties()).unwrap_or_default();
        let routing = Routing { keys: &keys, properties, now_ms: shared.now.unix_ms };
        Route::find(&shared.host, &self.route.exchange, &routing, Some(&self.message))
    }

    /// A message for a reply consumer goes straight to it. As in RabbitMQ 3.10, no queue took it, so a mandatory one
    /// is returned all the same. Whether there is such a consumer.
    fn send_reply(&self, shared: &mut Shared) -> bool {
        if !self.message.routing_key().starts_with(REPLY_TO.as_bytes()) {
            return false;
        }
        let key = self.message.routing_key_str();
        let consumer = shared.broker.reply_consumers.get(key).map(|consumer| consumer.clone());
        let Some(consumer) = consumer else { return false };
        // Replies are delivered at most once: one that a slow reader has no room for is dropped.
        if consumer.outbox.has_room(0) {
            consumer.outbox.push(Item::Delivery(Delivery {
                deadline_ms: NEVER,
                consumer: consumer.consumer,
                redelivered: false,
                stored: false,
                delivery_count: 0,
                slot: Slot::NONE,
                sequence: 0,
                message: self.message.clone(),
            }));
            shared.effects.wakes.add(&consumer.outbox);
        }
        true
    }
}

/// Puts a message that an exchange has kept into the batch for its queues. Nobody asks to hear of it.
pub(super) fn send_kept(
    message: Message,
    queues: &[Arc<QueueHandle>],
    claims: Vec<Claim>,
    shared: &mut Shared,
) {
    let any_durable = queues.iter().any(|queue| queue.properties.durable);
    let ttl_ms = Properties::parse(message.properties()).map_or(NEVER, |properties| ttl_ms(&properties));
    if queues.is_empty() {
        return;
    }
    let claims = shared.publishes.claim(claims);
    if shared.publishes.push(message, ttl_ms, None, queues, any_durable, claims) {
        shared.apply();
    }
}

/// The route of a publish and the right to take it: the exchange's existence, write permission, and topic permission.
fn find_route(publish: &PendingPublish, shared: &mut Shared) -> Result<Arc<CachedRoute>, Refusal> {
    let (name, key) = (publish.exchange.as_str(), publish.routing_key.as_str());
    let generation = (shared.host.generation(), shared.broker.permissions.generation());
    if let Some(route) = shared.routes.lend_again(generation, publish.route) {
        return Ok(route);
    }
    if let Some(route) = shared.routes.lend(generation, name, key) {
        return Ok(route);
    }
    let host = Arc::clone(&shared.host);
    shared.check_permission(host.exchange_resource(name), Access::Write)?;
    let exchange = host.expect_exchange(name)?;
    if exchange.properties.internal {
        let text = format!("cannot publish to internal {}", exchange.resource());
        return Err(Refusal::access_refused(text));
    }
    check_topic(&exchange, key, shared)?;
    let route = Route::find(&host, &exchange, &Routing::by_keys(&[key]), None);
    let any_durable = route.queues.iter().any(|queue| queue.properties.durable);
    let queues = (!route.depends_on_message).then(|| route.queues.into_boxed_slice());
    let route = Arc::new(CachedRoute { exchange, queues, any_durable });
    shared.routes.insert(name, key, &route);
    Ok(route)
}

fn check_topic(exchange: &Exchange, key: &str, shared: &Shared) -> Result<(), Refusal> {
    if exchange.properties.kind.name() == "topic" {
        shared.check_topic_permission(exchange.resource(), key, Access::Write)?;
    }
    Ok(())
}

fn check_body_size(size: u64, max: u64) -> Result<usize, Refusal> {
    if size > BODY_BYTES_MAX {
        let text = format!("content body size {size} exceeds maximum allowed size {BODY_BYTES_MAX}");
        return Err(Refusal::new(ReplyCode::FrameError, text).for_method(60, 40));
    }
    if size > max {
        return Err(Refusal::precondition_failed(format!(
            "message size {size} is larger than configured max size {max}"
        )));
    }
    Ok(usize::try_from(size).expect("invariant: at most 512 MiB"))
}

fn check_user_id(properties: &Properties<'_>, shared: &Shared) -> Result<(), Refusal> {
    let user = &shared.user;
    match properties.user_id {
        Some(id) if id != user.name.as_bytes() && !user.has_tag("impersonator") => {
            Err(Refusal::precondition_failed(format!(
                "user_id property set to '{}' but authenticated user was '{}'",
                String::from_utf8_lossy(id),
                user.name
            )))
        }
        _ => Ok(()),
    }
}

/// Milliseconds in decimal; the texts are Erlang's for what `string:to_integer` leaves.
fn check_expiration(properties: &Properties<'_>) -> Result<(), Refusal> {
    let Some(expiration) = properties.expiration else { return Ok(()) };
    let text = String::from_utf8_lossy(expiration);
    let invalid =
        |reason: String| Err(Refusal::precondition_failed(format!("invalid expiration '{text}': {reason}")));
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(&text);
    let digits = unsigned.len() - unsigned.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    if digits == 0 {
        return invalid("no_integer".to_owned());
    }
    let (number, leftover) = unsigned.split_at(digits);
    if !leftover.is_empty() {
        return invalid(format!("{{leftover_string,{leftover:?}}}"));
    }
    let number = number.trim_start_matches('0');
    let number = if number.is_empty() { "0" } else { number };
    if text.starts_with('-') && number != "0" {
        return invalid(format!("{{value_negative,-{number}}}"));
    }
    match number.parse::<u64>() {
        Ok(ms) if ms <= EXPIRATION_MS_MAX => Ok(()),
        _ => invalid(format!("{{value_too_large,{number}}}")),
    }
}

/// Further routing keys of a message.
#[derive(Default)]
pub(super) struct Copies {
    pub(super) keys: Vec<String>,
    has_bcc: bool,
}

/// The CC and BCC headers (RabbitMQ: sender-selected distribution).
#[inline]
pub(super) fn copies(properties: &Properties<'_>) -> Result<Copies, Refusal> {
    let Some(headers) = properties.headers else { return Ok(Copies::default()) };
    let mut copies = Copies::default();
    for name in ["CC", "BCC"] {
        let Some(value) = find_raw(headers, name) else { continue };
        match value.decode() {
            Value::Array(values) => {
                copies.keys.extend(values.iter().filter_map(Value::as_str).map(str::to_owned));
            }
            value => {
                let kind = value.type_name();
                return Err(Refusal::precondition_failed(format!(
                    "invalid message: {{unacceptable_type_in_header,\"{name}\",{kind}}}"
                )));
            }
        }
        copies.has_bcc |= name == "BCC";
    }
    Ok(copies)
}

fn is_persistent(properties: &Properties<'_>) -> Result<bool, Refusal> {
    match properties.delivery_mode {
        None | Some(1) => Ok(false),
        Some(2) => Ok(true),
        Some(mode) => {
            Err(Refusal::precondition_failed(format!("invalid message: {{delivery_mode_unknown,{mode}}}")))
        }
    }
}

fn unexpected(text: impl Into<String>) -> Refusal {
    Refusal::new(ReplyCode::UnexpectedFrame, text).for_method(60, 40)
}

fn not_a_method() -> Refusal {
    unexpected("expected method frame, got non method frame instead").for_method(0, 0)
}

fn not_a_header() -> Refusal {
    unexpected("expected content header for class 60, got non content header frame instead")
}

fn not_a_body() -> Refusal {
    unexpected("expected content body, got non content body frame instead")
}
