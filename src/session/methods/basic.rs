//! Class basic (60): qos, consume, get, ack, nack, reject, recover. Publishing is in `session/publish.rs`.

use std::sync::Arc;

use crate::{
    amqp::{ClientMethod, ServerMethod, Table},
    broker::{
        ReplyConsumer,
        event::ConsumerFields,
        permission::Access,
        queue::{ConsumerSpec, Got, Paged, QueueHandle, QueueKind, Return},
        refusal::Refusal,
        vhost::{REPLY_TO, generated_name},
    },
    session::{
        channel::{Channel, Mode, UnackedDelivery, content, delivered_properties},
        shared::{ConsumerState, Held, HeldGet, Shared},
        timeout::Holder,
    },
};

/// What `basic.consume` asks for, once its queue is known.
struct Consume {
    tag: String,
    no_ack: bool,
    exclusive: bool,
    nowait: bool,
    arguments: Table,
}

impl Channel {
    pub(super) fn basic(&mut self, method: ClientMethod<'_>, shared: &mut Shared) -> Result<(), Refusal> {
        match method {
            ClientMethod::BasicQos { prefetch_size, prefetch_count, global } => {
                self.qos(prefetch_size, prefetch_count, global, shared)
            }
            ClientMethod::BasicConsume {
                queue, consumer_tag, no_ack, exclusive, nowait, arguments, ..
            } => self.consume(
                &queue,
                Consume { tag: consumer_tag, no_ack, exclusive, nowait, arguments },
                shared,
            ),
            ClientMethod::BasicGet { queue, no_ack } => self.get(&queue, no_ack, shared),
            ClientMethod::BasicReject { delivery_tag, requeue } => {
                self.reject(delivery_tag, false, requeue.then_some(Return::Failed), shared)
            }
            ClientMethod::BasicNack { delivery_tag, multiple, requeue } => {
                self.reject(delivery_tag, multiple, requeue.then_some(shared.released()), shared)
            }
            ClientMethod::BasicRecover { requeue } => {
                self.recover(requeue, Some(&ServerMethod::BasicRecoverOk), shared)
            }
            ClientMethod::BasicRecoverAsync { requeue } => self.recover(requeue, None, shared),
            // The client's answer to a consumer that the server has cancelled.
            ClientMethod::BasicCancelOk { .. } => Ok(()),
            _ => unreachable!("only methods of class basic come here"),
        }
    }

    fn qos(&mut self, size: u32, count: u16, global: bool, shared: &mut Shared) -> Result<(), Refusal> {
        if size != 0 {
            return Err(Refusal::not_implemented(format!("prefetch_size!=0 ({size})")));
        }
        if global {
            self.credit.set_limit(count);
            self.status.global_prefetch.set(count.into());
        } else {
            // RabbitMQ: a limit for each consumer ends the one of the channel.
            self.credit.set_limit(0);
            self.prefetch = count;
            self.status.global_prefetch.set(0);
            self.status.prefetch.set(count.into());
        }
        self.resume_consumers(shared);
        shared.out.method(self.number, &ServerMethod::BasicQosOk);
        Ok(())
    }

    fn consume(&mut self, queue: &str, consume: Consume, shared: &mut Shared) -> Result<(), Refusal> {
        if self.consumers.contains_key(consume.tag.as_str()) {
            let text = format!("attempt to reuse consumer tag '{}'", consume.tag);
            return Err(Refusal::not_allowed(text));
        }
        if let Some(max) = shared.broker.limits.consumers_per_channel_max
            && self.consumers.len() >= max as usize
        {
            let text = format!("reached maximum ({max}) of consumers per channel");
            return Err(Refusal::not_allowed(text));
        }
        if queue == REPLY_TO {
            return self.consume_replies(&consume, shared);
        }
        let host = Arc::clone(&shared.host);
        let name = self.queue_name(queue)?;
        shared.check_permission(host.queue_resource(&name), Access::Read)?;
        let queue = host.expect_queue(&name, shared.connection())?;
        let priority = consumer_priority(&consume.arguments, &queue)?;
        let timeout_ms = consumer_timeout(&consume.arguments, &queue, shared)?.filter(|_| !consume.no_ack);
        self.check_exclusive(&consume, &queue)?;
        self.start_consumer(&consume, &queue, (priority, timeout_ms), shared)
    }

    /// RabbitMQ: a queue with a single active consumer has no exclusive one; a quorum queue knows no limit of a
    /// whole channel, but ours does.
    fn check_exclusive(&self, consume: &Consume, queue: &QueueHandle) -> Result<(), Refusal> {
        if consume.exclusive && queue.properties.arguments.single_active_consumer {
            return Err(Refusal::access_refused(format!("{} in exclusive use", queue.resource())));
        }
        Ok(())
    }

    fn start_consumer(
        &mut self,
        consume: &Consume,
        queue: &Arc<QueueHandle>,
        (priority, timeout_ms): (i64, Option<u64>),
        shared: &mut Shared,
    ) -> Result<(), Refusal> {
        let tag = consumer_tag(&consume.tag);
        let holder =
            timeout_ms.map_or(Holder::CONSUMER, |timeout_ms| self.timeouts(shared).add_consumer(timeout_ms));
        let id = shared.consumers.insert(ConsumerState {
            channel: self.number,
            tag: Arc::clone(&tag),
            queue: Some(Arc::clone(queue)),
            holder,
            is_told: false,
        });
        let spec = ConsumerSpec {
            id,
            tag: Arc::clone(&tag),
            channel: self.number,
            arguments: consume.arguments.clone(),
            outbox: Arc::clone(&shared.outbox),
            credit: Arc::clone(&self.credit),
            prefetch: self.prefetch,
            priority,
            no_ack: consume.no_ack,
            exclusive: consume.exclusive,
        };
        queue.used(shared.now);
        let mut locked = queue.lock();
        if let Err(refusal) = locked.add_consumer(spec, queue.resource()) {
            drop(locked);
            shared.consumers.remove(id);
            return Err(refusal);
        }
        self.consumers.insert(Arc::clone(&tag), id);
        self.status.consumers.set(self.consumers.len() as u64);
        // Deliveries come through the outbox, so consume-ok goes out before the first of them.
        let consume_ok = ServerMethod::BasicConsumeOk { consumer_tag: tag.as_ref().to_owned() };
        self.reply(consume.nowait, &consume_ok, shared);
        let connection = shared.connection();
        let fields = ConsumerFields { tag: &tag, queue, connection, channel: self.number };
        let flags = (!consume.no_ack, consume.exclusive);
        let prefetch = self.prefetch;
        shared
            .tell(|events, user| events.consumer_created(user, fields, &consume.arguments, prefetch, flags));
        locked.deliver(queue, &mut shared.effects);
        Ok(())
    }

    /// Direct reply-to: a consumer without a queue, one for each channel.
    fn consume_replies(&mut self, consume: &Consume, shared: &mut Shared) -> Result<(), Refusal> {
        if self.reply_name.is_some() {
            return Err(Refusal::precondition_failed("reply consumer already set"));
        }
        if !consume.no_ack {
            return Err(Refusal::precondition_failed("reply consumer cannot acknowledge"));
        }
        let tag = consumer_tag(&consume.tag);
        let consumer = shared.consumers.insert(ConsumerState {
            channel: self.number,
            tag: Arc::clone(&tag),
            queue: None,
            holder: Holder::CONSUMER,
            is_told: false,
        });
        self.consumers.insert(Arc::clone(&tag), consumer);
        self.status.consumers.set(self.consumers.len() as u64);
        let name: Arc<str> = generated_name(&format!("{REPLY_TO}.")).into();
        let outbox = Arc::clone(&shared.outbox);
        shared.broker.reply_consumers.insert(Arc::clone(&name), ReplyConsumer { outbox, consumer });
        self.reply_name = Some(name);
        let consume_ok = ServerMethod::BasicConsumeOk { consumer_tag: tag.as_ref().to_owned() };
        self.reply(consume.nowait, &consume_ok, shared);
        Ok(())
    }

    fn get(&mut self, queue: &str, no_ack: bool, shared: &mut Shared) -> Result<(), Refusal> {
        let host = Arc::clone(&shared.host);
        let name = self.queue_name(queue)?;
        shared.check_permission(host.queue_resource(&name), Access::Read)?;
        let queue = host.expect_queue(&name, shared.connection())?;
        refuse_get_of_single_active(&queue)?;
        queue.used(shared.now);
        self.get_from(queue, no_ack, shared);
        Ok(())
    }

    /// Answers `basic.get`, or holds the answer until the message has been loaded.
    pub(in crate::session) fn get_from(
        &mut self,
        queue: Arc<QueueHandle>,
        no_ack: bool,
        shared: &mut Shared,
    ) {
        let mut locked = queue.lock();
        match locked.get(no_ack, &queue, &mut shared.effects) {
            Ok(Some(got)) => {
                drop(locked);
                self.get_ok(&queue, &got, shared);
            }
            Ok(None) => {
                drop(locked);
                self.count_get(None, shared);
                shared.out.method(self.number, &ServerMethod::BasicGetEmpty);
            }
            Err(Paged) => {
                locked.await_head(&shared.outbox, &queue);
                drop(locked);
                shared.held = Some(Held::Get(HeldGet { channel: self.number, queue, no_ack }));
            }
        }
    }

    fn get_ok(&mut self, queue: &Arc<QueueHandle>, got: &Got, shared: &mut Shared) {
        let message = &got.entry.message;
        self.count_get(Some(got), shared);
        let tag = self.track_get(queue, got.slot, got.entry.sequence, shared);
        let changed;
        let mut content = content(message);
        // RabbitMQ 3.10: a quorum queue says 0 too, but not to consumers.
        let is_counted = got.entry.delivery_count > 0 || queue.properties.arguments.kind == QueueKind::Quorum;
        if is_counted || message.has_bcc() {
            let count = is_counted.then_some(got.entry.delivery_count);
            changed = delivered_properties(message, Some(queue), count);
            content.properties = &changed;
        }
        let redelivered = got.entry.redelivered;
        let frame_max = shared.frame_max;
        shared.out.get_ok(self.number, tag, redelivered, &content, got.ready_count, frame_max);
        if shared.is_tracing {
            shared.trace_deliver(self.number, queue, message, redelivered);
        }
    }

    /// `basic.ack`. In a transaction it takes effect at the commit.
    ///
    /// # Errors
    /// 406 `unknown delivery tag`.
    pub(in crate::session) fn ack(
        &mut self,
        tag: u64,
        multiple: bool,
        shared: &mut Shared,
    ) -> Result<(), Refusal> {
        if multiple || matches!(self.mode, Mode::Transaction(_)) {
            let deliveries = self.take_unacked_up_to(tag, multiple)?;
            match &mut self.mode {
                Mode::Transaction(transaction) => {
                    self.status.uncommitted_acks.add_alone(deliveries.len() as u64);
                    transaction.ack(deliveries);
                }
                _ => self.settle(deliveries, false, shared),
            }
        } else {
            let delivery = self.unacked.take(tag).ok_or_else(|| unknown_tag(tag))?;
            self.settle([delivery], false, shared);
        }
        Ok(())
    }

    /// `basic.reject` and `basic.nack`: for good, or back to the queue.
    fn reject(
        &mut self,
        tag: u64,
        multiple: bool,
        requeue: Option<Return>,
        shared: &mut Shared,
    ) -> Result<(), Refusal> {
        let deliveries = self.take_unacked_up_to(tag, multiple)?;
        if matches!(self.mode, Mode::Transaction(_)) {
            self.status.uncommitted_acks.add_alone(deliveries.len() as u64);
        }
        match (&mut self.mode, requeue) {
            (Mode::Transaction(transaction), Some(how)) => transaction.requeue(deliveries, how),
            (Mode::Transaction(transaction), None) => transaction.reject(deliveries),
            (_, Some(how)) => self.requeue(deliveries, how, shared),
            (_, None) => self.settle(deliveries, true, shared),
        }
        Ok(())
    }

    fn take_unacked_up_to(&mut self, tag: u64, multiple: bool) -> Result<Vec<UnackedDelivery>, Refusal> {
        let deliveries = if multiple {
            self.unacked.take_until(tag)
        } else {
            self.unacked.take(tag).map(|delivery| vec![delivery])
        };
        self.show_unacked();
        deliveries.ok_or_else(|| unknown_tag(tag))
    }

    fn recover(
        &mut self,
        requeue: bool,
        ok: Option<&ServerMethod>,
        shared: &mut Shared,
    ) -> Result<(), Refusal> {
        if !requeue {
            return Err(Refusal::not_implemented("requeue=false"));
        }
        let deliveries = self.unacked.take_until(0).unwrap_or_default();
        if let Some(ok) = ok {
            shared.out.method(self.number, ok);
        }
        self.requeue(deliveries, shared.released(), shared);
        Ok(())
    }
}

fn unknown_tag(tag: u64) -> Refusal {
    Refusal::precondition_failed(format!("unknown delivery tag {tag}"))
}

/// The client's tag, or one made for it.
fn consumer_tag(tag: &str) -> Arc<str> {
    if tag.is_empty() { generated_name("amq.ctag-").into() } else { tag.into() }
}

/// Checks a consumer's arguments, as far as RabbitMQ does, and returns its `x-priority`, any integer.
fn consumer_priority(arguments: &Table, queue: &QueueHandle) -> Result<i64, Refusal> {
    let resource = queue.resource();
    if arguments.get("x-stream-offset").is_some() {
        let kind = queue.properties.arguments.kind.name();
        let text = format!("invalid arg 'x-stream-offset' for {resource} of queue type {kind}");
        return Err(Refusal::precondition_failed(text));
    }
    if let Some(value) = arguments.get("x-cancel-on-ha-failover").filter(|value| value.as_bool().is_none()) {
        let kind = value.type_name();
        let name = "x-cancel-on-ha-failover";
        let text = format!("invalid arg '{name}' for {resource}: {{unacceptable_type,{kind}}}");
        return Err(Refusal::precondition_failed(text));
    }
    let Some(value) = arguments.get("x-priority") else { return Ok(0) };
    value.as_int().ok_or_else(|| {
        Refusal::precondition_failed(format!(
            "invalid arg 'x-priority' for {}: \"expected integer, got {}\"",
            resource,
            value.type_name()
        ))
    })
}

/// How long deliveries to a consumer may stay unacknowledged, in milliseconds: what it says itself (`x-consumer-timeout`,
/// RabbitMQ 4.3), or else its queue, or else the node. `None` for as long as it takes, which is written as 0.
fn consumer_timeout(arguments: &Table, queue: &QueueHandle, shared: &Shared) -> Result<Option<u64>, Refusal> {
    let Some(value) = arguments.get("x-consumer-timeout") else { return Ok(shared.timeout_ms_of(queue)) };
    let reason = match value.as_int() {
        Some(timeout_ms) if timeout_ms >= 0 => {
            return Ok(Some(timeout_ms.unsigned_abs()).filter(|ms| *ms > 0));
        }
        Some(timeout_ms) => format!("{{value_negative,{timeout_ms}}}"),
        None => format!("\"expected integer, got {}\"", value.type_name()),
    };
    let text = format!("invalid arg 'x-consumer-timeout' for {}: {reason}", queue.resource());
    Err(Refusal::precondition_failed(text))
}

/// RabbitMQ 3.10: a quorum queue with a single active consumer can't be polled.
fn refuse_get_of_single_active(queue: &QueueHandle) -> Result<(), Refusal> {
    let arguments = &queue.properties.arguments;
    if arguments.kind == QueueKind::Quorum && arguments.single_active_consumer {
        return Err(Refusal::new(
            crate::amqp::ReplyCode::ResourceLocked,
            format!(
                "cannot obtain access to locked {}. basic.get operations are not supported by quorum queues \
                 with single active consumer",
                queue.resource()
            ),
        ));
    }
    Ok(())
}
