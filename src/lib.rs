//! Leveret: an AMQP 0-9-1 broker.
//!
//! The modules in reading order; dependencies point one way, from the bottom of this list to its top.
//!
//! * [`amqp`]: the wire. Bytes, frames, methods, properties, tables, reply codes. No tokio, no broker.
//! * [`broker`]: the domain. Virtual hosts, exchanges, bindings, routing, queues, consumers, users. Pure.
//! * [`session`]: the protocol. One AMQP connection as a state machine over frames. Pure.
//! * [`storage`]: durability. The log that the broker's facts go to.
//! * [`server`]: the shell. Sockets, tasks, timers, signals, the log thread; nearly all async code.
//! * [`config`]: `broker.toml` as types.

// What the rings of tests share is a part of unit tests too, and must find the crate under one name.
#[cfg(test)]
extern crate self as leveret;

pub mod amqp;
pub mod broker;
pub mod config;
pub mod server;
pub mod session;
pub mod storage;
