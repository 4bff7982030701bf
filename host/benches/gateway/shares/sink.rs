//! A control: what the same bytes cost the machine without the gateway. Threads of low priority write one body after
//! the other into a file and sync it.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Pause after each body.
const PAUSE: Duration = Duration::from_millis(40);

/// Starts a server that responds with 200 once a request's body, of this length, is synced to the disk.
pub(super) fn start(folder: &Path, body_bytes: usize) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let file = Arc::new(Mutex::new(File::create(folder.join("sink"))?));
    std::thread::Builder::new().name("sink".to_owned()).spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let file = Arc::clone(&file);
            // The thread ends with its connection.
            std::thread::spawn(move || serve(stream, &file, body_bytes));
        }
    })?;
    Ok(address)
}

fn serve(mut stream: TcpStream, file: &Mutex<File>, body_bytes: usize) -> std::io::Result<()> {
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 10);
    let (mut body, mut byte) = (vec![0; body_bytes], [0]);
    loop {
        let mut end = 0_usize;
        while end < 4 {
            stream.read_exact(&mut byte)?;
            // Counts the bytes of the CR LF CR LF that ends a head.
            end = if b"\r\n".contains(&byte[0]) { end + 1 } else { 0 };
        }
        stream.read_exact(&mut body)?;
        {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&body)?;
            file.sync_data()?;
            // Limits the rate to about the gateway's: otherwise, all bytes would be sent before the measurement.
            std::thread::sleep(PAUSE);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
    }
}
