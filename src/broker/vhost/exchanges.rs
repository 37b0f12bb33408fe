//! Exchanges of a virtual host: declaring and deleting them, and the queues of those that delay.

use std::{
    borrow::Cow,
    sync::{Arc, atomic::Ordering},
};

use super::{ExchangeSpec, Topology, VirtualHost, check_same, read, write};
use crate::{
    amqp::{ReplyCode, Table},
    broker::{
        definition::Definition,
        delay,
        effects::Effects,
        event::Event,
        exchange::{
            Destination, Exchange, ExchangeArguments, ExchangeKind, ExchangeProperties, alternate_argument,
        },
        queue::{QueueHandle, QueueId, QueueProperties},
        refusal::{Refusal, Resource},
    },
};

impl VirtualHost {
    /// Declares an exchange, or checks that the one of that name is the same.
    ///
    /// # Errors
    /// 403 for a reserved name, 406 for an inequivalent redeclaration and bad arguments.
    pub fn declare_exchange(&self, spec: &ExchangeSpec<'_>, effects: &mut Effects) -> Result<(), Refusal> {
        let topology = self.topology();
        if let Some(exchange) = self.exchange(spec.name) {
            return check_exchange_equivalence(&exchange, spec);
        }
        self.expect_open(&topology)?;
        let resource = self.exchange_resource(spec.name);
        if spec.name.starts_with("amq.") {
            let text = format!("exchange name '{}' contains reserved prefix 'amq.*'", spec.name);
            return Err(Refusal::access_refused(text));
        }
        let alternate = alternate_exchange(&spec.arguments, resource)?;
        let arguments = match ExchangeArguments::parse(spec.kind, &spec.arguments, resource) {
            // It was taken by a version that did not check them.
            Err(_) if effects.is_replay => ExchangeArguments::none(spec.kind),
            arguments => arguments?,
        };
        let properties = ExchangeProperties {
            kind: spec.kind,
            durable: spec.durable,
            auto_delete: spec.auto_delete,
            internal: spec.internal,
            delays: spec.kind == ExchangeKind::DelayedMessage,
            table: spec.arguments.clone(),
            arguments,
            alternate,
        };
        let name: Arc<str> = spec.name.into();
        if spec.durable {
            let definition = Definition::ExchangeDeclared {
                virtual_host: Arc::clone(&self.name),
                name: Arc::clone(&name),
                kind: spec.kind.name(),
                auto_delete: spec.auto_delete,
                internal: spec.internal,
                arguments: spec.arguments.clone(),
            };
            self.record(definition, effects);
        }
        let exchange = self.insert_exchange(name, properties);
        self.events.tell(effects, |_, user| Event::exchange_created(user, &exchange));
        // One that comes back has its queue among those that come back.
        if !effects.is_replay {
            self.add_delay_queue(&exchange, effects);
        }
        Ok(())
    }

    /// Gives an exchange that delays messages the queue that keeps them.
    fn add_delay_queue(&self, exchange: &Exchange, effects: &mut Effects) {
        if !exchange.properties.delays || exchange.delay_queue().is_some() {
            return;
        }
        let (id, name) = (QueueId(self.next_id()), Arc::from(delay::queue_name(&exchange.name)));
        let properties = QueueProperties {
            durable: exchange.properties.durable,
            auto_delete: false,
            exclusive: None,
            table: Table::default(),
            arguments: Arc::default(),
        };
        if properties.durable {
            let definition = Definition::QueueDeclared {
                virtual_host: Arc::clone(&self.name),
                id,
                name: Arc::clone(&name),
                auto_delete: false,
                arguments: Table::default(),
            };
            self.record(definition, effects);
        }
        let permit = self.node_queue_count.take_again();
        let (host, pager) = (Arc::clone(&self.name), Arc::clone(&self.pager));
        let queue = Arc::new(QueueHandle::new(id, name, host, properties, permit, pager));
        exchange.set_delay_queue(&queue);
        self.insert_queue(&queue);
    }

    /// Gives exchanges that delay messages the queues that they lack: a crash may come between the two definitions.
    pub(in crate::broker) fn add_missing_delay_queues(&self, effects: &mut Effects) {
        let _topology = self.topology();
        self.exchanges().iter().for_each(|exchange| self.add_delay_queue(exchange, effects));
    }

    /// Whether a queue keeps the delayed messages of an exchange that is gone: a crash may come between the deletions of
    /// both.
    pub(in crate::broker) fn is_left_over(&self, queue: &Arc<QueueHandle>) -> bool {
        let Some(exchange) = delay::exchange_of(&queue.name) else { return false };
        let exchange = self.exchange(exchange);
        !exchange.is_some_and(|exchange| exchange.delay_queue().is_some_and(|own| Arc::ptr_eq(own, queue)))
    }

    fn remove_delay_queue(&self, exchange: &Exchange, effects: &mut Effects) {
        let Some(queue) = exchange.delay_queue() else { return };
        queue.lock().delete(effects);
        if queue.properties.durable {
            self.record(Definition::QueueDeleted { id: queue.id }, effects);
        }
        self.queues.remove(&queue.name);
        self.queue_count.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn insert_exchange(&self, name: Arc<str>, properties: ExchangeProperties) -> Arc<Exchange> {
        let (id, host) = (self.next_id(), Arc::clone(&self.name));
        let exchange = Exchange::new(id, Arc::clone(&name), host, properties, &self.history_bytes);
        exchange.apply_policies(&self.policies);
        let exchange = Arc::new(exchange);
        self.exchanges.insert(name, Arc::clone(&exchange));
        self.changed();
        exchange
    }

    /// Deletes an exchange with its bindings; one that is missing counts as deleted.
    ///
    /// # Errors
    /// 406 if it is in use and `if_unused` is set.
    pub fn delete_exchange(&self, name: &str, if_unused: bool, effects: &mut Effects) -> Result<(), Refusal> {
        let mut topology = self.topology();
        let Some(exchange) = self.exchange(name) else { return Ok(()) };
        if if_unused && !read(&exchange.bindings).is_empty() {
            return Err(Refusal::precondition_failed(format!("{} in use", exchange.resource())));
        }
        self.remove_exchange(&mut topology, &exchange, effects);
        Ok(())
    }

    /// Removes an exchange, and the auto-delete exchanges that lose their last binding by it, however long that chain.
    pub(super) fn remove_exchange(
        &self,
        topology: &mut Topology,
        exchange: &Arc<Exchange>,
        effects: &mut Effects,
    ) {
        let mut doomed = vec![Arc::clone(exchange)];
        while let Some(exchange) = doomed.pop() {
            if exchange.properties.durable {
                let definition = Definition::ExchangeDeleted {
                    virtual_host: Arc::clone(&self.name),
                    name: Arc::clone(&exchange.name),
                };
                self.record(definition, effects);
            }
            self.exchanges.remove(&exchange.name);
            self.remove_delay_queue(&exchange, effects);
            let bindings = write(&exchange.bindings).take();
            self.events.tell(effects, |_, user| Event::exchange_deleted(user, &exchange));
            for (key, arguments, destination) in bindings.iter() {
                topology.forget_source(destination.id(), &exchange.name);
                self.tell_binding(false, &exchange, destination, (key, arguments), effects);
            }
            let over = self.unbind_everywhere(topology, &Destination::Exchange(exchange), effects);
            if !effects.is_replay {
                doomed.extend(over);
            }
        }
        self.changed();
    }
}

/// The type of an exchange by its name.
///
/// # Errors
/// 503, which closes the connection.
pub fn exchange_kind(name: &str) -> Result<ExchangeKind, Refusal> {
    ExchangeKind::parse(name).ok_or_else(|| {
        // RabbitMQ tells a name that no plugin ever registered from one that can't be a type at all.
        let reason = if name.is_empty() { "invalid" } else { "unknown" };
        Refusal::new(ReplyCode::CommandInvalid, format!("{reason} exchange type '{name}'"))
    })
}

pub(in crate::broker) fn alternate_exchange(
    arguments: &Table,
    resource: Resource<'_>,
) -> Result<Option<Arc<str>>, Refusal> {
    let Some((argument, value)) = alternate_argument(arguments) else { return Ok(None) };
    match value.as_str() {
        Some(name) => Ok(Some(name.into())),
        None => Err(Refusal::precondition_failed(format!(
            "invalid type '{}' for arg '{argument}' in {resource}",
            value.type_name()
        ))),
    }
}

fn check_exchange_equivalence(exchange: &Exchange, spec: &ExchangeSpec<'_>) -> Result<(), Refusal> {
    let resource = exchange.resource();
    let current = &exchange.properties;
    check_same(resource, "type", atom(spec.kind), atom(current.kind))?;
    check_same(resource, "durable", spec.durable, current.durable)?;
    check_same(resource, "auto_delete", spec.auto_delete, current.auto_delete)?;
    check_same(resource, "internal", spec.internal, current.internal)?;
    current.arguments.check_equivalence(current.kind, &current.table, &spec.arguments, resource)
}

/// The name of a type as Erlang prints the atom: in quotes of its own if it is no plain word.
fn atom(kind: ExchangeKind) -> Cow<'static, str> {
    let name = kind.name();
    if name.contains('-') { format!("'{name}'").into() } else { name.into() }
}
