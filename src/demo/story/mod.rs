//! The story: numbered steps. Each changes something as a person would, waits for what it claims, and says what it measured.

mod data;
mod failure;
mod rollout;
mod weight;

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::{
    Venue,
    screen::{Stopped, demand},
    shop::{Customer, Reply},
    stage::{Stage, shown},
};

/// What every step works with.
pub(crate) struct Scene<'s> {
    pub(crate) stage: &'s mut Stage,
    pub(crate) venue: &'s Venue<'s>,
}

struct Step {
    title: &'static str,
    /// Returns what was measured, in words.
    play: fn(&mut Scene<'_>) -> anyhow::Result<String>,
}

const STEPS: [Step; 14] = [
    Step { title: "Payments still come from the monolith", play: weight::all_on_legacy },
    Step { title: "Its payments are copied to the new database", play: data::payments_are_copied },
    Step { title: "A payment appears in both databases", play: data::a_payment_appears_in_modern },
    Step { title: "Shadow: modern answers too, nobody sees it", play: weight::shadow },
    Step { title: "What differs by itself is learnt", play: rollout::noise_is_learnt },
    Step { title: "weight 0 → 5: one user in twenty", play: weight::to_five },
    Step { title: "weight 5 → 50: who was there stays there", play: weight::to_fifty },
    Step { title: "A user reads what they wrote", play: data::own_write },
    Step { title: "A new account appears in the monolith's database", play: data::an_account_appears_in_legacy },
    Step { title: "Signed in once, known to both sides", play: data::one_session },
    Step { title: "payments-service killed", play: failure::modern_killed },
    Step { title: "weight 50 → 0: rolled back by editing", play: weight::back_to_zero },
    Step { title: "A rollout walks by itself", play: rollout::it_walks_by_itself },
    Step { title: "A bad build comes back by itself", play: rollout::a_bad_build_comes_back },
];

/// How long a change of the file may take to act.
const RELOAD: Duration = Duration::from_secs(10);

/// Tells all steps, or fails with the first that is not true.
pub(crate) fn tell(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    scene.venue.screen.say("");
    for (n, step) in STEPS.iter().enumerate().map(|(at, step)| (at + 1, step)) {
        let measured = (step.play)(scene).map_err(|error| match error.is::<Stopped>() {
            true => error,
            false => error.context(format!("step {n}, \"{}\"", step.title)),
        })?;
        scene.venue.screen.say(&format!("{n:>2}  {:<50} {measured}", step.title));
    }
    Ok(())
}

// === impl Scene ===

impl Scene<'_> {
    /// Waits as the screen does, and gives up when Banyan itself has ended.
    fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&Stage, &Runtime) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let stage = &mut *self.stage;
        self.venue.screen.until(what, limit, || {
            stage.banyan.must_live()?;
            look(stage, self.venue.runtime)
        })
    }

    fn customer(&self, name: &str) -> Customer {
        Customer::named(&self.stage.agent, &self.stage.base, name)
    }

    fn browser(&self) -> Customer {
        Customer::new(&self.stage.agent, &self.stage.base)
    }

    /// Asks once for each of `users` customers for some payment. Which one each asks for never changes.
    fn ask_around(&self, users: u32) -> anyhow::Result<Vec<Reply>> {
        let mut replies = Vec::new();
        for n in 0..users {
            self.venue.screen.rest(Duration::ZERO)?;
            replies.push(self.customer(&format!("user-{n}")).get(&format!("/payments/{}", n % 120 + 1))?);
        }
        Ok(replies)
    }

    /// The same for customers some of whom may get an error. Returns how many asked.
    fn ask_everybody(&self, users: u32) -> anyhow::Result<u64> {
        for n in 0..users {
            self.venue.screen.rest(Duration::ZERO)?;
            self.customer(&format!("user-{n}")).get(&format!("/payments/{}", n % 120 + 1))?;
        }
        Ok(u64::from(users))
    }

    /// Edits a number of the route `payments` and waits until Banyan goes by it. Returns how long that took.
    fn edit(&mut self, key: &str, value: u32) -> anyhow::Result<Duration> {
        self.save(&format!("{key}: {value}"), |stage| stage.file.set("payments", key, value))
    }

    /// Replaces some words of the file, and waits until Banyan goes by them.
    fn rewrite(&mut self, old: &str, new: &str) -> anyhow::Result<Duration> {
        self.save(new, |stage| stage.file.rewrite(old, new))
    }

    fn save(&mut self, what: &str, save: impl FnOnce(&Stage) -> anyhow::Result<()>) -> anyhow::Result<Duration> {
        let reloads = [("result", "accepted")];
        let count = |stage: &Stage| {
            anyhow::Ok(stage.admin.metrics()?.sum("banyan_config_reloads_total", &reloads).unwrap_or(0.0))
        };
        let before = count(self.stage)?;
        let began = Instant::now();
        save(self.stage)?;
        let file = shown(self.stage.file.path());
        self.until(&format!("`{what}` in {file} to act"), RELOAD, |stage, _| {
            Ok((count(stage)? > before).then_some(()))
        })?;
        Ok(began.elapsed())
    }
}

/// How many replies came from `side`; fails when one was an error.
fn from(side: &str, replies: &[Reply]) -> anyhow::Result<usize> {
    if let Some(bad) = replies.iter().find(|reply| !reply.is_fine()) {
        demand(false, || format!("a customer got {}: {}", bad.status, bad.body.trim()))?;
    }
    Ok(replies.iter().filter(|reply| reply.is_from(side)).count())
}

fn milliseconds(time: Duration) -> String {
    let time = time.as_secs_f64() * 1000.0;
    match time {
        0.0..10.0 => format!("{time:.1} ms"),
        10.0..1000.0 => format!("{time:.0} ms"),
        _ => format!("{:.1} s", time / 1000.0),
    }
}
