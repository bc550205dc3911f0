//! The notifications service as a program of its own: `BIND` and `KAFKA_BROKERS`, and `TOPICS` if others than the shop's, come from the environment.

use notifications::Settings;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    notifications::serve(Settings::from_env()?).await
}
