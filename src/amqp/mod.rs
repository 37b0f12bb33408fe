//! The wire: AMQP 0-9-1's frames, methods, properties, tables and reply codes as values. No tokio, no broker.
//!
//! Bytes come in through [`frame::split`] and [`Frames`], become a [`ClientMethod`] or a [`ContentHeader`], and go
//! out through the [`Encoder`]. Content (properties and body) is never parsed whole and never re-encoded: what a
//! publisher wrote is what a consumer reads. Nothing here trusts a length, a nesting depth or an encoding that
//! came from a peer; every decoder answers a [`DecodeError`] that says how the connection must be closed.

pub mod basic;
pub mod encoder;
pub mod error;
pub mod frame;
pub mod method;
#[cfg(test)]
mod oracle;
pub mod properties;
pub(crate) mod reader;
pub mod reply;
pub mod sasl;
pub mod table;

pub use basic::Publish;
pub use encoder::{Body, Content, Encoder};
pub use error::DecodeError;
pub use frame::{Frame, FrameHeader, FrameKind, Frames, Split};
pub use method::{ClientMethod, ServerMethod};
pub use properties::{ContentHeader, Properties, PropertiesBuilder};
pub use reply::{ReplyCode, Scope};
pub use sasl::Credentials;
pub use table::{RawValue, Table, Value};
