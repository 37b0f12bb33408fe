//! The PROXY protocol, versions 1 and 2 (HAProxy's specification): the header by which a proxy says whom it speaks for.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// What a part of a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// At least so many octets are missing, and they belong to the header.
    More(usize),
    /// It is complete.
    Complete(Option<Addresses>),
}

/// Whom a proxy speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    /// The client's end of its connection to the proxy.
    pub(super) client: SocketAddr,
    /// The proxy's end of it.
    pub(super) proxy: SocketAddr,
}

/// Octets that are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProxyError {
    /// They begin otherwise.
    #[error("no PROXY header")]
    Missing,
    /// Version 1 that is wrong.
    #[error("a malformed PROXY header, version 1")]
    Malformed1,
    /// Version 2 that is wrong.
    #[error("a malformed PROXY header, version 2")]
    Malformed2,
    /// Version 2 that is longer than it may be.
    #[error("a PROXY header, version 2, of {0} octets after the first 16; at most {LENGTH_MAX_2} are read")]
    TooLong(u16),
}

/// What the second version begins with.
const SIGNATURE_2: &[u8; 12] = b"\r\n\r\n\x00\r\nQUIT\n";
/// Octets of its fixed part.
const FIXED_2: usize = 16;
/// What its variable part may be long: addresses, and what else the proxy says, such as by which name it was asked.
const LENGTH_MAX_2: u16 = 4096;
/// What the first version begins with.
const SIGNATURE_1: &[u8] = b"PROXY ";
/// The shortest line of the first version, `PROXY UNKNOWN\r\n`.
const LENGTH_MIN_1: usize = 15;
/// The longest, by the specification.
const LENGTH_MAX_1: usize = 107;

/// Reads what there is of a header, and nothing after it.
///
/// # Errors
/// As soon as it can't become one any more.
pub(super) fn parse(input: &[u8]) -> Result<Header, ProxyError> {
    let begins = |signature: &[u8]| input.iter().zip(signature).all(|(octet, expected)| octet == expected);
    if begins(SIGNATURE_1) {
        parse_1(input)
    } else if begins(SIGNATURE_2) {
        parse_2(input)
    } else {
        Err(ProxyError::Missing)
    }
}

fn parse_1(input: &[u8]) -> Result<Header, ProxyError> {
    if input.len() < LENGTH_MIN_1 {
        return Ok(Header::More(LENGTH_MIN_1 - input.len()));
    }
    let Some(line) = input.strip_suffix(b"\r\n") else {
        let missing = if input.ends_with(b"\r") { 1 } else { 2 };
        let can_go_on = input.len() + missing <= LENGTH_MAX_1 && !input.contains(&b'\n');
        return if can_go_on { Ok(Header::More(missing)) } else { Err(ProxyError::Malformed1) };
    };
    let line = str::from_utf8(line).map_err(|_| ProxyError::Malformed1)?;
    let fields: Vec<&str> = line.split(' ').skip(1).collect();
    let addresses = match fields[..] {
        ["UNKNOWN", ..] => return Ok(Header::Complete(None)),
        ["TCP4", client, proxy, client_port, proxy_port] => {
            ends::<Ipv4Addr>((client, client_port), (proxy, proxy_port))
        }
        ["TCP6", client, proxy, client_port, proxy_port] => {
            ends::<Ipv6Addr>((client, client_port), (proxy, proxy_port))
        }
        _ => None,
    };
    addresses.map(|addresses| Header::Complete(Some(addresses))).ok_or(ProxyError::Malformed1)
}

fn ends<A: FromStr + Into<std::net::IpAddr>>(client: (&str, &str), proxy: (&str, &str)) -> Option<Addresses> {
    let address = |(address, port): (&str, &str)| {
        let is_number = port.bytes().all(|digit| digit.is_ascii_digit());
        let port = port.parse::<u16>().ok().filter(|_| is_number)?;
        Some(SocketAddr::new(A::from_str(address).ok()?.into(), port))
    };
    Some(Addresses { client: address(client)?, proxy: address(proxy)? })
}

fn parse_2(input: &[u8]) -> Result<Header, ProxyError> {
    let Some((fixed, rest)) = input.split_at_checked(FIXED_2) else {
        return Ok(Header::More(FIXED_2 - input.len()));
    };
    let length = u16::from_be_bytes([fixed[14], fixed[15]]);
    if length > LENGTH_MAX_2 {
        return Err(ProxyError::TooLong(length));
    }
    let is_local = match fixed[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyError::Malformed2),
    };
    if rest.len() < usize::from(length) {
        return Ok(Header::More(usize::from(length) - rest.len()));
    }
    match fixed[13] {
        // It speaks for itself, to see whether the broker is there.
        _ if is_local => Ok(Header::Complete(None)),
        0x11 => ends_2::<4>(rest).map(|addresses| Header::Complete(Some(addresses))),
        0x21 => ends_2::<16>(rest).map(|addresses| Header::Complete(Some(addresses))),
        // Datagrams, sockets within a machine, or unknown: the specification wants the proxy's own address to be taken.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => Ok(Header::Complete(None)),
        _ => Err(ProxyError::Malformed2),
    }
}

/// Two addresses, then two ports.
fn ends_2<const N: usize>(rest: &[u8]) -> Result<Addresses, ProxyError>
where
    std::net::IpAddr: From<[u8; N]>,
{
    let read = || {
        let (client, rest) = rest.split_first_chunk::<N>()?;
        let (proxy, rest) = rest.split_first_chunk::<N>()?;
        let (client_port, rest) = rest.split_first_chunk::<2>()?;
        let (proxy_port, _) = rest.split_first_chunk::<2>()?;
        Some(Addresses {
            client: SocketAddr::new((*client).into(), u16::from_be_bytes(*client_port)),
            proxy: SocketAddr::new((*proxy).into(), u16::from_be_bytes(*proxy_port)),
        })
    };
    read().ok_or(ProxyError::Malformed2)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn complete(client: &str, proxy: &str) -> Result<Header, ProxyError> {
        let address = |text: &str| text.parse().expect("an address");
        Ok(Header::Complete(Some(Addresses { client: address(client), proxy: address(proxy) })))
    }

    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [SIGNATURE_2, &[command, family][..], &length, rest].concat()
    }

    #[test]
    fn version_1_is_a_line() {
        let of_4 = parse(b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 5672\r\n");
        assert_eq!(of_4, complete("192.0.2.1:56324", "198.51.100.2:5672"));
        let of_6 = parse(b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n");
        assert_eq!(of_6, complete("[2001:db8::1]:1", "[::1]:65535"));
        for unknown in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN ffff::1 ffff::1 65535 65535\r\n"] {
            assert_eq!(parse(unknown.as_bytes()), Ok(Header::Complete(None)));
        }
    }

    #[test]
    fn version_1_that_is_wrong_is_refused() {
        for line in [
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324 5672 1\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324 65536\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 +5632 5672\r\n",
            "PROXY TCP4 ::1 ::1 56324 5672\r\n",
            "PROXY TCP5 192.0.2.1 198.51.100.2 56324 5672\r\n",
            "PROXY  TCP4 192.0.2.1 198.51.100.2 56324 5672\r\n",
            "PROXY TCP4 192.0.2.1\n198.51.100.2 56324 5672",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(ProxyError::Malformed1), "{line}");
        }
        let endless = [b"PROXY TCP4 ", &[b'1'; 200][..]].concat();
        assert_eq!(parse(&endless), Err(ProxyError::Malformed1));
    }

    #[test]
    fn version_2_is_binary() {
        let of_4 = version_2(0x21, 0x11, b"\xC0\x00\x02\x01\xC6\x33\x64\x02\xDC\x04\x16\x28");
        assert_eq!(parse(&of_4), complete("192.0.2.1:56324", "198.51.100.2:5672"));
        let mut of_6 = [[0_u8; 16], [0_u8; 16]].concat();
        (of_6[15], of_6[31]) = (1, 2);
        of_6.extend(b"\x00\x07\x16\x28and what else it says");
        assert_eq!(parse(&version_2(0x21, 0x21, &of_6)), complete("[::1]:7", "[::2]:5672"));
        for (command, family) in [(0x20, 0x11), (0x20, 0x00), (0x21, 0x00), (0x21, 0x31), (0x21, 0x12)] {
            assert_eq!(parse(&version_2(command, family, b"")), Ok(Header::Complete(None)));
        }
    }

    #[test]
    fn version_2_that_is_wrong_is_refused() {
        for (command, family, rest) in
            [(0x22, 0x11, 12), (0x11, 0x11, 12), (0x21, 0x11, 11), (0x21, 0x21, 35), (0x21, 0x41, 36)]
        {
            let header = version_2(command, family, &vec![0; rest]);
            assert_eq!(parse(&header), Err(ProxyError::Malformed2), "{command} {family} {rest}");
        }
        assert_eq!(parse(&version_2(0x21, 0x11, &[0; 4097])), Err(ProxyError::TooLong(4097)));
    }

    #[test]
    fn what_begins_otherwise_is_refused_at_once() {
        for input in [&b"AMQP"[..], b"\x16\x03\x01", b"GET / HTTP/1.1\r\n", b"PROXX", b"\r\n\r\nX"] {
            assert_eq!(parse(input), Err(ProxyError::Missing));
        }
        assert_eq!(parse(b""), Ok(Header::More(15)));
    }

    fn headers() -> impl Strategy<Value = Vec<u8>> {
        let lines = (any::<Ipv4Addr>(), any::<Ipv4Addr>(), any::<u16>(), any::<u16>());
        let lines = lines.prop_map(|(client, proxy, from, to)| {
            format!("PROXY TCP4 {client} {proxy} {from} {to}\r\n").into_bytes()
        });
        let binary = (vec(any::<u8>(), 12..200)).prop_map(|rest| version_2(0x21, 0x11, &rest));
        prop_oneof![lines, binary]
    }

    proptest! {
        /// Whoever reads what is asked for has all of the header and nothing after it.
        #[test]
        fn what_is_asked_for_belongs_to_the_header(header in headers(), after in vec(any::<u8>(), 0..20)) {
            let stream = [&header[..], &after].concat();
            let mut read = 0;
            while let Header::More(missing) = parse(&stream[..read]).expect("a sound header") {
                prop_assert!(missing > 0 && read + missing <= header.len());
                read += missing;
            }
            prop_assert_eq!(read, header.len());
        }

        #[test]
        fn any_octets_lead_to_an_answer(
            signature in prop_oneof![Just(&b""[..]), Just(SIGNATURE_1), Just(&SIGNATURE_2[..])],
            input in vec(any::<u8>(), 0..300),
        ) {
            let input = [signature, &input].concat();
            if let Ok(Header::More(missing)) = parse(&input) {
                prop_assert!(missing > 0 && missing <= usize::from(LENGTH_MAX_2));
            }
        }
    }
}
