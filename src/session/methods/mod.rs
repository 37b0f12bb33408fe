//! What each method does, one file for each class of AMQP 0-9-1.

mod basic;
mod exchange;
mod queue;
mod tx;

use super::{channel::Channel, shared::Shared};
use crate::{
    amqp::{ClientMethod, ReplyCode, ServerMethod},
    broker::refusal::Refusal,
};

impl Channel {
    /// Handles a method other than publish, ack, cancel and channel.close, which need more than their channel.
    ///
    /// # Errors
    /// What the method is refused for; the code says whether the channel or the connection closes.
    pub(super) fn handle(&mut self, method: ClientMethod<'_>, shared: &mut Shared) -> Result<(), Refusal> {
        use ClientMethod as M;
        match method {
            M::ChannelOpen => Err(Refusal::new(ReplyCode::ChannelError, "second 'channel.open' seen")),
            M::ChannelFlow { active: true } => {
                shared.out.method(self.number, &ServerMethod::ChannelFlowOk { active: true });
                Ok(())
            }
            // Deviation from the specification, as RabbitMQ: consumers are held back by prefetch.
            M::ChannelFlow { active: false } => Err(Refusal::not_implemented("active=false")),
            M::AccessRequest => {
                shared.out.method(self.number, &ServerMethod::AccessRequestOk { ticket: 1 });
                Ok(())
            }
            M::ExchangeDeclare { .. }
            | M::ExchangeDelete { .. }
            | M::ExchangeBind { .. }
            | M::ExchangeUnbind { .. } => self.exchange(method, shared),
            M::QueueDeclare { .. }
            | M::QueueBind { .. }
            | M::QueueUnbind { .. }
            | M::QueuePurge { .. }
            | M::QueueDelete { .. } => self.queue(method, shared),
            M::BasicQos { .. }
            | M::BasicConsume { .. }
            | M::BasicCancelOk { .. }
            | M::BasicGet { .. }
            | M::BasicReject { .. }
            | M::BasicNack { .. }
            | M::BasicRecover { .. }
            | M::BasicRecoverAsync { .. } => self.basic(method, shared),
            M::TxSelect | M::TxCommit | M::TxRollback | M::ConfirmSelect { .. } => self.tx(method, shared),
            _ => Err(Refusal::new(ReplyCode::CommandInvalid, "unimplemented method")),
        }
    }

    /// Sends a reply unless the client asked for none.
    fn reply(&self, nowait: bool, reply: &ServerMethod, shared: &mut Shared) {
        if !nowait {
            shared.out.method(self.number, reply);
        }
    }

    /// Sends the reply to a change once it is durable, unless the client asked for none. If there was nothing to change,
    /// that is what another client has changed, which may not be durable yet.
    fn reply_when_durable(&self, nowait: bool, reply: ServerMethod, shared: &mut Shared) {
        if nowait {
            shared.flush();
        } else {
            shared.method_lsn = shared.method_lsn.max(shared.host.recorded());
            shared.reply_when_durable(self.number, reply);
        }
    }
}
