//! A load generator with minimal cost: it sends prepared bytes and finds the ends of responses by `content-length`,
//! on one thread of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The result of a load.
pub(crate) struct Done {
    /// Responses per second, without the warm-up.
    pub(crate) per_second: f64,
    /// All responses, warm-up included.
    pub(crate) answered: u64,
    /// CPU time of the generator, warm-up included.
    pub(crate) cpu: Duration,
}

/// Sends the request over `connections` connections for `time`. Each connection waits for a response before the next
/// request. Returns the responses per second; a response other than 200 is an error.
pub(crate) async fn requests_per_second(
    address: SocketAddr,
    request: Arc<[u8]>,
    connections: usize,
    time: Duration,
) -> anyhow::Result<f64> {
    Ok(load(address, request, connections, time).await?.per_second)
}

/// Likewise, with further figures.
pub(crate) async fn load(
    address: SocketAddr,
    request: Arc<[u8]>,
    connections: usize,
    time: Duration,
) -> anyhow::Result<Done> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("load".to_owned()).spawn(move || {
        let _ = sender.send(generate(address, &request, connections, time));
    })?;
    receiver.await.context("the load generator ended")?
}

fn generate(
    address: SocketAddr,
    request: &Arc<[u8]>,
    connections: usize,
    time: Duration,
) -> anyhow::Result<Done> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answered = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    runtime.block_on(async {
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..connections {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (request, answered) = (Arc::clone(request), Arc::clone(&answered));
            clients.spawn(client(stream, request, answered, Arc::clone(&stop)));
        }
        // Warms up for a tenth of the time.
        tokio::time::sleep(time / 10).await;
        let (before, begun) = (answered.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(time).await;
        let done = answered.load(Ordering::Relaxed) - before;
        let seconds = begun.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        while let Some(client) = clients.join_next().await {
            client??;
        }
        let (answered, cpu) = (answered.load(Ordering::Relaxed), cpu_time("thread-self")?);
        #[expect(clippy::cast_precision_loss, reason = "counts of seconds are far below 2^52")]
        Ok(Done { per_second: done as f64 / seconds, answered, cpu })
    })
}

/// CPU time of `self` (all threads of this process) or `thread-self` so far, to a hundredth of a second.
pub(crate) fn cpu_time(of: &str) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{of}/stat"))?;
    // After the name in parentheses, utime and stime are the 12th and 13th field (proc_pid_stat(5)).
    let (_, fields) = stat.rsplit_once(')').context("/proc has another format")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.sum::<Result<_, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}

async fn client(
    mut stream: TcpStream,
    request: Arc<[u8]>,
    answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&request).await?;
        let mut filled = 0;
        loop {
            let free = buffer.get_mut(filled..).context("the answer is too long")?;
            let read = stream.read(free).await?;
            anyhow::ensure!(read > 0, "the server hung up");
            filled += read;
            let so_far = buffer.get(..filled).unwrap_or_default();
            if is_whole(so_far)? {
                break;
            }
        }
        answered.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Whether the bytes are a whole response.
fn is_whole(answer: &[u8]) -> anyhow::Result<bool> {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return Ok(false);
    };
    anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "the server answered {text}");
    let length = head.split("\r\n").find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.context("an answer without a length")?.parse()?;
    Ok(body.len() >= length)
}
