//! Class exchange (40): declare, delete, and RabbitMQ's bind and unbind between exchanges.

use std::sync::Arc;

use crate::{
    amqp::{ClientMethod, ServerMethod, Table},
    broker::{
        exchange::{Destination, alternate_argument},
        permission::Access,
        refusal::Refusal,
        route::Route,
        vhost::{BindingSpec, ExchangeSpec, exchange_kind},
    },
    session::{
        channel::{Channel, without_line_ends},
        publish::send_kept,
        shared::Shared,
    },
};

impl Channel {
    pub(super) fn exchange(&mut self, method: ClientMethod<'_>, shared: &mut Shared) -> Result<(), Refusal> {
        match method {
            ClientMethod::ExchangeDeclare {
                exchange,
                kind,
                passive,
                durable,
                auto_delete,
                internal,
                nowait,
                arguments,
            } => {
                let name = without_line_ends(&exchange);
                if passive {
                    refuse_default(&name)?;
                    shared.host.expect_exchange(&name)?;
                    self.reply(nowait, &ServerMethod::ExchangeDeclareOk, shared);
                } else {
                    // RabbitMQ looks at the type before anything else.
                    let kind = exchange_kind(&kind)?;
                    let spec = ExchangeSpec { name: &name, kind, durable, auto_delete, internal, arguments };
                    self.declare_exchange(&spec, shared)?;
                    self.reply_when_durable(nowait, ServerMethod::ExchangeDeclareOk, shared);
                }
            }
            ClientMethod::ExchangeDelete { exchange, if_unused, nowait } => {
                self.delete_exchange(&without_line_ends(&exchange), if_unused, shared)?;
                self.reply_when_durable(nowait, ServerMethod::ExchangeDeleteOk, shared);
            }
            ClientMethod::ExchangeBind { destination, source, routing_key, nowait, arguments } => {
                self.bind_exchange(&destination, &source, &routing_key, &arguments, shared)?;
                self.reply_when_durable(nowait, ServerMethod::ExchangeBindOk, shared);
            }
            ClientMethod::ExchangeUnbind { destination, source, routing_key, nowait, arguments } => {
                self.unbind_exchange(&destination, &source, &routing_key, &arguments, shared)?;
                self.reply_when_durable(nowait, ServerMethod::ExchangeUnbindOk, shared);
            }
            _ => unreachable!("only methods of class exchange come here"),
        }
        Ok(())
    }

    fn declare_exchange(&self, spec: &ExchangeSpec<'_>, shared: &mut Shared) -> Result<(), Refusal> {
        let host = Arc::clone(&shared.host);
        refuse_default(spec.name)?;
        let resource = host.exchange_resource(spec.name);
        shared.check_permission(resource, Access::Configure)?;
        if host.exchange(spec.name).is_none()
            && let Some(alternate) = alternate_argument(&spec.arguments).and_then(|(_, name)| name.as_str())
        {
            // RabbitMQ: who names an alternate exchange must be allowed to route through it.
            shared.check_permission(resource, Access::Read)?;
            shared.check_permission(host.exchange_resource(alternate), Access::Write)?;
        }
        host.declare_exchange(spec, &mut shared.effects)
    }

    fn delete_exchange(&self, name: &str, if_unused: bool, shared: &mut Shared) -> Result<(), Refusal> {
        let host = Arc::clone(&shared.host);
        refuse_default(name)?;
        let resource = host.exchange_resource(name);
        if name.starts_with("amq.") {
            return Err(Refusal::access_refused(format!("deletion of system {resource} not allowed")));
        }
        shared.check_permission(resource, Access::Configure)?;
        host.delete_exchange(name, if_unused, &mut shared.effects)
    }

    fn bind_exchange(
        &self,
        destination: &str,
        source: &str,
        binding_key: &str,
        arguments: &Table,
        shared: &mut Shared,
    ) -> Result<(), Refusal> {
        let host = Arc::clone(&shared.host);
        let (destination, source) = (without_line_ends(destination), without_line_ends(source));
        check_exchange_binding(&destination, &source, binding_key, shared)?;
        host.expect_exchange(&source)?;
        let exchange = host.expect_exchange(&destination)?;
        let destination = Destination::Exchange(Arc::clone(&exchange));
        let spec = BindingSpec { source: &source, binding_key, arguments };
        let kept = host.bind(&destination, spec, &mut shared.effects)?;
        // RabbitMQ 3.10.8: through an exchange, they come in reverse order.
        for kept in kept.into_iter().rev() {
            let route = Route::find_for_kept(&host, &exchange, &kept, shared.now.unix_ms);
            send_kept(kept.message, &route.queues, route.claims, shared);
        }
        Ok(())
    }

    fn unbind_exchange(
        &self,
        destination: &str,
        source: &str,
        binding_key: &str,
        arguments: &Table,
        shared: &mut Shared,
    ) -> Result<(), Refusal> {
        let host = Arc::clone(&shared.host);
        let (destination, source) = (without_line_ends(destination), without_line_ends(source));
        check_exchange_binding(&destination, &source, binding_key, shared)?;
        if let Some(exchange) = host.exchange(&destination) {
            let spec = BindingSpec { source: &source, binding_key, arguments };
            host.unbind(&Destination::Exchange(exchange), spec, &mut shared.effects);
        }
        Ok(())
    }
}

fn check_exchange_binding(
    destination: &str,
    source: &str,
    binding_key: &str,
    shared: &mut Shared,
) -> Result<(), Refusal> {
    let host = Arc::clone(&shared.host);
    refuse_default(destination)?;
    shared.check_permission(host.exchange_resource(destination), Access::Write)?;
    refuse_default(source)?;
    check_source(source, binding_key, shared)
}

/// The right to take messages from an exchange, and from a topic exchange with that key.
pub(super) fn check_source(source: &str, binding_key: &str, shared: &mut Shared) -> Result<(), Refusal> {
    let host = Arc::clone(&shared.host);
    let resource = host.exchange_resource(source);
    shared.check_permission(resource, Access::Read)?;
    let is_topic = host.exchange(source).is_some_and(|source| source.properties.kind.name() == "topic");
    if is_topic {
        shared.check_topic_permission(resource, binding_key, Access::Read)?;
    }
    Ok(())
}

/// 403 for what can't be done with the default exchange.
pub(super) fn refuse_default(exchange: &str) -> Result<(), Refusal> {
    if exchange.is_empty() {
        return Err(Refusal::access_refused("operation not permitted on the default exchange"));
    }
    Ok(())
}
