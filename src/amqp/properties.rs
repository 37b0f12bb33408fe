//! Content headers and the fourteen properties of class basic (AMQP 0-9-1 sections 1.8.1 and 4.2.6.1).
//!
//! ```text
//! class:u16 weight:u16 body_size:u64 flags:u16 property*
//! ```
//!
//! A content header is walked once, to check it and to find the few properties that a broker obeys. Its flags and
//! list stay as the publisher wrote them, and go to consumers like that.

use crate::amqp::{
    DecodeError, Table, Value, basic,
    reader::{Malformed, Reader},
    table::{raw_fields, short, validate_table},
};

/// What comes between a publish and its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentHeader<'a> {
    /// The class of the method that the content belongs to; sound if it is [`basic::CLASS_ID`].
    pub class_id: u16,
    /// Must be 0.
    pub weight: u16,
    /// Bytes of body that follow, as the publisher claims.
    pub body_size: u64,
    /// The property flags and list, verbatim and unchecked: [`Properties::parse`] reads them.
    pub properties: &'a [u8],
}

impl<'a> ContentHeader<'a> {
    /// Reads the payload of a header frame up to the properties.
    ///
    /// The class and the weight are the caller's to judge.
    ///
    /// # Errors
    /// A payload that ends early.
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let Some((&[c0, c1, w0, w1, ref size @ ..], list)) = payload.split_first_chunk::<12>() else {
            return Err(malformed(Malformed::Layout));
        };
        Ok(Self {
            class_id: u16::from_be_bytes([c0, c1]),
            weight: u16::from_be_bytes([w0, w1]),
            body_size: u64::from_be_bytes(*size),
            properties: list,
        })
    }
}

/// The properties of a message, borrowed from its content header. Strings need not be UTF-8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub struct Properties<'a> {
    /// Flags and list, verbatim.
    pub raw: &'a [u8],
    pub content_type: Option<&'a [u8]>,
    pub content_encoding: Option<&'a [u8]>,
    /// The fields of the headers table, without its length.
    pub headers: Option<&'a [u8]>,
    /// 1 transient, 2 persistent.
    pub delivery_mode: Option<u8>,
    pub priority: Option<u8>,
    pub correlation_id: Option<&'a [u8]>,
    pub reply_to: Option<&'a [u8]>,
    /// Milliseconds, as text.
    pub expiration: Option<&'a [u8]>,
    pub message_id: Option<&'a [u8]>,
    /// Seconds since 1970.
    pub timestamp: Option<u64>,
    pub type_: Option<&'a [u8]>,
    pub user_id: Option<&'a [u8]>,
    pub app_id: Option<&'a [u8]>,
    pub cluster_id: Option<&'a [u8]>,
}

/// The flag of each property, the first one in the highest bit.
mod flag {
    pub(super) const CONTENT_TYPE: u16 = 1 << 15;
    pub(super) const CONTENT_ENCODING: u16 = 1 << 14;
    pub(super) const HEADERS: u16 = 1 << 13;
    pub(super) const DELIVERY_MODE: u16 = 1 << 12;
    pub(super) const PRIORITY: u16 = 1 << 11;
    pub(super) const CORRELATION_ID: u16 = 1 << 10;
    pub(super) const REPLY_TO: u16 = 1 << 9;
    pub(super) const EXPIRATION: u16 = 1 << 8;
    pub(super) const MESSAGE_ID: u16 = 1 << 7;
    pub(super) const TIMESTAMP: u16 = 1 << 6;
    pub(super) const TYPE: u16 = 1 << 5;
    pub(super) const USER_ID: u16 = 1 << 4;
    pub(super) const APP_ID: u16 = 1 << 3;
    pub(super) const CLUSTER_ID: u16 = 1 << 2;
}

impl<'a> Properties<'a> {
    /// Reads flags and list, without allocating.
    ///
    /// # Errors
    /// A list that ends early, goes on after the last property, or holds a malformed table. (Deviation: RabbitMQ
    /// answers those with 541 and no explanation, this with 502.)
    #[inline]
    pub fn parse(raw: &'a [u8]) -> Result<Self, DecodeError> {
        let properties = Self::walk(raw).map_err(malformed)?;
        properties.headers.map_or(Ok(()), validate_table)?;
        Ok(properties)
    }

    #[inline]
    fn walk(raw: &'a [u8]) -> Result<Self, Malformed> {
        let mut list = Reader::new(raw);
        let flags = list.u16()?;
        if flags == 0 {
            list.finish()?;
            return Ok(Self { raw, ..Self::default() });
        }
        // Fields are evaluated in the order they are written: the order of the list.
        let has = |bit| flags & bit != 0;
        let properties = Self {
            raw,
            content_type: has(flag::CONTENT_TYPE).then(|| list.short_bytes()).transpose()?,
            content_encoding: has(flag::CONTENT_ENCODING).then(|| list.short_bytes()).transpose()?,
            headers: has(flag::HEADERS).then(|| list.long_bytes()).transpose()?,
            delivery_mode: has(flag::DELIVERY_MODE).then(|| list.u8()).transpose()?,
            priority: has(flag::PRIORITY).then(|| list.u8()).transpose()?,
            correlation_id: has(flag::CORRELATION_ID).then(|| list.short_bytes()).transpose()?,
            reply_to: has(flag::REPLY_TO).then(|| list.short_bytes()).transpose()?,
            expiration: has(flag::EXPIRATION).then(|| list.short_bytes()).transpose()?,
            message_id: has(flag::MESSAGE_ID).then(|| list.short_bytes()).transpose()?,
            timestamp: has(flag::TIMESTAMP).then(|| list.u64()).transpose()?,
            type_: has(flag::TYPE).then(|| list.short_bytes()).transpose()?,
            user_id: has(flag::USER_ID).then(|| list.short_bytes()).transpose()?,
            app_id: has(flag::APP_ID).then(|| list.short_bytes()).transpose()?,
            cluster_id: has(flag::CLUSTER_ID).then(|| list.short_bytes()).transpose()?,
        };
        list.finish()?;
        Ok(properties)
    }

    /// Flags and list of these fields; `raw` is not looked at. So a changed message is
    /// `Properties { expiration: None, ..properties }.encode()`.
    ///
    /// Strings beyond 255 bytes are cut.
    ///
    /// # Panics
    /// If the headers take 4 GiB or more.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0, 0];
        put_short(&mut out, flag::CONTENT_TYPE, self.content_type);
        put_short(&mut out, flag::CONTENT_ENCODING, self.content_encoding);
        if let Some(headers) = self.headers {
            let length = u32::try_from(headers.len()).expect("invariant: headers are far smaller than 4 GiB");
            put(&mut out, flag::HEADERS, &length.to_be_bytes());
            out.extend_from_slice(headers);
        }
        put_fixed(&mut out, flag::DELIVERY_MODE, self.delivery_mode.map(u8::to_be_bytes));
        put_fixed(&mut out, flag::PRIORITY, self.priority.map(u8::to_be_bytes));
        put_short(&mut out, flag::CORRELATION_ID, self.correlation_id);
        put_short(&mut out, flag::REPLY_TO, self.reply_to);
        put_short(&mut out, flag::EXPIRATION, self.expiration);
        put_short(&mut out, flag::MESSAGE_ID, self.message_id);
        put_fixed(&mut out, flag::TIMESTAMP, self.timestamp.map(u64::to_be_bytes));
        put_short(&mut out, flag::TYPE, self.type_);
        put_short(&mut out, flag::USER_ID, self.user_id);
        put_short(&mut out, flag::APP_ID, self.app_id);
        put_short(&mut out, flag::CLUSTER_ID, self.cluster_id);
        out
    }

    /// Flags and list with this `reply_to`, everything else as it was.
    pub fn with_reply_to(&self, reply_to: &str) -> Vec<u8> {
        Properties { reply_to: Some(short(reply_to).as_bytes()), ..*self }.encode()
    }

    /// Flags and list with these headers (`None`: without the property), everything else as it was.
    pub fn with_headers(&self, headers: Option<&Table>) -> Vec<u8> {
        let mut encoded = Vec::new();
        if let Some(table) = headers {
            table.encode(&mut encoded);
        }
        Properties { headers: encoded.get(4..), ..*self }.encode()
    }

    /// Flags and list without any top-level header of that name, everything else as it was.
    pub fn without_header(&self, name: &str) -> Vec<u8> {
        if self.headers.is_none() {
            return self.raw.to_vec();
        }
        Properties { headers: Some(&self.other_headers(name)), ..*self }.encode()
    }

    /// Flags and list with this number (`l`) as the one top-level header of that name, behind the others, and
    /// everything else as it was.
    pub fn with_number_header(&self, name: &str, number: i64) -> Vec<u8> {
        self.with_header(name, &Value::I64(number))
    }

    /// The same with any value.
    pub fn with_header(&self, name: &str, value: &Value) -> Vec<u8> {
        let mut headers = self.other_headers(name);
        let mut field = Vec::new();
        Table(vec![(short(name).to_owned(), value.clone())]).encode(&mut field);
        // Behind the length of the table.
        headers.extend_from_slice(&field[4..]);
        Properties { headers: Some(&headers), ..*self }.encode()
    }

    /// The headers but for those of that name.
    fn other_headers(&self, name: &str) -> Vec<u8> {
        raw_fields(self.headers.unwrap_or_default())
            .filter(|(key, ..)| *key != name.as_bytes())
            .flat_map(|(_, _, whole)| whole)
            .copied()
            .collect()
    }
}

/// Properties to be written: for messages that the broker makes, and for tests.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub struct PropertiesBuilder {
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub headers: Option<Table>,
    pub delivery_mode: Option<u8>,
    pub priority: Option<u8>,
    pub correlation_id: Option<String>,
    pub reply_to: Option<String>,
    pub expiration: Option<String>,
    pub message_id: Option<String>,
    pub timestamp: Option<u64>,
    pub type_: Option<String>,
    pub user_id: Option<String>,
    pub app_id: Option<String>,
    pub cluster_id: Option<String>,
}

impl PropertiesBuilder {
    /// Flags and list. Strings beyond 255 bytes are cut at a character.
    pub fn encode(&self) -> Vec<u8> {
        let mut headers = Vec::new();
        if let Some(table) = &self.headers {
            table.encode(&mut headers);
        }
        Properties {
            raw: &[],
            content_type: cut(&self.content_type),
            content_encoding: cut(&self.content_encoding),
            headers: headers.get(4..),
            delivery_mode: self.delivery_mode,
            priority: self.priority,
            correlation_id: cut(&self.correlation_id),
            reply_to: cut(&self.reply_to),
            expiration: cut(&self.expiration),
            message_id: cut(&self.message_id),
            timestamp: self.timestamp,
            type_: cut(&self.type_),
            user_id: cut(&self.user_id),
            app_id: cut(&self.app_id),
            cluster_id: cut(&self.cluster_id),
        }
        .encode()
    }
}

fn cut(text: &Option<String>) -> Option<&[u8]> {
    text.as_deref().map(|text| short(text).as_bytes())
}

/// Appends a property and sets its flag in the first two octets.
fn put(out: &mut Vec<u8>, flag: u16, value: &[u8]) {
    let [high, low] = flag.to_be_bytes();
    out[0] |= high;
    out[1] |= low;
    out.extend_from_slice(value);
}

fn put_fixed<const N: usize>(out: &mut Vec<u8>, flag: u16, value: Option<[u8; N]>) {
    if let Some(value) = value {
        put(out, flag, &value);
    }
}

fn put_short(out: &mut Vec<u8>, flag: u16, value: Option<&[u8]>) {
    if let Some(value) = value {
        let value = &value[..value.len().min(u8::MAX.into())];
        put(out, flag, &[value.len() as u8]);
        out.extend_from_slice(value);
    }
}

#[cold]
fn malformed(_: Malformed) -> DecodeError {
    DecodeError::syntax("malformed content header").in_method(basic::CLASS_ID, basic::id::PUBLISH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::{ReplyCode, Value};

    fn builder() -> PropertiesBuilder {
        PropertiesBuilder {
            content_type: Some("text/plain".into()),
            headers: Some(Table(vec![
                ("b".into(), Value::I32(1)),
                ("BCC".into(), Value::Array(vec!["q".into()])),
                ("a".into(), Value::I64(2)),
                ("BCC".into(), Value::Void),
            ])),
            delivery_mode: Some(2),
            reply_to: Some("replies".into()),
            timestamp: Some(1),
            cluster_id: Some(String::new()),
            ..PropertiesBuilder::default()
        }
    }

    fn parse(payload: &[u8]) -> Result<Properties<'_>, DecodeError> {
        Properties::parse(ContentHeader::parse(payload)?.properties)
    }

    fn header(list: &[u8]) -> Vec<u8> {
        [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9], list].concat()
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let raw = builder().encode();
        let payload = header(&raw);
        let header = ContentHeader::parse(&payload).unwrap();
        assert_eq!((header.class_id, header.weight, header.body_size), (60, 0, 9));
        let properties = Properties::parse(header.properties).unwrap();
        assert_eq!(properties.raw, raw);
        assert_eq!(properties.content_type, Some(&b"text/plain"[..]));
        assert_eq!(properties.content_encoding, None);
        assert_eq!(properties.delivery_mode, Some(2));
        assert_eq!(properties.reply_to, Some(&b"replies"[..]));
        assert_eq!(properties.timestamp, Some(1));
        assert_eq!(properties.cluster_id, Some(&b""[..]));
        assert_eq!(Some(Table::decode(properties.headers.unwrap()).unwrap()), builder().headers);
        assert_eq!(properties.encode(), raw);
    }

    #[test]
    fn without_a_header_the_others_keep_their_bytes_and_order() {
        let raw = builder().encode();
        let raw = Properties::parse(&raw).unwrap().without_header("BCC");
        let left = Table(vec![("b".into(), Value::I32(1)), ("a".into(), Value::I64(2))]);
        assert_eq!(raw, PropertiesBuilder { headers: Some(left), ..builder() }.encode());
    }

    #[test]
    fn a_number_header_takes_the_place_of_those_of_its_name() {
        let left = vec![("b".into(), Value::I32(1)), ("a".into(), Value::I64(2))];
        let with = |mut headers: Vec<_>| {
            headers.push(("BCC".into(), Value::I64(7)));
            PropertiesBuilder { headers: Some(Table(headers)), ..builder() }.encode()
        };
        let raw = builder().encode();
        assert_eq!(Properties::parse(&raw).unwrap().with_number_header("BCC", 7), with(left));
        let bare = PropertiesBuilder { headers: None, ..builder() }.encode();
        assert_eq!(Properties::parse(&bare).unwrap().with_number_header("BCC", 7), with(vec![]));
    }

    #[test]
    fn a_new_reply_to_replaces_the_old_one_and_nothing_else() {
        let raw = builder().encode();
        let raw = Properties::parse(&raw).unwrap().with_reply_to("elsewhere");
        assert_eq!(raw, PropertiesBuilder { reply_to: Some("elsewhere".into()), ..builder() }.encode());
    }

    #[test]
    fn new_headers_replace_the_old_ones_and_nothing_else() {
        let raw = builder().encode();
        let properties = Properties::parse(&raw).unwrap();
        let bare = PropertiesBuilder { headers: None, ..builder() };
        let empty = PropertiesBuilder { headers: Some(Table::default()), ..builder() };
        assert_eq!(properties.with_headers(None), bare.encode());
        assert_eq!(properties.with_headers(Some(&Table::default())), empty.encode());
    }

    #[test]
    fn every_shorter_and_longer_header_is_refused() {
        let payload = header(&builder().encode());
        for end in 0..payload.len() {
            assert_eq!(parse(&payload[..end]).unwrap_err().code, ReplyCode::SyntaxError, "{end}");
        }
        assert!(parse(&[&payload[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_malformed_value_deep_in_the_headers_is_refused() {
        let list =
            |kind| [&[0x20, 0, 0, 0, 0, 12][..], b"\x01aF\0\0\0\x05\x01b", &[kind], b"\0\x01"].concat();
        assert!(parse(&header(&list(b's'))).is_ok());
        assert!(parse(&header(&list(b'?'))).is_err());
    }

    #[test]
    fn the_two_lowest_flags_mean_nothing() {
        assert!(Properties::parse(&[0, 3]).is_ok());
    }
}
