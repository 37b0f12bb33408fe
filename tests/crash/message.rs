//! The body of a message: who published it as which, padding, and a checksum over all of it.

use std::fmt;

use rand::{Rng, RngCore, rngs::StdRng};

/// A message: its publisher, of which there is never a second of that number, and its place among what that publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MessageId {
    pub(crate) publisher: u32,
    pub(crate) sequence: u64,
}

impl fmt::Display for MessageId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.publisher, self.sequence)
    }
}

/// Octets before the padding: publisher, sequence, checksum.
const HEAD_BYTES: usize = 20;

/// The body of this message, mostly short, now and then of many pages.
pub(crate) fn encode(id: MessageId, random: &mut StdRng) -> Vec<u8> {
    let padding = match random.random_range(0..100) {
        0..88 => random.random_range(0..200),
        88..98 => random.random_range(200..6000),
        _ => random.random_range(20 << 10..300 << 10),
    };
    let mut body = vec![0; HEAD_BYTES + padding];
    random.fill_bytes(&mut body[HEAD_BYTES..]);
    body[..4].copy_from_slice(&id.publisher.to_be_bytes());
    body[4..12].copy_from_slice(&id.sequence.to_be_bytes());
    let sum = checksum(&body);
    body[12..HEAD_BYTES].copy_from_slice(&sum.to_be_bytes());
    body
}

/// Which message that is; what is wrong with it otherwise.
pub(crate) fn decode(body: &[u8]) -> Result<MessageId, String> {
    let (Some(publisher), Some(sequence), Some(sum)) =
        (number::<4>(body, 0), number::<8>(body, 4), number::<8>(body, 12))
    else {
        return Err(format!("a body of {} octets is none of ours", body.len()));
    };
    let id = MessageId { publisher: publisher as u32, sequence };
    if checksum(body) != sum {
        return Err(format!("a body of {} octets that says it is {id} has another checksum", body.len()));
    }
    Ok(id)
}

fn number<const N: usize>(body: &[u8], at: usize) -> Option<u64> {
    let octets = body.get(at..at + N)?;
    Some(octets.iter().fold(0, |number, octet| number << 8 | u64::from(*octet)))
}

/// FNV-1a in words of eight octets, over everything but the checksum itself.
fn checksum(body: &[u8]) -> u64 {
    let words = body[..12].chunks(8).chain(body[HEAD_BYTES..].chunks(8));
    words.fold(0xcbf2_9ce4_8422_2325 ^ body.len() as u64, |sum, word| {
        let word = word.iter().fold(0, |number, octet| number << 8 | u64::from(*octet));
        (sum ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23)
    })
}
