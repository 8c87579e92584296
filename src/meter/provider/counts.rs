//! Arithmetic of counts that may not be reported.

/// Replaces a count, if a new one is reported.
pub(super) fn latest(count: &mut Option<u64>, reported: Option<u64>) {
    if reported.is_some() {
        *count = reported;
    }
}

/// The sum of the parts that are reported; `None` if none is.
pub(super) fn sum<const N: usize>(parts: [Option<u64>; N]) -> Option<u64> {
    parts.into_iter().flatten().reduce(u64::saturating_add)
}
