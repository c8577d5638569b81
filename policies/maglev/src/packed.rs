//! A list of indices, in as few bytes each as the greatest one needs.

/// Indices below a bound. A table of 65,537 entries takes 64 KiB for up to 256 endpoints, and 128 KiB for up to 65,536.
#[derive(Clone, Debug)]
pub(crate) enum Packed {
    Bytes(Vec<u8>),
    Shorts(Vec<u16>),
    Words(Vec<usize>),
}

impl Default for Packed {
    fn default() -> Self {
        Self::Bytes(Vec::new())
    }
}

impl Packed {
    /// Creates a list of zeros, which may be replaced by indices below `bound`.
    pub(crate) fn new(length: usize, bound: usize) -> Self {
        match bound {
            0..=0x100 => Self::Bytes(vec![0; length]),
            0x101..=0x1_0000 => Self::Shorts(vec![0; length]),
            _ => Self::Words(vec![0; length]),
        }
    }

    pub(crate) const fn len(&self) -> usize {
        match self {
            Self::Bytes(all) => all.len(),
            Self::Shorts(all) => all.len(),
            Self::Words(all) => all.len(),
        }
    }

    /// Returns what belongs to each of them in a list.
    pub(crate) fn look_up<T: Copy>(&self, list: &[T]) -> Vec<T> {
        match self {
            Self::Bytes(all) => all.iter().map(|at| list[usize::from(*at)]).collect(),
            Self::Shorts(all) => all.iter().map(|at| list[usize::from(*at)]).collect(),
            Self::Words(all) => all.iter().map(|at| list[*at]).collect(),
        }
    }

    // Inlined by force, here and in the table: policies are compiled for size, and these are called a million times.
    #[inline(always)]
    pub(crate) fn get(&self, at: usize) -> usize {
        match self {
            Self::Bytes(all) => all[at].into(),
            Self::Shorts(all) => all[at].into(),
            Self::Words(all) => all[at],
        }
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "less than the bound")]
    pub(crate) fn set(&mut self, at: usize, index: usize) {
        match self {
            Self::Bytes(all) => all[at] = index as u8,
            Self::Shorts(all) => all[at] = index as u16,
            Self::Words(all) => all[at] = index,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_returns_what_was_set_up_to_the_bound() {
        for bound in [1, 256, 257, 65_536, 65_537] {
            let mut packed = Packed::new(3, bound);
            packed.set(1, bound - 1);
            assert_eq!([0, 1, 2].map(|at| packed.get(at)), [0, bound - 1, 0]);
            assert_eq!(packed.len(), 3);
        }
    }
}
