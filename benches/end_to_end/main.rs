//! What the layer costs a real server: `cargo bench --bench end_to_end`.
//!
//! The bench measures the CPU time that a hyper server spends per request under each contestant, and
//! compares it with the same server without a layer. Requests per second would measure the client and the
//! kernel as well, and other work on the machine bends them more.
//!
//! - The server runs in a process of its own, on a core of its own where there are two. Its CPU time is that
//!   of the whole process: hooks and background tasks count too.
//! - One server process serves all contestants, each on its own port. Separate processes differ from each
//!   other by where their memory happens to lie, and that shows as a difference between contestants. Each
//!   rotation starts a new process, so that the median does not hang on the luck of one.
//! - The client wakes rarely. It sends one request on each of its connections, sleeps until it expects the
//!   last answer, and then reads all of them: see [`client`].
//! - All sockets have `TCP_NODELAY` and use reno. BBR paces by timers, which cost the server CPU time.
//! - In each rotation every contestant has one round. A contestant's ratio is that of its round to the round
//!   of "no layer" in the same rotation. The table shows the median, the smallest and the largest ratio.
//! - "no layer" takes part twice. The ratio of the second is what noise alone does.
//!
//! `-- --rotations 3 --only "1 frame"` measures less; `-- --rotations 1 --round-ms 100` is a smoke test.
//! The bench needs Linux.

#[path = "../support/body.rs"]
mod body;
#[cfg(target_os = "linux")]
mod client;
#[cfg(target_os = "linux")]
mod contestants;
#[cfg(target_os = "linux")]
mod machine;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod rotations;
#[cfg(target_os = "linux")]
mod server;
#[cfg(target_os = "linux")]
mod workload;

#[cfg(target_os = "linux")]
fn main() {
    rotations::main();
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("this bench needs Linux: it pins processes to cores and chooses how TCP avoids congestion");
}
