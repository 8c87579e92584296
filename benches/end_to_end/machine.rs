//! What the bench asks of the kernel.

use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use socket2::SockRef;

/// The cores of the server and of the client, as far apart as this process may run: neighbours are often
/// two halves of one core. `None` where there is one core only.
pub(crate) fn two_cores() -> Option<[usize; 2]> {
    let allowed = sched_getaffinity(None).ok()?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    let client = cores.next()?;
    cores.next_back().map(|server| [server, client])
}

/// Keeps the calling thread, and the threads that it starts from now on, on `core`.
pub(crate) fn pin(core: usize) {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).expect("the core is one of those that this process may use");
}

/// CPU time that all threads of this process have had.
pub(crate) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let nanoseconds = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    Duration::from_nanos(nanoseconds.try_into().expect("CPU time fits into 64 bits"))
}

#[expect(clippy::disallowed_methods, reason = "not a test: the client sleeps while the server works")]
pub(crate) fn sleep(duration: Duration) {
    std::thread::sleep(duration);
}

/// Sets reno and `TCP_NODELAY`. Returns whether the kernel took reno.
pub(crate) fn tune<'a>(socket: impl Into<SockRef<'a>>) -> bool {
    let socket = socket.into();
    socket.set_tcp_nodelay(true).expect("TCP has this option");
    socket.set_tcp_congestion(b"reno").is_ok()
}
