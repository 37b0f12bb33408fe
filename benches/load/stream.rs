//! What a body carries, and the check that a stream of them is complete, single and in order.

/// Bytes that a body needs to carry a stamp.
pub(crate) const STAMP: usize = 16;
/// Bytes that a body needs to repeat the stamp's second half at its end.
pub(crate) const TAIL: usize = 24;

const SEQUENCE_BITS: u32 = 48;

/// The first 16 bytes of a body: when it was sent, by whom, and its number in its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Nanoseconds on the run's clock.
    pub(crate) sent: u64,
    origin: u64,
}

impl Stamp {
    pub(crate) fn new(sent: u64, publisher: u16, sequence: u64) -> Stamp {
        Stamp { sent, origin: u64::from(publisher) << SEQUENCE_BITS | sequence }
    }

    pub(crate) fn publisher(self) -> usize {
        (self.origin >> SEQUENCE_BITS) as usize
    }

    pub(crate) fn sequence(self) -> u64 {
        self.origin & ((1 << SEQUENCE_BITS) - 1)
    }

    /// Writes the stamp at the start of a body, and half of it again at the end of a longer one.
    #[inline]
    pub(crate) fn write(self, body: &mut [u8]) {
        body[..8].copy_from_slice(&self.sent.to_le_bytes());
        body[8..16].copy_from_slice(&self.origin.to_le_bytes());
        if let Some(tail) = body[STAMP..].last_chunk_mut() {
            *tail = self.origin.to_le_bytes();
        }
    }

    /// The stamp of a body, or of the first piece of one.
    #[inline]
    pub(crate) fn read(body: &[u8]) -> Option<Stamp> {
        let sent = u64::from_le_bytes(*body.first_chunk()?);
        let origin = u64::from_le_bytes(*body[8..].first_chunk()?);
        Some(Stamp { sent, origin })
    }

    /// Whether a whole body ends as this stamp left it.
    #[inline]
    pub(crate) fn ends(self, body: &[u8]) -> bool {
        body.len() < TAIL || body.ends_with(&self.origin.to_le_bytes())
    }
}

/// What one consumer saw of one stream: the messages of one publisher in one queue.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stream {
    next: u64,
    count: u64,
    /// Sum of a hash of each sequence number: equal for equal sets, in whatever order.
    sum: u64,
    first_disorder: Option<(u64, u64)>,
}

impl Stream {
    /// Takes note of a message. With a `gapless` stream the next one is due, else one later than the last.
    #[inline]
    pub(crate) fn note(&mut self, sequence: u64, gapless: bool) {
        let in_order = if gapless { sequence == self.next } else { sequence >= self.next };
        if !in_order {
            self.first_disorder.get_or_insert((sequence, self.next));
        }
        self.next = sequence + 1;
        self.count += 1;
        self.sum = self.sum.wrapping_add(hash(sequence));
    }

    /// Adds what another consumer of the queue saw.
    pub(crate) fn merge(&mut self, other: &Stream) {
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
        self.first_disorder = self.first_disorder.or(other.first_disorder);
    }

    /// What is wrong with the stream, if `published` messages were sent to it.
    pub(crate) fn fault(&self, published: u64) -> Option<String> {
        let due = (0..published).fold(0, |sum: u64, sequence| sum.wrapping_add(hash(sequence)));
        if let Some((got, next)) = self.first_disorder {
            return Some(format!(
                "message {got} came where {next} was due ({} of {published} came in all)",
                self.count
            ));
        }
        if self.count != published {
            return Some(format!("{} messages came, {published} were published", self.count));
        }
        (self.sum != due).then(|| "some messages were lost and as many came twice".into())
    }
}

/// The finalizer of SplitMix64: sums of it do not cancel out by accident.
#[inline]
fn hash(sequence: u64) -> u64 {
    let mut z = sequence.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
