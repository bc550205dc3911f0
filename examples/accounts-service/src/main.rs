//! The new accounts service as a program of its own: `BIND`, `DATABASE_URL` and `SESSION_KEY` come from the environment.

use accounts_service::Settings;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    accounts_service::serve(Settings::from_env()?).await
}
