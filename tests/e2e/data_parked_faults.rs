//! Parking through sudden ends, long transactions and random conflicts; and as people see it: command line, roles, log.

use std::{process::Output, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;

use crate::{
    harness::{Banyan, Kafka, Postgres, Raw, Shop, eventually, secs},
    workload::{self, Workload},
};

const SETTLED: Duration = Duration::from_secs(120);

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// `banyan sync parked …`
fn parked(banyan: &Banyan, arguments: &[&str]) -> Output {
    banyan.verb(&[&["sync", "parked"], arguments].concat())
}

fn list(banyan: &Banyan, sync: &str) -> Vec<Value> {
    let output = parked(banyan, &["list", sync, "-o", "json"]);
    assert!(output.status.success(), "{}", err(&output));
    let answer: Value = serde_json::from_str(&out(&output)).unwrap();
    answer["parked"].as_array().unwrap().clone()
}

async fn so_many(banyan: &Banyan, sync: &str, count: usize) -> Vec<Value> {
    eventually(SETTLED, &format!("{count} are parked"), async || {
        let all = list(banyan, sync);
        if all.len() == count { Ok(all) } else { Err(all) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_list_show_retry_and_skip_and_values_are_seen_only_where_they_are_asked_for() {
    let shop = Shop::fresh().await;
    shop.legacy.batch("INSERT INTO accounts VALUES (1, 'secret-1@x', 'A')").await;
    let banyan = Banyan::with(&shop.file("legacy")).start().await;
    banyan.flow_state("shop", "legacy_to_modern", &["applying"], SETTLED).await;
    assert_eq!(err(&parked(&banyan, &["list", "shop"])), "nothing is parked\n");
    shop.modern.batch("INSERT INTO accounts VALUES (3, 'secret@x', 'X')").await;
    shop.legacy.batch("INSERT INTO accounts VALUES (4, 'secret@x', 'secret name')").await;
    so_many(&banyan, "shop", 1).await;
    shop.legacy.batch("UPDATE accounts SET name = 'secret too' WHERE id = 4").await;
    let all = so_many(&banyan, "shop", 2).await;
    let [id, follower] = [0, 1].map(|i| all[i]["id"].to_string());

    let text = out(&parked(&banyan, &["list", "shop"]));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains("parked") && lines[0].contains("1 row  public.accounts at 1:stream:"), "{text}");
    assert!(
        lines[0].ends_with("SQLSTATE 23505 (3 tries)") && lines[1].ends_with(&format!("it follows {id}")),
        "{text}"
    );
    let status = out(&banyan.verb(&["status"]));
    assert!(status.contains("2 transactions are parked") && status.contains("PARKED"), "{status}");
    let shown = out(&parked(&banyan, &["show", "shop", &id]));
    assert!(shown.contains("own   public.accounts  accounts_email_key  secret@x"), "{shown}");
    assert!(shown.contains("own   public.accounts  primary  4") && !shown.contains("secret name"), "{shown}");
    let shown = out(&parked(&banyan, &["show", "shop", &id, "--values"]));
    assert!(shown.contains("\"name\":\"secret name\""), "{shown}");

    // What has no place in a log, a metric, the status or the list.
    let metrics = Raw::get(banyan.admin(), "/metrics").await.text();
    let seen = format!("{text}{status}{metrics}{}{}", banyan.status().await, banyan.log());
    assert!(!seen.contains("secret"), "{seen}");
    // Keys are values: reading them takes a token, here where nothing else does.
    let show = format!(
        "POST /api/v1/syncs/shop/parked/{id}/show HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nX-Banyan-Request: 1\r\n\
         Content-Length: 2\r\nConnection: close\r\n\r\n{{}}",
        banyan.admin()
    );
    assert_eq!(Raw::once(banyan.admin(), &show).await.status, 401);
    assert_eq!(Raw::get(banyan.admin(), "/api/v1/syncs/none/parked").await.status, 404);

    let no_reason = parked(&banyan, &["skip", "shop", &id]);
    assert_eq!(no_reason.status.code(), Some(2), "{}", err(&no_reason));
    let empty = parked(&banyan, &["skip", "shop", &id, "--reason", " "]);
    assert!(empty.status.code() == Some(1) && err(&empty).contains("say why"), "{}", err(&empty));
    let refused = parked(&banyan, &["retry", "shop", &id]);
    assert!(refused.status.code() == Some(1) && out(&refused).contains("(4 tries)"), "{}", out(&refused));
    let unknown = parked(&banyan, &["retry", "shop", "999"]);
    assert!(err(&unknown).contains("no transaction 999 is or was parked"), "{}", err(&unknown));
    let skipped = parked(&banyan, &["skip", "shop", &id, "--reason", "wrong in the monolith"]);
    assert!(skipped.status.success(), "{}{}", out(&skipped), err(&skipped));
    eventually(secs(20), "what followed it was tried", async || list(&banyan, "shop")[0]["tries"] == 1).await;
    assert!(parked(&banyan, &["skip", "shop", &follower, "--reason", "with it"]).status.success());
    so_many(&banyan, "shop", 0).await;
    let all = out(&parked(&banyan, &["list", "shop", "--all"]));
    assert!(all.contains("skipped") && all.contains(": wrong in the monolith"), "{all}");
    let log = banyan.log();
    let audit = log.lines().find(|line| line.contains("a parked transaction was skipped")).unwrap();
    assert!(audit.contains("by=") && audit.contains("wrong in the monolith") && !log.contains("secret"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_of_one_process_is_done_by_the_one_that_holds_the_flow() {
    let shop = Shop::fresh().await;
    let mut applier = Banyan::with(&shop.file("legacy")).arg("--only").arg("connectors").start().await;
    applier.flow_state("shop", "legacy_to_modern", &["applying"], SETTLED).await;
    let proxy = Banyan::with(&shop.file("legacy")).arg("--only").arg("proxy").start().await;
    shop.modern.batch("INSERT INTO accounts VALUES (3, 'secret@x', 'X')").await;
    shop.legacy.batch("INSERT INTO accounts VALUES (4, 'secret@x', 'Y')").await;
    let id = so_many(&proxy, "shop", 1).await[0]["id"].to_string();
    shop.modern.batch("DELETE FROM accounts WHERE id = 3").await;
    applier.kill();
    let noted = parked(&proxy, &["retry", "shop", &id]);
    assert!(err(&noted).contains("nobody has done it yet: it is noted"), "{}{}", out(&noted), err(&noted));
    assert_eq!(list(&proxy, "shop")[0]["state"], "retry");
    applier.start_again().await;
    so_many(&proxy, "shop", 0).await;
    shop.equal().await.unwrap();
}

/// Resident memory in MiB, and the most there ever was.
fn memory(banyan: &Banyan) -> [u64; 2] {
    let status = std::fs::read_to_string(format!("/proc/{}/status", banyan.pid())).unwrap();
    ["VmRSS:", "VmHWM:"].map(|name| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_transaction_with_one_bad_row_is_parked_and_applied_without_being_held_in_memory() {
    let ddl = "CREATE TABLE rows (id bigint PRIMARY KEY, word text NOT NULL)";
    let shop = Shop::with(ddl, &["public.rows"]).await;
    let mut banyan = Banyan::with(&format!("memory: 16MiB\n{}", shop.file("legacy"))).start().await;
    banyan.flow_state("shop", "legacy_to_modern", &["applying"], SETTLED).await;
    let [before, _] = memory(&banyan);
    // `BANYAN_TEST_ROWS=1000000` takes a while.
    let rows = std::env::var("BANYAN_TEST_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(30_000_u32);
    let bad = rows - 1_000;
    shop.modern.batch(&format!("INSERT INTO rows VALUES ({bad}, 'in the way')")).await;
    let many = format!("INSERT INTO rows SELECT n, repeat(md5(n::text), 64) FROM generate_series(1, {rows}) AS n");
    shop.legacy.batch(&format!("BEGIN; {many}; COMMIT")).await;
    let all = so_many(&banyan, "shop", 1).await;
    assert_eq!(all[0]["rows"], rows);
    assert!(all[0]["reason"].as_str().unwrap().ends_with(&format!(":{}: SQLSTATE 23505", bad - 1)), "{all:?}");
    let bytes = all[0]["bytes"].as_u64().unwrap();
    shop.legacy.batch("INSERT INTO rows VALUES (-1, 'after'); UPDATE rows SET word = 'follows' WHERE id = 7").await;
    so_many(&banyan, "shop", 2).await;
    shop.legacy.batch("INSERT INTO rows VALUES (-2, 'after')").await;
    eventually(SETTLED, "others flow on", async || {
        shop.modern.number("SELECT count(*) FROM rows WHERE id = -2").await == 1
    })
    .await;
    // Killed while it applies what was parked: it stays parked, whole.
    shop.modern.batch(&format!("DELETE FROM rows WHERE id = {bad}")).await;
    let id = all[0]["id"].to_string();
    let note = format!("UPDATE banyan.parked SET state = 'retry' WHERE id = {id}");
    shop.modern.batch(&note).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let [_, most] = memory(&banyan);
    println!("{before} MiB before, {most} MiB at most; {} MiB of records", bytes >> 20);
    assert!(
        most < before + 48 && bytes > 60 << 20,
        "{before} MiB before, {most} MiB at most, {bytes} bytes of records"
    );
    banyan.kill();
    let left = "SELECT count(*) FROM banyan.parked_row WHERE parked = (SELECT min(id) FROM banyan.parked)";
    assert!([0, i64::from(rows)].contains(&shop.modern.number(left).await));
    banyan.start_again().await;
    so_many(&banyan, "shop", 0).await;
    let [_, most] = memory(&banyan);
    assert!(most < before + 48, "{before} MiB before, {most} MiB at most");
    shop.equal().await.unwrap();
}

/// Wrong rows at the target, random as the workload: each is noted, so that it can be mended.
async fn sabotage(shop: &Shop, random: &mut StdRng) {
    let key = 1_000 * random.random_range(1..4) + random.random_range(0..40) + 1_000_000 * random.random_range(0..2);
    let sql = if random.random() {
        format!("INSERT INTO pay_book (id, title, price) VALUES ({key}, 'sabotage {key}', 1) ON CONFLICT DO NOTHING")
    } else {
        format!(
            "WITH gone AS (DELETE FROM pay_book WHERE id = {key} AND title NOT LIKE 'sabotage%' RETURNING *) INSERT INTO saved SELECT * FROM gone"
        )
    };
    shop.modern.batch(&format!("SET session_replication_role = replica; {sql}; RESET session_replication_role")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_conflicts_and_sudden_ends_lose_nothing_both_sides_are_equal_when_all_is_mended_and_tried_again() {
    let given = std::env::var("BANYAN_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(rand::random);
    println!("BANYAN_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let ddl = format!("{}{}", workload::AUDIT, workload::ddl("pay"));
    let tables = workload::tables("pay");
    let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
    let (legacy, modern) = (Postgres::shared_legacy(), Postgres::shared_modern());
    let shop = Shop::on(legacy, modern, &Kafka::shared().brokers(), &ddl, &tables).await;
    shop.modern.batch("CREATE TABLE saved (LIKE pay_book)").await;
    let mut banyan = Banyan::with(&shop.file_with("legacy", "parked_limit: 100000")).start().await;
    workload::settle(&shop.legacy, &shop.modern, "pay", 0, SETTLED).await;
    let writers = Workload::start(&shop.legacy, "pay", seed);
    writers.advance(40).await;
    for turn in 0..12 {
        writers.advance(10).await;
        sabotage(&shop, &mut random).await;
        if turn % 3 == 2 {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..1_500))).await;
            banyan.kill();
            banyan.spawn();
        }
    }
    let committed = writers.committed();
    writers.finish().await;
    workload::settle(&shop.legacy, &shop.modern, "pay", 1, SETTLED).await;
    let all = list(&banyan, "shop");
    let own = all.iter().filter(|one| one["tries"] != 0).count();
    println!("{committed} transactions, {} parked, {own} of them refused", all.len());
    assert!(own > 0, "nothing was refused");
    // Killed while it tries again: what is applied is applied once.
    let mend = "DELETE FROM pay_book WHERE title LIKE 'sabotage%'; INSERT INTO pay_book SELECT * FROM saved";
    shop.modern.batch(&format!("SET session_replication_role = replica; {mend}; RESET session_replication_role")).await;
    assert!(parked(&banyan, &["retry", "shop", "--all"]).status.success());
    tokio::time::sleep(Duration::from_millis(random.random_range(500..2_000))).await;
    banyan.kill();
    banyan.start_again().await;
    so_many(&banyan, "shop", 0).await;
    shop.equal().await.unwrap_or_else(|difference| panic!("seed {seed}: {difference}"));
    let states = shop.modern.text("SELECT string_agg(DISTINCT state, ' ') FROM banyan.parked").await;
    assert_eq!(states.as_deref(), Some("applied"));
}
