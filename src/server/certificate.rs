//! What is written in a certificate, as RabbitMQ writes it.

use std::fmt::Write as _;

use x509_parser::{
    asn1_rs::{Any, FromDer as _, Tag},
    certificate::X509Certificate,
    extensions::GeneralName,
    time::ASN1Time,
    x509::{AttributeTypeAndValue, RelativeDistinguishedName, X509Name},
};

use crate::config::{CertLogin, SanType};

/// What is of interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Whose it is.
    pub(super) subject: String,
    /// Who says so.
    pub(super) issuer: String,
    /// From when to when it is valid, as text.
    pub(super) validity: String,
    /// The first second in which it is valid, counted from 1970.
    pub(super) begins_unix_secs: i64,
    /// The last one.
    pub(super) expires_unix_secs: i64,
}

/// What of a certificate is the user's name.
#[derive(Clone, Copy, Debug)]
pub(super) struct LoginRule {
    /// Which part.
    pub(super) from: CertLogin,
    /// Which kind of subject alternative name, if it is that.
    pub(super) san_type: SanType,
}

const COMMON_NAME: &str = "2.5.4.3";
/// How RabbitMQ names parts of a subject. Others are named by their numbers, a street (2.5.4.9) too.
const NAMES: [(&str, &str); 16] = [
    ("2.5.4.4", "SN"),
    ("2.5.4.42", "GIVENNAME"),
    ("2.5.4.43", "INITIALS"),
    ("2.5.4.44", "GENERATIONQUALIFIER"),
    (COMMON_NAME, "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "TITLE"),
    ("2.5.4.6", "C"),
    ("2.5.4.5", "SERIALNUMBER"),
    ("2.5.4.65", "PSEUDONYM"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "EMAILADDRESS"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

impl Facts {
    /// Those of a certificate; `None` if it can't be read.
    pub(super) fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        Some(Self {
            subject: name(certificate.subject()),
            issuer: name(certificate.issuer()),
            validity: format!("{} - {}", time(validity.not_before), time(validity.not_after)),
            begins_unix_secs: validity.not_before.timestamp(),
            expires_unix_secs: validity.not_after.timestamp(),
        })
    }
}

/// The user that a certificate stands for; `None` if it has no such name.
pub(super) fn login(der: &[u8], rule: LoginRule) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let login = match rule.from {
        CertLogin::DistinguishedName => name(certificate.subject()),
        CertLogin::CommonName => common_name(certificate.subject()),
        CertLogin::SubjectAlternativeName => alternative_name(&certificate, rule.san_type)?,
    };
    Some(login).filter(|login| !login.is_empty())
}

fn common_name(subject: &X509Name<'_>) -> String {
    let parts = subject.iter_attributes().filter(|part| part.attr_type().to_id_string() == COMMON_NAME);
    let names = parts.map(|part| String::from_utf8_lossy(&utf8(part.attr_value())).into_owned());
    names.collect::<Vec<_>>().join(",")
}

fn alternative_name(certificate: &X509Certificate<'_>, san_type: SanType) -> Option<String> {
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    names.iter().find_map(|name| match (san_type, name) {
        (SanType::Dns, GeneralName::DNSName(name))
        | (SanType::Email, GeneralName::RFC822Name(name))
        | (SanType::Uri, GeneralName::URI(name)) => Some((*name).to_owned()),
        (SanType::Ip, GeneralName::IPAddress(octets)) => address(octets),
        _ => None,
    })
}

fn address(octets: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(octets).map(|octets| std::net::IpAddr::from(octets).to_string());
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(|octets| std::net::IpAddr::from(octets).to_string())).ok()
}

/// A name by RFC 4514: its parts from the last to the first.
fn name(name: &X509Name<'_>) -> String {
    let part =
        |part: &RelativeDistinguishedName<'_>| part.iter().map(attribute).collect::<Vec<_>>().join("+");
    let mut parts: Vec<String> = name.iter_rdn().map(part).collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let id = attribute.attr_type().to_id_string();
    let known = NAMES.iter().find(|(known, _)| *known == id);
    format!("{}={}", known.map_or(id.as_str(), |(_, name)| name), escaped(&utf8(attribute.attr_value())))
}

/// The text of a value as UTF-8, from the encodings that ASN.1 has for it.
fn utf8(value: &Any<'_>) -> Vec<u8> {
    let text: String = match value.tag() {
        Tag::T61String => value.data.iter().map(|octet| char::from(*octet)).collect(),
        Tag::BmpString => {
            let units = value.data.chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]]));
            char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        }
        Tag::UniversalString => {
            let units = value.data.chunks_exact(4);
            let units = units.map(|unit| u32::from_be_bytes([unit[0], unit[1], unit[2], unit[3]]));
            units.map(|unit| char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        }
        _ => return value.data.to_vec(),
    };
    text.into_bytes()
}

/// A value with the escapes of RFC 4514, and what is not printable ASCII in hexadecimal.
fn escaped(value: &[u8]) -> String {
    let mut text = String::with_capacity(value.len());
    for (index, &octet) in value.iter().enumerate() {
        let (is_first, is_last) = (index == 0, index + 1 == value.len());
        match octet {
            b' ' if is_first || is_last => text.push_str("\\ "),
            b'#' if is_first => text.push_str("\\#"),
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => text.extend(['\\', char::from(octet)]),
            0..32 | 126.. => _ = write!(text, "\\{octet:02X}"),
            _ => text.push(char::from(octet)),
        }
    }
    text
}

fn time(time: ASN1Time) -> String {
    let time = time.to_datetime();
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second) = time.to_hms();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z", u8::from(month))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType as Name, date_time_ymd};

    use super::*;

    fn certificate(subject: &[(DnType, DnValue)], names: Vec<Name>) -> Vec<u8> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in subject {
            parameters.distinguished_name.push(kind.clone(), value.clone());
        }
        parameters.subject_alt_names = names;
        parameters.not_before = date_time_ymd(2024, 2, 3);
        parameters.not_after = date_time_ymd(2034, 12, 1);
        let key = KeyPair::generate().expect("a key");
        parameters.self_signed(&key).expect("a certificate").der().to_vec()
    }

    fn utf8_value(text: &str) -> DnValue {
        DnValue::Utf8String(text.to_owned())
    }

    #[test]
    fn a_subject_is_written_as_rabbitmq_writes_it() {
        let subject = [
            (DnType::CountryName, DnValue::PrintableString("DE".try_into().expect("printable"))),
            (DnType::OrganizationName, utf8_value("Käse, Söhne + \"Co\"")),
            (DnType::OrganizationalUnitName, DnValue::BmpString("µ".try_into().expect("a character"))),
            (DnType::CustomDnType(vec![2, 5, 4, 9]), utf8_value("#1 ")),
            (DnType::CommonName, utf8_value(" ann ")),
        ];
        let facts = Facts::of(&certificate(&subject, Vec::new())).expect("a certificate");
        let expected = r#"CN=\ ann\ ,2.5.4.9=\#1\ ,OU=\C2\B5,O=K\C3\A4se\, S\C3\B6hne \+ \"Co\",C=DE"#;
        assert_eq!(facts.subject, expected);
        assert_eq!(facts.issuer, expected);
        assert_eq!(facts.validity, "2024-02-03T00:00:00Z - 2034-12-01T00:00:00Z");
        assert_eq!(facts.begins_unix_secs, 1_706_918_400);
        assert_eq!(Facts::of(b"no certificate"), None);
    }

    #[test]
    fn the_user_is_what_the_rule_says() {
        let names = vec![
            Name::URI("urn:ann".try_into().expect("a URI")),
            Name::DnsName("ann.example.org".try_into().expect("a host")),
            Name::DnsName("other.example.org".try_into().expect("a host")),
            Name::IpAddress([192, 0, 2, 7].into()),
            Name::Rfc822Name("ann@example.org".try_into().expect("an address")),
        ];
        let subject =
            [(DnType::OrganizationName, utf8_value("Example")), (DnType::CommonName, utf8_value("ann, bob"))];
        let certificate_of = certificate(&subject, names);
        let login = |from, san_type| login(&certificate_of, LoginRule { from, san_type });
        let cases = [
            (CertLogin::DistinguishedName, SanType::Dns, r"CN=ann\, bob,O=Example"),
            (CertLogin::CommonName, SanType::Dns, "ann, bob"),
            (CertLogin::SubjectAlternativeName, SanType::Dns, "ann.example.org"),
            (CertLogin::SubjectAlternativeName, SanType::Email, "ann@example.org"),
            (CertLogin::SubjectAlternativeName, SanType::Ip, "192.0.2.7"),
            (CertLogin::SubjectAlternativeName, SanType::Uri, "urn:ann"),
        ];
        for (from, san_type, expected) in cases {
            assert_eq!(login(from, san_type).as_deref(), Some(expected));
        }
        let bare = certificate(&[], Vec::new());
        for from in [CertLogin::DistinguishedName, CertLogin::CommonName, CertLogin::SubjectAlternativeName] {
            assert_eq!(super::login(&bare, LoginRule { from, san_type: SanType::Dns }), None);
        }
    }
}
