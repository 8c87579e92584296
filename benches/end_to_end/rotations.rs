//! The bench itself: rounds in rotations, each contestant's turn in another place each time.

use std::time::Duration;

use clap::Parser;

use super::client::{Client, Exchange};
use super::contestants::Contestant;
use super::report::{self, Costs};
use super::server::Server;
use super::workload::{self, Workload};
use super::{machine, server};

/// Before each round, the contestant runs this long unmeasured and fills the core's caches.
const WARM_UP: Duration = Duration::from_millis(40);

/// Measures the CPU time per request that layers cost a server.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rotations per workload; in each, every contestant has one round
    #[arg(long, default_value_t = 13, value_parser = clap::value_parser!(u16).range(1..))]
    rotations: u16,
    /// Length of a round
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(1..))]
    round_ms: u64,
    /// Measures only the workloads whose names begin with this
    #[arg(long, default_value = "")]
    only: String,
    /// Serves instead of measuring: for the bench's own use
    #[arg(long, hide = true)]
    serve: bool,
    #[arg(long, hide = true)]
    core: Option<usize>,
    /// cargo adds this
    #[arg(long, hide = true)]
    bench: bool,
}

/// One contestant as the client sees it.
struct Target {
    client: Client,
    exchange: Exchange,
}

pub(crate) fn main() {
    let arguments = Arguments::parse();
    if arguments.serve {
        return server::run(arguments.core);
    }
    let cores = machine::two_cores();
    match cores {
        Some([server, client]) => {
            machine::pin(client);
            println!("server on core {server}, client on core {client}");
        }
        None => println!("note: one core only, so that nothing is pinned and the client disturbs the server"),
    }
    let mut workloads = workload::ALL.to_vec();
    workloads.retain(|workload| workload.name.starts_with(&arguments.only));
    assert!(!workloads.is_empty(), "no workload's name begins with {:?}", arguments.only);
    report::print_head(arguments.rotations, arguments.round_ms);
    let mut results = Vec::new();
    for workload in workloads {
        let costs: Vec<_> = (0..arguments.rotations.into())
            .map(|rotation| rotate(rotation, &workload, cores.map(|[server, _]| server), arguments.round_ms))
            .collect();
        report::print_row(&workload, &costs);
        results.push((workload, costs));
    }
    report::print_wanted(&results);
}

/// Starts a server and gives each contestant one round. Returns microseconds per request, by contestant.
fn rotate(rotation: usize, workload: &Workload, core: Option<usize>, round_ms: u64) -> Costs {
    let mut server = Server::start(core);
    let mut targets = Contestant::ALL.map(|contestant| Target::open(&server, contestant, workload));
    if rotation == 0 && targets.iter().any(|target| !target.client.reno) {
        println!("note: the kernel refuses reno; the sockets use its default");
    }
    let mut costs = [0.0; Contestant::ALL.len()];
    for turn in 0..targets.len() {
        let at = (rotation + turn) % targets.len();
        // Backward in every other rotation, so that no contestant always follows the same one.
        let at = if rotation.is_multiple_of(2) { at } else { targets.len() - 1 - at };
        costs[at] = targets[at].round(&mut server, Duration::from_millis(round_ms));
    }
    costs
}

impl Target {
    fn open(server: &Server, contestant: Contestant, workload: &Workload) -> Self {
        let mut client = Client::connect(server.address(contestant));
        let exchange = client.learn(workload);
        let mut target = Self { client, exchange };
        target.client.drive(&mut target.exchange, WARM_UP);
        target
    }

    /// Microseconds of the server's CPU time per request.
    fn round(&mut self, server: &mut Server, duration: Duration) -> f64 {
        self.client.drive(&mut self.exchange, WARM_UP);
        let before = server.cpu_time();
        let requests = self.client.drive(&mut self.exchange, duration);
        let spent = server.cpu_time() - before;
        spent.as_secs_f64() * 1e6 / requests as f64
    }
}
