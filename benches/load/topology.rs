//! The exchange, queues and bindings of a scenario.

use anyhow::{Context, Result, bail};

use super::connection::{CHANNEL, Connection};
use super::options::Options;
use super::wire::{self, Arguments, Fields, id};

/// Bindings are sent without waiting for each answer, and this many bytes at a time.
const BIND_BYTES: usize = 1 << 16;
/// Methods on queues that are sent before their answers are read: few enough that neither side's socket fills up.
const PIPELINE: u32 = 500;
const PASSIVE: u8 = 0b1;
const DURABLE: u8 = 0b10;
const NO_WAIT: u8 = 0b1;

/// Where a publisher may send a message.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) key: String,
    /// The queue whose sequence numbers the message takes; for a fanout 0.
    pub(crate) queue: u32,
}

/// What is declared on one broker, under names of this process.
pub(crate) struct Topology {
    options: Options,
    address: String,
    /// `None` while the broker is down.
    control: Option<Connection>,
    prefix: String,
}

impl Topology {
    /// Declares everything on the broker at `address`.
    pub(crate) fn declare(options: &Options, address: &str) -> Result<Topology> {
        let prefix = format!("load.{}", std::process::id());
        let (options, address) = (options.clone(), address.to_owned());
        let mut topology = Topology { options, address, control: None, prefix };
        topology.connect()?;
        match topology.declare_all() {
            Ok(()) => Ok(topology),
            Err(error) => {
                // The declaration's error is the one to tell.
                let _ = topology.delete();
                Err(error)
            }
        }
    }

    /// Connects to a broker that was started again, at `address`.
    pub(crate) fn reconnect(&mut self, address: &str) -> Result<()> {
        self.address = address.to_owned();
        self.connect()
    }

    /// Closes the connection, for which a broker that stops would wait.
    pub(crate) fn disconnect(&mut self) -> Result<()> {
        self.control.take().map_or(Ok(()), |control| control.close(|_| Ok(())))
    }

    /// The exchange to publish to; empty for the default one.
    pub(crate) fn exchange(&self) -> String {
        match self.kind() {
            None => String::new(),
            Some(kind) => format!("{}.{kind}", self.prefix),
        }
    }

    pub(crate) fn queue(&self, queue: u32) -> String {
        format!("{}.{queue}", self.prefix)
    }

    /// The routes of one publisher: its share of all, or one of them when there are more publishers than routes.
    pub(crate) fn routes_of(&self, publisher: u16) -> Vec<Route> {
        let (publisher, publishers) = (u32::from(publisher), u32::from(self.options.publishers));
        let all = self.route_count();
        if publishers >= all {
            vec![self.route(publisher % all)]
        } else {
            (publisher..all).step_by(publishers as usize).map(|route| self.route(route)).collect()
        }
    }

    /// That every queue is empty: all was delivered, and every ack taken.
    pub(crate) fn check_empty(&mut self) -> Result<()> {
        match self.messages()? {
            0 => Ok(()),
            messages => bail!("the queues hold {messages} messages after the run"),
        }
    }

    /// Messages ready in all queues. It fails if a queue is not there.
    pub(crate) fn messages(&mut self) -> Result<u64> {
        let mut messages = 0;
        self.each_queue(
            (id::QUEUE_DECLARE, id::QUEUE_DECLARE_OK),
            |a, name| {
                a.u16(0).short(name).u8(PASSIVE).empty_table();
            },
            |mut answer| {
                messages += u64::from(answer.short().and_then(|_| answer.u32())?);
                Some(())
            },
        )?;
        Ok(messages)
    }

    /// Purges all queues; returns how many messages they held.
    pub(crate) fn purge(&mut self) -> Result<u64> {
        let mut messages = 0;
        self.each_queue(
            (id::QUEUE_PURGE, id::QUEUE_PURGE_OK),
            |a, name| {
                a.u16(0).short(name).u8(0);
            },
            |mut answer| {
                messages += u64::from(answer.u32()?);
                Some(())
            },
        )?;
        Ok(messages)
    }

    /// Declares all queues.
    pub(crate) fn declare_queues(&mut self) -> Result<()> {
        let durable = if self.options.durable { DURABLE } else { 0 };
        self.each_queue(
            (id::QUEUE_DECLARE, id::QUEUE_DECLARE_OK),
            |a, name| {
                a.u16(0).short(name).u8(durable).empty_table();
            },
            |_| Some(()),
        )
    }

    /// Deletes all queues; returns how many messages they held.
    pub(crate) fn delete_queues(&mut self) -> Result<u64> {
        let mut messages = 0;
        self.each_queue(
            (id::QUEUE_DELETE, id::QUEUE_DELETE_OK),
            |a, name| {
                a.u16(0).short(name).u8(0);
            },
            |mut answer| {
                messages += u64::from(answer.u32()?);
                Some(())
            },
        )?;
        Ok(messages)
    }

    /// Deletes everything.
    pub(crate) fn delete(mut self) -> Result<()> {
        // A check that failed may have cost the channel, or the connection.
        let _ = self.disconnect();
        self.connect()?;
        self.delete_queues()?;
        if self.kind().is_some() {
            let exchange = self.exchange();
            self.control()?.call(id::EXCHANGE_DELETE, id::EXCHANGE_DELETE_OK, |a| {
                a.u16(0).short(&exchange).u8(0);
            })?;
        }
        self.disconnect()
    }

    /// Sends a method for every queue, `(method, answer)`, and passes the fields of each answer to `each`, which
    /// returns `None` if they are malformed.
    fn each_queue(
        &mut self,
        (method, answer): (u32, u32),
        arguments: impl Fn(&mut Arguments<'_>, &str),
        mut each: impl FnMut(Fields<'_>) -> Option<()>,
    ) -> Result<()> {
        let mut left = 0..self.options.queues;
        while !left.is_empty() {
            let batch = left.start..left.end.min(left.start + PIPELINE);
            left.start = batch.end;
            let mut out = Vec::new();
            for queue in batch.clone() {
                wire::method(&mut out, CHANNEL, method, |a| arguments(a, &self.queue(queue)));
            }
            self.control()?.send(&out)?;
            for queue in batch {
                let fields = self.control()?.wait_for(answer).with_context(|| format!("queue {queue}"))?;
                each(Fields(&fields)).context("bad answer to a method on a queue")?;
            }
        }
        Ok(())
    }

    fn connect(&mut self) -> Result<()> {
        self.control = Some(Connection::open(&self.options, &self.address, 1 << 16)?);
        Ok(())
    }

    fn control(&mut self) -> Result<&mut Connection> {
        self.control.as_mut().context("not connected to the broker")
    }

    fn kind(&self) -> Option<&'static str> {
        match (self.options.fanout, self.options.topic) {
            (Some(_), _) => Some("fanout"),
            (_, Some(_)) => Some("topic"),
            _ => None,
        }
    }

    fn route_count(&self) -> u32 {
        match (self.options.fanout, self.options.topic) {
            (Some(_), _) => 1,
            (_, Some(bindings)) => bindings,
            _ => self.options.queues,
        }
    }

    fn route(&self, route: u32) -> Route {
        let key = match self.kind() {
            None => self.queue(route),
            Some(_) => format!("load.{route}.event"),
        };
        Route { key, queue: route % self.options.queues }
    }

    fn declare_all(&mut self) -> Result<()> {
        let durable = if self.options.durable { DURABLE } else { 0 };
        if let Some(kind) = self.kind() {
            let exchange = self.exchange();
            self.control()?.call(id::EXCHANGE_DECLARE, id::EXCHANGE_DECLARE_OK, |a| {
                a.u16(0).short(&exchange).short(kind).u8(durable).empty_table();
            })?;
        }
        self.declare_queues()?;
        self.bind_all()
    }

    fn bind_all(&mut self) -> Result<()> {
        let bindings = self.options.fanout.or(self.options.topic).unwrap_or(0);
        let exchange = self.exchange();
        let mut out = Vec::new();
        for binding in 0..bindings {
            let queue = self.queue(binding % self.options.queues);
            let key = if self.options.topic.is_some() { format!("load.{binding}.*") } else { String::new() };
            // The last one is answered, and so it is in effect with all before it.
            let last = binding + 1 == bindings;
            wire::method(&mut out, CHANNEL, id::QUEUE_BIND, |a| {
                a.u16(0).short(&queue).short(&exchange).short(&key).u8(if last { 0 } else { NO_WAIT });
                a.empty_table();
            });
            if out.len() >= BIND_BYTES || last {
                self.control()?.send(&out)?;
                out.clear();
            }
        }
        if bindings > 0 {
            self.control()?.wait_for(id::QUEUE_BIND_OK)?;
        }
        Ok(())
    }
}
