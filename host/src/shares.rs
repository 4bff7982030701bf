//! How much one holder may take of something that is shared by many and cannot be reclaimed: places, memory, bytes.
//!
//! A holder's share has to shrink before others arrive. The rule is the dynamic threshold of shared packet buffers
//! (Choudhury and Hahne, 1998): a holder takes more only while at least as much stays free as it then holds. A single
//! holder gets half of all. However many hostile holders there are, each of them leaves as much as it has for those
//! that follow.

pub(crate) mod slots;
pub(crate) mod turns;

/// Whether a holder may hold this much if this much is then free.
#[must_use]
pub(crate) fn leaves_enough(held: usize, free: usize) -> bool {
    held <= free
}

/// How many more places a holder of `held` places may take, of `free` ones. A holder of none gets any free place.
#[must_use]
pub(crate) fn available(held: usize, free: usize) -> usize {
    let min = usize::from(held == 0 && free > 0);
    (held.saturating_add(free) / 2).saturating_sub(held).max(min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_that_is_taken_leaves_enough() {
        for free in 0..200 {
            for held in 0..200 {
                let more = available(held, free);
                assert!(more <= free);
                assert!(more == 0 || held + more == 1 || leaves_enough(held + more, free - more));
                let further = held + more + 1;
                assert!(more == free || !leaves_enough(further, free - more - 1));
            }
        }
    }
}
