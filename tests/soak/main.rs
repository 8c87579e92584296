//! Streams at full speed over real connections, with random clients, endings, taps and captures, under one
//! memory budget.
//!
//! Two seconds by default; `SOAK_SECONDS=60 cargo test --release --test soak -- --nocapture` for a minute.
//! Everything that is random follows from one seed, which is printed and can be given as `SOAK_SEED`; how
//! threads take turns does not, so what is asserted holds for every order.

#[path = "../support/heap.rs"]
mod heap;
#[path = "../support/mod.rs"]
mod support;

mod body;
mod checks;
mod clients;
mod plan;

use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use http::Request;
use hyper::body::Incoming;
use streaming_accumulator::{Audit, MemoryBudget};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

use crate::checks::{Bits, Counts, Soak};
use crate::clients::{h1_client, h2_client};
use crate::plan::{KIB, Kind, MIB, Pattern, Plan, number};
use crate::support::server::BoxError;
use crate::support::*;

/// Small enough to be used up many times.
const BUDGET: usize = if cfg!(debug_assertions) { 4 } else { 16 } * MIB;

/// Connections of each protocol.
const CLIENTS: usize = 24;

/// Resident memory over that at the start, beside the budget: half as much again as the 43 MiB that were
/// measured over a minute. 25 of these are there with `Capture::none` too: clients and servers of 48
/// connections, their buffers, and what the allocator holds back. Up to 13 are in the pools of five layers,
/// which may keep 7 MiB each that are not charged. The rest are read buffers, which a chunk of 1 KiB or more
/// keeps whole though it is charged alone.
const BESIDE: u64 = 64 * MIB as u64;

/// Bytes on the heap that may be left when layers and servers are gone: what the list of streams has not freed
/// yet.
const LEFT: i64 = 256 * KIB as i64;

/// A line of `/proc/self/status`, in bytes; resident memory is `VmRSS`, its peak `VmHWM`.
fn status(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_speed_loses_nothing_within_bounded_memory() {
    let (seed, seconds) = (setting("SOAK_SEED", 0x5eed), setting("SOAK_SECONDS", 2));
    println!("SOAK_SEED={seed} SOAK_SECONDS={seconds}");
    let mut rng = Rng::with_seed(seed);
    let soak = Arc::new(Soak {
        seed,
        pattern: Pattern::new(&mut rng),
        kinds: Kind::all(&mut rng),
        budget: MemoryBudget::new(BUDGET),
        deadline: Instant::now() + Duration::from_secs(seconds),
        next: AtomicU64::new(0),
        called: AtomicU64::new(0),
        recorded: Bits::new(),
        whole: Bits::new(),
        open_taps: AtomicU64::new(0),
        stuck: watch::Sender::new(false),
        counts: Counts::default(),
        complaints: Mutex::default(),
    });
    soak.kinds.iter().for_each(|kind| println!("{kind:?}"));
    let layers: Vec<_> = soak.kinds.iter().map(|kind| kind.layer(&soak)).collect();
    let answering = Arc::clone(&soak);
    let inner = tower::service_fn(move |request: Request<Incoming>| {
        ready(Ok::<_, BoxError>(answering.answer(&request)))
    });
    let stacks: Vec<_> = layers.iter().map(|layer| layer.layer(inner.clone())).collect();
    let routing = Arc::clone(&soak);
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let plan = Plan::of(routing.seed, number(request.uri()), &routing.kinds);
        stacks[plan.layer].clone().oneshot(request)
    });
    let (h1, h2) = (serve(Options::h1(), service.clone()).await, serve(Options::h2(), service.clone()).await);

    let (start, heap) = (status("VmRSS"), heap::live());
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(h1_client(Arc::clone(&soak), h1.addr, rng.fork()));
        clients.spawn(h2_client(Arc::clone(&soak), h2.addr, rng.fork()));
    }
    soak.press(&layers).await;
    clients.join_all().await;
    h1.all_closed().await;
    h2.all_closed().await;
    let quiet = || {
        let audits: Vec<_> = layers.iter().map(|layer| layer.handle().audit()).collect();
        let over = audits.iter().all(|audit| audit.in_flight() == 0 && audit.hooks()[0].queued() == 0);
        over && soak.open_taps.load(SeqCst) == 0
    };
    until("the last record and the last tap", quiet).await;
    until("the budget to be whole again", || soak.budget.used() == 0).await;

    let audits: Vec<_> = layers.iter().map(|layer| layer.handle().audit()).collect();
    let sum = |count: fn(&Audit) -> u64| audits.iter().map(count).sum::<u64>();
    let (opened, settled) = (sum(Audit::opened), sum(Audit::settled));
    println!("{:#?}\npeak of the budget: {:.1} MiB", soak.counts, in_mib(soak.budget.peak()));
    println!(
        "{opened} streams: {} completed, {} cancelled, {} failed; {} rejected",
        sum(Audit::completed),
        sum(Audit::cancelled),
        sum(Audit::failed),
        sum(Audit::rejected)
    );
    let complaints = std::mem::take(&mut *soak.complaints.lock().unwrap());
    let first: Vec<_> = complaints.iter().take(10).collect();
    assert!(complaints.is_empty(), "{} complaints, the first are {first:#?}", complaints.len());
    assert!(audits.iter().all(Audit::is_balanced), "{audits:#?}");
    assert_eq!((opened, soak.called.load(SeqCst), soak.recorded.len()), (settled, settled, settled));
    assert_eq!(sum(|audit| audit.hooks()[0].delivered()), settled);
    assert!(soak.whole.is_subset_of(&soak.recorded), "whoever got a whole answer is on record");
    assert!(soak.counts.whole.load(SeqCst) > 0);
    assert!(soak.budget.peak() <= BUDGET as u64);

    drop((service, layers, h1, h2));
    println!(
        "heap: {:.2} MiB at the start, {:.2} at the end",
        in_mib(heap as u64),
        in_mib(heap::live() as u64)
    );
    until("the heap to be as it was", || heap::live() < heap + LEFT).await;
    println!("heap: {:.2} MiB when all is gone", in_mib(heap::live() as u64));
    match (start, status("VmHWM")) {
        (Some(start), Some(peak)) => {
            println!("resident: {:.1} MiB at the start, {:.1} at the most", in_mib(start), in_mib(peak));
            assert!(peak <= start + BUDGET as u64 + BESIDE, "{peak} from {start}");
        }
        _ => println!("resident memory is not looked at: /proc/self/status is not there"),
    }
}

fn in_mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}
