//! Finds the messages in the data of one direction of an attempt.

/// Counts the messages in a stream of data: each has a prefix of five bytes, a flag and its length
/// (`doc/PROTOCOL-HTTP2.md`, "Length-Prefixed-Message").
#[derive(Debug, Default)]
pub(super) struct Framing {
    prefix: [u8; 5],
    /// Bytes of the next prefix that have been seen.
    seen: u8,
    /// Bytes of the current message that are to come.
    rest: u32,
}

impl Framing {
    /// Calls `message` with the size of each message whose prefix ends in this data.
    #[inline]
    pub(super) fn feed(&mut self, data: &[u8], mut message: impl FnMut(u64)) {
        // Most frames are one whole message.
        if let ([_, a, b, c, d, rest @ ..], 0, 0) = (data, self.seen, self.rest)
            && rest.len() == u32::from_be_bytes([*a, *b, *c, *d]) as usize
        {
            return message(rest.len() as u64);
        }
        self.feed_part(data, message);
    }

    fn feed_part(&mut self, mut data: &[u8], mut message: impl FnMut(u64)) {
        while !data.is_empty() {
            if self.rest > 0 {
                let skipped = self.rest.min(u32::try_from(data.len()).unwrap_or(u32::MAX));
                self.rest -= skipped;
                data = &data[skipped as usize..];
                continue;
            }
            self.prefix[usize::from(self.seen)] = data[0];
            self.seen += 1;
            data = &data[1..];
            if usize::from(self.seen) == self.prefix.len() {
                let [_, size @ ..] = self.prefix;
                (self.seen, self.rest) = (0, u32::from_be_bytes(size));
                message(self.rest.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However the data is cut into frames, the messages are the same.
        #[test]
        fn messages_are_found_in_any_frames(
            sizes in prop::collection::vec(0u32..50, 0..8),
            cuts in prop::collection::vec(1usize..20, 1..40),
        ) {
            let mut data = Vec::new();
            for size in &sizes {
                data.push(0);
                data.extend(size.to_be_bytes());
                data.resize(data.len() + *size as usize, 7);
            }
            let (mut framing, mut found, mut at) = (Framing::default(), Vec::new(), 0);
            for cut in cuts.iter().cycle() {
                if at == data.len() {
                    break;
                }
                let end = (at + cut).min(data.len());
                framing.feed(&data[at..end], |size| found.push(size));
                at = end;
            }
            prop_assert_eq!(found, sizes.iter().map(|size| u64::from(*size)).collect::<Vec<_>>());
        }
    }
}
