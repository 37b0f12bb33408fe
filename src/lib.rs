//! Leveret: an AMQP 0-9-1 broker.
//!
//! The modules in reading order; dependencies point one way, from the bottom of this list to its top.
//!
//! * [`amqp`]: the wire. Bytes, frames, methods, properties, tables, reply codes. No tokio, no broker.
//! * [`broker`]: the domain. Virtual hosts, exchanges, bindings, routing, queues, consumers, users. Pure.
//! * [`session`]: the protocol. One AMQP connection as a state machine over frames. Pure.
//! * [`storage`]: durability. The log that the broker's facts go to.
//! * [`server`]: the shell. Sockets, tasks, timers, signals, the log thread; nearly all async code.
//! * `json`: field tables as JSON, and back.
//! * `management`: HTTP. The API, the web page and metrics.
//! * [`client`]: AMQP from the other side, for the API and shovels.
//! * `shovel`: moves messages between queues and brokers.
//! * [`config`]: `broker.toml` as types.
//! * [`cli`]: commands to a running broker, over HTTP.

// What the rings of tests share is a part of unit tests too, and must find the crate under one name.
#[cfg(test)]
extern crate self as leveret;

pub mod amqp;
pub mod broker;
pub mod cli;
pub mod client;
pub mod config;
mod json;
pub mod log;
mod management;
pub mod server;
pub mod session;
mod shovel;
pub mod storage;
