//! Black-box tests of the AMQP listener: the real binary, over TCP, as a client sees it.
//!
//! Every expectation was checked against RabbitMQ 3.10.8. With `LEVERET_TEST_ADDRESS=127.0.0.1:5672` the same tests run
//! against another broker, which needs the users and virtual hosts of [`broker`]; what is marked `Deviation:` is left
//! out then.

mod backpressure;
mod broker;
mod clients;
mod confirms;
mod connection;
mod dead_letters;
mod delays;
mod errors;
mod events;
mod exchanges;
mod groups;
mod lifetimes;
mod limits;
mod ordering;
mod policies;
mod prefetch;
mod program;
mod reply_to;
mod retries;
mod shutdown;
mod transactions;
mod wire;
