//! Class queue (50): declare, bind, unbind, purge, delete.

use std::sync::Arc;

use super::exchange::{check_source, refuse_default};
use crate::{
    amqp::{ClientMethod, ServerMethod, Table, Value},
    broker::{
        exchange::Destination,
        permission::Access,
        queue::QueueHandle,
        refusal::Refusal,
        vhost::{BindingSpec, DeleteIf, QueueSpec, REPLY_TO, generated_name},
    },
    session::{
        channel::{Channel, without_line_ends},
        publish::send_kept,
        shared::Shared,
    },
};

/// A binding by names, as a method means them.
struct Named {
    queue: Arc<str>,
    exchange: String,
    binding_key: String,
}

impl Channel {
    pub(super) fn queue(&mut self, method: ClientMethod<'_>, shared: &mut Shared) -> Result<(), Refusal> {
        match method {
            ClientMethod::QueueDeclare {
                queue,
                passive,
                durable,
                exclusive,
                auto_delete,
                nowait,
                arguments,
            } => {
                let name = without_line_ends(&queue);
                let spec = QueueSpec { name: &name, durable, exclusive, auto_delete, arguments };
                let ok = self.declare_queue(spec, passive, shared)?;
                if passive {
                    self.reply(nowait, &ok, shared);
                } else {
                    self.reply_when_durable(nowait, ok, shared);
                }
            }
            ClientMethod::QueueBind { queue, exchange, routing_key, nowait, arguments } => {
                self.bind_queue(&queue, &exchange, &routing_key, &arguments, shared)?;
                self.reply_when_durable(nowait, ServerMethod::QueueBindOk, shared);
            }
            ClientMethod::QueueUnbind { queue, exchange, routing_key, arguments } => {
                self.unbind_queue(&queue, &exchange, &routing_key, &arguments, shared)?;
                self.reply_when_durable(false, ServerMethod::QueueUnbindOk, shared);
            }
            ClientMethod::QueuePurge { queue, nowait } => {
                let message_count = self.purge(&queue, shared)?;
                self.reply_when_durable(nowait, ServerMethod::QueuePurgeOk { message_count }, shared);
            }
            ClientMethod::QueueDelete { queue, if_unused, if_empty, nowait } => {
                let condition = DeleteIf { unused: if_unused, empty: if_empty };
                let message_count = self.delete_queue(&queue, condition, shared)?;
                self.reply_when_durable(nowait, ServerMethod::QueueDeleteOk { message_count }, shared);
            }
            _ => unreachable!("only methods of class queue come here"),
        }
        Ok(())
    }

    fn declare_queue(
        &mut self,
        spec: QueueSpec<'_>,
        passive: bool,
        shared: &mut Shared,
    ) -> Result<ServerMethod, Refusal> {
        if let Some(ok) = declare_reply_queue(spec.name, shared) {
            return ok;
        }
        let host = Arc::clone(&shared.host);
        if passive {
            // How many messages an exchange delays is for everybody to see.
            let delaying = host.queue(spec.name).filter(|queue| queue.delays);
            let queue = delaying.map_or_else(|| host.expect_queue(spec.name, shared.connection()), Ok)?;
            return Ok(self.declare_ok(&queue, shared));
        }
        let is_generated = spec.name.is_empty();
        // RabbitMQ checks the permission for the name that it has made.
        let name = if is_generated { generated_name("amq.gen-") } else { spec.name.to_owned() };
        let spec = QueueSpec { name: &name, ..spec };
        shared.check_permission(host.queue_resource(spec.name), Access::Configure)?;
        let is_new = host.queue(spec.name).is_none();
        if is_new {
            check_dead_letter_permission(&spec, shared)?;
        }
        let connection = shared.connection();
        let queue = host.declare_queue(&spec, is_generated, connection, &mut shared.effects)?;
        if is_new {
            queue.used(shared.now);
            shared.broker.watch_use(&queue, shared.now);
        }
        if spec.exclusive {
            shared.own(&queue);
        }
        Ok(self.declare_ok(&queue, shared))
    }

    fn declare_ok(&mut self, queue: &QueueHandle, shared: &Shared) -> ServerMethod {
        queue.used(shared.now);
        self.last_queue = Some(Arc::clone(&queue.name));
        let locked = queue.lock();
        ServerMethod::QueueDeclareOk {
            queue: queue.name.as_ref().to_owned(),
            message_count: locked.ready_count(),
            consumer_count: locked.consumer_count(),
        }
    }

    fn bind_queue(
        &self,
        queue: &str,
        exchange: &str,
        routing_key: &str,
        arguments: &Table,
        shared: &mut Shared,
    ) -> Result<(), Refusal> {
        let host = Arc::clone(&shared.host);
        let Named { queue: name, exchange, binding_key } =
            self.check_binding(queue, exchange, routing_key, shared)?;
        host.expect_exchange(&exchange)?;
        let queue = host.expect_queue(&name, shared.connection())?;
        let spec = BindingSpec { source: &exchange, binding_key: &binding_key, arguments };
        let kept = host.bind(&Destination::Queue(Arc::clone(&queue)), spec, &mut shared.effects)?;
        for kept in kept {
            send_kept(kept.message, std::slice::from_ref(&queue), Vec::new(), shared);
        }
        Ok(())
    }

    fn unbind_queue(
        &self,
        queue: &str,
        exchange: &str,
        routing_key: &str,
        arguments: &Table,
        shared: &mut Shared,
    ) -> Result<(), Refusal> {
        let host = Arc::clone(&shared.host);
        let Named { queue: name, exchange, binding_key } =
            self.check_binding(queue, exchange, routing_key, shared)?;
        let Some(queue) = host.queue(&name) else { return Ok(()) };
        let access = queue.check_access(shared.connection());
        let spec = BindingSpec { source: &exchange, binding_key: &binding_key, arguments };
        let destination = Destination::Queue(queue);
        match access {
            Ok(()) => host.unbind(&destination, spec, &mut shared.effects),
            // RabbitMQ: what is not bound may be unbound, even from another connection's exclusive queue.
            Err(_) if !host.is_bound(&destination, spec) => {}
            Err(locked) => return Err(locked),
        }
        Ok(())
    }

    /// What a binding is made or removed between, if the user may.
    fn check_binding(
        &self,
        queue: &str,
        exchange: &str,
        routing_key: &str,
        shared: &mut Shared,
    ) -> Result<Named, Refusal> {
        let host = Arc::clone(&shared.host);
        let name = self.queue_name(queue)?;
        let exchange = without_line_ends(exchange);
        let binding_key = self.binding_key(queue, routing_key);
        shared.check_permission(host.queue_resource(&name), Access::Write)?;
        refuse_default(&exchange)?;
        check_source(&exchange, &binding_key, shared)?;
        Ok(Named { queue: name, exchange, binding_key })
    }

    /// The key of a binding: with neither a queue nor a key given, the key is the last declared queue's name
    /// (AMQP 0-9-1 section 1.7.2.3).
    fn binding_key(&self, queue: &str, routing_key: &str) -> String {
        match &self.last_queue {
            Some(last) if queue.is_empty() && routing_key.is_empty() => last.as_ref().to_owned(),
            _ => routing_key.to_owned(),
        }
    }

    fn purge(&self, queue: &str, shared: &mut Shared) -> Result<u32, Refusal> {
        let host = Arc::clone(&shared.host);
        let name = self.queue_name(queue)?;
        shared.check_permission(host.queue_resource(&name), Access::Read)?;
        let queue = host.expect_queue(&name, shared.connection())?;
        let count = queue.lock().purge(&mut shared.effects);
        Ok(count)
    }

    fn delete_queue(&self, queue: &str, condition: DeleteIf, shared: &mut Shared) -> Result<u32, Refusal> {
        let host = Arc::clone(&shared.host);
        let name = self.queue_name(queue)?;
        shared.check_permission(host.queue_resource(&name), Access::Configure)?;
        let Some(queue) = host.queue(&name) else { return Ok(0) };
        queue.check_access(shared.connection())?;
        let count = host.delete_queue(&queue, condition, &mut shared.effects)?;
        shared.exclusive_queues.remove(&queue.id);
        Ok(count)
    }
}

/// Declaring the name of direct reply-to, in any way, answers what RabbitMQ answers; the name of a reply consumer
/// says whether it is still there.
fn declare_reply_queue(name: &str, shared: &Shared) -> Option<Result<ServerMethod, Refusal>> {
    let rest = name.strip_prefix(REPLY_TO)?;
    if !rest.is_empty() && !rest.starts_with('.') {
        return None;
    }
    if rest.is_empty() || shared.broker.reply_consumers.contains_key(name) {
        let queue = name.to_owned();
        return Some(Ok(ServerMethod::QueueDeclareOk { queue, message_count: 0, consumer_count: 1 }));
    }
    Some(Err(Refusal::no(shared.host.queue_resource(name))))
}

/// RabbitMQ: who names a dead-letter exchange must be allowed to read the queue and to write to the exchange.
fn check_dead_letter_permission(spec: &QueueSpec<'_>, shared: &mut Shared) -> Result<(), Refusal> {
    let Some(exchange) = spec.arguments.get("x-dead-letter-exchange").and_then(Value::as_str) else {
        return Ok(());
    };
    let host = Arc::clone(&shared.host);
    shared.check_permission(host.queue_resource(spec.name), Access::Read)?;
    shared.check_permission(host.exchange_resource(exchange), Access::Write)
}
