//! Interleaved rounds: on a machine with other work, what is compared must share each moment's weather.

/// The smallest that each contestant measured over `rounds` rounds in which each has one turn. Every
/// round begins with another contestant, so that none always follows the same one.
pub(crate) fn best_of<T, const N: usize>(
    rounds: usize,
    contestants: &mut [T],
    mut measure: impl FnMut(&mut T) -> [f64; N],
) -> Vec<[f64; N]> {
    let mut best = vec![[f64::INFINITY; N]; contestants.len()];
    for round in 0..rounds {
        for turn in 0..contestants.len() {
            let at = (round + turn) % contestants.len();
            let measured = measure(&mut contestants[at]);
            for (best, measured) in best[at].iter_mut().zip(measured) {
                *best = best.min(measured);
            }
        }
    }
    best
}
