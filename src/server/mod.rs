//! The shell: sockets, tasks, timers, signals and the log thread. Nearly all async code is here.

mod clock;
mod connection;
mod data_dir;
mod disk_space;
mod listener;
mod log_thread;
mod memory;
mod reader_thread;
mod thread;
mod timers;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tracing::{info, warn};

use self::{clock::Clock, data_dir::DataDir, disk_space::DiskSpace, listener::Listener};
use crate::{
    broker::{Broker, ConsumerTimeout, Identity, Now, limit::Limits},
    config::{self, Config, DeliveryLimitCounts, Storage, XDeath},
    storage::{self, StorageError, disk::FileDisk},
};

/// Why the broker can't run, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A listener's address is taken, or not this machine's.
    #[error("cannot listen on {address}: {source}; choose another with --bind or --amqp-port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Another process has the data directory.
    #[error("data directory {} is in use by another broker; stop it or choose another with --data-dir", path.display())]
    DataDirLocked {
        /// The directory.
        path: PathBuf,
    },
    /// There is no data directory to look at.
    #[error("there is no data directory {}; name another with --data-dir", path.display())]
    NoDataDir {
        /// Where it would be.
        path: PathBuf,
    },
    /// The data directory can't be made or locked.
    #[error("cannot use data directory {}: {source}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Storage can't be opened, read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A thread of the storage ended by a bug of ours.
    #[error("the {thread} thread panicked")]
    Panicked {
        /// Its name.
        thread: &'static str,
    },
    /// The ready file can't be written.
    #[error("cannot write the ready file {}: {source}", path.display())]
    ReadyFile {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The system refuses something that every process gets.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

impl RunError {
    /// The process's exit code: 2 for usage, 74 for storage, 75 for what another process has.
    pub fn exit_code(&self) -> u8 {
        match self {
            RunError::DataDir { .. } | RunError::Storage(_) | RunError::Panicked { .. } => 74,
            RunError::Listen { .. } | RunError::DataDirLocked { .. } => 75,
            RunError::NoDataDir { .. } | RunError::ReadyFile { .. } => 2,
            RunError::System(_) => 1,
        }
    }
}

/// What is chosen at each start anew.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Gets the bound addresses as TOML once every listener accepts.
    pub ready_file: Option<PathBuf>,
    /// Whether to go on without what is damaged in the data directory.
    pub salvage: bool,
}

/// Runs a broker until SIGTERM or SIGINT.
///
/// # Errors
/// If it can't start, or storage fails.
pub fn run(config: Config, start: Start) -> Result<(), RunError> {
    let data_dir = DataDir::lock(&config.storage.data_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve(&config, &start));
    drop(runtime);
    drop(data_dir);
    result
}

/// Checks every record of a data directory that no broker uses, and changes nothing.
///
/// # Errors
/// If there is none, it is in use or of another version, or it can't be read.
pub fn fsck(data_dir: &Path) -> Result<storage::Report, RunError> {
    let _locked = DataDir::lock_as_is(data_dir)?;
    Ok(storage::check(Arc::new(FileDisk::new(data_dir)))?)
}

async fn serve(config: &Config, start: &Start) -> Result<(), RunError> {
    let clock = Clock::start();
    // Nobody can connect before everything is recovered, and a signal ends the process at once: a crash like any other.
    let opened = open_storage(config, start.salvage)?;
    let broker = Arc::new(broker(config));
    let pace = config.storage.sync.into();
    let mut log = log_thread::spawn(Arc::clone(&broker.journal), opened.log, pace, clock)?;
    broker.pager.set_resident_bytes_max(config.limits.ready_bytes_in_memory);
    broker.restore(opened.recovered, clock.now());
    add_virtual_hosts(config, &broker, clock.now());
    let mut reader = reader_thread::spawn(Arc::clone(&broker), opened.reader, clock)?;
    let (shutdown, stopping) = watch::channel(false);
    let mut signals = Signals::install()?;

    let Storage { data_dir, segment_bytes, .. } = &config.storage;
    let limit = config.limits.disk_free_limit;
    if let Some(mut space) = DiskSpace::new(Arc::clone(&broker), data_dir, limit, *segment_bytes) {
        // Before the first publisher comes.
        space.look();
        tokio::spawn(space.watch());
    }
    let mut listeners = Vec::new();
    if let Some(port) = config.listeners.amqp_port.number() {
        for address in &config.listeners.bind {
            listeners.push(Listener::bind((*address, port).into(), config.limits.tcp_backlog)?);
        }
    }
    let addresses: Vec<SocketAddr> = listeners.iter().map(Listener::address).collect();
    let connections = listener::Connections::new(Arc::clone(&broker), clock, stopping);
    for listener in listeners {
        tokio::spawn(listener.accept(connections.clone()));
    }
    let watermark = memory::watermark_bytes(&config.limits.memory_high_watermark);
    tokio::spawn(memory::watch(Arc::clone(&broker), watermark));
    tokio::spawn(timers::run(Arc::clone(&broker), clock));
    announce(&addresses, start.ready_file.as_deref())?;

    tokio::select! {
        () = signals.wait() => {}
        // Nothing can be confirmed any more, and what was is safe: no goodbyes.
        () = log.ended() => return log.join(),
        () = reader.ended() => return reader.join(),
    }
    info!("stopping: closing {} connections", connections.open());
    // Nobody listens any more if every connection and listener has ended already.
    let _ = shutdown.send(true);
    broker.wake_all();
    tokio::select! {
        () = connections.closed() => {}
        () = log.ended() => return log.join(),
        () = reader.ended() => return reader.join(),
        () = signals.wait() => {
            info!("second signal: stopping at once");
            std::process::exit(1);
        }
    }
    broker.pager.close();
    broker.journal.close();
    log.join()?;
    // It may have waited for the log.
    reader.join()?;
    info!("stopped");
    Ok(())
}

/// Recovers what the data directory holds.
fn open_storage(config: &Config, salvage: bool) -> Result<storage::Opened, RunError> {
    let disk = Arc::new(FileDisk::new(&config.storage.data_dir));
    let options = storage::Options { segment_bytes: config.storage.segment_bytes, salvage };
    let opened = storage::open(disk, options)?;
    for line in &opened.salvaged {
        warn!("salvaged: {line}");
    }
    Ok(opened)
}

fn broker(config: &Config) -> Broker {
    let limits = &config.limits;
    let limits = Limits {
        frame_max: limits.frame_max,
        channel_max: limits.channel_max,
        heartbeat_secs: limits.heartbeat_secs,
        handshake_timeout_ms: u64::from(limits.handshake_timeout_secs) * 1000,
        message_bytes_max: limits.max_message_bytes,
        connections_max: limits.connections_max,
        channels_max: limits.channels_max,
        consumers_per_channel_max: limits.consumers_per_channel_max,
        queues_max: limits.queues_max,
        unsent_bytes_per_connection: limits.unsent_bytes_per_connection as usize,
    };
    let identity = Identity {
        product: config.compatibility.product.clone(),
        version: config.compatibility.version.clone(),
        cluster_name: config.compatibility.cluster_name.clone(),
    };
    let mut broker = Broker::new(config.users(), config.permissions(), limits, identity);
    let compatibility = &config.compatibility;
    broker.interprets_x_death = compatibility.x_death == XDeath::Continued;
    broker.counts_returns = compatibility.delivery_limit_counts == DeliveryLimitCounts::Returns;
    broker.consumer_timeout = ConsumerTimeout {
        default_ms: config.limits.consumer_timeout_ms,
        cancels: compatibility.consumer_timeout == config::ConsumerTimeout::Cancel,
    };
    broker
}

fn add_virtual_hosts(config: &Config, broker: &Broker, now: Now) {
    for host in &config.vhosts {
        broker.add_virtual_host(&host.name, host.connections_max, host.queues_max);
        broker.set_tracing(&host.name, host.tracing);
        let policies = config.policies_of(&host.name);
        broker
            .configure_policies(&host.name, policies, now)
            .expect("invariant: the virtual host was just added");
    }
}

/// Says that the broker is ready, in the log and in the ready file. The file appears whole or not at all.
fn announce(addresses: &[SocketAddr], ready_file: Option<&Path>) -> Result<(), RunError> {
    let list: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    if let Some(path) = ready_file {
        let quoted: Vec<String> = list.iter().map(|address| format!("{address:?}")).collect();
        let text = format!("amqp = [{}]\n", quoted.join(", "));
        let written = std::fs::write(path.with_extension("new"), text)
            .and_then(|()| std::fs::rename(path.with_extension("new"), path));
        written.map_err(|source| RunError::ReadyFile { path: path.to_owned(), source })?;
    }
    info!("Server startup complete: AMQP on {}", list.join(", "));
    Ok(())
}

/// The signals that stop the broker.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
