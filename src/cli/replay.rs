//! `banyan replay`: sends recorded reads again, to one side or to any place, and compares what comes with what was recorded.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    num::NonZeroU32,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use banyan_proxy::{
    links::Owner,
    shadow::{Against, BadLine, Line, Played, Replay},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::{sync::Semaphore, task::JoinSet, time::MissedTickBehavior};

use super::{
    FAILED,
    explain::parse_header,
    output,
    report::{self, Judged},
};
use crate::{config, link::FileLinks};

/// Reads under way at once.
const TOGETHER: usize = 64;
/// A longer line is none of a recording.
const LONGEST: u64 = 256 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What `banyan record` wrote.
    file: PathBuf,
    /// Who gets the reads: `modern`, `legacy`, or a place such as `http://127.0.0.1:7002`, which is asked as modern is.
    #[arg(long, value_name = "SIDE|URL", value_parser = against)]
    against: Against,
    /// Reads a second.
    #[arg(long, value_name = "NUMBER", default_value = "50", value_parser = rate)]
    rate: NonZeroU32,
    /// A route of the file whose rules and sides are taken. Default: the recorded one.
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// A header of every read, for example of a test user, since none that looks like a secret is recorded: `-H 'authorization: Bearer …'`.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    #[command(flatten)]
    judged: Judged,
}

/// How many reads came to what.
#[derive(Default)]
struct Counts {
    compared: AtomicU64,
    failed: AtomicU64,
    bad: AtomicU64,
}

pub(super) fn run(path: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    let accepted = match config::load(path) {
        Ok(accepted) => accepted,
        Err(report) => {
            output::report(&report, "");
            return Ok(ExitCode::from(FAILED));
        }
    };
    let config = accepted.loaded.proxy;
    let name = args.file.display();
    let file = File::open(&args.file).with_context(|| format!("`{name}` cannot be read"))?;
    let mut lines = Lines { file: BufReader::new(file), number: 0 };
    let Some(Line::Head(head)) = lines.next().with_context(|| name.to_string())? else {
        bail!("`{name}` does not begin as a recording does");
    };
    let route = args.route.clone().unwrap_or(head.route);
    let more: HeaderMap = args.headers.iter().cloned().collect();
    let links = FileLinks::in_step(&config);
    let replay = Replay::try_new(config, &links, &route, &args.against, more);
    let replay = Arc::new(replay.with_context(|| format!("route `{route}`"))?);
    let counts = Arc::new(Counts::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let began = Instant::now();
    let is_whole = runtime.block_on(play(&mut lines, &replay, &counts, args.rate)).with_context(|| name.to_string())?;
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let (compared, failed, bad) = (of(&counts.compared), of(&counts.failed), of(&counts.bad));
    report::print(&route, &serde_json::to_value(replay.report())?, args.judged.output)?;
    let seconds = began.elapsed().as_secs_f64();
    let broke_off = if is_whole { "" } else { "; the recording has no end, it was broken off" };
    output::say(&format!(
        "{} reads sent in {seconds:.1} s, {failed} of them without a whole answer{broke_off}",
        compared + failed
    ));
    if bad > 0 {
        output::error(&anyhow!("{bad} lines of `{name}` cannot be sent"));
        return Ok(ExitCode::from(FAILED));
    }
    if failed > 0 && args.judged.is_asked() {
        output::error(&anyhow!("{failed} reads had no whole answer"));
        return Ok(ExitCode::from(FAILED));
    }
    args.judged.judge(&[(&route, &serde_json::to_value(replay.report())?)])
}

/// Says whether the recording has its end.
async fn play(lines: &mut Lines, replay: &Arc<Replay>, counts: &Arc<Counts>, rate: NonZeroU32) -> anyhow::Result<bool> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate.get());
    // Who is slower than the rate is not asked faster afterwards.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let places = Arc::new(Semaphore::new(TOGETHER));
    let mut under_way = JoinSet::new();
    let is_whole = loop {
        match lines.next()? {
            Some(Line::Read(read)) => {
                ticks.tick().await;
                let place = Arc::clone(&places).acquire_owned().await?;
                let (replay, counts) = (Arc::clone(replay), Arc::clone(counts));
                under_way.spawn(async move {
                    counts.add(replay.play(&read).await);
                    drop((read, place));
                });
                while under_way.try_join_next().is_some() {}
            }
            Some(Line::End(_)) => break true,
            Some(Line::Head(_)) => bail!("line {}: a recording has one beginning", lines.number),
            None => break false,
        }
    };
    while under_way.join_next().await.is_some() {}
    Ok(is_whole)
}

// === impl Counts ===

impl Counts {
    fn add(&self, played: Result<Played, BadLine>) {
        let count = match played {
            Ok(Played::Compared) => &self.compared,
            Ok(Played::Failed) => &self.failed,
            Err(_) => &self.bad,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// The lines of a recording, one in memory at a time.
struct Lines {
    file: BufReader<File>,
    number: u64,
}

// === impl Lines ===

impl Lines {
    fn next(&mut self) -> anyhow::Result<Option<Line>> {
        use std::io::Read as _;
        self.number += 1;
        let mut line = Vec::new();
        let read = self.file.by_ref().take(LONGEST).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(None);
        }
        match Line::parse(&line) {
            Ok(line) => Ok(Some(line)),
            // The last one was cut off with the recording.
            Err(_) if !line.ends_with(b"\n") && self.number > 1 => Ok(None),
            Err(why) => Err(anyhow!("line {}: {why}", self.number)),
        }
    }
}

fn against(text: &str) -> Result<Against, String> {
    match text {
        "modern" => Ok(Against::Side(Owner::Modern)),
        "legacy" => Ok(Against::Side(Owner::Legacy)),
        url if url.contains("://") => Ok(Against::At(url.trim_end_matches('/').to_owned())),
        other => Err(format!("`{other}` is none of `modern`, `legacy` and a place such as `http://127.0.0.1:7002`")),
    }
}

fn rate(text: &str) -> Result<NonZeroU32, String> {
    let number = text.trim().strip_suffix("/s").unwrap_or(text).trim();
    number.parse().map_err(|_| format!("`{text}` is no rate; expected reads a second, for example `50` or `50/s`"))
}
