//! Queues of a virtual host: declaring, restoring and deleting them.

use std::{
    borrow::Cow,
    sync::{Arc, atomic::Ordering},
};

use super::{DeleteIf, QueueSpec, VirtualHost, check_same};
use crate::{
    amqp::Table,
    broker::{
        definition::Definition,
        delay,
        effects::Effects,
        event::Event,
        exchange::Destination,
        limit,
        outbox::{ConnectionId, ConsumerId, Item, Outbox, Wakes},
        queue::{ConsumerKey, QueueArguments, QueueHandle, QueueId, QueueKind, QueueProperties},
        refusal::Refusal,
    },
};

impl VirtualHost {
    /// Declares a queue, or checks that the one of that name is the same. `is_generated` says that the broker has
    /// made up the name.
    ///
    /// # Errors
    /// 405 for another connection's exclusive queue, 406 for an inequivalent redeclaration, bad arguments or a full
    /// virtual host, 403 for a reserved name.
    pub fn declare_queue(
        &self,
        spec: &QueueSpec<'_>,
        is_generated: bool,
        connection: ConnectionId,
        effects: &mut Effects,
    ) -> Result<Arc<QueueHandle>, Refusal> {
        let topology = self.topology();
        if let Some(queue) = self.queue(spec.name) {
            match check_queue_equivalence(&queue, spec, connection) {
                // The queue may have got the default type when it was declared, or be older than the default.
                Err(_)
                    if check_queue_equivalence(&queue, &self.typed(spec, is_generated), connection)
                        .is_ok() => {}
                checked => checked?,
            }
            self.pager.stats.queues_declared.add(1);
            return Ok(queue);
        }
        self.expect_open(&topology)?;
        let spec = &*self.typed(spec, is_generated);
        if spec.name.starts_with("amq.") && !is_generated {
            let text = format!("queue name '{}' contains reserved prefix 'amq.*'", spec.name);
            return Err(Refusal::access_refused(text));
        }
        let permit = self.take_queue_permit(spec.name)?;
        let properties = self.check_queue_spec(spec, is_generated, connection)?;
        let name: Arc<str> = spec.name.into();
        let queue = QueueHandle::new(
            QueueId(self.next_id()),
            Arc::clone(&name),
            Arc::clone(&self.name),
            properties,
            permit,
            Arc::clone(&self.pager),
        );
        let queue = Arc::new(queue);
        queue.apply_policies(&self.policies, effects);
        if queue.properties.durable {
            let definition = Definition::QueueDeclared {
                virtual_host: Arc::clone(&self.name),
                id: queue.id,
                name: Arc::clone(&name),
                auto_delete: spec.auto_delete,
                arguments: spec.arguments.clone(),
            };
            self.record(definition, effects);
        }
        self.insert_queue(&queue);
        self.pager.stats.queues_declared.add(1);
        self.pager.stats.queues_created.add(1);
        self.events.tell(effects, |events, user| events.queue_created(user, &queue));
        Ok(queue)
    }

    /// What is asked for, with the type that queues get here which say none, if such a queue can be of that type
    /// (RabbitMQ: a quorum queue is durable and nobody's own, and has a name).
    fn typed<'a, 's>(&self, spec: &'s QueueSpec<'a>, is_generated: bool) -> Cow<'s, QueueSpec<'a>> {
        let default = self.metadata().default_queue_type;
        let fits = match default {
            None => false,
            Some(QueueKind::Classic) => true,
            Some(QueueKind::Quorum) => spec.durable && !spec.exclusive && !spec.auto_delete && !is_generated,
        };
        match default.filter(|_| fits && spec.arguments.get("x-queue-type").is_none()) {
            None => Cow::Borrowed(spec),
            Some(kind) => {
                let mut spec = spec.clone();
                spec.arguments.0.push(("x-queue-type".to_owned(), kind.short_name().into()));
                Cow::Owned(spec)
            }
        }
    }

    pub(super) fn insert_queue(&self, queue: &Arc<QueueHandle>) {
        self.queues.insert(Arc::clone(&queue.name), Arc::clone(queue));
        self.queue_count.fetch_add(1, Ordering::Relaxed);
        self.changed();
    }

    /// Puts a durable queue back that was there before the start.
    ///
    /// # Errors
    /// 405 if there is one of that name, 406 for bad arguments.
    pub(in crate::broker) fn restore_queue(
        &self,
        id: QueueId,
        name: &Arc<str>,
        auto_delete: bool,
        table: Table,
    ) -> Result<Arc<QueueHandle>, Refusal> {
        let _topology = self.topology();
        let resource = self.queue_resource(name);
        if self.queues.contains_key(name) {
            return Err(Refusal::locked(resource));
        }
        let arguments = QueueArguments::restored(&table);
        let properties = QueueProperties { durable: true, auto_delete, exclusive: None, table, arguments };
        let permit = self.node_queue_count.take_again();
        let (host, pager) = (Arc::clone(&self.name), Arc::clone(&self.pager));
        let queue = Arc::new(QueueHandle::new(id, Arc::clone(name), host, properties, permit, pager));
        if let Some(exchange) = delay::exchange_of(name).and_then(|exchange| self.exchange(exchange))
            && exchange.properties.delays
        {
            exchange.set_delay_queue(&queue);
        }
        // It is empty, so that nothing comes of it.
        queue.apply_policies(&self.policies, &mut Effects::default());
        self.insert_queue(&queue);
        Ok(queue)
    }

    fn take_queue_permit(&self, name: &str) -> Result<limit::Permit, Refusal> {
        let refused = |place: String, max: u32| {
            let text = format!("cannot declare queue '{name}': queue limit in {place} ({max}) is reached");
            Refusal::precondition_failed(text)
        };
        if let Some(max) = self.queues_max()
            && self.queue_count.load(Ordering::Relaxed) >= max
        {
            return Err(refused(format!("vhost '{}'", self.name), max));
        }
        self.node_queue_count.take().map_err(|max| refused("cluster".to_owned(), max))
    }

    fn check_queue_spec(
        &self,
        spec: &QueueSpec<'_>,
        is_generated: bool,
        connection: ConnectionId,
    ) -> Result<QueueProperties, Refusal> {
        let resource = self.queue_resource(spec.name);
        let arguments = QueueArguments::parse(&spec.arguments, resource)?;
        arguments.check_properties(spec, is_generated, resource)?;
        Ok(QueueProperties {
            // RabbitMQ: an exclusive queue goes with its connection, so there is nothing to survive.
            durable: spec.durable && !spec.exclusive,
            auto_delete: spec.auto_delete,
            exclusive: spec.exclusive.then_some(connection),
            table: spec.arguments.clone(),
            arguments,
        })
    }

    /// Deletes a queue and tells its consumers. Returns the number of ready messages that went with it.
    ///
    /// # Errors
    /// 406 if it is in use and `if_unused` is set, or not empty and `if_empty` is set.
    pub fn delete_queue(
        &self,
        queue: &Arc<QueueHandle>,
        condition: DeleteIf,
        effects: &mut Effects,
    ) -> Result<u32, Refusal> {
        let mut topology = self.topology();
        let (count, consumers) = {
            let mut queue_locked = queue.lock();
            if queue_locked.is_deleted() {
                return Ok(0);
            }
            let failed = match condition {
                DeleteIf { empty: true, .. } if queue_locked.ready_count() > 0 => Some("not empty"),
                DeleteIf { unused: true, .. } if queue_locked.consumer_count() > 0 => Some("in use"),
                _ => None,
            };
            if let Some(reason) = failed {
                return Err(Refusal::precondition_failed(format!("{} {reason}", queue.resource())));
            }
            queue_locked.delete(effects)
        };
        self.pager.stats.queues_deleted.add(1);
        if queue.properties.durable {
            self.record(Definition::QueueDeleted { id: queue.id }, effects);
        }
        self.queues.remove(&queue.name);
        self.queue_count.fetch_sub(1, Ordering::Relaxed);
        let over = self.unbind_everywhere(&mut topology, &Destination::Queue(Arc::clone(queue)), effects);
        self.events.tell(effects, |_, user| Event::queue_deleted(user, queue));
        if !effects.is_replay {
            over.iter().for_each(|exchange| self.remove_exchange(&mut topology, exchange, effects));
        }
        self.changed();
        notify_cancelled(&consumers, &mut effects.wakes);
        Ok(count)
    }

    /// Removes a consumer; an auto-delete queue goes with its last one.
    pub fn remove_consumer(&self, queue: &Arc<QueueHandle>, consumer: ConsumerKey, effects: &mut Effects) {
        let was_last = {
            let mut queue_locked = queue.lock();
            let was_last = queue_locked.remove_consumer(consumer);
            queue_locked.deliver(queue, effects);
            was_last
        };
        if was_last && queue.properties.auto_delete {
            let unused = DeleteIf { unused: true, empty: false };
            // Refused only if another consumer came meanwhile: then the queue stays, as it should.
            let _ = effects.by_nobody(|effects| self.delete_queue(queue, unused, effects));
        }
    }
}

fn check_queue_equivalence(
    queue: &QueueHandle,
    spec: &QueueSpec<'_>,
    connection: ConnectionId,
) -> Result<(), Refusal> {
    let current = &queue.properties;
    if current.exclusive != spec.exclusive.then_some(connection) {
        return Err(Refusal::locked(queue.resource()));
    }
    let resource = queue.resource();
    check_same(resource, "durable", spec.durable && !spec.exclusive, current.durable)?;
    check_same(resource, "auto_delete", spec.auto_delete, current.auto_delete)?;
    QueueArguments::check_equivalence(&current.table, &spec.arguments, resource)
}

fn notify_cancelled(consumers: &[(Arc<Outbox>, ConsumerId)], wakes: &mut Wakes) {
    for (outbox, consumer) in consumers {
        outbox.push(Item::Cancelled(*consumer));
        wakes.add(outbox);
    }
}
