//! The shell: sockets, tasks, timers, signals and the log thread. Nearly all async code is here.

mod arrival;
mod certificate;
mod clock;
mod configured;
mod connection;
mod data_dir;
mod disk_space;
mod http;
mod listener;

mod log_thread;
mod memory;
mod ports;
mod proxy;
mod reader_thread;
mod reload;
mod stream;
mod systemd;
mod thread;
mod timers;
mod tls;
mod unix_socket;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc::Receiver, watch},
    task::JoinSet,
};
use tracing::{info, warn};

pub(crate) use self::{
    clock::Clock, disk_space::limit_bytes as disk_limit_bytes, listener::Connections,
    memory::watermark_bytes, tls::Tls,
};
use self::{data_dir::DataDir, disk_space::DiskSpace, ports::Ports};
pub use self::{reload::Reload, tls::TlsError};
use crate::{
    broker::{Broker, ConsumerTimeout, Identity, limit::Limits, log_exchange::LogLine},
    config::{self, Config, DeliveryLimitCounts, Storage, XDeath},
    management::{self, Api},
    shovel::{self, Shovels},
    storage::{self, StorageError, disk::FileDisk},
};

/// Why the broker can't run, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A listener's address is taken, or not this machine's.
    #[error("cannot listen on {address}: {source}; choose another with --bind or {flag}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The flag that sets its port.
        flag: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// There can't be a socket at that path.
    #[error("cannot listen on {}: {source}; choose another with --unix-socket", path.display())]
    UnixSocket {
        /// The path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A certificate or a key that can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
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
    /// The file of definitions can't be loaded.
    #[error("cannot load definitions from {}: {reason}", path.display())]
    Definitions {
        /// The file.
        path: PathBuf,
        /// What the system says, or what can't be imported.
        reason: String,
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
            RunError::Listen { .. } | RunError::UnixSocket { .. } | RunError::DataDirLocked { .. } => 75,
            RunError::NoDataDir { .. }
            | RunError::ReadyFile { .. }
            | RunError::Tls(_)
            | RunError::Definitions { .. } => 2,
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
    /// What SIGHUP reads again; without it SIGHUP does nothing.
    pub reload: Option<Reload>,
}

/// Runs a broker until SIGTERM or SIGINT.
///
/// # Errors
/// If it can't start, or storage fails.
pub fn run(config: Config, start: Start) -> Result<(), RunError> {
    let data_dir = DataDir::lock(&config.storage.data_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve(&Arc::new(config), &start));
    drop(runtime);
    drop(data_dir);
    result
}

/// Checks what a configuration needs beside itself, and changes nothing: the files of `[tls]`.
///
/// # Errors
/// What is wrong with which file.
pub fn check(config: &Config) -> Result<(), RunError> {
    Tls::load(&config.tls)?;
    Ok(())
}

/// Checks every record of a data directory that no broker uses, and changes nothing.
///
/// # Errors
/// If there is none, it is in use or of another version, or it can't be read.
pub fn fsck(data_dir: &Path) -> Result<storage::Report, RunError> {
    let _locked = DataDir::lock_as_is(data_dir)?;
    Ok(storage::check(Arc::new(FileDisk::new(data_dir)))?)
}

async fn serve(config: &Arc<Config>, start: &Start) -> Result<(), RunError> {
    if let Some(path) = &start.ready_file {
        // What the last broker has written would say that this one is ready. That there is none is as it should be.
        let _ = std::fs::remove_file(path);
    }
    let clock = Clock::start();
    let tls = Tls::load(&config.tls)?;
    // Nobody can connect before everything is recovered, and a signal ends the process at once: a crash like any other.
    let opened = open_storage(config, start.salvage)?;
    let broker = Arc::new(broker(config));
    let pace = config.storage.sync.into();
    let mut log =
        log_thread::spawn(Arc::clone(&broker.journal), Arc::clone(&broker.stats), opened.log, pace, clock)?;
    broker.pager.set_resident_bytes_max(config.limits.ready_bytes_in_memory);
    configured::set_up(config, &broker, opened.recovered, clock.now())?;
    broker.learn_keys(clock.now(), |load| opened.reader.load(load))?;
    let mut reader = reader_thread::spawn(Arc::clone(&broker), opened.reader, clock)?;
    let (shutdown, stopping) = watch::channel(false);
    let mut signals = Signals::install()?;
    // Without a listener it would end the process.
    let hangup = signal(SignalKind::hangup())?;
    if let Some(lines) = start.reload.as_ref().and_then(|reload| reload.log.take_published()) {
        broker.declare_log_exchange();
        tokio::spawn(publish_log(Arc::clone(&broker), lines, clock));
    }
    if let Some(reload) = start.reload.clone() {
        tokio::spawn(reload.watch(hangup, Arc::clone(config), tls.clone()));
    }

    let Storage { data_dir, segment_bytes, .. } = &config.storage;
    let limit = config.limits.disk_free_limit;
    if let Some(mut space) = DiskSpace::new(Arc::clone(&broker), data_dir, limit, *segment_bytes) {
        // Before the first publisher comes.
        space.look();
        tokio::spawn(space.watch());
    }
    let Ports { amqp, management, prometheus, unix, addresses } = Ports::bind(config, tls.as_ref())?;
    let connections = Connections::new(Arc::clone(&broker), clock, stopping.clone());
    let listening = addresses.listening.clone();
    let shovels = Arc::new(Shovels::default());
    let api = Api::new(
        Arc::clone(&broker),
        Arc::clone(config),
        listening,
        clock,
        connections.clone(),
        tls,
        Arc::clone(&shovels),
    );
    let shovelling = shovel::run(shovels, Arc::clone(&broker), connections.clone(), clock, stopping.clone());
    tokio::spawn(shovelling);
    let api = Arc::new(api);
    for listener in amqp {
        tokio::spawn(listener.accept(connections.clone()));
    }
    let unix = unix.map(|socket| tokio::spawn(socket.accept(connections.clone())));
    let mut http = JoinSet::new();
    for listener in management {
        http.spawn(http::serve(listener, management::router(Arc::clone(&api)), stopping.clone()));
    }
    for listener in prometheus {
        http.spawn(http::serve(listener, management::metrics_router(Arc::clone(&api)), stopping.clone()));
    }
    broker.runtime.set_memory_watermark_bytes(watermark_bytes(&config.limits.memory_high_watermark));
    tokio::spawn(memory::watch(Arc::clone(&broker)));
    tokio::spawn(timers::run(Arc::clone(&broker), clock));
    tokio::spawn(management::sample(Arc::clone(&api)));
    addresses.announce(start.ready_file.as_deref())?;
    systemd::notify(systemd::READY);

    tokio::select! {
        () = signals.wait() => {}
        // Nothing can be confirmed any more, and what was is safe: no goodbyes.
        () = log.ended() => return log.join(),
        () = reader.ended() => return reader.join(),
    }
    systemd::notify(systemd::STOPPING);
    info!("stopping: closing {} connections", connections.open());
    // Nobody listens any more if every connection and listener has ended already.
    let _ = shutdown.send(true);
    broker.wake_all();
    let all_closed = async {
        while http.join_next().await.is_some() {}
        if let Some(unix) = unix {
            // It has nothing to say but that its file is gone.
            let _ = unix.await.is_ok();
        }
        connections.closed().await;
    };
    tokio::select! {
        () = all_closed => {}
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

/// Publishes the lines of the log to the log exchange.
async fn publish_log(broker: Arc<Broker>, mut lines: Receiver<LogLine>, clock: Clock) {
    while let Some(line) = lines.recv().await {
        broker.publish_log(&line, clock.now());
    }
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
    let (users, permissions) = configured::standing(config);
    let mut broker = Broker::new(users, permissions, limits, identity);
    let compatibility = &config.compatibility;
    broker.interprets_x_death = compatibility.x_death == XDeath::Continued;
    broker.counts_returns = compatibility.delivery_limit_counts == DeliveryLimitCounts::Returns;
    broker.consumer_timeout = ConsumerTimeout {
        default_ms: config.limits.consumer_timeout_ms,
        cancels: compatibility.consumer_timeout == config::ConsumerTimeout::Cancel,
    };
    broker.interceptors = config.interceptors;
    broker
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
