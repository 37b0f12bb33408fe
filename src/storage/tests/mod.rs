//! The storage on a disk that crashes, fails and rots, against a plain model.

mod crash;
mod damage;
mod deadlines;
mod faults;
mod fixture;
mod held;
mod model;
mod script;
mod space;

use std::sync::Arc;

use bytes::Bytes;

use super::{Opened, Options, StorageError, open, sim_disk::SimDisk};
use crate::broker::{
    message::{Message, PublishedBody, SMALL_BODY_BYTES_MAX},
    pager::{Load, PriorityLevel},
    queue::QueueId,
};

/// Segments so short that a few messages fill one.
const OPTIONS: Options = Options { segment_bytes: 16 << 10, salvage: false };

fn open_disk(disk: &SimDisk) -> Result<Opened, StorageError> {
    open(Arc::new(disk.clone()), OPTIONS)
}

/// A message whose body tells which it is.
fn message(id: u64, body_len: usize, persistent: bool, priority: Option<u8>) -> Message {
    let mut body = id.to_le_bytes().to_vec();
    body.resize(body_len.max(8), id as u8);
    let body = if body.len() > SMALL_BODY_BYTES_MAX {
        PublishedBody::Large(Bytes::from(body))
    } else {
        return Message::new(
            ("x", "key"),
            &[0, 0],
            PublishedBody::Small(&body),
            persistent,
            priority,
            &mut Vec::new(),
        );
    };
    Message::new(("x", "key"), &[0, 0], body, persistent, priority, &mut Vec::new())
}

/// Which message it is, if its body is whole.
fn id_of(message: &Message) -> u64 {
    let body = message.body().as_slice();
    let id = u64::from_le_bytes(body[..8].try_into().expect("eight octets"));
    assert!(body[8..].iter().all(|octet| *octet == id as u8), "the body of {id} is not what was published");
    id
}

/// A message that was read back.
#[derive(Clone, Debug, PartialEq)]
struct Found {
    sequence: u64,
    id: u64,
    delivery_count: u32,
    priority: Option<u8>,
    deadline_ms: u64,
}

/// Asks for everything in a range, of one level if the queue has levels, a few at a time.
fn load_found(
    opened: &Opened,
    queue: QueueId,
    (first, last): (u64, u64),
    priorities: Option<PriorityLevel>,
) -> Vec<Found> {
    let mut all = Vec::new();
    let mut from = first;
    loop {
        let load =
            Load { queue, first: from, last, priorities, count_max: 3, bytes_max: 20_000, only: Vec::new() };
        let loaded = opened.reader.load(&load).expect("the disk works");
        assert_eq!(loaded.damaged, 0);
        let Some(end) = loaded.messages.last().map(|message| message.sequence) else { return all };
        all.extend(loaded.messages.iter().map(|loaded| Found {
            sequence: loaded.sequence,
            id: id_of(&loaded.message),
            delivery_count: loaded.delivery_count,
            priority: loaded.message.priority(),
            deadline_ms: loaded.deadline_ms,
        }));
        from = end + 1;
    }
}

/// The sequence numbers of everything in a range, which messages they are, and how often each came back.
fn load_all(opened: &Opened, queue: QueueId, first: u64, last: u64) -> Vec<(u64, u64, u32)> {
    let found = load_found(opened, queue, (first, last), None);
    found.iter().map(|found| (found.sequence, found.id, found.delivery_count)).collect()
}
