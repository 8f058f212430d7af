// tokio-postgres as its users use it. Arguments: host, port, user, password, file of the CA, number of servers.

use std::io::Cursor;
use std::time::Duration;

use futures_util::{future, pin_mut, stream, SinkExt, TryStreamExt};
use tokio::sync::mpsc;
use tokio_postgres::error::SqlState;
use tokio_postgres::{connect, AsyncMessage, Client, CopyInSink, Error, NoTls};

fn url(more: &str) -> String {
    let a: Vec<String> = std::env::args().collect();
    format!("host={} port={} user={} password={} dbname=app {more}", a[1], a[2], a[3], a[4])
}

async fn connected(more: &str) -> Client {
    let (client, connection) = connect(&url(more), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn code(error: Error) -> SqlState {
    error.code().expect("an error of PostgreSQL").clone()
}

async fn logins() {
    let client = connected("application_name=rust").await;
    let row = client.query_one("SHOW application_name", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "rust");
    let wrong = connect(&url("password=wrong"), NoTls).await.err().unwrap();
    assert_eq!(code(wrong), SqlState::INVALID_PASSWORD);
}

async fn statements() {
    let (a, b) = (connected("").await, connected("").await);
    let of_a = a.prepare("SELECT $1::int4 + 1").await.unwrap();
    let of_b = b.prepare("SELECT $1::text || 'b'").await.unwrap();
    for i in 0..20 {
        let text = i.to_string();
        let (x, y) = future::try_join(a.query_one(&of_a, &[&i]), b.query_one(&of_b, &[&text]))
            .await
            .unwrap();
        assert_eq!(x.get::<_, i32>(0), i + 1);
        assert_eq!(y.get::<_, String>(0), format!("{i}b"));
    }
    // pipelined
    let numbers: Vec<i32> = (0..100).collect();
    let rows = future::try_join_all(numbers.iter().map(|i| async { a.query_one(&of_a, &[i]).await }))
        .await
        .unwrap();
    assert!(rows.iter().zip(&numbers).all(|(row, i)| row.get::<_, i32>(0) == i + 1));
    let failed = a.query_one("SELECT 1 / $1::int4", &[&0]).await.err().unwrap();
    assert_eq!(code(failed), SqlState::DIVISION_BY_ZERO);
    drop(of_a);
    assert_eq!(a.simple_query("SELECT 1; SELECT 2").await.unwrap().len(), 6);
}

async fn transactions() {
    let mut client = connected("").await;
    let mut outer = client.transaction().await.unwrap();
    outer.batch_execute("CREATE TEMPORARY TABLE t (n int4) ON COMMIT DROP").await.unwrap();
    let inner = outer.transaction().await.unwrap();
    assert_eq!(code(inner.batch_execute("SELECT 1/0").await.err().unwrap()), SqlState::DIVISION_BY_ZERO);
    inner.rollback().await.unwrap();
    let sink: CopyInSink<Cursor<Vec<u8>>> = outer.copy_in("COPY t FROM STDIN").await.unwrap();
    pin_mut!(sink);
    let lines = (0..1000).map(|i| Ok::<_, Error>(Cursor::new(format!("{i}\n").into_bytes())));
    sink.send_all(&mut stream::iter(lines)).await.unwrap();
    assert_eq!(sink.finish().await.unwrap(), 1000);
    let portal = outer.bind("SELECT n FROM t ORDER BY n", &[]).await.unwrap();
    for start in (0..1000).step_by(100) {
        let rows = outer.query_portal(&portal, 100).await.unwrap();
        assert_eq!(rows.len(), 100);
        assert_eq!(rows[0].get::<_, i32>(0), start);
    }
    outer.commit().await.unwrap();
}

async fn notifications() {
    let (listener, mut connection) = connect(&url(""), NoTls).await.unwrap();
    let (sender, mut heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(message) = messages.try_next().await.unwrap() {
            if let AsyncMessage::Notification(note) = message {
                sender.send(note.payload().to_string()).unwrap();
            }
        }
    });
    listener.batch_execute("LISTEN rust").await.unwrap();
    let other = connected("").await;
    for i in 0..5 {
        other.query("SELECT pg_notify('rust', $1)", &[&i.to_string()]).await.unwrap();
    }
    for i in 0..5 {
        let limited = tokio::time::timeout(Duration::from_secs(20), heard.recv());
        assert_eq!(limited.await.unwrap().unwrap(), i.to_string());
    }
}

async fn cancels() {
    let client = connected("").await;
    let token = client.cancel_token();
    let (slept, _) = future::join(client.batch_execute("SELECT pg_sleep(60)"), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        token.cancel_query(NoTls).await.unwrap();
    })
    .await;
    assert_eq!(code(slept.err().unwrap()), SqlState::QUERY_CANCELED);
    assert_eq!(client.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    logins().await;
    statements().await;
    transactions().await;
    if std::env::args().nth(6).unwrap() != "1" {
        notifications().await; // a listener would keep the only server
    }
    cancels().await;
    println!("ok");
}
