//! A connection that is open: its channels, what arrives on them, and what the broker has for them.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;

use super::{
    channel::{Channel, Mode, UnackedDelivery},
    handshake::{Opened, RefusedMethod},
    shared::{Held, HeldReply, Shared},
    timeout::{Holder, TimedOut},
};
use crate::{
    amqp::{
        ClientMethod, Encoder, FrameKind, ReplyCode, Scope, ServerMethod,
        frame::{Frame, Frames, described},
    },
    broker::{
        Broker, NEVER, Now,
        batch::Origin,
        connections::ConnectionStatus,
        journal::Lsn,
        outbox::{ConsumerId, Item, Outbox},
        queue::{QueueHandle, Return, Slot},
        refusal::Refusal,
        vhost::DeleteIf,
    },
};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Running {
    shared: Shared,
    channels: Channels,
    /// The reason that the client was told it is blocked for.
    blocked: Option<&'static str>,
    /// Whether the journal is so far behind that this connection's publishes wait.
    awaits_journal: bool,
    /// The fact that the outbox is to be woken for.
    awaited: Option<Lsn>,
    items: VecDeque<Item>,
}

/// What a frame leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The next frame.
    Stay,
    /// The end that the client asked for.
    Close,
}

/// A channel number that is in use.
#[derive(Debug)]
enum State {
    Open(Box<Channel>),
    /// The server has closed it; everything is discarded until the client answers.
    Closing,
}

/// The channels of a connection, sorted by number. Most frames are for the same channel as the one before.
#[derive(Debug, Default)]
struct Channels {
    channels: Vec<(u16, State)>,
    last: usize,
}

impl Channels {
    fn position(&mut self, number: u16) -> Result<usize, usize> {
        if self.channels.get(self.last).is_some_and(|(known, _)| *known == number) {
            return Ok(self.last);
        }
        let found = self.channels.binary_search_by_key(&number, |(known, _)| *known);
        if let Ok(position) = found {
            self.last = position;
        }
        found
    }

    fn get(&mut self, number: u16) -> Option<&mut State> {
        let position = self.position(number).ok()?;
        Some(&mut self.channels[position].1)
    }

    fn open(&mut self, number: u16) -> Option<&mut Channel> {
        match self.get(number)? {
            State::Open(channel) => Some(channel),
            State::Closing => None,
        }
    }

    fn iter_open(&mut self) -> impl Iterator<Item = &mut Channel> {
        self.channels.iter_mut().filter_map(|(_, state)| match state {
            State::Open(channel) => Some(&mut **channel),
            State::Closing => None,
        })
    }

    fn insert(&mut self, number: u16, state: State) {
        match self.position(number) {
            Ok(position) => self.channels[position].1 = state,
            Err(position) => self.channels.insert(position, (number, state)),
        }
    }

    fn remove(&mut self, number: u16) {
        if let Ok(position) = self.position(number) {
            self.channels.remove(position);
        }
    }
}

/// Octets of output above which the outbox is left to fill: its bound is what holds the queues back.
const OUTPUT_BYTES_MAX: usize = 256 << 10;
/// How soon timeouts are looked at again that had to wait for a reply, in milliseconds.
const HELD_RECHECK_MS: u64 = 50;

impl Running {
    pub(super) fn new(
        opened: Opened,
        broker: Arc<Broker>,
        outbox: Arc<Outbox>,
        out: Encoder,
        now: Now,
    ) -> Self {
        let mut running = Self {
            shared: Shared::new(opened, broker, outbox, out, now),
            channels: Channels::default(),
            blocked: None,
            awaits_journal: false,
            awaited: None,
            items: VecDeque::new(),
        };
        // RabbitMQ tells a connection that opens during an alarm at once, and any other when it publishes.
        running.tell_blocked(running.shared.broker.alarms.reason());
        running
    }

    pub(super) fn output(&mut self) -> &mut Encoder {
        &mut self.shared.out
    }

    pub(super) fn frame_max(&self) -> u32 {
        self.shared.frame_max
    }

    /// Whether frames may be handled: not while a reply waits for its facts.
    pub(super) fn is_held(&self) -> bool {
        self.shared.held.is_some()
    }

    /// Whether the client should be read from: not while it waits, nor when it publishes during an alarm or faster
    /// than the log takes.
    pub(super) fn wants_input(&self) -> bool {
        let is_blocked = self.shared.is_blockable && self.blocked.is_some();
        !self.is_held() && !is_blocked && !self.awaits_journal
    }

    /// Handles frames until there are no more, one of them ends the connection, a reply has to wait, or the client has
    /// to read first.
    pub(super) fn handle_frames(
        &mut self,
        frames: &mut Frames<'_>,
        chunk: &Bytes,
        now: Now,
    ) -> Result<Step, RefusedMethod> {
        self.shared.set_now(now);
        for frame in frames {
            if self.handle_frame(&frame, chunk)? == Step::Close {
                return Ok(Step::Close);
            }
            if self.is_held() || self.shared.out.len() > super::OUTPUT_BYTES_MAX {
                break;
            }
        }
        Ok(Step::Stay)
    }

    fn handle_frame(&mut self, frame: &Frame<'_>, chunk: &Bytes) -> Result<Step, RefusedMethod> {
        let kind = FrameKind::from_octet(frame.kind);
        match (kind, frame.channel) {
            (Some(FrameKind::Method), _) => return self.handle_method(frame),
            (Some(FrameKind::Heartbeat), 0) => {}
            (Some(FrameKind::Header), 1..) => {
                self.handle_content(frame.channel, |channel, shared| {
                    channel.content_header(frame.payload, shared)
                })?;
            }
            (Some(FrameKind::Body), 1..) => {
                self.handle_content(frame.channel, |channel, shared| {
                    channel.content_body(frame.payload, chunk, shared)
                })?;
            }
            _ => return Err((unexpected_frame(frame), (0, 0))),
        }
        Ok(Step::Stay)
    }

    fn handle_content(
        &mut self,
        number: u16,
        handle: impl FnOnce(&mut Channel, &mut Shared) -> Result<(), Refusal>,
    ) -> Result<(), RefusedMethod> {
        const PUBLISH: (u16, u16) = (60, 40);
        match self.channels.get(number) {
            Some(State::Open(channel)) => match handle(channel, &mut self.shared) {
                Ok(()) => Ok(()),
                Err(refusal) => self.refuse(number, refusal, PUBLISH),
            },
            Some(State::Closing) => Ok(()),
            None => {
                let text = "expected method frame, got non method frame instead";
                Err((Refusal::new(ReplyCode::UnexpectedFrame, text), (0, 0)))
            }
        }
    }

    fn handle_method(&mut self, frame: &Frame<'_>) -> Result<Step, RefusedMethod> {
        let number = frame.channel;
        if let Some(State::Open(channel)) = self.channels.get(number)
            && channel.publish_frame(frame.payload, &mut self.shared)
        {
            return Ok(Step::Stay);
        }
        let method = ClientMethod::decode(frame.payload).map_err(|error| (error.into(), (0, 0)))?;
        let ids = method.ids();
        if number == 0 {
            return self.handle_connection_method(method).map_err(|refusal| (refusal, ids));
        }
        match (self.channels.get(number), method) {
            (Some(State::Open(channel)), method) => {
                if let Err(refusal) = channel.expect_no_content() {
                    return Err((refusal, ids));
                }
                self.handle_channel_method(number, method)
                    .or_else(|refusal| self.refuse(number, refusal, ids))?;
            }
            (Some(State::Closing), ClientMethod::ChannelCloseOk) => self.channels.remove(number),
            (Some(State::Closing), ClientMethod::ChannelClose { .. }) => {
                self.shared.out.method(number, &ServerMethod::ChannelCloseOk);
            }
            (Some(State::Closing), ClientMethod::ChannelOpen) => return Err((second_open(), ids)),
            (Some(State::Closing), _) => {}
            (None, ClientMethod::ChannelOpen) => {
                // RabbitMQ names no method for a channel too many.
                self.open_channel(number).map_err(|refusal| (refusal, (0, 0)))?;
            }
            (None, _) => return Err((expected_open(), ids)),
        }
        Ok(Step::Stay)
    }

    fn handle_connection_method(&mut self, method: ClientMethod<'_>) -> Result<Step, Refusal> {
        match method {
            ClientMethod::ConnectionClose { .. } => Ok(Step::Close),
            ClientMethod::ConnectionUpdateSecret { .. } => {
                self.shared.out.method(0, &ServerMethod::ConnectionUpdateSecretOk);
                Ok(Step::Stay)
            }
            _ => {
                let text = "unexpected method in connection state running";
                Err(Refusal::new(ReplyCode::ChannelError, text))
            }
        }
    }

    fn open_channel(&mut self, number: u16) -> Result<(), Refusal> {
        let max = self.shared.channel_max;
        let open = self.channels.channels.len();
        if open >= usize::from(max) {
            return Err(Refusal::not_allowed(format!(
                "number of channels opened ({open}) has reached the negotiated channel_max ({max})"
            ))
            .for_method(0, 0));
        }
        let broker = &self.shared.broker;
        let status = Arc::clone(&self.shared.status);
        let open = || broker.counts.open_channel(&self.shared.user, &broker.identity.cluster_name);
        let permit = (!status.is_internal).then(open).transpose()?;
        let channel = Channel::new(number, permit, self.shared.now);
        status.insert_channel(number, Arc::clone(&channel.status));
        self.channels.insert(number, State::Open(Box::new(channel)));
        self.shared.out.method(number, &ServerMethod::ChannelOpenOk);
        if !status.is_internal {
            self.shared.broker.stats.channels.add(1);
            self.shared.broker.stats.channels_opened.add(1);
            self.shared.tell(|events, user| events.channel_created(user, &status, number));
        }
        Ok(())
    }

    /// Publishes and settlements go into the batch; any other method finds the queues up to date.
    fn handle_channel_method(&mut self, number: u16, method: ClientMethod<'_>) -> Result<(), Refusal> {
        let Some(channel) = self.channels.open(number) else { return Ok(()) };
        let shared = &mut self.shared;
        channel.status.used(shared.now.unix_ms);
        match method {
            ClientMethod::BasicAck { delivery_tag, multiple } => {
                return channel.ack(delivery_tag, multiple, shared);
            }
            method => {
                shared.begin_method();
                match method {
                    ClientMethod::ChannelClose { .. } => self.close_channel(number),
                    ClientMethod::BasicCancel { consumer_tag, nowait } => {
                        self.cancel(number, consumer_tag, nowait);
                    }
                    method => channel.handle(method, shared)?,
                }
            }
        }
        self.release_held();
        Ok(())
    }

    /// `basic.cancel`: what was on its way to the consumer goes out before cancel-ok, and nothing after it.
    fn cancel(&mut self, number: u16, tag: String, nowait: bool) {
        let Some(channel) = self.channels.open(number) else { return };
        if let Some(id) = channel.consumers.get(tag.as_str()).copied() {
            channel.remove_consumer(id, &mut self.shared);
            self.drain_outbox(usize::MAX);
            if let Some(channel) = self.channels.open(number) {
                channel.forget_consumer(id, &mut self.shared);
            }
        }
        if !nowait {
            self.shared.out.method(number, &ServerMethod::BasicCancelOk { consumer_tag: tag });
        }
    }

    /// `channel.close` from the client.
    fn close_channel(&mut self, number: u16) {
        self.end_channel(number);
        self.deliver_items();
        self.channels.remove(number);
        self.shared.out.method(number, &ServerMethod::ChannelCloseOk);
    }

    /// Refuses a method: closes its channel, or leaves it to the caller to close the connection.
    fn refuse(&mut self, number: u16, refusal: Refusal, method: (u16, u16)) -> Result<(), RefusedMethod> {
        if refusal.code.scope() == Scope::Connection {
            return Err((refusal, method));
        }
        self.close_refused(number, &refusal, method);
        Ok(())
    }

    /// Who has logged in.
    pub(super) fn user(&self) -> &str {
        &self.shared.user.name
    }

    /// Closes a channel from the broker's side.
    fn close_refused(&mut self, number: u16, refusal: &Refusal, method: (u16, u16)) {
        let (class_id, method_id) = refusal.method.unwrap_or(method);
        let reply_text = refusal.reply_text();
        let peer = self.shared.status.ends.peer;
        if !self.shared.status.is_internal {
            tracing::info!(%peer, user = self.user(), channel = number, "channel closed: {reply_text}");
        }
        self.end_channel(number);
        self.deliver_items();
        self.channels.insert(number, State::Closing);
        let reply_code = refusal.code.code();
        self.shared
            .out
            .method(number, &ServerMethod::ChannelClose { reply_code, reply_text, class_id, method_id });
    }

    /// When to call [`Running::handle_deadline`]; [`NEVER`] if there is nothing to wait for.
    pub(super) fn deadline_ms(&self) -> u64 {
        self.shared.due_ms
    }

    /// Sees to deliveries that were not acknowledged in time; whether anything was to be done.
    pub(super) fn handle_deadline(&mut self, now: Now) -> bool {
        let now_ms = now.monotonic_ms;
        if now_ms < self.shared.due_ms {
            return false;
        }
        self.shared.set_now(now);
        if self.is_held() {
            // One thing after another: the channel may be the one that the reply is for.
            self.shared.due_ms = now_ms + HELD_RECHECK_MS;
            return false;
        }
        while let Some((number, timed_out)) = self.next_timed_out(now_ms) {
            self.time_out(number, timed_out);
        }
        let timeouts = self.channels.iter_open().filter_map(|channel| channel.timeouts.as_ref());
        self.shared.due_ms = timeouts.map(|timeouts| timeouts.deadline_ms()).min().unwrap_or(NEVER);
        true
    }

    fn next_timed_out(&mut self, now_ms: u64) -> Option<(u16, TimedOut)> {
        self.channels.iter_open().find_map(|channel| {
            let timed_out = channel.timeouts.as_mut()?.look(&channel.unacked, now_ms)?;
            Some((channel.number, timed_out))
        })
    }

    /// A delivery was not acknowledged in time: its channel is closed (RabbitMQ up to 4.2), or its consumer cancelled
    /// (4.3), if the client can be told.
    fn time_out(&mut self, number: u16, timed_out: TimedOut) {
        let TimedOut { holder, timeout_ms } = timed_out;
        let cancels = self.shared.broker.consumer_timeout.cancels;
        if cancels && self.shared.capabilities.consumer_cancel_notify && holder.is_consumer() {
            self.cancel_timed_out(number, holder);
            return;
        }
        let text = format!(
            "delivery acknowledgement on channel {number} timed out. Timeout value used: {timeout_ms} ms. This \
             timeout value can be configured, see consumers doc guide to learn more"
        );
        self.close_refused(number, &Refusal::precondition_failed(text), (0, 0));
    }

    /// Cancels a consumer, if the client has not done so itself, and puts back what it has.
    fn cancel_timed_out(&mut self, number: u16, holder: Holder) {
        self.shared.flush();
        let Some(channel) = self.channels.open(number) else { return };
        let shared = &mut self.shared;
        let is_holder =
            |id: &&ConsumerId| shared.consumers.get(**id).is_some_and(|consumer| consumer.holder == holder);
        let consumer = channel.consumers.values().find(is_holder).copied();
        let mut deliveries = channel.unacked.take_from(holder);
        if let Some(id) = consumer {
            channel.remove_consumer(id, shared);
            shared.outbox.take(&mut self.items, usize::MAX);
            let (own, others): (VecDeque<_>, VecDeque<_>) =
                std::mem::take(&mut self.items).into_iter().partition(|item| consumer_of(item) == id);
            self.items = others;
            deliveries.extend(own.into_iter().filter_map(|item| give_back(item, shared)));
        }
        channel.requeue(deliveries, Return::Released, shared);
        self.deliver_items();
        if let Some(id) = consumer {
            self.tell_cancelled(number, id);
        }
    }

    /// Forgets a consumer that the broker has ended, and tells the client if it can.
    fn tell_cancelled(&mut self, number: u16, id: ConsumerId) {
        let Some(channel) = self.channels.open(number) else { return };
        let Some(consumer) = channel.forget_consumer(id, &mut self.shared) else { return };
        if self.shared.capabilities.consumer_cancel_notify {
            let consumer_tag = consumer.tag.as_ref().to_owned();
            self.shared.out.method(number, &ServerMethod::BasicCancel { consumer_tag, nowait: true });
        }
    }

    /// Gives back everything that a channel holds. What was on its way to its consumers goes back to the queues; what
    /// is on its way to others is left in `items`, to be delivered if the connection goes on.
    fn end_channel(&mut self, number: u16) {
        self.shared.flush();
        self.conclude_batch();
        let Some(channel) = self.channels.open(number) else { return };
        let shared = &mut self.shared;
        let consumers: Vec<_> = channel.consumers.values().copied().collect();
        for id in &consumers {
            channel.remove_consumer(*id, shared);
        }
        let mut unacked = channel.take_unacked();
        shared.outbox.take(&mut self.items, usize::MAX);
        let is_own = |item: &Item| {
            shared.consumers.get(consumer_of(item)).is_some_and(|consumer| consumer.channel == number)
        };
        let (own, others): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.items).into_iter().partition(is_own);
        for item in own {
            unacked.extend(give_back(item, shared));
        }
        channel.requeue(unacked, Return::Failed, shared);
        for id in consumers {
            channel.forget_consumer(id, shared);
        }
        shared.confirming.remove(&number);
        shared.channel_closed(number, &channel.status);
        self.items = others;
    }

    /// The connection as operators see it.
    pub(super) fn status(&self) -> &ConnectionStatus {
        &self.shared.status
    }

    /// Why an operator wants the connection to end, once.
    pub(super) fn take_close_reason(&self) -> Option<String> {
        self.shared.status.take_close_reason()
    }

    /// The time goes on.
    pub(super) fn set_now(&mut self, now: Now) {
        self.shared.set_now(now);
    }

    /// Something may have arrived, become durable, or changed its alarm.
    pub(super) fn handle_wake(&mut self, now: Now) {
        self.shared.set_now(now);
        self.get_held();
        self.release_held();
        self.drain_outbox(OUTPUT_BYTES_MAX);
        self.look_at_alarms();
    }

    /// Sends what the outbox holds, as long as the output stays under `output_max` octets.
    fn drain_outbox(&mut self, output_max: usize) {
        // RabbitMQ: delete-ok goes out before the cancellations that the deletion leads to.
        if let Some(Held::Reply(HeldReply { reply: ServerMethod::QueueDeleteOk { .. }, .. })) =
            self.shared.held
        {
            return;
        }
        loop {
            let room = output_max.saturating_sub(self.shared.out.len());
            if room == 0 {
                return;
            }
            self.shared.outbox.take(&mut self.items, room);
            if self.items.is_empty() {
                return;
            }
            self.deliver_items();
        }
    }

    fn deliver_items(&mut self) {
        let mut items = std::mem::take(&mut self.items);
        let count = items.len();
        for item in items.drain(..) {
            let Some(consumer) = self.shared.consumers.get(consumer_of(&item)) else { continue };
            let number = consumer.channel;
            let Some(channel) = self.channels.open(number) else { continue };
            match item {
                Item::Delivery(delivery) => channel.deliver(delivery, &mut self.shared),
                Item::Cancelled(id) => self.tell_cancelled(number, id),
            }
        }
        if items.capacity() > ITEMS_KEPT.max(4 * count) {
            items.shrink_to(ITEMS_KEPT);
        }
        self.items = items;
    }

    /// Lets the queues go on that stopped because the outbox was full.
    fn resume_stalled(&mut self) {
        let connection = self.shared.connection();
        for queue in self.shared.outbox.take_stalled() {
            let mut locked = queue.lock();
            locked.resume(connection);
            locked.deliver(&queue, &mut self.shared.effects);
        }
    }

    /// Does the `basic.get` that waited for the head of its queue. As with other held replies, what was delivered
    /// meanwhile goes out before its answer.
    fn get_held(&mut self) {
        let is_get = |held: &mut Held| matches!(held, Held::Get(_));
        let Some(Held::Get(get)) = self.shared.held.take_if(is_get) else { return };
        self.drain_outbox(usize::MAX);
        if let Some(channel) = self.channels.open(get.channel) {
            channel.get_from(get.queue, get.no_ack, &mut self.shared);
        }
    }

    /// Sends the reply that waited for its facts, once they are durable.
    fn release_held(&mut self) {
        let Some(Held::Reply(HeldReply { lsn, .. })) = self.shared.held else { return };
        // RabbitMQ: what a commit delivers on the same connection goes out before commit-ok.
        self.shared.effects.wakes.wake_all();
        self.drain_outbox(usize::MAX);
        if lsn > self.shared.broker.journal.durable() && self.wake_when_durable(lsn) {
            return;
        }
        if let Some(Held::Reply(HeldReply { channel, reply, .. })) = self.shared.held.take() {
            self.shared.out.method(channel, &reply);
        }
    }

    fn wake_when_durable(&mut self, lsn: Lsn) -> bool {
        if self.awaited.is_some_and(|awaited| awaited <= lsn)
            && self.awaited > Some(self.shared.broker.journal.durable())
        {
            return true;
        }
        self.awaited = Some(lsn);
        self.shared.broker.journal.wake_when_durable(lsn, &self.shared.outbox)
    }

    /// The frames at hand are through: the batch takes effect, confirms go out, others are woken.
    pub(super) fn finish_batch(&mut self) {
        self.shared.flush();
        self.resume_consumers();
        if !self.shared.confirming.is_empty() {
            // RabbitMQ: what a publish delivers on its own connection comes before its confirm.
            self.drain_outbox(OUTPUT_BYTES_MAX);
        }
        if self.shared.is_tracing {
            // What was delivered just now.
            self.shared.flush();
        }
        self.resume_stalled();
        self.conclude_batch();
    }

    /// Sends what the batch has confirmed, wakes whoever it concerns, and sees what the client has to wait for.
    fn conclude_batch(&mut self) {
        self.confirm();
        self.shared.tally.flush(&self.shared.broker.stats);
        self.shared.effects.wakes.wake_all();
        let Shared { has_published, broker, outbox, .. } = &self.shared;
        self.awaits_journal = *has_published && broker.journal.wake_when_not_full(outbox);
        if self.shared.is_blockable {
            self.look_at_alarms();
        }
    }

    /// Lets the consumers go on whose channel's limit leaves room again.
    fn resume_consumers(&mut self) {
        while let Some(number) = self.shared.resuming.pop_first() {
            if let Some(channel) = self.channels.open(number) {
                channel.resume_consumers(&mut self.shared);
            }
        }
    }

    fn confirm(&mut self) {
        if self.shared.confirming.is_empty() {
            self.shared.publishes.rejected.clear();
            return;
        }
        let lsn = std::mem::take(&mut self.shared.batch_lsn);
        self.reject();
        loop {
            let durable = self.shared.broker.journal.durable();
            let mut next: Option<Lsn> = None;
            let Self { shared, channels, .. } = self;
            let out = &mut shared.out;
            let tally = &mut shared.tally;
            shared.confirming.retain(|number| {
                let Some(Channel { mode: Mode::Confirm(confirms), status, .. }) = channels.open(*number)
                else {
                    return false;
                };
                confirms.flushed(lsn);
                let acked = confirms.acked();
                let waits_for = confirms.confirm(*number, durable, out);
                let acked = confirms.acked() - acked;
                tally.messages.confirm += acked;
                status.messages.confirm.add_alone(acked);
                status.unconfirmed.set(confirms.waiting());
                next = next.into_iter().chain(waits_for).min();
                waits_for.is_some()
            });
            match next {
                Some(next) if !self.wake_when_durable(next) => {}
                _ => return,
            }
        }
    }

    /// Notes which publishes a queue did not take.
    fn reject(&mut self) {
        for Origin { channel, number } in self.shared.publishes.rejected.drain(..) {
            if let Some(Channel { mode: Mode::Confirm(confirms), .. }) = self.channels.open(channel) {
                confirms.reject(number);
            }
        }
    }

    /// Blocks a client that publishes during an alarm and tells it so, until the alarm ends (RabbitMQ:
    /// `connection.blocked`).
    fn look_at_alarms(&mut self) {
        match self.shared.broker.alarms.reason() {
            Some(reason) if self.shared.is_blockable => self.tell_blocked(Some(reason)),
            Some(_) => {}
            None => {
                self.shared.is_blockable = false;
                self.tell_blocked(None);
            }
        }
        if self.blocked.is_some() || self.shared.status.is_blocked.load(Ordering::Relaxed) {
            self.show_blocked();
        }
    }

    fn tell_blocked(&mut self, reason: Option<&'static str>) {
        if self.blocked == reason {
            return;
        }
        if self.shared.capabilities.connection_blocked {
            let method = match reason {
                Some(reason) => ServerMethod::ConnectionBlocked { reason: reason.to_owned() },
                None => ServerMethod::ConnectionUnblocked,
            };
            self.shared.out.method(0, &method);
        }
        self.blocked = reason;
    }

    /// Lets operators see whether publishing is blocked.
    fn show_blocked(&self) {
        let status = &self.shared.status;
        let is_blocked = self.shared.is_blockable && self.blocked.is_some();
        if status.is_blocked.swap(is_blocked, Ordering::Relaxed) != is_blocked && is_blocked {
            status.last_blocked_ms.store(self.shared.now.unix_ms, Ordering::Relaxed);
        }
    }

    /// The connection ends: everything goes back, its exclusive queues are deleted. Returns the output.
    pub(super) fn end(&mut self) -> Encoder {
        self.shared.held = None;
        let numbers: Vec<u16> = self.channels.channels.iter().map(|(number, _)| *number).collect();
        for number in numbers {
            self.end_channel(number);
            self.channels.remove(number);
        }
        let queues = std::mem::take(&mut self.shared.exclusive_queues);
        for queue in queues.into_values() {
            delete(&queue, &mut self.shared);
        }
        self.shared.closed();
        self.finish_batch();
        std::mem::take(&mut self.shared.out)
    }
}

/// Items that an emptied buffer keeps room for.
const ITEMS_KEPT: usize = 256;

fn delete(queue: &Arc<QueueHandle>, shared: &mut Shared) {
    // Without conditions nothing can be refused.
    let host = &shared.host;
    let _ = shared.effects.by_nobody(|effects| host.delete_queue(queue, DeleteIf::default(), effects));
}

fn consumer_of(item: &Item) -> ConsumerId {
    match item {
        Item::Delivery(delivery) => delivery.consumer,
        Item::Cancelled(consumer) => *consumer,
    }
}

/// A delivery that will not be sent: one that needs an acknowledgement is returned, to be requeued with the others;
/// one that needs none goes back at once.
fn give_back(item: Item, shared: &mut Shared) -> Option<UnackedDelivery> {
    let Item::Delivery(delivery) = item else { return None };
    let queue = Arc::clone(shared.consumers.get(delivery.consumer)?.queue.as_ref()?);
    if delivery.slot != Slot::NONE {
        let (slot, sequence) = (delivery.slot, delivery.sequence);
        let tag = UnackedDelivery::UNSENT;
        return Some(UnackedDelivery { tag, queue, slot, sequence, holder: Holder::CONSUMER });
    }
    let mut locked = queue.lock();
    locked.give_back(delivery);
    locked.deliver(&queue, &mut shared.effects);
    None
}

/// 505 for a frame of a type that can't be where it is.
pub(super) fn unexpected_frame(frame: &Frame<'_>) -> Refusal {
    let text = described(frame.kind, frame.payload);
    Refusal::new(ReplyCode::UnexpectedFrame, text).for_method(0, 0)
}

fn expected_open() -> Refusal {
    Refusal::new(ReplyCode::ChannelError, "expected 'channel.open'")
}

fn second_open() -> Refusal {
    Refusal::new(ReplyCode::ChannelError, "second 'channel.open' seen")
}
