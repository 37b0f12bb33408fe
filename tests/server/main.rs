//! The real binary from outside: TLS, proxies, sockets within the machine, signals and the log.

mod authority;
mod broker;
mod client;
mod http;
mod log;
mod proxy;
mod reload;
mod systemd;
mod tls;
mod unix_socket;
#[path = "../wire/mod.rs"]
mod wire;
