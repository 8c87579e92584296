//! What the layer costs a real server: `cargo bench --bench end_to_end`.
//!
//! The bench measures the CPU time that a hyper server spends per request under each contestant, and
//! compares it with the same server without a layer. Requests per second would measure the client and the
//! kernel as well, and other work on the machine bends them more.
//!
//! - The server runs in a process of its own, on a core of its own where there are two. Its CPU time is that
//!   of the whole process: hooks and background tasks count too.
//! - One server process serves all contestants, each on its own port, so that all share what differs between
//!   processes: where memory lies, and how it is cached. A process per contestant gave the same noise floor,
//!   0.99 to 1.01. Each rotation starts a new process, so that the median does not depend on one of them.
//! - The client wakes rarely. It sends one request on each of its 64 keep-alive connections, sleeps until it
//!   expects the last answer, and then reads all of them: see `client.rs`. The server is never short of work
//!   within such a batch, and goes to sleep once in it. This is the least that a request can cost a server,
//!   so the ratios are the largest that a layer can show.
//! - All sockets have `TCP_NODELAY` and use reno. BBR paces by timers, which cost the server CPU time.
//! - In each rotation every contestant has one round. A contestant's ratio is that of its round to the round
//!   of "no layer" in the same rotation. The table shows the median, the smallest and the largest ratio.
//! - "no layer" takes part twice. The ratio of the second is the noise floor: a difference that is not larger
//!   than its distance from 1 says nothing.
//!
//! `-- --rotations 3 --only "1 frame"` measures less; `-- --rotations 1 --round-ms 100` is a smoke test.
//! The full bench takes two minutes. It needs Linux, and a machine that does little else.

// One condition for all files, which lie beside this one.
#[cfg(target_os = "linux")]
#[path = "."]
mod linux {
    #[path = "../support/body.rs"]
    mod body;
    mod client;
    mod contestants;
    mod machine;
    mod report;
    pub(crate) mod rotations;
    mod server;
    mod workload;
}

fn main() {
    #[cfg(target_os = "linux")]
    linux::rotations::main();
    #[cfg(not(target_os = "linux"))]
    println!("this bench needs Linux: it pins processes to cores and sets the congestion control of TCP");
}
