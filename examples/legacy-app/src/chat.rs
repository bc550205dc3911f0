//! The chat at the bottom of the page: one room over WebSocket, kept in the database since somebody asked for it.

use std::sync::Arc;

use axum::{
    extract::{
        State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    response::Response,
};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::{
    Shop,
    answer::{Answer, Refusal},
    session::Session,
};

pub(crate) async fn page() -> Answer {
    Ok(crate::answer::page(
        "Chat",
        "<pre id=room></pre><input id=say>\n<script>\n\
         const socket = new WebSocket(`ws://${location.host}/chat/socket`), say = document.getElementById('say');\n\
         socket.onmessage = e => document.getElementById('room').append(e.data + '\\n');\n\
         say.onchange = () => { socket.send(say.value); say.value = ''; };\n</script>",
    ))
}

/// Everybody may listen and speak; who is signed in speaks by name.
pub(crate) async fn socket(
    State(shop): State<Arc<Shop>>,
    session: Result<Session, Refusal>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let author = session.map_or_else(|_| "guest".to_owned(), |session| session.name);
    upgrade.on_upgrade(move |socket| async move {
        let room = shop.chat.subscribe();
        if let Err(error) = talk(&shop, &author, room, socket).await {
            tracing::debug!("chat ended: {error:#}");
        }
    })
}

async fn talk(shop: &Shop, author: &str, mut room: Receiver<String>, mut socket: WebSocket) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            said = socket.recv() => match said.transpose()? {
                Some(Message::Text(text)) => {
                    let text: String = text.chars().take(500).collect();
                    let client = shop.database.get().await?;
                    client.execute("INSERT INTO messages (author, text) VALUES ($1, $2)", &[&author, &text]).await?;
                    // Nobody listening is no error: the speaker is subscribed too.
                    let _ = shop.chat.send(format!("{author}: {text}"));
                }
                Some(Message::Close(_)) | None => return Ok(()),
                Some(_) => {}
            },
            heard = room.recv() => match heard {
                Ok(line) => socket.send(Message::Text(line.into())).await?,
                Err(RecvError::Lagged(missed)) => socket.send(Message::Text(format!("({missed} lines missed)").into())).await?,
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}
