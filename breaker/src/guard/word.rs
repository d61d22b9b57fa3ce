//! Everything admission needs while nothing is wrong, in one atomic word.
//!
//! Rejected: a lock or an `ArcSwap` of a struct, which cost more than the rest of a closed call together.

use super::Presented;
use crate::state::State;

/// What admission does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// Admit and record.
    Pass = 0,
    /// Admit; nothing is counted (unconfigured, disabled).
    Free = 1,
    /// Admit, record, and count what the shadow would have rejected.
    Shadow = 2,
    /// Admit a share.
    Ramp = 3,
    /// Look at the details.
    Ask = 4,
}

/// The word, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) gate: Gate,
    /// Wait for the store's answer first.
    pub(super) hesitate: bool,
    /// The local machine governs.
    pub(super) local: bool,
    /// Running calls are watched for slowness.
    pub(super) gauge: bool,
    pub(super) presented: Presented,
    /// Below 2^48; milliseconds reach that in the year 10889.
    pub(super) generation: u64,
}

/// The bit that any thread may set by itself.
pub(super) const HESITATE: u64 = 1 << 4;
const LOCAL: u64 = 1 << 5;
const GAUGE: u64 = 1 << 6;

impl Word {
    pub(super) fn pack(self) -> u64 {
        let presented = match self.presented {
            Presented::State(state) => state.code(),
            Presented::Unconfigured => 7,
        };
        self.gate as u64
            | if self.hesitate { HESITATE } else { 0 }
            | if self.local { LOCAL } else { 0 }
            | if self.gauge { GAUGE } else { 0 }
            | presented << 8
            | self.generation << 16
    }

    pub(super) fn unpack(bits: u64) -> Self {
        Self {
            gate: match bits & 7 {
                0 => Gate::Pass,
                1 => Gate::Free,
                2 => Gate::Shadow,
                3 => Gate::Ramp,
                _ => Gate::Ask,
            },
            hesitate: bits & HESITATE != 0,
            local: bits & LOCAL != 0,
            gauge: bits & GAUGE != 0,
            presented: State::from_code(bits >> 8 & 7).map_or(Presented::Unconfigured, Presented::State),
            generation: bits >> 16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bits_are_some_word() {
        let mut bits = 1_u64;
        for _ in 0..100_000 {
            bits = bits
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let word = Word::unpack(bits);
            assert_eq!(Word::unpack(word.pack()), word);
        }
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        for gate in [Gate::Pass, Gate::Free, Gate::Shadow, Gate::Ramp, Gate::Ask] {
            for presented in State::ALL
                .iter()
                .map(|state| Presented::State(*state))
                .chain([Presented::Unconfigured])
            {
                for flags in 0..8 {
                    let word = Word {
                        gate,
                        hesitate: flags & 1 > 0,
                        local: flags & 2 > 0,
                        gauge: flags & 4 > 0,
                        presented,
                        generation: 1_795_524_379_308,
                    };
                    assert_eq!(Word::unpack(word.pack()), word);
                }
            }
        }
    }
}
