//! `banyan record`: keeps a route's reads, and what they are answered, in a file that `banyan replay` sends again.

use std::{
    fs::{File, OpenOptions},
    io::{BufWriter, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use banyan_proxy::shadow::{End, Line, WhyEnded};
use bytesize::ByteSize;
use serde_json::Value;

use super::{
    FAILED,
    admin::{Client, Place},
    output,
};

/// What the last lines may take.
const LAST: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The route's name. Its file says `compare: {record: true}`.
    route: String,
    #[command(flatten)]
    place: Place,
    /// For how long, a day at most.
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    time: Duration,
    /// The file to write, for its owner alone; it must not be there.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Ends it before it would be larger, 1 GiB at most.
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    max_size: ByteSize,
}

pub(super) fn run(path: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    let client = Client::new(path, &args.place)?;
    let route: String = form_urlencoded::byte_serialize(args.route.as_bytes()).collect();
    let seconds = args.time.as_secs().max(1);
    let query = format!("route={route}&within={seconds}&max_size={}", args.max_size.as_u64());
    let name = args.output.display();
    if args.output.exists() {
        bail!("`{name}` is there already; name another file, or remove it");
    }
    let mut file: Option<BufWriter<File>> = None;
    let mut end = Tail::default();
    let streamed = client.stream(&format!("/api/v1/record?{query}"), args.time + LAST, |piece| {
        if file.is_none() {
            // What is in it is nobody else's to read.
            let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.output);
            file = Some(BufWriter::new(made.with_context(|| format!("`{name}` cannot be written"))?));
        }
        end.take(piece);
        file.as_mut()
            .map_or(Ok(()), |file| file.write_all(piece))
            .with_context(|| format!("`{name}` cannot be written"))
    })?;
    if let Err((_, answer)) = streamed {
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        bail!("route `{}`: {}", args.route, answer["detail"].as_str().unwrap_or("no reason was given"));
    }
    file.as_mut().map_or(Ok(()), std::io::Write::flush).with_context(|| format!("`{name}` cannot be written"))?;
    let Some(end) = end.end() else {
        output::error(&anyhow::anyhow!("the recording broke off; what is in `{name}` can be replayed"));
        return Ok(ExitCode::from(FAILED));
    };
    output::say(&told(&end, &args.output));
    Ok(ExitCode::SUCCESS)
}

fn told(end: &End, file: &Path) -> String {
    let why = match end.why {
        WhyEnded::Time => "",
        WhyEnded::Size => ", then it was as large as it may be",
        WhyEnded::Stopped => ", then Banyan stopped it",
    };
    let left_out = [
        (end.secret_in_query, "with what looks like a secret in their query"),
        (end.with_body, "with a body"),
        (end.dropped, "that came too fast"),
    ];
    let left_out = left_out.into_iter().filter(|(count, _)| *count > 0);
    let left_out: Vec<String> = left_out.map(|(count, what)| format!("{count} {what}")).collect();
    let left_out = if left_out.is_empty() { String::new() } else { format!("; left out {}", left_out.join(", ")) };
    format!("{} reads in {}{why}{left_out}", end.recorded, file.display())
}

/// The last line of what passes, in little memory.
#[derive(Default)]
struct Tail(Vec<u8>);

// === impl Tail ===

impl Tail {
    /// Longer than any last line.
    const LONGEST: usize = 4096;

    fn take(&mut self, piece: &[u8]) {
        self.0.extend_from_slice(&piece[piece.len().saturating_sub(Self::LONGEST)..]);
        self.0.drain(..self.0.len().saturating_sub(Self::LONGEST));
    }

    fn end(&self) -> Option<End> {
        let last = self.0.strip_suffix(b"\n")?.rsplit(|byte| *byte == b'\n').next()?;
        match Line::parse(last) {
            Ok(Line::End(end)) => Some(end),
            _ => None,
        }
    }
}
