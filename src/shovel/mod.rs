//! Shovels: each moves messages from a queue or an exchange to another one, of this broker or of any other that speaks AMQP
//! 0-9-1 (RabbitMQ: dynamic shovels). A parameter of the component `shovel` is one.
//!
//! [`run`] sees to it that there is a task for each parameter, which is a `worker::Worker`; what it decides about
//! messages is in `flow`, which knows no sockets. [`Shovels`] is what others may know of them.

mod content;
mod definition;
mod flow;
mod link;
mod uri;
mod worker;

use std::{
    collections::{BTreeMap, HashMap},
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
};

use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

pub(crate) use self::definition::Definition;
use self::{link::Connector, worker::Worker};
use crate::{
    broker::{
        Broker,
        event::Event,
        parameter::{Parameter, Parameters, SHOVEL},
    },
    server::{Clock, Connections},
};

/// How the shovels are, for whoever asks. Bounded by the parameters.
#[derive(Debug, Default)]
pub(crate) struct Shovels {
    statuses: Mutex<BTreeMap<Key, Arc<Status>>>,
}

/// The virtual host and the name of a shovel.
type Key = (Arc<str>, Arc<str>);

/// How a shovel is.
#[derive(Debug)]
pub(crate) struct Status {
    state: Mutex<(State, u64)>,
    /// Messages that it has published to where they go, since it was set.
    pub(crate) forwarded: AtomicU64,
    /// Of those, the ones that are not confirmed.
    pub(crate) pending: AtomicU64,
    /// Messages that it will still take; `u64::MAX` for as many as come.
    pub(crate) remaining: AtomicU64,
    restart: Notify,
}

/// What a shovel does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It connects.
    Starting,
    /// It moves messages, or waits for some.
    Running {
        /// Where from and where to: the name of each field in the definition, and what it is. URIs are shown without
        /// their secrets.
        ends: Vec<(&'static str, String)>,
    },
    /// It has failed. It tries again by itself unless its definition says otherwise.
    ///
    /// Deviation: RabbitMQ shows one that will try again as `starting`, and does not say why.
    Terminated {
        /// Why.
        reason: String,
    },
}

impl State {
    /// RabbitMQ's name of it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running { .. } => "running",
            Self::Terminated { .. } => "terminated",
        }
    }
}

impl Shovels {
    /// That shovel, if it has been started.
    pub(crate) fn get(&self, virtual_host: &str, name: &str) -> Option<Arc<Status>> {
        self.lock().get(&(Arc::from(virtual_host), Arc::from(name))).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Arc<Status>>> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Status {
    fn new(unix_ms: u64) -> Self {
        Self {
            state: Mutex::new((State::Starting, unix_ms)),
            forwarded: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            remaining: AtomicU64::new(u64::MAX),
            restart: Notify::new(),
        }
    }

    /// What it does, and since when, in milliseconds since 1970.
    pub(crate) fn state(&self) -> (State, u64) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has it connect anew, at once.
    pub(crate) fn restart(&self) {
        self.restart.notify_one();
    }

    fn set(&self, state: State, unix_ms: u64) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = (state, unix_ms);
    }

    fn count(&self, flow: &flow::Flow) {
        self.pending.store(flow.pending(), Ordering::Relaxed);
        self.remaining.store(flow.remaining().unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// Runs a shovel for each parameter that says so, until the broker stops.
pub(crate) async fn run(
    shovels: Arc<Shovels>,
    broker: Arc<Broker>,
    connections: Connections,
    clock: Clock,
    mut stopping: watch::Receiver<bool>,
) {
    let running = HashMap::new();
    let stops = stopping.clone();
    let mut supervisor = Supervisor { shovels, broker, connections, clock, stopping: stops, running };
    let mut generation = None;
    loop {
        let broker = Arc::clone(&supervisor.broker);
        tokio::select! {
            changed = changed(&broker.parameters, generation) => generation = Some(changed),
            // An error says that the sender is gone: the broker has stopped.
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        supervisor.reconcile();
    }
}

/// Until parameters are not of that generation any more; of which they are then.
async fn changed(parameters: &Parameters, seen: Option<u64>) -> u64 {
    poll_fn(|context| {
        parameters.set_waker(context.waker());
        let generation = parameters.generation();
        if seen == Some(generation) { Poll::Pending } else { Poll::Ready(generation) }
    })
    .await
}

struct Supervisor {
    shovels: Arc<Shovels>,
    broker: Arc<Broker>,
    connections: Connections,
    clock: Clock,
    stopping: watch::Receiver<bool>,
    running: HashMap<Key, Running>,
}

/// A shovel that was started. It ends when dropped: what was not acknowledged goes back to where it came from.
struct Running {
    parameter: Arc<Parameter>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Supervisor {
    /// Ends shovels whose parameters are gone or say something else, and starts those that do not run.
    fn reconcile(&mut self) {
        let wanted = self.broker.parameters.of_component(SHOVEL);
        let mut wanted: HashMap<Key, Arc<Parameter>> =
            wanted.into_iter().map(|parameter| (key(&parameter), parameter)).collect();
        self.running.retain(|key, running| {
            let stays = wanted.get(key) == Some(&running.parameter);
            if stays {
                wanted.remove(key);
            } else {
                self.shovels.lock().remove(key);
                self.broker.tell(|_| Event::shovel_removed(&key.0, &key.1));
            }
            stays
        });
        wanted.into_values().for_each(|parameter| self.start(parameter));
    }

    fn start(&mut self, parameter: Arc<Parameter>) {
        let status = Arc::new(Status::new(self.clock.now().unix_ms));
        self.shovels.lock().insert(key(&parameter), Arc::clone(&status));
        let connector = Connector {
            broker: Arc::clone(&self.broker),
            connections: self.connections.clone(),
            clock: self.clock,
            parameter: Arc::clone(&parameter),
        };
        let task = tokio::spawn(Worker::new(connector, status, self.clock, self.stopping.clone()).run());
        self.running.insert(key(&parameter), Running { parameter, task });
    }
}

fn key(parameter: &Parameter) -> Key {
    (Arc::clone(&parameter.virtual_host), Arc::clone(&parameter.name))
}
