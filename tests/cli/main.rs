//! The real binary as an operator uses it beside a running broker: `leveret list` and the like, RabbitMQ's tools by links
//! of their names, and the conversion of a `rabbitmq.conf`. What is asserted is what they print, and their exit codes.

mod broker;
mod commands;
mod import_config;
mod rabbitmqctl;
