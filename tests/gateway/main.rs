//! End to end: the gateway example as a process, driven from outside by `curl` and by the official clients of
//! OpenAI and Anthropic, in Python and in JavaScript.
//!
//! What is not installed is skipped, with the reason printed (`cargo test --test gateway -- --nocapture`).
//! The Python clients are looked for in the virtual environment at `$GATEWAY_TEST_VENV`, by default
//! `target/venv`, the JavaScript client in `$GATEWAY_TEST_NPM`, by default `target/npm`, with `node` on the path:
//!
//! ```text
//! python3 -m venv target/venv && target/venv/bin/pip install openai anthropic
//! npm install --prefix target/npm openai
//! ```

#![cfg(unix)]

// Parts of the example that need no process to be tested.
#[path = "../../examples/gateway/hiding.rs"]
mod hiding;
#[path = "../../examples/gateway/include_usage.rs"]
mod include_usage;
#[path = "../../examples/gateway/json.rs"]
mod json;
#[path = "../../examples/gateway/prices.rs"]
mod prices;

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod costs;
mod curl;
mod fixtures;
mod ledger;
mod metering;
mod process;
mod rewriting;
mod shutdown;
mod startup;
mod streams;
mod upstream;
