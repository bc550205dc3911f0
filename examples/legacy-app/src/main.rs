//! The monolith as a program of its own: `BIND`, `DATABASE_URL` and `SESSION_KEY` come from the environment.

use legacy_app::Settings;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    legacy_app::serve(Settings::from_env()?).await
}
