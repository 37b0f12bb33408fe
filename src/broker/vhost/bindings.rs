//! Bindings of a virtual host.

use std::{collections::HashMap, sync::Arc};

use super::{BindingSpec, Topology, VirtualHost, read, write};
use crate::{
    amqp::Table,
    broker::{
        definition::{Binding, Definition},
        effects::Effects,
        event::{Event, Events},
        exchange::{Destination, Exchange, History, Kept},
        refusal::Refusal,
    },
};

impl VirtualHost {
    /// Binds a queue or an exchange to `spec.source`; binding again changes nothing. Returns the messages that the source
    /// has kept for whoever is bound, oldest first: the caller is to send them there. Those that are not among them find
    /// the binding.
    ///
    /// # Errors
    /// 404 if either is gone, 406 for arguments that the exchange's type refuses.
    pub fn bind(
        &self,
        destination: &Destination,
        spec: BindingSpec<'_>,
        effects: &mut Effects,
    ) -> Result<Vec<Kept>, Refusal> {
        let mut topology = self.topology();
        self.expect_open(&topology)?;
        let source = self.expect_exchange(spec.source)?;
        self.expect_alive(destination)?;
        let mut bindings = write(&source.bindings);
        let added = bindings
            .insert(spec.binding_key, spec.arguments, destination.clone())
            .map_err(|invalid| Refusal::precondition_failed(invalid.to_string()))?;
        // Before the lock goes: a message is routed and kept under it too, so each one comes once.
        let kept = source.history.as_ref().filter(|_| added).map(History::messages);
        drop(bindings);
        if added {
            *topology.count(destination.id(), &source.name) += 1;
            if source.properties.durable && destination.is_durable() {
                self.record(Definition::Bound(self.binding_definition(&source, destination, spec)), effects);
            }
            self.changed();
            let key = (spec.binding_key, spec.arguments);
            self.tell_binding(true, &source, destination, key, effects);
        }
        Ok(kept.unwrap_or_default())
    }

    fn expect_alive(&self, destination: &Destination) -> Result<(), Refusal> {
        match destination {
            Destination::Queue(queue) => {
                let current = self.queue(&queue.name).filter(|current| current.id == queue.id);
                current.map(drop).ok_or_else(|| Refusal::no(queue.resource()))
            }
            Destination::Exchange(exchange) => {
                let current = self.exchange(&exchange.name).filter(|current| current.id == exchange.id);
                current.map(drop).ok_or_else(|| Refusal::no(exchange.resource()))
            }
        }
    }

    fn binding_definition(
        &self,
        source: &Exchange,
        destination: &Destination,
        spec: BindingSpec<'_>,
    ) -> Binding {
        Binding {
            virtual_host: Arc::clone(&self.name),
            source: Arc::clone(&source.name),
            to_exchange: matches!(destination, Destination::Exchange(_)),
            destination: Arc::clone(destination.name()),
            binding_key: spec.binding_key.to_owned(),
            arguments: spec.arguments.clone(),
        }
    }

    /// Whether there is that binding.
    pub fn is_bound(&self, destination: &Destination, spec: BindingSpec<'_>) -> bool {
        self.exchange(spec.source).is_some_and(|source| {
            read(&source.bindings).iter().any(|(key, arguments, to)| {
                to == destination && key == spec.binding_key && arguments == spec.arguments
            })
        })
    }

    /// The exchanges that a queue or an exchange is bound to, the default exchange left out.
    pub fn sources_of(&self, destination: &Destination) -> Vec<Arc<Exchange>> {
        let topology = self.topology();
        let names = topology.sources.get(&destination.id()).into_iter().flat_map(HashMap::keys);
        names.filter_map(|name| self.exchange(name)).collect()
    }

    /// Removes a binding; one that is missing counts as removed.
    pub fn unbind(&self, destination: &Destination, spec: BindingSpec<'_>, effects: &mut Effects) {
        let mut topology = self.topology();
        let Some(source) = self.exchange(spec.source) else { return };
        if !write(&source.bindings).remove(spec.binding_key, spec.arguments, destination) {
            return;
        }
        let count = topology.count(destination.id(), &source.name);
        *count -= 1;
        if *count == 0 {
            topology.forget_source(destination.id(), &source.name);
        }
        if source.properties.durable && destination.is_durable() {
            self.record(Definition::Unbound(self.binding_definition(&source, destination, spec)), effects);
        }
        self.changed();
        self.tell_binding(false, &source, destination, (spec.binding_key, spec.arguments), effects);
        if is_over(&source) && !effects.is_replay {
            self.remove_exchange(&mut topology, &source, effects);
        }
    }

    /// Removes every binding to that destination. Returns the exchanges that go with their last binding.
    pub(super) fn unbind_everywhere(
        &self,
        topology: &mut Topology,
        destination: &Destination,
        effects: &mut Effects,
    ) -> Vec<Arc<Exchange>> {
        let sources = topology.sources.remove(&destination.id()).unwrap_or_default();
        let sources = sources.into_keys().filter_map(|name| self.exchange(&name));
        sources
            .filter(|source| {
                self.tell_unbound(source, destination, effects);
                write(&source.bindings).remove_destination(destination);
                is_over(source)
            })
            .collect()
    }

    pub(super) fn tell_binding(
        &self,
        is_created: bool,
        source: &Exchange,
        destination: &Destination,
        key: (&str, &Table),
        effects: &mut Effects,
    ) {
        let event = |_: &Events, user: &str| Event::binding(is_created, user, source, destination, key);
        self.events.tell(effects, event);
    }

    /// Tells that all bindings from one exchange to a destination go with it (RabbitMQ: by themselves).
    fn tell_unbound(&self, source: &Exchange, destination: &Destination, effects: &mut Effects) {
        if !self.events.is_watched() {
            return;
        }
        let bindings = read(&source.bindings);
        effects.by_nobody(|effects| {
            bindings.to(destination).for_each(|key| {
                self.tell_binding(false, source, destination, key, effects);
            });
        });
    }
}

/// Whether it is an auto-delete exchange that has lost its last binding.
fn is_over(exchange: &Exchange) -> bool {
    exchange.properties.auto_delete && read(&exchange.bindings).is_empty()
}
