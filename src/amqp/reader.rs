//! A cursor over the arguments of a method or a content header: AMQP 0-9-1's elementary domains (section 4.2.5).
//!
//! Every read is bounded by the slice, none allocates. What is wrong with the bytes, the caller puts into words.

/// Why an argument cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// The bytes end early, or go on after the last argument.
    Layout,
    /// A short string that must be text is not UTF-8.
    Utf8,
}

/// The bytes not read yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A short string: an octet of length and that many bytes of any kind.
    #[inline]
    pub(crate) fn short_bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u8()?;
        self.take(length.into())
    }

    /// A short string that must be UTF-8.
    #[inline]
    pub(crate) fn short_str(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.short_bytes()?).map_err(|_| Malformed::Utf8)
    }

    /// A long string or the bytes of a table: four octets of length and that many bytes.
    #[inline]
    pub(crate) fn long_bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()?;
        self.take(length.try_into().map_err(|_| Malformed::Layout)?)
    }

    /// Checks that nothing is left.
    #[inline]
    pub(crate) fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Layout) }
    }

    #[inline]
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Layout)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed::Layout)?;
        self.rest = rest;
        Ok(*taken)
    }
}
