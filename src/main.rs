//! `banyan`: the command line, and what joins the proxy with the connectors.

mod admin;
mod app;
mod cli;
mod config;
#[cfg(feature = "demo")]
mod demo;
mod handover;
mod link;
mod logs;
mod marks;
mod metrics;
mod plan;
mod reload;
mod replicas;
mod tasks;
mod webhook;

use std::process::ExitCode;

/// glibc's allocator does not give idle connections' memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
