//! The protocol: one AMQP connection as a state machine over bytes. No sockets, no clock, no tasks.
//!
//! The shell reads octets into [`Session::input`], calls one of the `handle_*` methods when something happened, and
//! writes what is in [`Session::output`]. The session calls the broker inline. Inside it, a connection that is
//! open is a `running::Running`: its channels, and what they share.

mod channel;
mod confirm;
mod handshake;
mod heartbeat;
mod interceptors;
mod methods;
mod publish;
mod routes;
mod running;
mod shared;
mod tally;
mod timeout;
mod trace;
mod transaction;

#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use tracing::{debug, info};

use self::{
    handshake::{Handshake, Step},
    heartbeat::Heartbeat,
    running::Running,
};
use crate::{
    amqp::{
        Encoder, ReplyCode, ServerMethod,
        frame::{self, Frame, Frames},
    },
    broker::{
        Broker, NEVER, Now, connections::TlsStatus, event::Ends, outbox::Outbox, refusal::Refusal, user::User,
    },
};

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where the connection comes from.
    pub address: SocketAddr,
    /// The broker's end of it.
    pub local: SocketAddr,
    /// How it is known who that is.
    pub login: Login,
    /// What TLS has agreed on, if it is used.
    pub tls: Option<Arc<TlsStatus>>,
}

/// How it is known who is at the other end.
#[derive(Clone, Debug)]
pub enum Login {
    /// The client has to say who it is, and prove it.
    Asked,
    /// It is the broker itself, which acts as that user.
    Internal(Arc<User>),
}

impl Peer {
    /// A client that has connected from `address` to `local` and has to log in.
    pub fn new(address: SocketAddr, local: SocketAddr) -> Self {
        Self { address, local, login: Login::Asked, tls: None }
    }

    /// Both ends of the connection.
    fn ends(&self) -> Ends {
        Ends { peer: self.address, local: self.local }
    }

    /// Whether it comes from this machine; IPv4 in IPv6 counts as IPv4.
    pub fn is_loopback(&self) -> bool {
        self.address.ip().to_canonical().is_loopback()
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Session {
    broker: Arc<Broker>,
    peer: Peer,
    outbox: Arc<Outbox>,
    input: BytesMut,
    /// Whole frames that were read and could not be handled yet.
    unhandled: Bytes,
    /// Octets at the end of `input` that were there when it was looked at last.
    input_known: usize,
    traffic: Traffic,
    phase: Phase,
    heartbeat: Heartbeat,
}

/// What has gone over the connection.
#[derive(Clone, Copy, Debug, Default)]
struct Traffic {
    received_bytes: u64,
    received_packets: u64,
    sent_bytes: u64,
    sent_packets: u64,
}

#[derive(Debug)]
enum Phase {
    /// Until `connection.open`.
    Handshake(Box<Handshake>),
    /// After it.
    Running(Box<Running>),
    /// The server has sent `connection.close` and waits for the answer.
    Closing { out: Encoder, deadline_ms: u64, frame_max: u32 },
    /// Nothing more is read; what is left is written, if the client takes it before the deadline.
    Closed { out: Encoder, deadline_ms: u64 },
}

/// How long a client may take to answer `connection.close`, and to take what is left for it after that.
const CLOSE_TIMEOUT_MS: u64 = 10_000;
/// The largest frame before `connection.tune-ok`, as in RabbitMQ from 4.1: enough for every client's properties.
const INITIAL_FRAME_MAX: u32 = 8192;
/// Octets of output above which no more input is handled: a client that asks must also read.
const OUTPUT_BYTES_MAX: usize = 1 << 20;

impl Session {
    /// A session for a connection that was just accepted.
    pub fn new(broker: Arc<Broker>, peer: Peer, now: Now) -> Self {
        let deadline_ms = now.monotonic_ms + broker.limits.handshake_timeout_ms;
        let outbox = broker.open_outbox();
        Self {
            broker,
            peer,
            outbox,
            input: BytesMut::new(),
            unhandled: Bytes::new(),
            input_known: 0,
            traffic: Traffic::default(),
            phase: Phase::Handshake(Box::new(Handshake::new(deadline_ms))),
            heartbeat: Heartbeat::off(),
        }
    }

    /// What other connections put in for this one; the shell sets its waker.
    pub fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Where the shell reads octets into.
    pub fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// The transport has taken that much of the output. While the client is not read from because of what it has
    /// not taken yet, that is its only sign of life.
    pub fn handle_written(&mut self, count: usize, now: Now) {
        let was_full = self.output().len() > OUTPUT_BYTES_MAX;
        self.output().advance(count);
        self.traffic.sent_bytes += count as u64;
        self.traffic.sent_packets += 1;
        self.show_traffic();
        if was_full {
            self.heartbeat.received(now);
        }
    }

    /// What waits to be written.
    pub fn output(&mut self) -> &mut Encoder {
        match &mut self.phase {
            Phase::Handshake(handshake) => &mut handshake.out,
            Phase::Running(running) => running.output(),
            Phase::Closing { out, .. } | Phase::Closed { out, .. } => out,
        }
    }

    /// Whether the shell should read. When it should not, the transport pushes back on the client.
    pub fn wants_input(&mut self) -> bool {
        let is_output_full = self.output().len() > OUTPUT_BYTES_MAX;
        match &self.phase {
            Phase::Closed { .. } => false,
            Phase::Running(running) => !is_output_full && self.unhandled.is_empty() && running.wants_input(),
            _ => !is_output_full,
        }
    }

    /// Whether the connection is to be closed once the output is written.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed { .. })
    }

    /// When to call [`Session::handle_deadline`] at the latest, on the monotonic clock.
    pub fn deadline_ms(&self) -> Option<u64> {
        match &self.phase {
            Phase::Handshake(handshake) => Some(handshake.deadline_ms),
            Phase::Running(running) => {
                let due_ms = Some(running.deadline_ms()).filter(|due_ms| *due_ms < NEVER);
                self.heartbeat.deadline_ms().into_iter().chain(due_ms).min()
            }
            Phase::Closing { deadline_ms, .. } => Some(*deadline_ms),
            Phase::Closed { out, deadline_ms } => (!out.is_empty()).then_some(*deadline_ms),
        }
    }

    /// Octets have arrived.
    pub fn handle_input(&mut self, now: Now) {
        self.heartbeat.received(now);
        self.traffic.received_bytes += self.input.len().saturating_sub(self.input_known) as u64;
        self.traffic.received_packets += 1;
        while self.handle_some_input(now) {}
        self.finish_batch(now);
        self.show_traffic();
    }

    /// Lets operators see what has gone over the connection.
    fn show_traffic(&mut self) {
        if let Phase::Running(running) = &mut self.phase {
            let Traffic { received_bytes, received_packets, sent_bytes, sent_packets } = self.traffic;
            let unsent_bytes = running.output().len() as u64;
            let status = running.status();
            status.received_bytes.set(received_bytes);
            status.received_packets.set(received_packets);
            status.sent_bytes.set(sent_bytes);
            status.sent_packets.set(sent_packets);
            status.unsent_bytes.set(unsent_bytes);
        }
    }

    /// Something may be in the outbox, facts may have become durable, or alarms may have changed.
    pub fn handle_wake(&mut self, now: Now) {
        if self.outbox.is_asked_to_close() {
            self.close_as_asked(now);
        }
        if let Phase::Running(running) = &mut self.phase {
            running.handle_wake(now);
        }
        // What had arrived may be handled now: that it is there still is no sign of life from the client.
        while self.handle_some_input(now) {}
        self.finish_batch(now);
    }

    /// The time of [`Session::deadline_ms`] has come.
    pub fn handle_deadline(&mut self, now: Now) {
        self.set_now(now);
        match &mut self.phase {
            Phase::Handshake(handshake) if now.monotonic_ms >= handshake.deadline_ms => {
                match handshake.refused.take() {
                    None => {}
                    Some(Err(refusal)) => return self.refuse(&refusal, (0, 0), now),
                    Some(Ok(_)) => return self.abandon(now),
                }
                info!(peer = %self.peer.address, "closed: no connection.open within the handshake timeout");
                self.cut_off();
            }
            Phase::Closing { deadline_ms, .. } | Phase::Closed { deadline_ms, .. }
                if now.monotonic_ms >= *deadline_ms =>
            {
                self.cut_off();
            }
            Phase::Running(running) => {
                if self.heartbeat.is_peer_dead(now, running.wants_input()) {
                    self.log_end("connection closed: missed heartbeats from client");
                    self.cut_off();
                    return;
                }
                let has_timed_out = running.handle_deadline(now);
                let out = running.output();
                if self.heartbeat.is_due(now) && out.is_empty() {
                    out.heartbeat();
                    self.heartbeat.sent(now);
                }
                if has_timed_out {
                    self.finish_batch(now);
                }
            }
            _ => {}
        }
    }

    /// Says in the log why the transport is gone, unless the session had come to its end anyway.
    pub fn log_loss(&self, cause: &str) {
        let peer = &self.peer.address;
        match &self.phase {
            Phase::Running(_) => self.log_end(&format!("connection closed: {cause}")),
            Phase::Handshake(handshake) if handshake.has_begun() => {
                info!(%peer, "closed before connection.open: {cause}");
            }
            // Whoever only looks whether the port is open does so often.
            Phase::Handshake(_) => debug!(%peer, "closed before its protocol header: {cause}"),
            Phase::Closing { .. } | Phase::Closed { .. } => {}
        }
    }

    /// Says in the log why the connection ends. Those that the broker has with itself are of no interest.
    fn log_end(&self, text: &str) {
        let peer = &self.peer.address;
        match &self.peer.login {
            Login::Asked => info!(%peer, user = self.user(), "{text}"),
            Login::Internal(_) => debug!(user = self.user(), "internal {text}"),
        }
    }

    /// Who has logged in, if the connection is open.
    fn user(&self) -> Option<&str> {
        match &self.phase {
            Phase::Running(running) => Some(running.user()),
            _ => None,
        }
    }

    /// The transport is gone, or the client must be cut off: everything it held goes back.
    pub fn handle_disconnect(&mut self, now: Now) {
        self.set_now(now);
        self.give_back();
    }

    fn give_back(&mut self) {
        self.cut_off();
        self.broker.close_outbox(self.outbox.connection);
    }

    /// The time goes on: what the connection gives back, it gives back now.
    fn set_now(&mut self, now: Now) {
        if let Phase::Running(running) = &mut self.phase {
            running.set_now(now);
        }
    }

    /// An operator wants the connection to end.
    fn close_as_asked(&mut self, now: Now) {
        let Phase::Running(running) = &mut self.phase else { return };
        running.set_now(now);
        if let Some(reason) = running.take_close_reason() {
            self.refuse(&Refusal::new(ReplyCode::ConnectionForced, reason), (0, 0), now);
        }
    }

    /// Closes the connection from the broker's side, as RabbitMQ does when it stops or an operator asks.
    pub fn close_forced(&mut self, reason: &str, now: Now) {
        self.set_now(now);
        match self.phase {
            Phase::Running(_) => {
                let text = format!("broker forced connection closure with reason '{reason}'");
                self.refuse(&Refusal::new(ReplyCode::ConnectionForced, text), (0, 0), now);
            }
            Phase::Handshake(_) => self.abandon(now),
            Phase::Closing { .. } | Phase::Closed { .. } => {}
        }
    }

    /// Handles what is complete; false when there is nothing more to do now.
    fn handle_some_input(&mut self, now: Now) -> bool {
        if let Phase::Handshake(handshake) = &mut self.phase {
            match handshake.handle_header(&mut self.input, &self.broker.identity, &self.peer) {
                Some(true) => {}
                Some(false) => {
                    let found = handshake::foreign_protocol(&self.input);
                    info!(peer = %self.peer.address, "closed: no AMQP 0-9-1 protocol header, but {found}");
                    self.abandon(now);
                    return false;
                }
                None => return false,
            }
        }
        if matches!(self.phase, Phase::Closed { .. }) {
            self.input.clear();
            return false;
        }
        if !self.can_go_on() {
            return false;
        }
        let mut failure = None;
        let frame_max = self.frame_max();
        if self.unhandled.is_empty() {
            let split = frame::split(&self.input, frame_max);
            if split.len == 0 && split.error.is_none() {
                return false;
            }
            self.unhandled = self.input.split_to(split.len).freeze();
            failure = split.error;
        }
        if !self.handle_frames(now) {
            return false;
        }
        // What was too large before the handshake's last frame may not be after it.
        if let Some(error) = failure.filter(|_| self.frame_max() == frame_max) {
            self.input.clear();
            // A client that is told already gets no second reason, and no more time.
            if !matches!(self.phase, Phase::Closing { .. }) {
                self.refuse(&error.into(), (0, 0), now);
            }
            return false;
        }
        true
    }

    fn frame_max(&self) -> u32 {
        match &self.phase {
            Phase::Handshake(_) => INITIAL_FRAME_MAX,
            Phase::Running(running) => running.frame_max(),
            Phase::Closing { frame_max, .. } => *frame_max,
            Phase::Closed { .. } => u32::MAX,
        }
    }

    /// Handles the whole frames at hand; false if it had to stop before the last one.
    fn handle_frames(&mut self, now: Now) -> bool {
        let chunk = std::mem::take(&mut self.unhandled);
        let mut frames = Frames::new(&chunk);
        while self.handle_some_frames(&mut frames, &chunk, now) {}
        if matches!(self.phase, Phase::Closed { .. }) {
            return true;
        }
        self.unhandled = chunk.slice(frames.taken()..);
        self.unhandled.is_empty() && self.can_go_on()
    }

    fn can_go_on(&mut self) -> bool {
        let is_output_full = self.output().len() > OUTPUT_BYTES_MAX;
        match &self.phase {
            Phase::Running(running) => !is_output_full && !running.is_held(),
            _ => true,
        }
    }

    /// Handles the next frame, or as many as a connection that is open can; false if no further one may be handled now.
    fn handle_some_frames(&mut self, frames: &mut Frames<'_>, chunk: &Bytes, now: Now) -> bool {
        if let Phase::Running(running) = &mut self.phase {
            match running.handle_frames(frames, chunk, now) {
                Ok(running::Step::Stay) => {}
                Ok(running::Step::Close) => self.close_by_client(now),
                Err((refusal, method)) => self.refuse(&refusal, method, now),
            }
            return self.can_go_on() && !frames.is_through();
        }
        let Some(frame) = frames.next() else { return false };
        match &mut self.phase {
            Phase::Handshake(handshake) => {
                match handshake.handle_frame(&frame, &self.broker, &self.peer, now) {
                    Ok(Step::Stay) => {}
                    Ok(Step::Open(opened)) => {
                        let out = std::mem::take(&mut handshake.out);
                        self.heartbeat = Heartbeat::new(opened.heartbeat_secs, now);
                        let (broker, outbox) = (Arc::clone(&self.broker), Arc::clone(&self.outbox));
                        self.phase = Phase::Running(Box::new(Running::new(opened, broker, outbox, out, now)));
                    }
                    Ok(Step::Close) => self.abandon(now),
                    Err((refusal, method)) => self.refuse(&refusal, method, now),
                }
            }
            Phase::Closing { .. } => self.handle_frame_closing(&frame, now),
            Phase::Running(_) | Phase::Closed { .. } => return false,
        }
        true
    }

    /// After `connection.close` from the server, everything but close and close-ok is discarded.
    fn handle_frame_closing(&mut self, frame: &Frame<'_>, now: Now) {
        const CLOSE: &[u8] = &[0, 10, 0, 50];
        const CLOSE_OK: &[u8] = &[0, 10, 0, 51];
        if frame.kind != 1 || frame.channel != 0 {
            return;
        }
        if frame.payload.starts_with(CLOSE) {
            self.output().method(0, &ServerMethod::ConnectionCloseOk);
        } else if frame.payload.starts_with(CLOSE_OK) {
            self.abandon(now);
        }
    }

    /// Closes the connection with a reply code and waits for the client's answer.
    fn refuse(&mut self, refusal: &Refusal, method: (u16, u16), now: Now) {
        let (class_id, method_id) = refusal.method.unwrap_or(method);
        let frame_max = self.frame_max();
        let mut out = self.end_running();
        self.log_end(&format!("connection closed: {}", refusal.reply_text()));
        out.method(
            0,
            &ServerMethod::ConnectionClose {
                reply_code: refusal.code.code(),
                reply_text: refusal.reply_text(),
                class_id,
                method_id,
            },
        );
        let deadline_ms = now.monotonic_ms + CLOSE_TIMEOUT_MS;
        self.phase = Phase::Closing { out, deadline_ms, frame_max };
    }

    fn close_by_client(&mut self, now: Now) {
        self.log_end("connection closed by the client");
        self.abandon(now);
        self.output().method(0, &ServerMethod::ConnectionCloseOk);
    }

    /// No more AMQP on this connection: what is in the output is written, then the transport closed.
    fn abandon(&mut self, now: Now) {
        let out = self.end_running();
        self.phase = Phase::Closed { out, deadline_ms: now.monotonic_ms + CLOSE_TIMEOUT_MS };
    }

    /// The client is gone, or as good as: nothing more is written either.
    fn cut_off(&mut self) {
        self.end_running();
        self.phase = Phase::Closed { out: Encoder::new(), deadline_ms: 0 };
    }

    /// Gives back everything that the connection held, and returns its output.
    fn end_running(&mut self) -> Encoder {
        self.heartbeat = Heartbeat::off();
        match &mut self.phase {
            Phase::Running(running) => running.end(),
            _ => std::mem::take(self.output()),
        }
    }

    fn finish_batch(&mut self, now: Now) {
        if let Phase::Running(running) = &mut self.phase {
            running.finish_batch();
        }
        self.input_known = self.input.len();
        if !self.output().is_empty() {
            self.heartbeat.sent(now);
        }
    }
}

impl Drop for Session {
    /// A session that is dropped without an end, because its task panicked, still gives everything back.
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What panicked may have left a lock that panics too, and a second panic would end the process.
            let _ = catch_unwind(AssertUnwindSafe(|| self.give_back()));
        } else {
            self.give_back();
        }
    }
}
