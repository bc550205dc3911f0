//! The new payments service as a program of its own: `BIND`, `DATABASE_URL` and `SESSION_KEY` come from the environment.

use payments_service::Settings;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    payments_service::serve(Settings::from_env()?).await
}
