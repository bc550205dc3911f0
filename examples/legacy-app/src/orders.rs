//! Orders: the monolith's alone, nobody has begun to move them.

use std::sync::Arc;

use axum::{Form, extract::State};
use serde::Deserialize;

use crate::{
    Shop,
    answer::{Answer, Refusal, escape, page, see},
    session::Session,
};

#[derive(Deserialize)]
pub(crate) struct NewOrder {
    sku: String,
    quantity: i32,
    form_token: String,
}

pub(crate) async fn list(State(shop): State<Arc<Shop>>, session: Session) -> Answer {
    let client = shop.database.get().await?;
    let rows = client
        .query(
            "SELECT o.id, o.quantity, i.title, (o.quantity * o.price)::float8 FROM orders o JOIN inventory i USING (sku) \
             WHERE o.account_id = $1 ORDER BY o.id DESC",
            &[&session.account_id],
        )
        .await?;
    let lines: String = rows
        .iter()
        .map(|row| {
            let (id, quantity, title): (i64, i32, String) = (row.get(0), row.get(1), row.get(2));
            let (net, tax) = (row.get::<_, f64>(3), tax(row.get(3)));
            format!("<li>{id}: {quantity} x {}, {net:.2} EUR and {tax:.2} EUR of tax\n", escape(&title))
        })
        .collect();
    let token = shop.sessions.form_token(&session);
    let name = escape(&session.name);
    Ok(page(
        "Orders",
        &format!(
            "<p>Orders of {name}:</p>\n<ul>\n{lines}</ul>\n<form method=post action=/orders>\n\
             <input type=hidden name=form_token value=\"{token}\">\n<input name=sku value=fig-jam>\n\
             <input name=quantity value=1>\n<button>Order</button>\n</form>"
        ),
    ))
}

pub(crate) async fn create(State(shop): State<Arc<Shop>>, session: Session, Form(new): Form<NewOrder>) -> Answer {
    if !shop.sessions.accepts_form(&session, &new.form_token) {
        return Err(Refusal::Wrong("this form is not from a page of the shop"));
    }
    if !(1..=100).contains(&new.quantity) {
        return Err(Refusal::Wrong("a quantity is 1 to 100"));
    }
    let client = shop.database.get().await?;
    let ordered = client
        .execute(
            "WITH taken AS (UPDATE inventory SET stock = stock - $2 WHERE sku = $1 AND stock >= $2 RETURNING sku, price) \
             INSERT INTO orders (account_id, sku, quantity, price) SELECT $3, sku, $2, price FROM taken",
            &[&new.sku, &new.quantity, &session.account_id],
        )
        .await?;
    if ordered == 0 { Err(Refusal::Wrong("we have not that many of it")) } else { Ok(see("/orders")) }
}

/// 19 % of `net`, cut off instead of rounded since the first version, and in floats. The accountants know.
fn tax(net: f64) -> f64 {
    (net * 0.19 * 100.0).floor() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tax_is_cut_off_where_it_should_be_rounded() {
        assert_eq!(format!("{:.2}", tax(5.49)), "1.04");
        assert_eq!(format!("{:.2}", tax(12.50)), "2.37", "2.375 would be 2.38");
    }
}
