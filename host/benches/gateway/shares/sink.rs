//! A control: what the same bytes cost the machine where no gateway reads them. They go into a file that is synced, one
//! body after the other, by a thread of low priority.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// After each body.
const PAUSE: Duration = Duration::from_millis(40);

/// Answers every request with 200 once its body, of this length, is on the disk.
pub(super) fn start(folder: &Path, body_bytes: usize) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let file = Arc::new(Mutex::new(File::create(folder.join("sink"))?));
    std::thread::Builder::new().name("sink".to_owned()).spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let file = Arc::clone(&file);
            // It ends with its connection.
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
            // A head has no other line ends than those two.
            end = if b"\r\n".contains(&byte[0]) { end + 1 } else { 0 };
        }
        stream.read_exact(&mut body)?;
        {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&body)?;
            file.sync_data()?;
            // About as many a second as the gateway takes, or they would be sent before anything is measured.
            std::thread::sleep(PAUSE);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
    }
}
