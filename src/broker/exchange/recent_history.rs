//! `x-recent-history` exchanges: like a fanout exchange, and the last messages are kept for who is bound later.
//!
//! They are in memory only, as in RabbitMQ. An exchange keeps as many messages as `x-recent-history-length` says and at most
//! [`EXCHANGE_BYTES_MAX`] octets of them, the exchanges of a virtual host together at most [`HOST_BYTES_MAX`]: an exchange
//! to which a message comes lets go of its own oldest ones until both hold. A message that is larger than that by itself is
//! not kept, and neither is any before it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use super::Routing;
use crate::{
    amqp::{Properties, Value, table::find_raw},
    broker::message::Message,
};

/// How many messages are kept if the exchange does not say.
pub(super) const LENGTH_DEFAULT: u64 = 20;
/// Octets that an exchange keeps at most.
pub(super) const EXCHANGE_BYTES_MAX: u64 = 16 << 20;
/// Octets that the exchanges of a virtual host keep at most, all together.
pub(super) const HOST_BYTES_MAX: u64 = 64 << 20;

/// A message that is kept.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The message.
    pub message: Message,
    /// Its further routing keys, from the CC and BCC headers. A message without does not take memory for them.
    pub copies: Arc<[Box<str>]>,
}

impl Kept {
    fn bytes(&self) -> u64 {
        let copies: usize = self.copies.iter().map(|key| size_of::<Box<str>>() + key.len()).sum();
        (size_of::<Self>() + copies + self.message.memory_bytes()) as u64
    }
}

/// The messages that an exchange keeps.
#[derive(Debug)]
pub struct History {
    length_max: usize,
    kept: Mutex<Messages>,
    of_host: Arc<AtomicU64>,
    none: Arc<[Box<str>]>,
}

/// Oldest first.
#[derive(Debug, Default)]
struct Messages {
    messages: VecDeque<Kept>,
    bytes: u64,
}

impl History {
    /// Of at most so many messages. `of_host` counts the octets of all histories of the virtual host.
    pub fn new(length_max: u64, of_host: Arc<AtomicU64>) -> Self {
        let length_max = usize::try_from(length_max).unwrap_or(usize::MAX);
        Self { length_max, kept: Mutex::default(), of_host, none: Arc::new([]) }
    }

    /// Keeps a message that has come to the exchange, unless its header `x-recent-history-no-store` is true.
    pub fn keep(&self, message: &Message, routing: &Routing<'_>) {
        if is_excluded(&routing.properties) {
            return;
        }
        let copies = match routing.keys.get(1..) {
            None | Some([]) => Arc::clone(&self.none),
            Some(copies) => copies.iter().map(|key| Box::from(*key)).collect(),
        };
        self.push(Kept { message: message.clone(), copies });
    }

    fn push(&self, kept: Kept) {
        let mut messages = self.lock();
        self.count(&mut messages, &kept);
        messages.messages.push_back(kept);
        while self.is_over(&messages)
            && let Some(oldest) = messages.messages.pop_front()
        {
            self.discount(&mut messages, &oldest);
        }
    }

    fn is_over(&self, messages: &Messages) -> bool {
        messages.messages.len() > self.length_max
            || messages.bytes > EXCHANGE_BYTES_MAX
            || self.of_host.load(Ordering::Relaxed) > HOST_BYTES_MAX
    }

    fn count(&self, messages: &mut Messages, kept: &Kept) {
        messages.bytes += kept.bytes();
        self.of_host.fetch_add(kept.bytes(), Ordering::Relaxed);
    }

    fn discount(&self, messages: &mut Messages, kept: &Kept) {
        messages.bytes -= kept.bytes();
        self.of_host.fetch_sub(kept.bytes(), Ordering::Relaxed);
    }

    /// The messages that are kept, oldest first.
    pub fn messages(&self) -> Vec<Kept> {
        self.lock().messages.iter().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Messages> {
        self.kept.lock().expect("invariant: no panic under the lock of a history")
    }
}

impl Drop for History {
    fn drop(&mut self) {
        let bytes = self.kept.get_mut().map_or(0, |kept| kept.bytes);
        self.of_host.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Whether the message says that it is not to be kept: nothing but a boolean counts.
fn is_excluded(properties: &Properties<'_>) -> bool {
    let value = properties.headers.and_then(|headers| find_raw(headers, "x-recent-history-no-store"));
    value.is_some_and(|value| value.decode() == Value::Bool(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{amqp::Table, broker::message::PublishedBody};
    use bytes::Bytes;

    fn message(body: PublishedBody<'_>) -> Message {
        Message::new(("x", "k"), &[0, 0], body, false, None, &mut Vec::new())
    }

    fn keep(history: &History, bodies: impl IntoIterator<Item = u8>) {
        for body in bodies {
            history.keep(&message(PublishedBody::Small(&[body])), &Routing::by_keys(&["k"]));
        }
    }

    fn bodies(history: &History) -> Vec<u8> {
        history.messages().iter().map(|kept| kept.message.body().as_slice()[0]).collect()
    }

    #[test]
    fn b4_the_last_messages_are_kept_oldest_first() {
        let history = History::new(3, Arc::default());
        keep(&history, 0..5);
        assert_eq!(bodies(&history), [2, 3, 4]);
    }

    #[test]
    fn b4_a_message_may_say_that_it_is_not_kept() {
        let history = History::new(20, Arc::default());
        for (number, value) in
            (0..).zip([Value::Bool(true), Value::Bool(false), "true".into(), Value::I32(1)])
        {
            let mut headers = Vec::new();
            Table(vec![("x-recent-history-no-store".to_owned(), value)]).encode(&mut headers);
            let properties = Properties { headers: Some(&headers[4..]), ..Properties::default() };
            let message = message(PublishedBody::Small(&[number]));
            history.keep(&message, &Routing { keys: &["k"], properties, now_ms: 0 });
        }
        assert_eq!(bodies(&history), [1, 2, 3], "nothing but a boolean counts");
    }

    #[test]
    fn b4_further_routing_keys_are_kept() {
        let history = History::new(20, Arc::default());
        history.keep(&message(PublishedBody::Small(b"m")), &Routing::by_keys(&["k", "cc", "bcc"]));
        let [kept] = &history.messages()[..] else { panic!("one message") };
        assert_eq!(kept.copies.iter().map(|key| &**key).collect::<Vec<_>>(), ["cc", "bcc"]);
    }

    #[test]
    fn b4_octets_are_bounded_for_an_exchange_and_for_all() {
        let of_host = Arc::new(AtomicU64::new(0));
        let large = || message(PublishedBody::Large(Bytes::from(vec![1; 3 << 20])));
        let histories: Vec<_> = (0..6).map(|_| History::new(20, Arc::clone(&of_host))).collect();
        for history in &histories {
            (0..20).for_each(|_| history.keep(&large(), &Routing::by_keys(&["k"])));
        }
        let counts: Vec<_> = histories.iter().map(|history| history.messages().len()).collect();
        assert_eq!(counts, [5, 5, 5, 5, 1, 0], "16 MiB each, 64 MiB in all");
        let huge = message(PublishedBody::Large(Bytes::from(vec![1; 17 << 20])));
        histories[0].keep(&huge, &Routing::by_keys(&["k"]));
        assert_eq!(histories[0].messages().len(), 0);
        drop(histories);
        assert_eq!(of_host.load(Ordering::Relaxed), 0);
    }
}
