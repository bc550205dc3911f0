//! `banyan demo`: a shop in the middle of its migration, on this machine, with real parts, gone when it ends.
//!
//! The monolith, the services and Banyan are processes of their own, so that killing one shows what happens. Nothing here is part of what
//! runs in production: the cargo feature `demo` leaves all of it out.

mod admin;
mod file;
mod folder;
mod kafka;
mod keeper;
pub(crate) mod part;
mod ports;
mod postgres;
mod screen;
mod services;
mod shop;
mod stage;
mod story;
mod traffic;

use std::{env, process::ExitCode, time::Duration};

use anyhow::Context as _;
use tokio::runtime::Runtime;

use self::{
    folder::Folder,
    screen::{Screen, Stop, Stopped, listen_for_stop},
    stage::{Stage, shown},
    story::Scene,
};

/// What the person wants of the demo.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Tell the story once, check every step, and end: 0 when all of it was true, else 1.
    #[arg(long)]
    once: bool,
    /// Use this Kafka instead of the in-process stand-in.
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,
    /// Fetch PostgreSQL even when it is found on this machine.
    #[arg(long)]
    fetch: bool,
}

/// Where the demo is played.
pub(crate) struct Venue<'v> {
    pub(crate) screen: &'v Screen,
    pub(crate) runtime: &'v Runtime,
    pub(crate) folder: &'v Folder,
    pub(crate) stop: &'v Stop,
}

/// Ended by Ctrl-C before the story was told: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

/// Plays the demo to its end. Errors have been told when it returns.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let stop = listen_for_stop(&runtime)?;
    let screen = Screen::new(stop.clone());
    screen.say("Banyan demo · everything runs on this machine and is gone when you press Ctrl-C\n");
    let mut folder = Folder::claim(&env::current_dir().context("there is no current folder")?)?;
    let venue = Venue { screen: &screen, runtime: &runtime, folder: &folder, stop: &stop };
    let code = match play(options, &venue) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Stopped>() => ExitCode::from(INTERRUPTED),
        Err(error) => {
            folder.keep();
            return Err(error.context(format!("the demo failed (logs: {}/*.log)", shown(folder.path()))));
        }
    };
    drop(folder);
    if stop.is_wanted() {
        screen.say("\nStopped; everything is gone.");
    }
    Ok(code)
}

fn play(options: &Options, venue: &Venue<'_>) -> anyhow::Result<()> {
    let mut stage = Stage::set(options, venue)?;
    let told = story::tell(&mut Scene { stage: &mut stage, venue });
    let told = match told {
        Ok(()) if !options.once => stay(&stage, venue.screen),
        told => told,
    };
    if told.as_ref().is_err_and(|error| !error.is::<Stopped>()) {
        // Beside the logs, what Banyan knew when it went wrong. It may be gone itself.
        let _ = stage.admin.keep(venue.folder.path());
    }
    stage.strike(venue);
    told
}

/// Stays up for the person, until Ctrl-C.
fn stay(stage: &Stage, screen: &Screen) -> anyhow::Result<()> {
    let program = env::current_exe()?;
    let program = shown(&program);
    let file = shown(stage.file.path());
    let (base, admin) = (stage.base.trim_start_matches("http://"), stage.admin.base());
    screen.say(&format!(
        "\nYours now, until Ctrl-C. Try:\n\
         \x20 {program} status --admin {admin} --watch     and beside it\n\
         \x20 {program} resume payments -c {file}          the rollout walks again; `history payments` tells what it did\n\
         \x20 edit {file}, set `weight: 0` of payments, save: everybody is back\n\
         \x20 open http://{base} in a browser, sign in as ann, password banyan; the chat there is a WebSocket\n\
         \x20 curl -i {base}/payments/9 -H 'cookie: banyan_id=ann' who answered? see `x-banyan-side`\n\
         \x20 {program} explain -c {file} GET /payments/9 -H 'cookie: banyan_id=ann'\n\
         \x20 kill -9 {}                                      payments-service; keep asking for payments\n\
         \x20 curl -s {admin}/metrics | grep banyan_sync",
        stage.services.payments.pid()
    ));
    while screen.rest(Duration::from_secs(1)).is_ok() {}
    Ok(())
}
