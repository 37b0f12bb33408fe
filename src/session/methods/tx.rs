//! Class tx (90), and RabbitMQ's class confirm (85): how a channel's publishes take effect.

use std::sync::atomic::Ordering;

use crate::{
    amqp::{ClientMethod, ServerMethod},
    broker::refusal::Refusal,
    session::{
        channel::{Channel, Mode},
        confirm::Confirms,
        shared::Shared,
        transaction::{Commit, Transaction},
    },
};

impl Channel {
    pub(super) fn tx(&mut self, method: ClientMethod<'_>, shared: &mut Shared) -> Result<(), Refusal> {
        match method {
            ClientMethod::TxSelect => self.select_transaction(shared),
            ClientMethod::TxCommit => self.commit(shared),
            ClientMethod::TxRollback => self.roll_back(shared),
            ClientMethod::ConfirmSelect { nowait } => self.select_confirms(nowait, shared),
            _ => unreachable!("only methods of classes tx and confirm come here"),
        }
    }

    fn select_transaction(&mut self, shared: &mut Shared) -> Result<(), Refusal> {
        match self.mode {
            Mode::Plain => {
                self.mode = Mode::Transaction(Transaction::default());
                self.status.is_transactional.store(true, Ordering::Relaxed);
            }
            Mode::Transaction(_) => {}
            Mode::Confirm(_) => {
                return Err(Refusal::precondition_failed("cannot switch from confirm to tx mode"));
            }
        }
        shared.out.method(self.number, &ServerMethod::TxSelectOk);
        Ok(())
    }

    fn select_confirms(&mut self, nowait: bool, shared: &mut Shared) -> Result<(), Refusal> {
        match self.mode {
            Mode::Plain => {
                self.mode = Mode::Confirm(Confirms::default());
                self.status.confirms.store(true, Ordering::Relaxed);
            }
            Mode::Confirm(_) => {}
            Mode::Transaction(_) => {
                return Err(Refusal::precondition_failed("cannot switch from tx to confirm mode"));
            }
        }
        self.reply(nowait, &ServerMethod::ConfirmSelectOk, shared);
        Ok(())
    }

    fn transaction(&mut self) -> Result<&mut Transaction, Refusal> {
        match &mut self.mode {
            Mode::Transaction(transaction) => Ok(transaction),
            _ => Err(Refusal::precondition_failed("channel is not transactional")),
        }
    }

    fn show_nothing_uncommitted(&self) {
        self.status.uncommitted.set(0);
        self.status.uncommitted_acks.set(0);
    }

    /// Publishes first, then settlements, and all their facts in one append: the log makes them atomic.
    fn commit(&mut self, shared: &mut Shared) -> Result<(), Refusal> {
        let Commit { publications, acked, rejected, requeued } = self.transaction()?.commit();
        for publication in publications {
            publication.send_again(self.number, &self.status, shared);
        }
        self.show_nothing_uncommitted();
        self.settle(acked, false, shared);
        self.settle(rejected, true, shared);
        for (how, deliveries) in requeued {
            self.requeue(deliveries, how, shared);
        }
        shared.apply();
        let number = self.number;
        if shared.publishes.rejected.iter().any(|origin| origin.channel == number) {
            return Err(Refusal::precondition_failed("partial tx completion"));
        }
        // RabbitMQ: what a commit delivers on its own connection comes before commit-ok.
        shared.reply_after_deliveries(number, ServerMethod::TxCommitOk);
        Ok(())
    }

    fn roll_back(&mut self, shared: &mut Shared) -> Result<(), Refusal> {
        let settled = self.transaction()?.roll_back();
        self.show_nothing_uncommitted();
        self.restore_unacked(settled, shared);
        shared.out.method(self.number, &ServerMethod::TxRollbackOk);
        Ok(())
    }
}
