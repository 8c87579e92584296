//! Interleaved rounds: on a machine with other work, what is compared must share each moment's weather.

/// What each contestant measured over `rounds` rounds in which each has one turn. Every round begins with
/// another contestant, so that none always follows the same one.
pub(crate) fn interleaved<T, R>(
    rounds: usize,
    contestants: &mut [T],
    mut measure: impl FnMut(&mut T) -> R,
) -> Vec<Vec<R>> {
    let mut all: Vec<_> = contestants.iter().map(|_| Vec::with_capacity(rounds)).collect();
    for round in 0..rounds {
        for turn in 0..contestants.len() {
            let at = (round + turn) % contestants.len();
            all[at].push(measure(&mut contestants[at]));
        }
    }
    all
}

/// The smallest that each contestant measured over `rounds` [interleaved] rounds.
pub(crate) fn best_of<T, const N: usize>(
    rounds: usize,
    contestants: &mut [T],
    measure: impl FnMut(&mut T) -> [f64; N],
) -> Vec<[f64; N]> {
    let best = |all: Vec<[f64; N]>| {
        all.into_iter().fold([f64::INFINITY; N], |best, one| std::array::from_fn(|i| best[i].min(one[i])))
    };
    interleaved(rounds, contestants, measure).into_iter().map(best).collect()
}
