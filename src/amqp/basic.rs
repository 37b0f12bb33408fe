//! The methods that come with every message, read and written by hand: no allocation, strings borrowed.

use crate::amqp::reader::{Malformed, Reader};

/// The class `basic`.
pub const CLASS_ID: u16 = 60;

/// `basic.publish` (AMQP 0-9-1 section 1.8.3.7). Its content follows in frames of its own.
///
/// Deviation: exchange and routing key must be UTF-8, as in every other method; RabbitMQ lets a publish off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// The exchange, empty for the default one.
    pub exchange: &'a str,
    /// At most 255 bytes.
    pub routing_key: &'a str,
    /// Return the message if no queue takes it.
    pub mandatory: bool,
    /// Return the message if no consumer takes it at once; RabbitMQ refuses this.
    pub immediate: bool,
}

impl<'a> Publish<'a> {
    /// Reads the payload of a method frame, if it is a sound `basic.publish`. [`super::ClientMethod::decode`] says
    /// what is wrong with one that is not.
    #[inline]
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        const IDS: &[u8] = &[0, CLASS_ID as u8, 0, id::PUBLISH as u8];
        publish(Reader::new(payload.strip_prefix(IDS)?)).ok()
    }
}

/// Method ids of the class.
pub(crate) mod id {
    pub(crate) const PUBLISH: u16 = 40;
    pub(crate) const RETURN: u16 = 50;
    pub(crate) const DELIVER: u16 = 60;
    pub(crate) const GET_OK: u16 = 71;
    pub(crate) const ACK: u16 = 80;
    pub(crate) const REJECT: u16 = 90;
    pub(crate) const NACK: u16 = 120;
}

/// Arguments of `basic.publish`.
#[inline]
pub(crate) fn publish(mut arguments: Reader<'_>) -> Result<Publish<'_>, Malformed> {
    arguments.u16()?;
    let exchange = arguments.short_str()?;
    let routing_key = arguments.short_str()?;
    let bits = arguments.u8()?;
    arguments.finish()?;
    Ok(Publish { exchange, routing_key, mandatory: bits & 1 != 0, immediate: bits & 2 != 0 })
}

/// Arguments of `basic.ack`, `basic.nack` and `basic.reject`: the delivery tag and the octet of bits.
#[inline]
pub(crate) fn settle(mut arguments: Reader<'_>) -> Result<(u64, u8), Malformed> {
    let delivery_tag = arguments.u64()?;
    let bits = arguments.u8()?;
    arguments.finish()?;
    Ok((delivery_tag, bits))
}
